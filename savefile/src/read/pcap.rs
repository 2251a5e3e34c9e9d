//! The classic format: a header, then a record for each packet.
//! <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html>

use super::input::Input;
use super::{OpenError, Place, incomplete};
use crate::link::Link;
use pcap_parser::{PcapHeader, parse_pcap_frame, parse_pcap_frame_be, parse_pcap_header};

const HEADER_BYTES: usize = 24;
const RECORD_BYTES: usize = 16;
/// Most bytes of one packet: four times libpcap's MAXIMUM_SNAPLEN, for BIG TCP. More is no packet but
/// damage, and must not become memory.
pub(super) const MAX_PACKET_BYTES: usize = 1 << 20;
/// Upper bits tell of frame check sequences; IP's own length keeps those out of the payload.
const LINK_TYPE_MASK: i32 = 0xffff;

pub(super) fn begins(magic: &[u8]) -> bool {
    matches!(
        magic,
        [0xa1, 0xb2, 0xc3, 0xd4]
            | [0xd4, 0xc3, 0xb2, 0xa1]
            | [0xa1, 0xb2, 0x3c, 0x4d]
            | [0x4d, 0x3c, 0xb2, 0xa1]
    )
}

pub(super) struct Header {
    link: Link,
    big_endian: bool,
    nanoseconds: bool,
}

pub(super) fn header(input: &mut Input) -> Result<Header, OpenError> {
    let bytes = input
        .peek(HEADER_BYTES)
        .map_err(|m| OpenError::NotACapture(incomplete("file header", HEADER_BYTES, &m)))?;
    let Ok((_, parsed)) = parse_pcap_header(bytes) else {
        return Err(OpenError::NotACapture("no pcap header".to_owned()));
    };
    let PcapHeader { network, .. } = parsed;
    let number = (network.0 & LINK_TYPE_MASK) as u16;
    let link = Link::from_number(number).ok_or(OpenError::LinkType { got: number })?;
    input.consume(HEADER_BYTES);
    Ok(Header {
        link,
        big_endian: parsed.is_bigendian(),
        nanoseconds: parsed.is_nanosecond_precision(),
    })
}

impl Header {
    pub(super) fn next(&self, input: &mut Input) -> Result<Option<Place>, String> {
        if input.at_end() {
            return Ok(None);
        }
        let head = input
            .peek(RECORD_BYTES)
            .map_err(|m| incomplete("record header", RECORD_BYTES, &m))?;
        let length = [head[8], head[9], head[10], head[11]];
        let captured = if self.big_endian {
            u32::from_be_bytes(length)
        } else {
            u32::from_le_bytes(length)
        } as usize;
        if captured > MAX_PACKET_BYTES {
            return Err(format!(
                "a record of {captured} captured bytes, expected at most {MAX_PACKET_BYTES}"
            ));
        }
        let size = RECORD_BYTES + captured;
        let bytes = input
            .peek(size)
            .map_err(|m| incomplete("record", size, &m))?;
        let parsed = if self.big_endian {
            parse_pcap_frame_be(bytes)
        } else {
            parse_pcap_frame(bytes)
        };
        let Ok((_, record)) = parsed else {
            return Err("a record that cannot be parsed".to_owned());
        };
        let unit_ns = if self.nanoseconds { 1 } else { 1_000 };
        Ok(Some(Place {
            at_ns: u64::from(record.ts_sec) * 1_000_000_000 + u64::from(record.ts_usec) * unit_ns,
            link: Some(self.link),
            start: RECORD_BYTES,
            end: size,
            len: record.origlen.max(captured as u32),
            size,
        }))
    }
}
