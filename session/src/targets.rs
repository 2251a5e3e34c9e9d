//! The books of each target.

use crate::Outcome;
use common::packet::Endpoint;

/// What became of the sessions that were meant for one target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetTotals {
    /// Sessions, whatever became of them.
    pub sessions: u64,
    /// Ended sessions by [`Outcome`] (indexed by its value).
    pub outcomes: [u64; Outcome::ALL.len()],
    /// Payload bytes of ended sessions that the target acknowledged.
    pub bytes_delivered: u64,
    /// Payload bytes of ended sessions that it did not.
    pub bytes_undelivered: u64,
}

impl TargetTotals {
    /// Adds another engine's.
    pub fn merge(&mut self, other: &Self) {
        for (a, b) in self.outcomes.iter_mut().zip(other.outcomes) {
            *a += b;
        }
        self.sessions += other.sessions;
        self.bytes_delivered += other.bytes_delivered;
        self.bytes_undelivered += other.bytes_undelivered;
    }

    /// Count of one outcome.
    pub fn outcome(&self, outcome: Outcome) -> u64 {
        self.outcomes.get(outcome as usize).copied().unwrap_or(0)
    }
}

/// Totals by target. Most runs have one target, and sessions of several come in turn: the last one is
/// tried first.
#[derive(Clone, Debug, Default)]
pub struct TargetBooks {
    /// Sorted by target.
    list: Vec<(Endpoint, TargetTotals)>,
    last: usize,
}

impl TargetBooks {
    /// Of each target that has had a session, sorted.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Endpoint, &TargetTotals)> {
        self.list.iter().map(|(target, totals)| (*target, totals))
    }

    /// Of one target, if it has had a session.
    pub fn get(&self, target: Endpoint) -> Option<&TargetTotals> {
        let at = self.find(target).ok()?;
        self.list.get(at).map(|(_, totals)| totals)
    }

    /// Adds another engine's.
    pub fn merge(&mut self, other: &Self) {
        for (target, totals) in other.iter() {
            self.book(target, |t| t.merge(totals));
        }
    }

    /// Books something of one target.
    #[inline]
    pub fn book(&mut self, target: Endpoint, entry: impl FnOnce(&mut TargetTotals)) {
        if self.list.get(self.last).is_none_or(|(t, _)| *t != target) {
            self.last = self.find(target).unwrap_or_else(|at| {
                self.list.insert(at, (target, TargetTotals::default()));
                at
            });
        }
        if let Some((_, totals)) = self.list.get_mut(self.last) {
            entry(totals);
        }
    }

    fn find(&self, target: Endpoint) -> Result<usize, usize> {
        self.list.binary_search_by_key(&target, |(t, _)| *t)
    }
}

/// Which one was last does not matter.
impl PartialEq for TargetBooks {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl Eq for TargetBooks {}
