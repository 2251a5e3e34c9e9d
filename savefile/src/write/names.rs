//! Names of numbered files.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Endings that stay at the end.
const ENDINGS: [&str; 3] = [".pcapng.zst", ".pcapng", ".zst"];

/// `traffic.pcapng.zst` and 3: `traffic-00003.pcapng.zst`. More than 99999 files only sort worse.
pub(super) fn numbered(path: &Path, number: u32) -> PathBuf {
    let name = path.file_name().map(OsString::from).unwrap_or_default();
    let text = name.to_string_lossy();
    let ending = ENDINGS.iter().find(|ending| text.ends_with(**ending));
    let named = if let Some(ending) = ending {
        let stem = text.strip_suffix(*ending).unwrap_or_default();
        OsString::from(format!("{stem}-{number:05}{ending}"))
    } else {
        let mut named = name.clone();
        named.push(format!("-{number:05}"));
        named
    };
    path.with_file_name(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_stands_before_the_ending() {
        for (path, want) in [
            ("/a/t.pcapng", "/a/t-00007.pcapng"),
            ("t.pcapng.zst", "t-00007.pcapng.zst"),
            ("t.x.zst", "t.x-00007.zst"),
            ("t", "t-00007"),
            (".pcapng", "-00007.pcapng"),
        ] {
            assert_eq!(numbered(Path::new(path), 7), Path::new(want), "{path}");
        }
    }
}
