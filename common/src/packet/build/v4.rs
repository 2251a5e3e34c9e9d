//! The frames of almost all traffic, IPv4 without options but timestamps, from registers.
//!
//! The headers are written in pieces of up to eight bytes into an array of known length, and both
//! checksums are summed from the same numbers (RFC 1071 section 2 (B): the sum does not depend on the
//! order of bytes). A third of the instructions of the general way.

use super::{FrameAddresses, TTL_HOPS, TcpFrame};
use crate::packet::{TcpFlags, Timestamps, checksum, ethertype, protocol};

/// Ethernet, IPv4 and TCP headers, in bytes.
pub(super) const PLAIN: usize = 14 + 20 + 20;
pub(super) const WITH_TIMESTAMPS: usize = PLAIN + 12;
const ETH_IP: usize = 14 + 20;
/// Kinds and length of the timestamp option, after two of padding (RFC 7323 appendix A).
const NOP_NOP_TIMESTAMPS: u32 = 0x0101_080a;

/// Two words, the first of which comes first.
#[inline(always)]
fn pair(first: u32, second: u32) -> u64 {
    u64::from(first) << 32 | u64::from(second)
}

/// One's-complement sum of 64-bit words (RFC 1071 section 2 (C)).
#[derive(Clone, Copy)]
struct Sum(u64);

impl Sum {
    #[inline(always)]
    fn and(self, word: u64) -> Self {
        let (sum, carry) = self.0.overflowing_add(word);
        Self(sum + u64::from(carry))
    }

    #[inline(always)]
    fn fold(self) -> u16 {
        checksum::fold(self.0)
    }
}

/// Writes at places that are known when it is compiled.
struct Header<'a, const BYTES: usize>(&'a mut [u8; BYTES]);

impl<const BYTES: usize> Header<'_, BYTES> {
    #[inline(always)]
    fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        if let Some(to) = self.0.get_mut(at..at + N) {
            to.copy_from_slice(&bytes);
        }
    }

    #[inline(always)]
    fn ethernet(&mut self, mac: FrameAddresses) {
        let [d0, d1, d2, d3, d4, d5] = mac.dst.0;
        let [s0, s1, s2, s3, s4, s5] = mac.src.0;
        self.put(0, [d0, d1, d2, d3, d4, d5, s0, s1]);
        self.put(8, [s2, s3, s4, s5]);
        self.put(12, ethertype::IPV4.to_be_bytes());
    }
}

/// A header of `HEADERS` bytes and the payload; `None` if `buf` is too small or the packet too long
/// for IP. Addresses are as in memory.
#[inline(always)]
pub(super) fn build<const HEADERS: usize>(
    buf: &mut [u8],
    mac: FrameAddresses,
    seg: &TcpFrame<'_>,
    src: u32,
    dst: u32,
    ts: Option<Timestamps>,
) -> Option<usize> {
    let len = HEADERS + seg.payload.len();
    let total = u16::try_from(len - 14).ok()?;
    let frame = buf.get_mut(..len)?;
    let (header, payload) = frame.split_first_chunk_mut::<HEADERS>()?;

    let mut header = Header(header);
    header.ethernet(mac);

    // Both sums are of numbers, not of bytes: the addresses are turned, everything else is one already.
    let addresses = pair(u32::from_be(src), u32::from_be(dst));
    let id_flags = u32::from(seg.ip_id) << 16 | 0x4000; // DF: a segment too large must fail, not fragment
    let start = pair(0x4500_0000 | u32::from(total), id_flags);
    let ttl = u32::from(TTL_HOPS) << 24 | u32::from(protocol::TCP) << 16;
    let sum = Sum(u64::from(ttl)).and(start).and(addresses);
    header.put(14, start.to_be_bytes());
    header.put(22, (ttl | u32::from(!sum.fold())).to_be_bytes());
    header.put(26, addresses.to_be_bytes());

    let ports = u32::from(seg.src.port) << 16 | u32::from(seg.dst.port);
    let ports_seq = pair(ports, seg.seq.0);
    let ack = if seg.flags.has(TcpFlags::ACK) {
        seg.ack.0
    } else {
        0
    };
    let offset = ((HEADERS - ETH_IP) as u32 / 4) << 28;
    let bits = offset | u32::from(seg.flags.0) << 16 | u32::from(seg.window);
    let ack_bits = pair(ack, bits);
    let pseudo = u64::from(protocol::TCP) + u64::from(total) - 20;
    let mut sum = Sum(pseudo).and(addresses).and(ports_seq).and(ack_bits);
    header.put(34, ports_seq.to_be_bytes());
    header.put(42, ack_bits.to_be_bytes());
    if let Some(ts) = ts {
        let clocks = pair(ts.val, ts.ecr);
        sum = sum.and(clocks).and(u64::from(NOP_NOP_TIMESTAMPS));
        header.put(54, NOP_NOP_TIMESTAMPS.to_be_bytes());
        header.put(58, clocks.to_be_bytes());
    }
    if !seg.payload.is_empty() {
        // Of bytes as they lie in memory: turned once, it is one of numbers (RFC 1071 section 2 (B)).
        let bytes = checksum::fold(checksum::copy(payload, seg.payload));
        sum = sum.and(u64::from(u16::from_be(bytes)));
    }
    // No urgent pointer.
    header.put(50, (u32::from(!sum.fold()) << 16).to_be_bytes());
    Some(len)
}

