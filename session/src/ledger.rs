//! The books: every session has one outcome, every captured byte is delivered or has a cause.

use crate::targets::{TargetBooks, TargetTotals};
use common::packet::Endpoint;

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Outcome {
    /// Every captured byte was acknowledged and both sides closed; or the client's FIN was acknowledged
    /// and the target did not close within the idle timeout; or the client was done, and the target
    /// reset the connection after its answers.
    Completed,
    /// The target closed while the client had more to send.
    ClosedByTarget,
    /// The target reset an established session.
    ResetByTarget,
    /// The captured client reset the connection, or opened a new one on the same ports; so did we.
    ResetByClient,
    /// The target answered the SYN with a reset.
    Refused,
    /// The target never answered the SYN.
    Unanswered,
    /// Captured bytes are missing; what lies behind the hole was not sent.
    CaptureGap,
    /// The target stopped acknowledging, or nothing happened for the idle timeout.
    TimedOut,
    /// Not started, or given up, for lack of memory, session slots or wire addresses.
    Shed,
    /// The session began before the capture did, and was not joined. Bytes of adopted sessions from
    /// before they were joined are booked here too.
    SkippedNoSyn,
    /// Open when the program ended.
    Shutdown,
}

impl Outcome {
    /// Every outcome, in report order.
    pub const ALL: [Self; 11] = [
        Self::Completed,
        Self::ClosedByTarget,
        Self::ResetByTarget,
        Self::ResetByClient,
        Self::Refused,
        Self::Unanswered,
        Self::CaptureGap,
        Self::TimedOut,
        Self::Shed,
        Self::SkippedNoSyn,
        Self::Shutdown,
    ];

    /// Name in reports: `snake_case`, stable.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ClosedByTarget => "closed_by_target",
            Self::ResetByTarget => "reset_by_target",
            Self::ResetByClient => "reset_by_client",
            Self::Refused => "refused",
            Self::Unanswered => "unanswered",
            Self::CaptureGap => "capture_gap",
            Self::TimedOut => "timed_out",
            Self::Shed => "shed",
            Self::SkippedNoSyn => "skipped_no_syn",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Running totals of one engine. Sessions still open are in `opened` and in no outcome, and their
/// bytes are in `bytes_captured` and `bytes_delivered` but not yet in `bytes_undelivered`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Sessions seen, whatever became of them.
    pub sessions: u64,
    /// Ended sessions by [`Outcome`] (indexed by its value).
    pub outcomes: [u64; Outcome::ALL.len()],
    /// Distinct payload bytes captured.
    pub bytes_captured: u64,
    /// Payload bytes acknowledged by targets.
    pub bytes_delivered: u64,
    /// Payload bytes of ended sessions that were not, by outcome.
    pub bytes_undelivered: [u64; Outcome::ALL.len()],
    /// Client segments taken in.
    pub segments_captured: u64,
    /// Of these, segments that brought nothing new (client retransmissions, duplicated captures).
    pub segments_duplicate: u64,
    /// Of these, segments of unknown connections that waited for a SYN behind them.
    pub segments_early: u64,
    /// Segments sent, all kinds.
    pub segments_sent: u64,
    /// Segments sent again.
    pub segments_retransmitted: u64,
    /// Acknowledgements that were sent alone.
    pub acks_sent: u64,
    /// Response headers taken in.
    pub responses: u64,
    /// Response headers that belong to no session.
    pub responses_stray: u64,
    /// Answer bytes seen.
    pub response_bytes: u64,
    /// Turns that were given up after the turn limit.
    pub turns_expired: u64,
    /// Sessions recognised as full-duplex, which are not held back.
    pub full_duplex: u64,
    /// Sessions that joined in the middle, with a handshake of our own: open before the capture, or the
    /// rest of one that ended with a capture gap.
    pub adopted: u64,
    /// Closes of clients that were not captured, but are known from what came after them.
    pub fins_inferred: u64,
    /// Connections opened again after the target had closed them.
    pub reopened: u64,
    /// SYNs of sessions that were not selected (`-r`, `-g`); they are in no other figure.
    pub not_sampled: u64,
    /// SYNs that could not be announced on any channel when they were due.
    pub announce_failed: u64,
    /// The same books by target.
    pub by_target: TargetBooks,
}

