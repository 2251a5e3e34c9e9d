//! Tuples that may not be chosen again yet, because the target may hold them in TIME-WAIT.

use crate::table::{Pair, Table};
use common::flow::Nanos;
use std::collections::VecDeque;

/// Stands in the table where a session number would.
pub(crate) const RESERVED: u32 = u32::MAX;

/// Reserved tuples in the order in which they come free; all wait equally long.
#[derive(Default)]
pub(crate) struct Reserve {
    until: VecDeque<(Nanos, Pair)>,
}

impl Reserve {
    /// Keeps `pair` in `used` until `until`.
    pub(crate) fn hold(&mut self, used: &mut Table, pair: Pair, until: Nanos) {
        used.insert(pair, RESERVED);
        self.until.push_back((until, pair));
    }

    /// Frees what is due and tells `freed` of it.
    pub(crate) fn release(&mut self, used: &mut Table, now: Nanos, mut freed: impl FnMut(&Pair)) {
        while self.until.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, pair)) = self.until.pop_front() else {
                break;
            };
            // A session may have taken it over meanwhile: its own client came back.
            if used.get(&pair) == Some(&RESERVED) {
                used.remove(&pair);
                freed(&pair);
            }
        }
    }
}
