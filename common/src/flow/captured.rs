//! From capture to session.

use super::Nanos;
use crate::packet::{Endpoint, SeqNumber, TcpFlags, TcpOptions};

/// What is known of a captured frame beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureMeta {
    /// When the kernel (or the capture file) saw it.
    pub at: Nanos,
    /// Length of the frame on the wire in bytes; larger than the captured bytes if it was cut.
    pub frame_len: u32,
    /// Payload bytes per segment if the kernel had merged several (GRO/TSO), else 0.
    pub gso_size: u16,
    /// VLAN tag that the kernel keeps outside of the bytes (tcx), if any.
    pub vlan_tci: Option<u16>,
}

/// A captured Ethernet frame, borrowed from a ring; it does not outlive its batch.
#[derive(Clone, Copy, Debug)]
pub struct Captured<'a> {
    /// From the Ethernet header on.
    pub bytes: &'a [u8],
    /// Everything else.
    pub meta: CaptureMeta,
}

/// A decoded packet from a client to production that matches a transfer.
#[derive(Clone, Copy, Debug)]
pub struct ClientSegment<'a> {
    /// Who sent it.
    pub client: Endpoint,
    /// Production's address and port.
    pub online: Endpoint,
    /// Where the transfer list sends it.
    pub target: Endpoint,
    /// Which of the targets that is to which the transfer list sends what goes to `online`, from 0.
    /// The packet comes once for each.
    pub lane: u16,
    /// Sequence number.
    pub seq: SeqNumber,
    /// Acknowledgement number, meaningful with ACK: how far the client has read production's answer.
    pub ack: SeqNumber,
    /// Control bits.
    pub flags: TcpFlags,
    /// Window field, unscaled.
    pub window: u16,
    /// Options.
    pub options: TcpOptions,
    /// Payload bytes that were captured.
    pub payload: &'a [u8],
    /// Payload bytes that the packet had; more than `payload.len()` if the capture was cut.
    pub payload_len: u32,
    /// Payload bytes per original segment if merged, else 0.
    pub gso_size: u16,
    /// Capture time.
    pub at: Nanos,
}

/// A decoded UDP datagram from a client to production that matches a transfer.
#[derive(Clone, Copy, Debug)]
pub struct ClientDatagram<'a> {
    /// Who sent it.
    pub client: Endpoint,
    /// Production's address and port.
    pub online: Endpoint,
    /// Where the transfer list sends it.
    pub target: Endpoint,
    /// Payload bytes that were captured.
    pub payload: &'a [u8],
    /// Payload bytes that it had; more than `payload.len()` if the capture was cut.
    pub payload_len: u32,
    /// Identification of its IPv4 packet; 0 if that has none, as with IPv6 (RFC 6864).
    pub packet_id: u16,
    /// Payload bytes of each but the last if the kernel merged several, else 0.
    pub gso_size: u16,
    /// Capture time.
    pub at: Nanos,
}