impl Totals {
    /// Adds another engine's totals.
    pub fn merge(&mut self, other: &Self) {
        for (a, b) in self.outcomes.iter_mut().zip(other.outcomes) {
            *a += b;
        }
        for (a, b) in self
            .bytes_undelivered
            .iter_mut()
            .zip(other.bytes_undelivered)
        {
            *a += b;
        }
        self.sessions += other.sessions;
        self.bytes_captured += other.bytes_captured;
        self.bytes_delivered += other.bytes_delivered;
        self.segments_captured += other.segments_captured;
        self.segments_duplicate += other.segments_duplicate;
        self.segments_early += other.segments_early;
        self.segments_sent += other.segments_sent;
        self.segments_retransmitted += other.segments_retransmitted;
        self.acks_sent += other.acks_sent;
        self.responses += other.responses;
        self.responses_stray += other.responses_stray;
        self.response_bytes += other.response_bytes;
        self.turns_expired += other.turns_expired;
        self.full_duplex += other.full_duplex;
        self.announce_failed += other.announce_failed;
        self.adopted += other.adopted;
        self.fins_inferred += other.fins_inferred;
        self.reopened += other.reopened;
        self.not_sampled += other.not_sampled;
        self.by_target.merge(&other.by_target);
    }

    /// What happened beside outcomes and bytes, by its names in reports.
    pub fn events(&self) -> [(&'static str, u64); 11] {
        [
            ("segments_duplicate", self.segments_duplicate),
            ("segments_early", self.segments_early),
            ("responses_stray", self.responses_stray),
            ("response_bytes", self.response_bytes),
            ("turns_expired", self.turns_expired),
            ("sessions_full_duplex", self.full_duplex),
            ("sessions_adopted", self.adopted),
            ("connections_reopened", self.reopened),
            ("fins_inferred", self.fins_inferred),
            ("sessions_not_sampled", self.not_sampled),
            ("announcements_failed", self.announce_failed),
        ]
    }

    /// Books the beginning of a session.
    pub(crate) fn begin(&mut self, target: Endpoint) {
        self.sessions += 1;
        self.by_target.book(target, |t| t.sessions += 1);
    }

    /// Books the end of a session. What was delivered is in the books already, but not in those of the
    /// target.
    pub(crate) fn end(
        &mut self,
        target: Endpoint,
        outcome: Outcome,
        delivered: u64,
        undelivered: u64,
    ) {
        let at = outcome as usize;
        if let Some(n) = self.outcomes.get_mut(at) {
            *n += 1;
        }
        self.by_target.book(target, |t| {
            t.bytes_delivered += delivered;
            if let Some(n) = t.outcomes.get_mut(at) {
                *n += 1;
            }
        });
        self.lose(target, outcome, undelivered);
    }

    /// Takes a session back out of the books: it gets another outcome after all.
    pub(crate) fn unbook(&mut self, target: Endpoint, outcome: Outcome) {
        let take = |sessions: &mut u64, outcomes: &mut [u64; Outcome::ALL.len()]| {
            *sessions -= (*sessions).min(1);
            if let Some(n) = outcomes.get_mut(outcome as usize) {
                *n -= (*n).min(1);
            }
        };
        take(&mut self.sessions, &mut self.outcomes);
        self.by_target
            .book(target, |t| take(&mut t.sessions, &mut t.outcomes));
    }

    /// Books captured bytes that will not be delivered.
    pub(crate) fn lose(&mut self, target: Endpoint, outcome: Outcome, bytes: u64) {
        if bytes == 0 {
            return;
        }
        self.by_target
            .book(target, |t| t.bytes_undelivered += bytes);
        if let Some(n) = self.bytes_undelivered.get_mut(outcome as usize) {
            *n += bytes;
        }
    }

    /// Count of one outcome.
    pub fn outcome(&self, outcome: Outcome) -> u64 {
        self.outcomes.get(outcome as usize).copied().unwrap_or(0)
    }

    /// Undelivered bytes of one outcome.
    pub fn undelivered(&self, outcome: Outcome) -> u64 {
        self.bytes_undelivered
            .get(outcome as usize)
            .copied()
            .unwrap_or(0)
    }

    /// True if the books balance once no session is open: each session has an outcome, and bytes
    /// captured = delivered + undelivered. And if those of all targets make up the whole.
    pub fn balanced(&self) -> bool {
        let mut sum = TargetTotals::default();
        self.by_target.iter().for_each(|(_, t)| sum.merge(t));
        let whole = TargetTotals {
            sessions: self.sessions,
            outcomes: self.outcomes,
            bytes_delivered: self.bytes_delivered,
            bytes_undelivered: self.bytes_undelivered.iter().sum(),
        };
        self.sessions == self.outcomes.iter().sum::<u64>()
            && self.bytes_captured == whole.bytes_delivered + whole.bytes_undelivered
            && sum == whole
    }
}
