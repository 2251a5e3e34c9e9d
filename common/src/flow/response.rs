//! From the target (by way of intercept, or our own queue) to session.

use crate::packet::{Endpoint, SackBlocks, SeqNumber, TcpFlags, TcpOptions, TcpPacket};

/// The header of one response of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHeader {
    /// Who answered.
    pub target: Endpoint,
    /// To whom, as the target sees it. Its hash names the owning worker.
    pub client: Endpoint,
    /// Sequence number.
    pub seq: SeqNumber,
    /// Acknowledgement number, meaningful with ACK.
    pub ack: SeqNumber,
    /// Control bits.
    pub flags: TcpFlags,
    /// Window field, unscaled.
    pub window: u16,
    /// Payload bytes the packet had (the payload itself is not carried).
    pub payload_len: u32,
    /// Options.
    pub options: TcpOptions,
    /// What the target has received out of order.
    pub sack: SackBlocks,
}

impl ResponseHeader {
    /// From a decoded packet. `frame_len` is the length on the wire, for BIG TCP. Options beyond the
    /// bytes are ignored.
    pub fn from_packet(bytes: &[u8], packet: &TcpPacket, frame_len: usize) -> Self {
        let options_at = packet.ip.l4 + 20;
        let end = packet.tcp.payload.min(bytes.len());
        let area = bytes.get(options_at..end).unwrap_or_default();
        let (options, sack) = TcpOptions::parse_with_sack(area);
        Self {
            target: Endpoint::new(packet.ip.src, packet.tcp.sport),
            client: Endpoint::new(packet.ip.dst, packet.tcp.dport),
            seq: packet.tcp.seq,
            ack: packet.tcp.ack,
            flags: packet.tcp.flags,
            window: packet.tcp.window,
            payload_len: packet.payload_len(frame_len) as u32,
            options,
            sack,
        }
    }

    /// The same as packets of at most `most` bytes of payload (at least 1), as they were before they were merged:
    /// FIN and PSH belong to the last one, SYN to none of several.
    pub fn pieces(&self, most: u32) -> impl Iterator<Item = Self> {
        let (whole, most) = (*self, most.max(1));
        let count = whole.payload_len.div_ceil(most).max(1);
        (0..count).map(move |n| {
            let before = n * most;
            let last = n + 1 == count;
            Self {
                seq: whole.seq + before,
                payload_len: (whole.payload_len - before).min(most),
                flags: if last {
                    whole.flags
                } else {
                    whole.flags.without(TcpFlags::FIN.with(TcpFlags::PSH))
                },
                ..whole
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Addr, FrameAddresses, TcpFrame, build_tcp_frame, decode_frame};
    use std::vec::Vec;

    #[test]
    fn pieces_are_the_whole_again() {
        let end = Endpoint::new(Addr::v4([10, 0, 0, 1]), 80);
        let whole = ResponseHeader {
            target: end,
            client: end,
            seq: SeqNumber(u32::MAX - 10),
            ack: SeqNumber(5),
            flags: TcpFlags::ACK.with(TcpFlags::PSH).with(TcpFlags::FIN),
            window: 7,
            payload_len: 0,
            options: TcpOptions::default(),
            sack: SackBlocks::default(),
        };
        for (payload_len, count) in [
            (0, 1),
            (1, 1),
            (1000, 1),
            (1001, 2),
            (3000, 3),
            (524_288, 525),
        ] {
            let whole = ResponseHeader {
                payload_len,
                ..whole
            };
            let mut next = whole.seq;
            let mut seen = 0;
            for piece in whole.pieces(1000) {
                assert_eq!((piece.seq, piece.ack, piece.window), (next, whole.ack, 7));
                assert!(piece.payload_len <= 1000);
                next += piece.payload_len;
                seen += 1;
                let flags = if seen == count {
                    whole.flags
                } else {
                    TcpFlags::ACK
                };
                assert_eq!(piece.flags, flags);
            }
            assert_eq!((seen, next), (count, whole.seq + payload_len));
        }
    }

    const ETHERNET_BYTES: usize = 14;

    /// The headers of an answer, with that IP length field; all that is left of it.
    fn headers(v6: bool, length: u16, jumbo: bool) -> Vec<u8> {
        let end = |n: u8, port| {
            let v4 = Addr::v4([10, 0, 0, n]);
            Endpoint::new(if v6 { Addr([0x20 + n; 16]) } else { v4 }, port)
        };
        let frame = TcpFrame {
            src: end(1, 80),
            dst: end(2, 40_000),
            seq: SeqNumber(7),
            ack: SeqNumber(9),
            flags: TcpFlags::ACK,
            window: 500,
            options: TcpOptions::default(),
            payload: &[],
            ip_id: 1,
        };
        let mut bytes = [0; 200];
        let len = build_tcp_frame(&mut bytes, FrameAddresses::default(), &frame).unwrap();
        let mut bytes = bytes[..len].to_vec();
        let at = ETHERNET_BYTES + if v6 { 4 } else { 2 };
        bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
        if jumbo {
            // RFC 2675 section 2, as Linux inserts it (`ip6_xmit`): a hop-by-hop header in front of TCP.
            let tcp = ETHERNET_BYTES + 40;
            let next = core::mem::replace(&mut bytes[ETHERNET_BYTES + 6], 0);
            let size = 100_000_u32.to_be_bytes();
            let option = [next, 0, 0xc2, 4, size[0], size[1], size[2], size[3]];
            bytes.splice(tcp..tcp, option);
        }
        bytes
    }

    #[test]
    fn payload_lengths_are_those_of_the_packet_that_was_cut_or_merged() {
        for (name, v6, length, jumbo, frame_len, payload) in [
            ("no payload, padded", false, 40, false, 60, 0),
            ("a segment", false, 1500, false, 1514, 1460),
            ("merged", false, 65_040, false, 65_054, 65_000),
            ("BIG TCP", false, 0, false, 180_054, 180_000),
            ("a segment, IPv6", true, 1460, false, 1514, 1440),
            ("merged, IPv6", true, 65_020, false, 65_074, 65_000),
            ("BIG TCP, IPv6", true, 0, false, 180_074, 180_000),
            ("BIG TCP, IPv6, jumbogram", true, 0, true, 180_082, 180_000),
        ] {
            let bytes = headers(v6, length, jumbo);
            let packet = decode_frame(&bytes[..]).unwrap();
            let header = ResponseHeader::from_packet(&bytes, &packet, frame_len);
            assert_eq!(header.payload_len, payload, "{name}");
            assert_eq!(header.seq, SeqNumber(7), "{name}");
        }
    }
}
