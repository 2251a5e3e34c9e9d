//! What nearly every packet is, decoded in a few steps.
//!
//! ```text
//!  bytes  10         14        18          22         26    30    34     38   42   46
//!         ┌──────────┬─────────┬───────────┬──────────┬─────┬─────┬──────┬────┬────┬────────────┐
//!         │ type     │ 45 len  │ fragment  │ TTL 6    │ src │ dst │ports │seq │ack │flags window│
//!         └──────────┴─────────┴───────────┴──────────┴─────┴─────┴──────┴────┴────┴────────────┘
//! ```
//! An Ethernet frame without a tag, IPv4 without options, TCP, whole. Everything lies at fixed offsets, so
//! one check of the bounds and a load for each word do, where the general decoder goes from layer to layer. It says
//! either what that one says of the same bytes or nothing; [`super::decode_frame`] begins with it.

use super::{
    Addr, Bytes, ETH_HEADER_BYTES, Endpoint, Ip, SeqNumber, Tcp, TcpFlags, TcpPacket, ethertype,
    protocol,
};

/// Where the words begin: the ethertype is the second half of the first.
const AT: usize = ETH_HEADER_BYTES - 4;
const IP_HEADER_BYTES: u32 = 20;
const L4: usize = ETH_HEADER_BYTES + IP_HEADER_BYTES as usize;
/// Fewest words of a TCP header.
const TCP_HEADER_WORDS: u32 = 5;

/// Headers of a usual packet, as they lie there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usual([u32; 10]);

/// Decodes a usual packet; `None` of any other, and of what is none.
#[inline(always)]
pub fn decode_usual<B: Bytes + ?Sized>(bytes: &B) -> Option<Usual> {
    let usual = Usual(bytes.ten_be32s(AT)?);
    let w = &usual.0;
    // Version and header length are one byte; more-fragments bit and offset as in `decode_ip`.
    if w[0] & 0xffff != ethertype::IPV4 as u32
        || w[1] >> 24 != 0x45
        || w[2] & 0x3fff != 0
        || (w[3] >> 16) & 0xff != protocol::TCP as u32
    {
        return None;
    }
    // A length of 0 (BIG TCP) is not usual; any that holds both headers is no contradiction.
    let header_words = w[9] >> 28;
    if header_words < TCP_HEADER_WORDS || w[1] & 0xffff < IP_HEADER_BYTES + header_words * 4 {
        return None;
    }
    Some(usual)
}

impl Usual {
    /// Source address.
    #[inline(always)]
    pub const fn src(&self) -> Addr {
        Addr::v4(self.0[4].to_be_bytes())
    }

    /// Destination address.
    #[inline(always)]
    pub const fn dst(&self) -> Addr {
        Addr::v4(self.0[5].to_be_bytes())
    }

    /// Source port.
    #[inline(always)]
    pub const fn sport(&self) -> u16 {
        (self.0[6] >> 16) as u16
    }

    /// Destination port.
    #[inline(always)]
    pub const fn dport(&self) -> u16 {
        self.0[6] as u16
    }

    /// Control bits.
    #[inline(always)]
    pub const fn flags(&self) -> TcpFlags {
        TcpFlags((self.0[9] >> 16) as u8 & 0x3f)
    }

    /// Where it comes from.
    #[inline(always)]
    pub const fn source(&self) -> Endpoint {
        Endpoint::new(self.src(), self.sport())
    }

    /// Where it goes.
    #[inline(always)]
    pub const fn destination(&self) -> Endpoint {
        Endpoint::new(self.dst(), self.dport())
    }

    /// [`Self::destination`] as one number, as [`Endpoint::v4_number`] makes it.
    #[inline(always)]
    pub const fn destination_number(&self) -> u64 {
        (self.0[5] as u64) << 16 | self.dport() as u64
    }

    /// The form of the general decoder.
    #[inline(always)]
    pub const fn packet(&self) -> TcpPacket {
        let w = &self.0;
        TcpPacket {
            ip: Ip {
                src: self.src(),
                dst: self.dst(),
                l3: ETH_HEADER_BYTES,
                l4: L4,
                total_len: w[1] & 0xffff,
                protocol: protocol::TCP,
                fragment: false,
            },
            tcp: Tcp {
                sport: self.sport(),
                dport: self.dport(),
                seq: SeqNumber(w[7]),
                ack: SeqNumber(w[8]),
                flags: self.flags(),
                window: w[9] as u16,
                payload: L4 + (w[9] >> 28) as usize * 4,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::decode_any_frame;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// A usual packet of 20 + 20 bytes of headers and four of payload.
    fn usual_bytes() -> Vec<u8> {
        let mut frame: Vec<u8> = (0..58u8).collect();
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14..24].copy_from_slice(&[0x45, 0, 0, 44, 7, 7, 0x40, 0, 64, 6]);
        frame[46] = 0x50;
        frame
    }

    /// The fast decoder agrees with the general one, or is silent.
    fn agrees(frame: &[u8]) -> bool {
        match decode_usual(frame) {
            Some(usual) => {
                let packet = decode_any_frame(frame).expect("usual, so decodable");
                assert_eq!(usual.packet(), packet, "{frame:02x?}");
                assert_eq!(usual.destination_number() >> 16, {
                    u64::from(u32::from_be_bytes(packet.ip.dst.as_v4().unwrap()))
                });
                assert_eq!(
                    usual.destination().v4_number(),
                    Some(usual.destination_number())
                );
                assert_eq!(
                    usual.source(),
                    Endpoint::new(packet.ip.src, packet.tcp.sport)
                );
                true
            }
            None => false,
        }
    }

    #[test]
    fn every_value_of_every_header_byte_and_every_length() {
        let usual = usual_bytes();
        assert!(agrees(&usual));
        for at in 0..54 {
            let taken = (0..=255u8)
                .filter(|value| {
                    let mut frame = usual.clone();
                    frame[at] = *value;
                    agrees(&frame)
                })
                .count();
            let expected = match at {
                // Ethertype, version and header length, offset, protocol: one value.
                12..=14 | 21 | 23 => 1,
                // Length: none too small for both headers. Its upper byte makes any larger.
                17 => 256 - 40,
                // Three flags of which one counts, the rest of the offset.
                20 => 4,
                // Data offset: 5 or 6 words; the lower half is reserved.
                46 => 2 * 16,
                _ => 256,
            };
            assert_eq!(taken, expected, "byte {at}");
        }
        for len in 0..usual.len() {
            assert_eq!(agrees(&usual[..len]), len >= 50, "{len}");
        }
    }

    proptest! {
        #[test]
        fn on_any_bytes_it_says_the_same_or_nothing(
            noise in proptest::collection::vec(any::<u8>(), 0..80),
            changes in proptest::collection::vec((0usize..58, any::<u8>()), 0..4),
        ) {
            agrees(&noise);
            let mut frame = usual_bytes();
            for (at, value) in changes {
                frame[at] = value;
            }
            agrees(&frame);
        }
    }
}