#[cfg(test)]
mod tests {
    use crate::packet::build::{allow_fragments, build_any, build_tcp_frame};
    use crate::packet::{
        Addr, Endpoint, FrameAddresses, MacAddr, SeqNumber, TcpFlags, TcpFrame, TcpOptions,
        Timestamps, checksum,
    };
    use proptest::prelude::*;
    use std::vec::Vec;

    proptest! {
        #[test]
        fn both_ways_give_the_same_frame(
            ends in any::<([u8; 4], u16, [u8; 4], u16)>(),
            numbers in any::<(u32, u32, u8, u16, u16)>(),
            timestamps in any::<Option<(u32, u32)>>(),
            payload in prop::collection::vec(any::<u8>(), 0..1600),
            macs in any::<([u8; 6], [u8; 6])>(),
            room in 0usize..1700,
        ) {
            let (src, sport, dst, dport) = ends;
            let (seq, ack, flags, window, ip_id) = numbers;
            let frame = TcpFrame {
                src: Endpoint::new(Addr::v4(src), sport),
                dst: Endpoint::new(Addr::v4(dst), dport),
                seq: SeqNumber(seq),
                ack: SeqNumber(ack),
                flags: TcpFlags(flags),
                window,
                options: TcpOptions {
                    timestamps: timestamps.map(|(val, ecr)| Timestamps { val, ecr }),
                    ..TcpOptions::default()
                },
                payload: &payload,
                ip_id,
            };
            let macs = FrameAddresses {
                src: MacAddr(macs.0),
                dst: MacAddr(macs.1),
            };
            // What was in the buffer before must not shine through.
            let (mut one, mut other): (Vec<u8>, Vec<u8>) =
                ((0..room).map(|_| 0xee).collect(), (0..room).map(|_| 0x11).collect());
            let got = build_tcp_frame(&mut one, macs, &frame);
            let want = build_any(&mut other, macs, &frame);
            prop_assert_eq!(got, want);
            if let Ok(len) = want {
                prop_assert_eq!(&one[..len], &other[..len]);
                allow_fragments(&mut one);
                let header = &one[14..34];
                prop_assert_eq!(header[6], 0, "DF is off");
                prop_assert_eq!(checksum::sum(header), u16::MAX, "the header's sum is right");
                other[20] = 0;
                other[24..26].copy_from_slice(&one[24..26]);
                prop_assert_eq!(&one[..len], &other[..len], "nothing else changed");
            }
        }
    }
}
