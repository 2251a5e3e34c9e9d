//! What the engine asks of its surroundings.

use crate::Outcome;
use common::flow::{Cause, Nanos, Segment};
use common::packet::Endpoint;

/// Latencies that the engine measures, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    /// First SYN sent to SYN-ACK seen.
    Connect,
    /// Last byte of a request first sent to first byte of the answer seen.
    Response,
    /// How long captured data was held back on purpose: for its turn, the target's window, or the
    /// handshake. One sample per captured segment that was held.
    Hold,
    /// How far behind the captured schedule a captured segment was sent, the schedule being the
    /// capture times shifted to the first SYN of the session.
    Lag,
}

impl Metric {
    /// Every metric.
    pub const ALL: [Self; 4] = [Self::Connect, Self::Response, Self::Hold, Self::Lag];

    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Response => "response",
            Self::Hold => "hold",
            Self::Lag => "lag",
        }
    }
}

/// What a session was waiting for when it ended, for people who look for the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Nothing: both sides were done.
    Nothing,
    /// A channel that takes its route.
    Channel,
    /// The target's SYN-ACK.
    Handshake,
    /// The target's answer to the request before.
    Turn,
    /// Room in the target's window.
    Window,
    /// The target's acknowledgement.
    Acknowledgement,
    /// Captured bytes that are missing.
    Capture,
    /// More from the captured client.
    Client,
    /// The target's FIN.
    Close,
}

impl Waiting {
    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Channel => "a channel to intercept",
            Self::Handshake => "the target's SYN-ACK",
            Self::Turn => "the target's answer to an earlier request",
            Self::Window => "room in the target's window",
            Self::Acknowledgement => "the target's acknowledgement",
            Self::Capture => "captured bytes that are missing",
            Self::Client => "the captured client",
            Self::Close => "the target's FIN",
        }
    }
}

/// A session that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionEnd {
    /// The captured client.
    pub client: Endpoint,
    /// Whom it talked to.
    pub online: Endpoint,
    /// The client as the target saw it.
    pub wire: Endpoint,
    /// The target.
    pub target: Endpoint,
    /// How it ended.
    pub outcome: Outcome,
    /// What it was waiting for.
    pub waiting: Waiting,
    /// Distinct payload bytes captured, and acknowledged by the target.
    pub captured: u64,
    /// See `captured`.
    pub delivered: u64,
    /// Time since its first packet.
    pub lasted: Nanos,
}

/// Receives what the engine decides. All methods return at once; none may call back into the engine.
pub trait Output {
    /// Sends a segment to a target. It may be lost: the session's TCP repairs that.
    fn transmit(&mut self, segment: &Segment<'_>, cause: Cause);

    /// Makes responses of `target` to `client` come to this engine; called before each SYN (SYN
    /// retransmissions too, repeating is harmless). False: no channel could take it, the SYN is not
    /// sent now but tried again with the next retransmission.
    fn announce(&mut self, client: Endpoint, target: Endpoint) -> bool;

    /// Asked once [`Output::announce`] has taken a route whose SYN was not sent yet: true if it had better wait until
    /// [`crate::Engine::route_ready`] says that the responses are taken. It goes after a second in any case, the route
    /// being announced again; what this answers then must be false.
    fn awaits(&mut self, client: Endpoint, target: Endpoint) -> bool {
        let _ = (client, target);
        false
    }

    /// The route is not needed any more.
    fn retire(&mut self, client: Endpoint, target: Endpoint);

    /// A session has its outcome. For logs; the totals have it already.
    fn ended(&mut self, end: &SessionEnd) {
        let _ = end;
    }

    /// A measurement.
    fn sample(&mut self, metric: Metric, value: Nanos);
}
