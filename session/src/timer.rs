//! A timer wheel: one timer per session, set and fired in constant time.
//!
//! ```text
//!  near: 1024 slots of 1 ms   ◀── refilled from ──   far: 1024 slots of 1.024 s
//! ```
//! Slots are doubly linked lists through `nodes`, indexed by session, so nothing is allocated once the
//! session slab has grown. A timer may fire early (its session then sets it again), never late by more
//! than one tick beyond the caller's own delay.

use crate::slab::page;
use crate::time::{TICK_NS, Tick};
use common::flow::Nanos;

const SLOTS: u64 = 1024;
const NONE: u32 = u32::MAX;
const NO_SLOT: u16 = u16::MAX;

#[derive(Clone, Copy)]
struct Node {
    prev: u32,
    next: u32,
    /// Lower half of the tick when it is due; meaningful while linked.
    due: u32,
    /// Slot it is linked into (near: 0..1024, far: 1024..2048), or NO_SLOT.
    slot: u16,
}

/// Nodes of a page.
const PAGE: usize = 1024;
const UNLINKED: Node = Node {
    prev: NONE,
    next: NONE,
    due: 0,
    slot: NO_SLOT,
};

/// A node per session number, in pages: growing never moves them.
#[derive(Default)]
struct Nodes(Vec<Box<[Node; PAGE]>>);

impl Nodes {
    fn get(&self, id: u32) -> Option<&Node> {
        self.0.get(id as usize / PAGE)?.get(id as usize % PAGE)
    }

    fn get_mut(&mut self, id: u32) -> Option<&mut Node> {
        self.0
            .get_mut(id as usize / PAGE)?
            .get_mut(id as usize % PAGE)
    }

    #[cold]
    fn grow_to(&mut self, id: u32) {
        while self.0.len() <= id as usize / PAGE {
            self.0.extend(page(|_| UNLINKED));
        }
    }
}

pub(crate) struct Wheel {
    nodes: Nodes,
    heads: Vec<u32>,
    /// One bit per slot that is not empty.
    occupied: [u64; (2 * SLOTS / 64) as usize],
    /// Last tick that was fired.
    now: u64,
}

impl Wheel {
    pub(crate) fn new() -> Self {
        Self {
            nodes: Nodes::default(),
            heads: vec![NONE; 2 * SLOTS as usize],
            occupied: [0; (2 * SLOTS / 64) as usize],
            now: 0,
        }
    }

    /// Starts at the first time the engine hears of; before that `now` would be a boot ago.
    pub(crate) fn start_at(&mut self, now: Nanos) {
        if self.now == 0 {
            self.now = now.0 / TICK_NS;
        }
    }

    /// The tick, whole, of which `number` is the lower half: the one near now.
    fn whole(&self, number: u32) -> u64 {
        let ahead = number.wrapping_sub(self.now as u32) as i32;
        self.now.saturating_add_signed(i64::from(ahead))
    }

    /// Sets the timer of `id`, unless it is set to an earlier time already: firing early costs one
    /// look, moving a timer at every packet would cost more.
    pub(crate) fn set(&mut self, id: u32, due: Tick) {
        let ahead = due.number().wrapping_sub(self.now as u32) as i32;
        let tick = self.now + ahead.max(1) as u64;
        match self.nodes.get(id) {
            None => self.nodes.grow_to(id),
            Some(n) if n.slot == NO_SLOT => {}
            // As `whole` would have it.
            Some(n) if (n.due.wrapping_sub(tick as u32) as i32) <= 0 => return,
            Some(_) => self.unlink(id),
        }
        self.link(id, tick);
    }

    pub(crate) fn cancel(&mut self, id: u32) {
        if self.nodes.get(id).is_some_and(|n| n.slot != NO_SLOT) {
            self.unlink(id);
        }
    }

    /// Appends every session whose timer is due to `fired`; their timers are unset.
    pub(crate) fn advance(&mut self, now: Nanos, fired: &mut Vec<u32>) {
        let until = now.0 / TICK_NS;
        if self.occupied.iter().all(|w| *w == 0) {
            self.now = self.now.max(until);
            return;
        }
        while self.now < until {
            self.now += 1;
            if self.now.is_multiple_of(SLOTS) {
                self.refill();
            }
            self.drain((self.now % SLOTS) as u32, |_, id| fired.push(id));
        }
    }

    /// No timer fires before this. At most one far slot (1.024 s) early.
    pub(crate) fn next_due(&self) -> Option<Nanos> {
        let words = self.occupied.len() / 2;
        let start = (self.now + 1) % SLOTS;
        let refill = Nanos((self.now / SLOTS + 1) * SLOTS * TICK_NS);
        for step in 0..=words as u64 {
            let word = ((start / 64 + step) % words as u64) as usize;
            let mut bits = self.occupied.get(word).copied().unwrap_or(0);
            if step == 0 {
                bits &= u64::MAX << (start % 64);
            } else if step == words as u64 {
                bits &= !(u64::MAX << (start % 64));
            }
            if bits != 0 {
                let slot = word as u64 * 64 + u64::from(bits.trailing_zeros());
                let ahead = (slot + SLOTS - start) % SLOTS;
                let near = Nanos((self.now + 1 + ahead) * TICK_NS);
                // The next refill may bring timers that are due before all that is near now.
                let brings = self.is_marked(SLOTS + (self.now / SLOTS + 1) % SLOTS);
                return Some(if brings { near.min(refill) } else { near });
            }
        }
        let far = self.occupied.iter().skip(words).any(|w| *w != 0);
        far.then_some(refill)
    }

