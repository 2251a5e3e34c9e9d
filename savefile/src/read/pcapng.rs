//! The block format: sections, each with its byte order and interfaces, then packets that name theirs.
//! <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html>

use super::input::Input;
use super::pcap::MAX_PACKET_BYTES;
use super::{Place, incomplete};
use crate::link::Link;
use pcap_parser::pcapng::{
    InterfaceDescriptionBlock, parse_enhancedpacketblock_be, parse_enhancedpacketblock_le,
    parse_interfacedescriptionblock_be, parse_interfacedescriptionblock_le,
    parse_simplepacketblock_be, parse_simplepacketblock_le,
};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
/// Type, length, and the byte order of a section.
const HEAD_BYTES: usize = 12;
/// A packet with its options, or whatever else: tools write blocks of some megabytes at most.
const MAX_BLOCK_BYTES: usize = 16 << 20;
/// In an enhanced packet block, before the packet.
const ENHANCED_HEAD_BYTES: usize = 28;
const SIMPLE_HEAD_BYTES: usize = 12;
/// In both, around a packet: head and trailing length.
const SIMPLE_AROUND_BYTES: usize = SIMPLE_HEAD_BYTES + 4;
/// More is damage: each costs memory.
const MAX_INTERFACES: usize = 1 << 16;
const ORDER_LITTLE: [u8; 4] = [0x4d, 0x3c, 0x2b, 0x1a];
const ORDER_BIG: [u8; 4] = [0x1a, 0x2b, 0x3c, 0x4d];

pub(super) fn begins(magic: &[u8]) -> bool {
    magic == SECTION.to_be_bytes()
}

#[derive(Clone, Copy)]
struct Interface {
    link: Option<Link>,
    /// 0: unlimited.
    snaplen: u32,
    resolution: Resolution,
    offset_s: i64,
}

/// Time stamps count parts of a second (`if_tsresol`).
#[derive(Clone, Copy)]
enum Resolution {
    PowerOfTen(u32),
    PowerOfTwo(u32),
}

impl Resolution {
    const fn from_option(value: u8) -> Self {
        if value & 0x80 == 0 {
            Self::PowerOfTen(value as u32)
        } else {
            Self::PowerOfTwo((value & 0x7f) as u32)
        }
    }

    /// Nanoseconds; ticks finer than a u128 can tell are none.
    fn nanos(self, ticks: u64) -> u128 {
        let scaled = u128::from(ticks) * 1_000_000_000;
        match self {
            Self::PowerOfTen(n) => 10u128.checked_pow(n).map_or(0, |unit| scaled / unit),
            Self::PowerOfTwo(n) => scaled.checked_shr(n).unwrap_or(0),
        }
    }
}

impl Interface {
    fn new(block: &InterfaceDescriptionBlock<'_>, big_endian: bool) -> Self {
        // The parser reads the option as little-endian in any section.
        let offset_s = if big_endian {
            block.if_tsoffset.swap_bytes()
        } else {
            block.if_tsoffset
        };
        Self {
            link: Link::from_number((block.linktype.0 & 0xffff) as u16),
            snaplen: block.snaplen,
            resolution: Resolution::from_option(block.if_tsresol),
            offset_s,
        }
    }

    fn at_ns(&self, high: u32, low: u32) -> u64 {
        let ticks = u64::from(high) << 32 | u64::from(low);
        let ns = i128::try_from(self.resolution.nanos(ticks)).unwrap_or(i128::MAX);
        let shifted = ns.saturating_add(i128::from(self.offset_s) * 1_000_000_000);
        u64::try_from(shifted.max(0)).unwrap_or(u64::MAX)
    }
}

/// The state of a file: that of its current section.
#[derive(Default)]
pub(super) struct Sections {
    big_endian: bool,
    interfaces: Vec<Interface>,
    /// Simple packets have no time: that of the packet before stands for it.
    last_ns: u64,
}

struct Head {
    kind: u32,
    size: usize,
}

impl Sections {
    pub(super) fn next(&mut self, input: &mut Input) -> Result<Option<Place>, String> {
        loop {
            if input.at_end() {
                return Ok(None);
            }
            let Head { kind, size } = self.head(input)?;
            let block = input
                .peek(size)
                .map_err(|m| incomplete("block", size, &m))?;
            if self.u32(block, size - 4) as usize != size {
                return Err(format!(
                    "a block of {size} bytes whose length at its end is {}",
                    self.u32(block, size - 4)
                ));
            }
            let place = match kind {
                INTERFACE => {
                    self.interface(block)?;
                    None
                }
                ENHANCED_PACKET => Some(self.enhanced(block)?),
                SIMPLE_PACKET => Some(self.simple(block)?),
                // Sections are done with; names, statistics, secrets and what is not known are no packets.
                _ => None,
            };
            if place.is_some() {
                return Ok(place);
            }
            input.consume(size);
        }
    }

