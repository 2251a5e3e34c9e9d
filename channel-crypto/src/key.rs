//! The key file.

use data_encoding::{BASE64_NOPAD, HEXLOWER_PERMISSIVE};
use snow::params::HashChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Fewer bytes of key can be guessed, or were never random.
const MIN_BYTES: usize = 32;
/// A key is a line; what is larger is another file.
const MAX_FILE_BYTES: u64 = 4096;
/// Bits of a file's mode that let others than its owner in.
const OTHERS: u32 = 0o077;
/// Separates this use of the key's bytes from any other.
const DOMAIN: &[u8] = b"tcpcopy channel key 1\0";
/// What makes a good file.
const MAKE: &str = "make one with: (umask 077; head -c 32 /dev/urandom | base64 > FILE) and give both programs the same";

/// Why a key file is refused. One line each.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Missing, or not readable.
    #[error("cannot read key file {path}: {source}; {MAKE}")]
    Unreadable {
        /// File.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others may read it.
    #[error(
        "key file {path} has mode {mode:03o}, so others than its owner may use it, expected 600 or 400; run chmod 600 on \
         it, or make a new key if others could have read it"
    )]
    Open {
        /// File.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Another file.
    #[error(
        "key file {path} is larger than {MAX_FILE_BYTES} bytes, expected one line with a key; {MAKE}"
    )]
    Large {
        /// File.
        path: PathBuf,
    },
    /// Text in no known coding.
    #[error("key file {path} is text, but neither hex nor base64, so no random key; {MAKE}")]
    Text {
        /// File.
        path: PathBuf,
    },
    /// Too little.
    #[error("key file {path} has {got} bytes of key, expected at least {MIN_BYTES}; {MAKE}")]
    Short {
        /// File.
        path: PathBuf,
        /// Decoded.
        got: usize,
    },
}

/// A pre-shared key. Its debug form does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// Reads a file that only its owner can read: at least 32 bytes of key in hex, in base64, or as they are.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let path_buf = || path.to_path_buf();
        let unreadable = |source| KeyError::Unreadable {
            path: path_buf(),
            source,
        };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        // Of the open file: what is checked is what is read.
        let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
        if mode & OTHERS != 0 {
            return Err(KeyError::Open {
                path: path_buf(),
                mode,
            });
        }
        let mut content = Vec::new();
        file.take(MAX_FILE_BYTES + 1)
            .read_to_end(&mut content)
            .map_err(unreadable)?;
        if content.len() as u64 > MAX_FILE_BYTES {
            return Err(KeyError::Large { path: path_buf() });
        }
        let key = decode(&content).ok_or_else(|| KeyError::Text { path: path_buf() })?;
        if key.len() < MIN_BYTES {
            return Err(KeyError::Short {
                path: path_buf(),
                got: key.len(),
            });
        }
        Ok(Self::from_bytes(&key))
    }

    /// From bytes that are random already; any number of them becomes the 32 that the handshake takes.
    ///
    /// # Panics
    /// Never: snow is built with BLAKE2s.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut hash = DefaultResolver
            .resolve_hash(&HashChoice::Blake2s)
            .expect("snow is built with use-blake2");
        let mut key = [0; 32];
        hash.input(DOMAIN);
        hash.input(bytes);
        hash.result(&mut key);
        Self(key)
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The bytes of key in a file; `None` for text in no known coding.
fn decode(content: &[u8]) -> Option<Vec<u8>> {
    let is_text = |b: &u8| b.is_ascii_graphic() || b.is_ascii_whitespace();
    if !content.iter().all(is_text) {
        return Some(content.to_vec());
    }
    let mut text = content.to_vec();
    text.retain(|b| !b.is_ascii_whitespace());
    // 64 hex digits are good base64 too: of 48 bytes that nobody meant.
    if let Ok(key) = HEXLOWER_PERMISSIVE.decode(&text) {
        return Some(key);
    }
    while text.last() == Some(&b'=') {
        text.pop();
    }
    BASE64_NOPAD.decode(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::OpenOptionsExt;

    fn file(name: &str, content: &[u8], mode: u32) -> PathBuf {
        use std::io::Write;
        let path = std::env::temp_dir().join(format!("key-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .expect("create");
        file.write_all(content).expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
        path
    }

    fn read(name: &str, content: &[u8], mode: u32) -> Result<Key, String> {
        let path = file(name, content, mode);
        let key = Key::read(&path).map_err(|e| e.to_string());
        std::fs::remove_file(path).expect("remove");
        key
    }

    #[test]
    fn hex_base64_and_raw_bytes_are_the_same_key() {
        let bytes: Vec<u8> = (200..=231).collect();
        let want = Key::from_bytes(&bytes);
        let hex = HEXLOWER_PERMISSIVE.encode(&bytes);
        let base64 = data_encoding::BASE64.encode(&bytes);
        let split = format!("{}\n{}\n", &base64[..20], &base64[20..]);
        for (name, content) in [
            ("hex", format!("{hex}\n")),
            ("upper", hex.to_uppercase()),
            ("base64", format!("{base64}\n")),
            ("nopad", base64.trim_end_matches('=').to_owned()),
            ("split", split),
        ] {
            let got = read(name, content.as_bytes(), 0o600).expect(name);
            assert!(got == want, "{name}");
        }
        assert!(read("raw", &bytes, 0o400).expect("raw") == want);
        assert!(Key::from_bytes(&bytes[..31]) != want);
        assert_eq!(format!("{want:?}"), "Key(..)");
    }

    #[test]
    fn bad_files_are_refused_with_what_to_do() {
        let good = data_encoding::BASE64.encode(&[7; 32]);
        let cases: [(&str, Vec<u8>, u32, &[&str]); 6] = [
            (
                "group",
                good.clone().into(),
                0o640,
                &["mode 640", "chmod 600"],
            ),
            ("world", good.into(), 0o604, &["mode 604", "chmod 600"]),
            (
                "empty",
                vec![],
                0o600,
                &["has 0 bytes", "at least 32", "/dev/urandom"],
            ),
            (
                "short",
                vec![b'a'; 62],
                0o600,
                &["has 31 bytes", "at least 32"],
            ),
            (
                "phrase",
                b"correct horse battery staple, correct".to_vec(),
                0o600,
                &["neither hex nor base64"],
            ),
            (
                "large",
                vec![b'a'; 5000],
                0o600,
                &["larger than 4096 bytes"],
            ),
        ];
        for (name, content, mode, parts) in cases {
            let text = read(name, &content, mode).expect_err(name);
            for part in parts {
                assert!(text.contains(part), "{name}: {text}");
            }
            assert!(
                text.contains(&format!("-{name}")) && !text.contains('\n'),
                "{text}"
            );
        }
        let text = Key::read(Path::new("/no/such/key"))
            .expect_err("missing")
            .to_string();
        assert!(
            text.starts_with("cannot read key file /no/such/key: "),
            "{text}"
        );
    }
}