    fn is_marked(&self, slot: u64) -> bool {
        let word = self.occupied.get((slot / 64) as usize);
        word.is_some_and(|w| w & (1 << (slot % 64)) != 0)
    }

    fn refill(&mut self) {
        let slot = SLOTS as u32 + ((self.now / SLOTS) % SLOTS) as u32;
        self.drain(slot, |wheel, id| {
            let due = wheel.nodes.get(id).map_or(0, |n| wheel.whole(n.due));
            // Due now is linked into the slot that is fired right after this.
            wheel.link(id, due.max(wheel.now));
        });
    }

    fn drain(&mut self, slot: u32, mut act: impl FnMut(&mut Self, u32)) {
        let Some(head) = self.heads.get_mut(slot as usize) else {
            return;
        };
        let mut id = std::mem::replace(head, NONE);
        self.mark(slot, false);
        while let Some(node) = self.nodes.get_mut(id) {
            let next = node.next;
            *node = Node {
                due: node.due,
                ..UNLINKED
            };
            act(self, id);
            id = next;
        }
    }

    fn link(&mut self, id: u32, due: u64) {
        let slot = if due - self.now < SLOTS {
            (due % SLOTS) as u32
        } else {
            // Beyond the far wheel (17 min) it waits in the last slot and is linked again from there.
            let epoch = (due / SLOTS).min(self.now / SLOTS + SLOTS - 1);
            SLOTS as u32 + (epoch % SLOTS) as u32
        };
        let Some(head) = self.heads.get_mut(slot as usize) else {
            return;
        };
        let next = std::mem::replace(head, id);
        if let Some(n) = self.nodes.get_mut(next) {
            n.prev = id;
        }
        if let Some(n) = self.nodes.get_mut(id) {
            *n = Node {
                prev: NONE,
                next,
                due: due as u32,
                slot: slot as u16,
            };
        }
        self.mark(slot, true);
    }

    fn unlink(&mut self, id: u32) {
        let Some(node) = self.nodes.get_mut(id) else {
            return;
        };
        let Node {
            prev, next, slot, ..
        } = *node;
        let slot = u32::from(slot);
        node.slot = NO_SLOT;
        if let Some(n) = self.nodes.get_mut(next) {
            n.prev = prev;
        }
        if let Some(p) = self.nodes.get_mut(prev) {
            p.next = next;
        } else if let Some(head) = self.heads.get_mut(slot as usize) {
            *head = next;
            if next == NONE {
                self.mark(slot, false);
            }
        }
    }

    fn mark(&mut self, slot: u32, full: bool) {
        if let Some(word) = self.occupied.get_mut(slot as usize / 64) {
            let bit = 1u64 << (slot % 64);
            *word = if full { *word | bit } else { *word & !bit };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(n: u64) -> Nanos {
        Nanos::from_millis(n)
    }

    fn tick(n: u64) -> Tick {
        Tick::of(ms(n))
    }

    #[test]
    fn fires_in_time_and_once() {
        let mut w = Wheel::new();
        w.start_at(ms(5_000));
        for (id, due) in [
            (0, 5_001),
            (1, 5_500),
            (2, 6_024),
            (3, 9_999),
            (4, 5_000_000),
        ] {
            w.set(id, tick(due));
        }
        w.set(1, tick(5_400)); // earlier: moves
        w.set(0, tick(7_000)); // later: stays
        w.cancel(2);
        let mut at = Vec::new();
        for now in 5_001..5_100_000 {
            let mut fired = Vec::new();
            if let Some(due) = w.next_due()
                && due > ms(now)
            {
                continue;
            }
            w.advance(ms(now), &mut fired);
            at.extend(fired.into_iter().map(|id| (id, now)));
        }
        assert_eq!(at, [(0, 5_001), (1, 5_400), (3, 9_999), (4, 5_000_000)]);
        assert_eq!(w.next_due(), None);
    }

    #[test]
    fn a_timer_from_afar_may_be_due_before_a_near_one() {
        let mut w = Wheel::new();
        w.start_at(ms(2_000));
        w.set(0, tick(3_100)); // 1.1 s ahead: far
        w.advance(ms(2_500), &mut Vec::new());
        w.set(1, tick(3_400)); // 0.9 s ahead: near
        let (mut fired, mut now) = (Vec::new(), ms(2_500));
        while let Some(due) = w.next_due() {
            now = now.max(due);
            let before = fired.len();
            w.advance(now, &mut fired);
            if fired.len() > before {
                assert_eq!(now, ms(if fired.len() == 1 { 3_100 } else { 3_400 }));
            }
        }
        assert_eq!(fired, [0, 1]);
    }

    proptest! {
        #[test]
        fn agrees_with_a_sorted_list(
            start in 1u64..10_000_000,
            ops in prop::collection::vec((0u32..40, 0u64..3_000_000, 0u64..5_000), 1..200),
        ) {
            let mut w = Wheel::new();
            w.start_at(ms(start));
            let mut now = start;
            let mut due = std::collections::BTreeMap::<u32, u64>::new();
            for (id, ahead, step) in ops {
                let at = (now + ahead).max(now + 1);
                w.set(id, tick(at));
                let e = due.entry(id).or_insert(at);
                *e = (*e).min(at);
                now += step;
                let mut fired = Vec::new();
                w.advance(ms(now), &mut fired);
                fired.sort_unstable();
                let expected: Vec<u32> =
                    due.iter().filter(|(_, d)| **d <= now).map(|(id, _)| *id).collect();
                due.retain(|_, d| *d > now);
                prop_assert_eq!(fired, expected);
                match (w.next_due(), due.values().min()) {
                    (None, None) => {}
                    (Some(n), Some(d)) => prop_assert!(n <= ms(*d) && n > ms(now)),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }
}