    /// Kind and length of the next block; a section's beginning changes the byte order.
    fn head(&mut self, input: &mut Input) -> Result<Head, String> {
        let head: [u8; HEAD_BYTES] = match input.peek(HEAD_BYTES) {
            Ok(bytes) => bytes.try_into().unwrap_or_default(),
            Err(missing) => return Err(incomplete("block", HEAD_BYTES, &missing)),
        };
        if head[..4] == SECTION.to_be_bytes() {
            self.big_endian = match [head[8], head[9], head[10], head[11]] {
                ORDER_LITTLE => false,
                ORDER_BIG => true,
                other => return Err(format!("a section with byte-order mark {other:02x?}")),
            };
            self.interfaces.clear();
        }
        let (kind, size) = (self.u32(&head, 0), self.u32(&head, 4) as usize);
        if size < HEAD_BYTES || !size.is_multiple_of(4) || size > MAX_BLOCK_BYTES {
            return Err(format!(
                "a block of {size} bytes, expected a multiple of 4 between {HEAD_BYTES} and {MAX_BLOCK_BYTES}"
            ));
        }
        Ok(Head { kind, size })
    }

    fn u32(&self, bytes: &[u8], at: usize) -> u32 {
        let word = bytes.get(at..).and_then(<[u8]>::first_chunk);
        word.map_or(0, |&word| {
            if self.big_endian {
                u32::from_be_bytes(word)
            } else {
                u32::from_le_bytes(word)
            }
        })
    }

    fn interface(&mut self, block: &[u8]) -> Result<(), String> {
        if self.interfaces.len() >= MAX_INTERFACES {
            return Err(format!("more than {MAX_INTERFACES} interfaces"));
        }
        let parsed = if self.big_endian {
            parse_interfacedescriptionblock_be(block)
        } else {
            parse_interfacedescriptionblock_le(block)
        };
        let (_, block) =
            parsed.map_err(|_| "an interface block that cannot be parsed".to_owned())?;
        self.interfaces
            .push(Interface::new(&block, self.big_endian));
        Ok(())
    }

    fn enhanced(&mut self, block: &[u8]) -> Result<Place, String> {
        let size = block.len();
        let parsed = if self.big_endian {
            parse_enhancedpacketblock_be(block)
        } else {
            parse_enhancedpacketblock_le(block)
        };
        let Ok((_, packet)) = parsed else {
            return Err("a packet block that cannot be parsed".to_owned());
        };
        let captured = packet.caplen as usize;
        if captured > packet.data.len() || captured > MAX_PACKET_BYTES {
            return Err(format!(
                "a packet of {captured} captured bytes in a block of {size}"
            ));
        }
        let Some(interface) = self.interfaces.get(packet.if_id as usize) else {
            return Err(format!(
                "a packet of interface {}, of which nothing was said",
                packet.if_id
            ));
        };
        self.last_ns = interface.at_ns(packet.ts_high, packet.ts_low);
        Ok(Place {
            at_ns: self.last_ns,
            link: interface.link,
            start: ENHANCED_HEAD_BYTES,
            end: ENHANCED_HEAD_BYTES + captured,
            len: packet.origlen.max(packet.caplen),
            size,
        })
    }

    fn simple(&mut self, block: &[u8]) -> Result<Place, String> {
        let size = block.len();
        let parsed = if self.big_endian {
            parse_simplepacketblock_be(block)
        } else {
            parse_simplepacketblock_le(block)
        };
        let Ok((_, packet)) = parsed else {
            return Err("a packet block that cannot be parsed".to_owned());
        };
        let Some(interface) = self.interfaces.first() else {
            return Err("a packet before any interface".to_owned());
        };
        let cut = if interface.snaplen == 0 {
            u32::MAX
        } else {
            interface.snaplen
        };
        let captured = (packet.origlen.min(cut) as usize)
            .min(size.saturating_sub(SIMPLE_AROUND_BYTES))
            .min(MAX_PACKET_BYTES);
        Ok(Place {
            at_ns: self.last_ns,
            link: interface.link,
            start: SIMPLE_HEAD_BYTES,
            end: SIMPLE_HEAD_BYTES + captured,
            len: packet.origlen.max(captured as u32),
            size,
        })
    }
}
