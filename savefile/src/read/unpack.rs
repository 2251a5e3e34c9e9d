//! What a file is packed with, by its first bytes.

use super::zstd::ZstdReader;
use flate2::read::MultiGzDecoder;
use std::io::{self, BufReader, Cursor, ErrorKind, Read};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Frames to be skipped have 16 magic numbers (RFC 8878 section 3.1.2): 50 to 5f, then these.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
const READ_BYTES: usize = 256 << 10;

/// How a file is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952, any number of members.
    Gzip,
    /// RFC 8878, any number of frames.
    Zstd,
}

impl Compression {
    fn of(head: &[u8]) -> Self {
        let skippable =
            matches!(head, [first, rest @ ..] if first >> 4 == 5 && rest == ZSTD_SKIPPABLE);
        if head.starts_with(&GZIP) {
            Self::Gzip
        } else if head == ZSTD || skippable {
            Self::Zstd
        } else {
            Self::None
        }
    }
}

/// The content of `file`.
pub(super) fn unpack(
    mut file: impl Read + Send + 'static,
) -> io::Result<(Box<dyn Read + Send>, Compression)> {
    let mut head = [0; 4];
    let mut there = 0;
    while there < head.len() {
        match file.read(&mut head[there..]) {
            Ok(0) => break,
            Ok(n) => there += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let head = &head[..there];
    let compression = Compression::of(head);
    let whole = Cursor::new(head.to_vec()).chain(file);
    Ok((
        match compression {
            Compression::None => Box::new(whole),
            Compression::Gzip => Box::new(MultiGzDecoder::new(BufReader::with_capacity(
                READ_BYTES, whole,
            ))),
            Compression::Zstd => Box::new(ZstdReader::new(whole)),
        },
        compression,
    ))
}
