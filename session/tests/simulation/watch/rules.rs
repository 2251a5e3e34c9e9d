//! The rules that a run must not break.

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// Payload sent is what was captured at that place.
    Bytes,
    /// Nothing is sent that was not captured contiguously from the connection's beginning on.
    Gap,
    /// Nothing is sent before what lies in front of it was sent.
    Hole,
    /// No request before the answer that its client had read.
    Overtake,
    /// No two live connections on one tuple; chosen tuples rest before they come again; addresses
    /// are the client's or of the pool.
    Tuple,
    /// Wire tuples hash to the engine's worker.
    Worker,
    /// No packet beyond `mtu` or the target's MSS.
    Size,
    /// No byte beyond the target's window, but one to probe it.
    Window,
    /// Memory in use within the budget.
    Budget,
    /// At every step: counters grow, parts do not exceed wholes, open sessions are the ones without an
    /// outcome.
    Ledger,
    /// FIN and RST to the target, and outcomes, have a cause.
    Cause,
    /// Sessions that `-r` leaves out stay out.
    Selection,
    /// The engine panicked.
    Panic,
    /// Everything ends.
    Wedge,
    /// Every session has one outcome.
    Outcome,
    /// The books balance.
    Balance,
    /// All memory is given back.
    Memory,
    /// No timer is left.
    Timers,
    /// No session lives longer than its timeouts allow.
    Lifetime,
    /// Routes announced are retired.
    Routes,
    /// What an application read on one connection is what one client sent from a request's beginning on.
    TargetRead,
    /// What counts as delivered was read by the target.
    Phantom,
    /// Fully captured sessions of class Gentle arrive whole.
    Undelivered,
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub text: String,
}
