//! What is counted of a connection to an intercept, here and, as pongs tell, there.

use common::wire::native::Pong;

/// Counters of a connection, over all its lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Times the connection was made.
    pub connects: u64,
    /// Times it was lost.
    pub losses: u64,
    /// Records written whole.
    pub records_sent: u64,
    /// Records dropped because the queue was full.
    pub records_dropped: u64,
    /// Response headers received.
    pub responses: u64,
    /// Records that are no IPv4/TCP header.
    pub responses_bad: u64,
    /// Times the key was refused, on either side.
    pub refused: u64,
    /// Answers to pings.
    pub pongs: u64,
    /// As the last of them said of this connection, and of its earlier lives: responses written.
    pub far_sent: u64,
    /// Responses that intercept dropped because this program did not read fast enough.
    pub far_dropped: u64,
    /// Longest time from a response's capture to its write that any answer told of.
    pub far_lag_max_ns: u64,
}

impl LinkCounters {
    /// Adds what an answer says beyond the one before, of the same connection.
    pub(super) fn note(&mut self, last: &mut Pong, pong: Pong) {
        self.pongs += 1;
        self.far_sent += pong.sent.saturating_sub(last.sent);
        self.far_dropped += pong.dropped_full.saturating_sub(last.dropped_full);
        self.far_lag_max_ns = self.far_lag_max_ns.max(pong.lag_max_ns);
        *last = pong;
    }

    /// Adds those of another connection.
    pub fn add(&mut self, o: &Self) {
        self.connects += o.connects;
        self.losses += o.losses;
        self.records_sent += o.records_sent;
        self.records_dropped += o.records_dropped;
        self.responses += o.responses;
        self.responses_bad += o.responses_bad;
        self.refused += o.refused;
        self.pongs += o.pongs;
        self.far_sent += o.far_sent;
        self.far_dropped += o.far_dropped;
        self.far_lag_max_ns = self.far_lag_max_ns.max(o.far_lag_max_ns);
    }
}
