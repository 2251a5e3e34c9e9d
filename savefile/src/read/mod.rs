//! Packets of a capture file, one after the other.
//!
//! ```text
//!  bytes ─▶ unpack (gzip, zstd) ─▶ Input (a window on them, with its offset) ─▶ pcap | pcapng ─▶ Packet
//! ```

mod input;
mod pcap;
mod pcapng;
mod unpack;
mod zstd;

pub use unpack::Compression;

use crate::link::Link;
use input::{Input, Missing};
use pcapng::Sections;
use std::io::Read;

/// A packet as it stands in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// When it was captured: nanoseconds since 1970.
    pub at_ns: u64,
    /// What the bytes begin with; `None` if it is of a kind that is not read.
    pub link: Option<Link>,
    /// The captured bytes.
    pub bytes: &'a [u8],
    /// Its length on the wire.
    pub len: u32,
}

/// Where a file stops making sense, and what is there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged at byte {offset}{of}: {found}", of = if *.unpacked { " of what it unpacks to" } else { "" })]
pub struct Damage {
    /// Of the first byte that is not good, from the beginning of the file.
    pub offset: u64,
    /// The offset counts unpacked bytes.
    pub unpacked: bool,
    /// What was found, and what was expected.
    pub found: String,
}

/// Why a file cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be opened.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// It begins like no capture file.
    #[error("{0}; expected a pcap or pcapng file, as it is or packed by gzip or zstd")]
    NotACapture(String),
    /// Nothing that is captured on that kind of link is read.
    #[error("link type {got}, expected {expected}", expected = Link::EXPECTED)]
    LinkType {
        /// Its number.
        got: u16,
    },
}

/// A packet within the window of the input.
struct Place {
    at_ns: u64,
    link: Option<Link>,
    start: usize,
    end: usize,
    len: u32,
    /// To be consumed before the next one.
    size: usize,
}

enum Format {
    Pcap(pcap::Header),
    Pcapng(Sections),
}

/// Reads one file.
pub struct Reader {
    input: Input,
    format: Format,
    compression: Compression,
    /// Of the packet that was lent out.
    used: usize,
    ended: bool,
}

impl Reader {
    /// Looks at the beginning of a file.
    pub fn new(file: impl Read + Send + 'static) -> Result<Self, OpenError> {
        let (unpacked, compression) = unpack::unpack(file)?;
        let mut input = Input::new(unpacked);
        let format = match input.peek(4) {
            Ok(magic) if pcapng::begins(magic) => Format::Pcapng(Sections::default()),
            Ok(magic) if pcap::begins(magic) => Format::Pcap(pcap::header(&mut input)?),
            Ok(magic) => {
                return Err(OpenError::NotACapture(format!(
                    "begins with {:02x} {:02x} {:02x} {:02x}",
                    magic[0], magic[1], magic[2], magic[3]
                )));
            }
            Err(missing) => return Err(OpenError::NotACapture(missing.to_string())),
        };
        Ok(Self {
            input,
            format,
            compression,
            used: 0,
            ended: false,
        })
    }

    /// How the file is packed.
    pub const fn compression(&self) -> Compression {
        self.compression
    }

    /// Bytes before the next packet, unpacked.
    pub const fn offset(&self) -> u64 {
        self.input.offset() + self.used as u64
    }

    /// The next packet; `None` at the end of the file. After an error there is nothing more.
    #[expect(
        clippy::should_implement_trait,
        reason = "packets are lent out, which an iterator cannot do"
    )]
    pub fn next(&mut self) -> Result<Option<Packet<'_>>, Damage> {
        if self.ended {
            return Ok(None);
        }
        self.input.consume(std::mem::take(&mut self.used));
        let found = match &mut self.format {
            Format::Pcap(header) => header.next(&mut self.input),
            Format::Pcapng(sections) => sections.next(&mut self.input),
        };
        match found {
            Ok(Some(place)) => {
                self.used = place.size;
                Ok(Some(Packet {
                    at_ns: place.at_ns,
                    link: place.link,
                    bytes: self.input.window(place.start..place.end),
                    len: place.len,
                }))
            }
            Ok(None) => {
                self.ended = true;
                Ok(None)
            }
            Err(found) => {
                self.ended = true;
                Err(Damage {
                    offset: self.input.offset(),
                    unpacked: self.compression != Compression::None,
                    found,
                })
            }
        }
    }
}

/// Words for a record that is not all there.
fn incomplete(what: &str, need: usize, missing: &Missing) -> String {
    match &missing.error {
        Some(error) => format!("{what}: {error}"),
        None => format!(
            "{what}: the file ends after {} of {need} bytes",
            missing.there
        ),
    }
}

#[cfg(test)]
mod tests;
