//! The frames of almost all traffic, IPv4 without options but timestamps, from registers.
//!
//! The headers are written word by word into an array of known length, and both checksums are summed
//! from the same words, in the order in which they lie in memory (RFC 1071 section 2 (B): the sum does
//! not depend on it). A third of the instructions of the general way.

use super::{FrameAddresses, TTL_HOPS, TcpFrame};
use crate::packet::{TcpFlags, Timestamps, checksum, ethertype, protocol};

/// Ethernet, IPv4 and TCP headers, in bytes.
pub(super) const PLAIN: usize = 14 + 20 + 20;
pub(super) const WITH_TIMESTAMPS: usize = PLAIN + 12;
const ETH_IP: usize = 14 + 20;

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

    // Words as they lie in memory.
    let length = (0x4500_0000 | u32::from(total)).to_be();
    let id = (u32::from(seg.ip_id) << 16 | 0x4000).to_be(); // DF: a segment too large must fail, not fragment
    let ttl = (u32::from(TTL_HOPS) << 24 | u32::from(protocol::TCP) << 16).to_be();
    let addresses = u64::from(src) + u64::from(dst);
    let ip_sum = addresses + u64::from(length) + u64::from(id) + u64::from(ttl);

    let ports = (u32::from(seg.src.port) << 16 | u32::from(seg.dst.port)).to_be();
    let seq = seg.seq.0.to_be();
    let ack = if seg.flags.has(TcpFlags::ACK) {
        seg.ack.0.to_be()
    } else {
        0
    };
    let offset = ((HEADERS - ETH_IP) as u32 / 4) << 28;
    let bits = (offset | u32::from(seg.flags.0) << 16 | u32::from(seg.window)).to_be();
    let tcp_len = u32::from(total) - 20;
    let pseudo = (u32::from(protocol::TCP) << 16 | tcp_len).to_be();
    let mut tcp_sum = addresses + u64::from(pseudo) + u64::from(ports);
    tcp_sum += u64::from(seq) + u64::from(ack) + u64::from(bits);

    // In the pieces in which it is written: the buffer might lie where the addresses do.
    let [d0, d1, d2, d3, d4, d5] = mac.dst.0;
    let [s0, s1, s2, s3, s4, s5] = mac.src.0;
    let (to, to_from) = (
        u32::from_ne_bytes([d0, d1, d2, d3]),
        u32::from_ne_bytes([d4, d5, s0, s1]),
    );
    let from = u32::from_ne_bytes([s2, s3, s4, s5]);
    let mut put = |at: usize, word: u32| {
        if let Some(to) = header.get_mut(at..at + 4) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
    };
    put(0, to);
    put(4, to_from);
    put(8, from);
    put(14, length);
    put(18, id);
    put(22, ttl);
    put(26, src);
    put(30, dst);
    put(34, ports);
    put(38, seq);
    put(42, ack);
    put(46, bits);
    if let Some(ts) = ts {
        let (kind, val, ecr) = (0x0101_080a_u32.to_be(), ts.val.to_be(), ts.ecr.to_be());
        put(54, kind);
        put(58, val);
        put(62, ecr);
        tcp_sum += u64::from(kind) + u64::from(val) + u64::from(ecr);
    }
    if !seg.payload.is_empty() {
        tcp_sum += checksum::copy(payload, seg.payload);
    }
    header[24..26].copy_from_slice(&(!checksum::fold(ip_sum)).to_ne_bytes());
    header[50..52].copy_from_slice(&(!checksum::fold(tcp_sum)).to_ne_bytes());
    header[52..54].copy_from_slice(&[0, 0]);
    header[12..14].copy_from_slice(&ethertype::IPV4.to_be_bytes());
    Some(len)
}

#[cfg(test)]
mod tests {
    use crate::packet::build::{build_any, build_tcp_frame};
    use crate::packet::{
        Addr, Endpoint, FrameAddresses, MacAddr, SeqNumber, TcpFlags, TcpFrame, TcpOptions,
        Timestamps,
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
            }
        }
    }
}
