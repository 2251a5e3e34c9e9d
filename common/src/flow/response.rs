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
}
