//! From session to transmit.

use super::Nanos;
use crate::packet::TcpFrame;

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

/// A transmit intent: one segment to a target, in the form that frames are built from. The payload is
/// borrowed from the session's buffer.
pub type Segment<'a> = TcpFrame<'a>;
