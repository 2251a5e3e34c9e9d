//! Tuples that may not be chosen again yet, because the target may hold them in TIME-WAIT.

use crate::table::{Pair, PairHasherBuilder};
use common::flow::Nanos;
use std::collections::{HashSet, VecDeque};

/// Reserved tuples, also in the order in which they come free; all wait equally long.
#[derive(Default)]
pub(crate) struct Reserve {
    held: HashSet<Pair, PairHasherBuilder>,
    until: VecDeque<(Nanos, Pair)>,
}

impl Reserve {
    /// Keeps `pair` until `until`.
    pub(crate) fn hold(&mut self, pair: Pair, until: Nanos) {
        if self.held.insert(pair) {
            self.until.push_back((until, pair));
        }
    }

    #[inline]
    pub(crate) fn holds(&self, pair: &Pair) -> bool {
        !self.held.is_empty() && self.held.contains(pair)
    }

    /// Frees what is due and tells `freed` of it.
    #[inline]
    pub(crate) fn release(&mut self, now: Nanos, mut freed: impl FnMut(&Pair)) {
        while let Some((_, pair)) = self.until.pop_front_if(|(due, _)| *due <= now) {
            self.held.remove(&pair);
            freed(&pair);
        }
    }
}
