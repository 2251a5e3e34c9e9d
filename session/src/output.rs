//! What the engine asks of its surroundings.

use common::flow::{Nanos, Segment};
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

/// Receives what the engine decides. All methods return at once; none may call back into the engine.
pub trait Output {
    /// Sends a segment to a target. It may be lost: the session's TCP repairs that.
    fn transmit(&mut self, segment: &Segment<'_>);

    /// Makes responses of `target` to `client` come to this engine; called before each SYN (SYN
    /// retransmissions too, repeating is harmless). False: no channel could take it, the SYN is not
    /// sent now but tried again with the next retransmission.
    fn announce(&mut self, client: Endpoint, target: Endpoint) -> bool;

    /// The route is not needed any more.
    fn retire(&mut self, client: Endpoint, target: Endpoint);

    /// A measurement.
    fn sample(&mut self, metric: Metric, value: Nanos);
}
