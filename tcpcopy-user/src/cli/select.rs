//! Values of `-r`, `--shard` and `--deny`: which sessions are replayed.

use super::UsageError;
use common::flow::{BadBlock, Block, Shard, Share};
use std::path::{Path, PathBuf};

/// Most instances behind one stream: more are a typing error.
const MAX_SHARDS: u32 = 4096;

/// A share in percent, with up to three decimals.
pub fn parse_share(text: &str) -> Result<Share, String> {
    let thousandths = || {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |s: &str| (1..=3).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(decimals) {
            return None;
        }
        let whole: u32 = whole.parse().ok()?;
        let decimals: u32 = format!("{decimals:0<3}").parse().ok()?;
        Some(whole * 1000 + decimals)
    };
    match thousandths() {
        Some(n) if n > 0 && n <= Share::ALL.as_thousandths() => Ok(Share::thousandths(n)),
        _ => Err(format!(
            "got '{text}', expected 0.001 to 100 with at most three decimals"
        )),
    }
}

/// `K/N`.
pub fn parse_shard(text: &str) -> Result<Shard, String> {
    let shard = || {
        let (index, count) = text.split_once('/')?;
        let count = count.parse().ok().filter(|n| *n <= MAX_SHARDS)?;
        Shard::new(index.parse().ok()?, count)
    };
    shard().ok_or_else(|| {
        format!("got '{text}', expected K/N such as 0/2, K from 0 to N - 1, N at most {MAX_SHARDS}")
    })
}

/// Clients that are never replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deny {
    listed: Vec<Block>,
    file: Option<PathBuf>,
    blocks: Vec<Block>,
}

impl Deny {
    /// From the lists of `--deny` and the file of `--deny-file`; `None` without either.
    pub fn new(lists: &[String], file: Option<PathBuf>) -> Result<Option<Self>, UsageError> {
        if lists.is_empty() && file.is_none() {
            return Ok(None);
        }
        let mut listed = Vec::new();
        for item in lists.iter().flat_map(|l| l.split(',')).map(str::trim) {
            listed.push(parse_block(item).map_err(|e| UsageError::new("--deny", e))?);
        }
        let mut deny = Self {
            listed,
            file,
            blocks: Vec::new(),
        };
        deny.blocks = deny.read().map_err(|e| UsageError::new("--deny-file", e))?;
        Ok(Some(deny))
    }

    /// What is denied at the start.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The list may change: there is a file.
    pub fn reloads(&self) -> bool {
        self.file.is_some()
    }

    /// What is denied now: the lists, and what the file says now.
    pub fn read(&self) -> Result<Vec<Block>, String> {
        let mut blocks = self.listed.clone();
        if let Some(file) = &self.file {
            blocks.extend(read_file(file)?);
        }
        Ok(blocks)
    }
}

fn read_file(path: &Path) -> Result<Vec<Block>, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let mut blocks = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let content = line.split('#').next().unwrap_or_default();
        for item in content.split([',', ' ', '\t']).filter(|i| !i.is_empty()) {
            let block =
                parse_block(item).map_err(|e| format!("{}, line {number}: {e}", path.display()))?;
            blocks.push(block);
        }
    }
    Ok(blocks)
}

fn parse_block(text: &str) -> Result<Block, String> {
    text.parse().map_err(|bad| match bad {
        BadBlock::Address => {
            format!("'{text}' is no address, expected an IP address or a block such as 10.1.0.0/16")
        }
        BadBlock::Prefix { max } => {
            format!("prefix length of '{text}' out of range, expected /0 to /{max}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        for (text, thousandths) in [
            ("100", 100_000),
            ("1", 1000),
            ("0.5", 500),
            ("12.5", 12_500),
            ("0.001", 1),
            ("99.999", 99_999),
            ("100.000", 100_000),
        ] {
            assert_eq!(
                parse_share(text),
                Ok(Share::thousandths(thousandths)),
                "{text}"
            );
        }
        for text in [
            "",
            "0",
            "0.000",
            "100.001",
            "101",
            "1.2345",
            "-1",
            "+1",
            "1,5",
            "5%",
            ".5",
            "5.",
            "1e1",
            "99999999999",
        ] {
            let error = parse_share(text).expect_err(text);
            assert!(error.contains("expected 0.001 to 100"), "{error}");
        }
    }

    #[test]
    fn shards() {
        assert_eq!(parse_shard("0/1"), Ok(Shard::WHOLE));
        assert_eq!(parse_shard("2/3"), Ok(Shard::new(2, 3).unwrap()));
        for text in ["", "1", "3/3", "0/0", "-1/2", "1/x", "1/2/3", "0/4097"] {
            let error = parse_shard(text).expect_err(text);
            assert!(error.contains("expected K/N such as 0/2"), "{error}");
        }
    }

    #[test]
    fn deny_lists_and_files() {
        let file = std::env::temp_dir().join(format!("deny-{}", std::process::id()));
        std::fs::write(
            &file,
            "# crawlers\n192.0.2.0/24, 198.51.100.7\n\n2001:db8::/32 # ours\n",
        )
        .unwrap();
        let lists = ["10.1.2.3/16".to_owned()];
        let deny = Deny::new(&lists, Some(file.clone())).unwrap().unwrap();
        let text = |blocks: &[Block]| blocks.iter().map(Block::to_string).collect::<Vec<_>>();
        assert_eq!(
            text(deny.blocks()),
            [
                "10.1.0.0/16",
                "192.0.2.0/24",
                "198.51.100.7/32",
                "2001:db8::/32"
            ]
        );
        std::fs::write(&file, "203.0.113.9\n").unwrap();
        assert_eq!(
            text(&deny.read().unwrap()),
            ["10.1.0.0/16", "203.0.113.9/32"]
        );
        std::fs::write(&file, "203.0.113.9\n203.0.113\n").unwrap();
        let error = deny.read().unwrap_err();
        assert!(
            error.contains("line 2: '203.0.113' is no address"),
            "{error}"
        );
        std::fs::remove_file(&file).unwrap();
        assert!(deny.read().unwrap_err().contains("cannot read"));
        assert_eq!(Deny::new(&[], None), Ok(None));
        assert!(!Deny::new(&lists, None).unwrap().unwrap().reloads());
        for (list, part) in [
            ("10.1.2.3,", "'' is no address"),
            (
                "10.1.2.3/33",
                "prefix length of '10.1.2.3/33' out of range, expected /0 to /32",
            ),
            ("2001:db8::/129", "expected /0 to /128"),
            ("10.1.2.3/x", "out of range"),
            ("example.org", "'example.org' is no address"),
        ] {
            let error = Deny::new(&[list.to_owned()], None).unwrap_err().to_string();
            assert!(
                error.starts_with("--deny: ") && error.contains(part),
                "{error}"
            );
        }
    }
}
