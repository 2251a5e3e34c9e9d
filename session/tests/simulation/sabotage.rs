//! Ways to break each rule on purpose, at the boundary between the engine and those who watch it: a rule
//! that nothing can break proves nothing.

use crate::watch::Rule;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Payload leaves with a flipped bit.
    FlipByte,
    /// The watch is not told of a captured segment.
    ForgetCapture,
    /// The watch misses a segment that was sent.
    MissSegment,
    /// The engine sends as captured, the watch expects turns.
    SendAsCaptured,
    /// All connections seem to begin on one tuple.
    ShareTuple,
    /// The engine works for another worker.
    OtherWorker,
    /// The engine's MTU is larger than what is allowed.
    LargePackets,
    /// The watch believes in windows of half the size.
    HalfWindow,
    /// A budget smaller than one request.
    TinyBudget,
    /// Bytes count as delivered that were not.
    InventDelivery,
    /// The watch is not told of captured FINs.
    ForgetFin,
    /// The watch believes that no session is selected.
    SelectNone,
    /// A panic in the middle.
    Panic,
    /// Time runs out early.
    StopEarly,
    /// An end is not reported.
    LoseEnd,
    /// An outcome is missing in the totals.
    LoseOutcome,
    /// Memory stays in use.
    KeepMemory,
    /// A timer stays.
    KeepTimer,
    /// Timeouts are a hundredth of what the engine has.
    ShortLives,
    /// A retired route is not reported.
    KeepRoute,
    /// The application reads other bytes than were sent.
    ScrambleRead,
    /// The application's record lacks a byte.
    ForgetRead,
    /// The network swallows all data of one client.
    Blackhole,
}

impl Sabotage {
    pub const ALL: [(Self, Rule); 23] = [
        (Self::FlipByte, Rule::Bytes),
        (Self::ForgetCapture, Rule::Gap),
        (Self::MissSegment, Rule::Hole),
        (Self::SendAsCaptured, Rule::Overtake),
        (Self::ShareTuple, Rule::Tuple),
        (Self::OtherWorker, Rule::Worker),
        (Self::LargePackets, Rule::Size),
        (Self::HalfWindow, Rule::Window),
        (Self::TinyBudget, Rule::Budget),
        (Self::InventDelivery, Rule::Ledger),
        (Self::ForgetFin, Rule::Cause),
        (Self::SelectNone, Rule::Selection),
        (Self::Panic, Rule::Panic),
        (Self::StopEarly, Rule::Wedge),
        (Self::LoseEnd, Rule::Outcome),
        (Self::LoseOutcome, Rule::Balance),
        (Self::KeepMemory, Rule::Memory),
        (Self::KeepTimer, Rule::Timers),
        (Self::ShortLives, Rule::Lifetime),
        (Self::KeepRoute, Rule::Routes),
        (Self::ScrambleRead, Rule::TargetRead),
        (Self::ForgetRead, Rule::Phantom),
        (Self::Blackhole, Rule::Undelivered),
    ];
}
