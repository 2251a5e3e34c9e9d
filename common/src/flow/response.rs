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
    use crate::packet::Addr;

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
}
