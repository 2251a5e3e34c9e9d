//! Link types, brought to the one that the decoder knows: Ethernet.
//!
//! ```text
//!  Ethernet (1)            as it is, tags and all
//!  raw IP (12, 14, 101, 228, 229)   version nibble ─▶ ethertype     │
//!  Linux cooked v1 (113)   protocol at 14, payload at 16            ├─▶ MACs of zeros, ethertype, payload
//!  Linux cooked v2 (276)   protocol at 0, payload at 20             │
//!  BSD loopback (0, 108)   address family, payload at 4             │
//! ```
//! Numbers and headers: <https://www.tcpdump.org/linktypes.html>.

use common::packet::{ETH_HEADER_BYTES, ethertype};

/// A link type whose packets can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// LINKTYPE_ETHERNET.
    Ethernet,
    /// LINKTYPE_RAW and its older numbers, LINKTYPE_IPV4, LINKTYPE_IPV6.
    RawIp,
    /// LINKTYPE_LINUX_SLL.
    CookedV1,
    /// LINKTYPE_LINUX_SLL2, what `tcpdump -i any` writes today.
    CookedV2,
    /// LINKTYPE_NULL (family in the order of the capturing machine), LINKTYPE_LOOP (in network order).
    Loopback,
}

/// Largest address family that means something (Darwin's AF_INET6 is 30): tells the byte orders apart.
const MAX_FAMILY: u32 = 0xff;
const COOKED_V1_BYTES: usize = 16;
const COOKED_V2_BYTES: usize = 20;
const LOOPBACK_BYTES: usize = 4;

impl Link {
    /// From the number in a file.
    pub const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Ethernet,
            // 12 and 14 are DLT_RAW of most systems and of OpenBSD, found in old files.
            12 | 14 | 101 | 228 | 229 => Self::RawIp,
            113 => Self::CookedV1,
            276 => Self::CookedV2,
            0 | 108 => Self::Loopback,
            _ => return None,
        })
    }

    /// What can be read, for messages.
    pub const EXPECTED: &'static str = "Ethernet (1), Linux cooked (113, 276), raw IP (12, 14, 101, 228, 229) or BSD loopback (0, 108)";
}

/// A frame from the Ethernet header on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The captured bytes.
    pub bytes: &'a [u8],
    /// Its length on the wire, at least that of `bytes`.
    pub len: u32,
}

/// The frame of a packet of `len` bytes on the wire; `None` if it is not IP or cut within its link
/// header. `scratch` is written only where a header has to be made, and keeps its memory.
pub fn frame<'a>(
    link: Link,
    bytes: &'a [u8],
    len: u32,
    scratch: &'a mut Vec<u8>,
) -> Option<Frame<'a>> {
    let len = len.max(bytes.len() as u32);
    let (ethertype, header) = match link {
        Link::Ethernet => return Some(Frame { bytes, len }),
        Link::RawIp => (ip_ethertype(bytes)?, 0),
        Link::CookedV1 => (be16(bytes, 14)?, COOKED_V1_BYTES),
        Link::CookedV2 => (be16(bytes, 0)?, COOKED_V2_BYTES),
        Link::Loopback => (family_ethertype(*bytes.first_chunk()?)?, LOOPBACK_BYTES),
    };
    let payload = bytes.get(header..)?;
    scratch.clear();
    scratch.extend_from_slice(&[0; ETH_HEADER_BYTES - 2]);
    scratch.extend_from_slice(&ethertype.to_be_bytes());
    scratch.extend_from_slice(payload);
    Some(Frame {
        bytes: scratch,
        len: (len - header as u32).saturating_add(ETH_HEADER_BYTES as u32),
    })
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

fn ip_ethertype(bytes: &[u8]) -> Option<u16> {
    match bytes.first()? >> 4 {
        4 => Some(ethertype::IPV4),
        6 => Some(ethertype::IPV6),
        _ => None,
    }
}

fn family_ethertype(family: [u8; LOOPBACK_BYTES]) -> Option<u16> {
    let little = u32::from_le_bytes(family);
    let family = if little <= MAX_FAMILY {
        little
    } else {
        u32::from_be_bytes(family)
    };
    match family {
        2 => Some(ethertype::IPV4),
        // AF_INET6 of Linux, NetBSD and OpenBSD, FreeBSD, Darwin.
        10 | 24 | 28 | 30 => Some(ethertype::IPV6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: [u8; 4] = [0x45, 1, 2, 3];
    const V6: [u8; 4] = [0x60, 1, 2, 3];

    fn made(number: u16, bytes: &[u8]) -> Option<(Vec<u8>, u32)> {
        let mut scratch = Vec::new();
        let link = Link::from_number(number).unwrap();
        let frame = frame(link, bytes, bytes.len() as u32 + 100, &mut scratch)?;
        Some((frame.bytes[12..].to_vec(), frame.len))
    }

    #[test]
    fn every_header_becomes_an_ethertype_and_lengths_follow() {
        let want = |kind: [u8; 2], ip: [u8; 4]| Some(([kind.as_slice(), &ip].concat(), 118));
        for raw in [12, 14, 101, 228, 229] {
            assert_eq!(made(raw, &V4), want([8, 0], V4), "{raw}");
            assert_eq!(made(raw, &V6), want([0x86, 0xdd], V6), "{raw}");
        }
        let cooked = [&[0; 14][..], &[8, 0], &V4].concat();
        assert_eq!(made(113, &cooked), want([8, 0], V4));
        let cooked = [&[0x86, 0xdd][..], &[0; 18], &V6].concat();
        assert_eq!(made(276, &cooked), want([0x86, 0xdd], V6));
        for (family, kind, ip) in [
            ([2, 0, 0, 0], [8, 0], V4),
            ([0, 0, 0, 2], [8, 0], V4),
            ([30, 0, 0, 0], [0x86, 0xdd], V6),
            ([0, 0, 0, 28], [0x86, 0xdd], V6),
            ([10, 0, 0, 0], [0x86, 0xdd], V6),
            ([0, 0, 0, 24], [0x86, 0xdd], V6),
        ] {
            for number in [0, 108] {
                assert_eq!(
                    made(number, &[family.as_slice(), &ip].concat()),
                    want(kind, ip)
                );
            }
        }
    }

    #[test]
    fn a_tag_in_a_cooked_packet_stays_a_tag() {
        let cooked = [&[0; 14][..], &[0x81, 0], &[0, 7, 8, 0], &V4].concat();
        let (bytes, _) = made(113, &cooked).unwrap();
        assert_eq!(bytes, [&[0x81, 0, 0, 7, 8, 0][..], &V4].concat());
    }

    #[test]
    fn what_is_no_ip_or_too_short_is_left_out() {
        assert_eq!(made(101, &[0x15, 0]), None);
        assert_eq!(made(101, &[]), None);
        assert_eq!(made(0, &[7, 0, 0, 0, 1]), None);
        assert_eq!(made(0, &[2, 0]), None);
        assert_eq!(made(113, &[0; 15]), None);
        assert_eq!(made(276, &[8, 0, 0]), None);
        assert_eq!(Link::from_number(105), None);
    }
}
