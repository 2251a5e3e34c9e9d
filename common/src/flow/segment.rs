//! From session to transmit.

use super::Nanos;
use crate::packet::{Endpoint, SeqNumber, TcpFlags, TcpOptions};

/// Where a transmitted segment comes from, for the latency histograms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// First transmission of something captured.
    Captured {
        /// Capture time in the kernel.
        at: Nanos,
        /// Part of the time since then that was deliberate: waiting for a turn, for the target's
        /// window or handshake, or for the emulated client.
        held: Nanos,
    },
    /// Sent by our own TCP: acknowledgement, synthesised handshake, probe, reset.
    Own,
    /// Sent again.
    Retransmit,
}

/// A transmit intent: one segment to a target. The payload is borrowed from the
/// session's buffer.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Client as the target sees it (after rewriting).
    pub src: Endpoint,
    /// Target.
    pub dst: Endpoint,
    /// Sequence number.
    pub seq: SeqNumber,
    /// Acknowledgement number.
    pub ack: SeqNumber,
    /// Control bits.
    pub flags: TcpFlags,
    /// Window field as it goes on the wire.
    pub window: u16,
    /// Options.
    pub options: TcpOptions,
    /// Payload.
    pub payload: &'a [u8],
    /// Why it is sent.
    pub cause: Cause,
}
