//! Responses that came before their route was announced.
//!
//! tcpcopy announces a route on one path and sends the SYN on another; the answer can win. It waits here
//! and is delivered, in order, when the ADD arrives. All kinds wait, not only SYN-ACK and RST as in C: an
//! announcement can also be late because its connection was just re-opened.
//!
//! ```text
//!   ring of slots, oldest first ── age 30 s, or full: the oldest goes
//!     └─ chains of one 4-tuple, first ─▶ next ─▶ last      found by an index
//! ```
//! The ring is of fixed size, so a storm of foreign packets costs nothing but itself. A delivered slot
//! in the middle stays empty until the ring's head passes it.

use super::RouteKey;
use super::wheel::NIL;
use crate::channel::Response;
use common::flow::Nanos;
use hashbrown::{DefaultHashBuilder, HashTable, hash_table::Entry};
use std::hash::BuildHasher;

/// As long as the C program keeps early responses: within it a target gives up on a lost SYN-ACK.
pub const PARKED_LIFETIME: Nanos = Nanos::from_secs(30);
/// Responses waiting for one route. An initial window is ten segments; more than this is a stream that
/// nobody announced, which must not displace the first packets of others.
pub const PARKED_PER_ROUTE: u32 = 64;
/// Old responses let go per worker loop: a microsecond or two.
const EXPIRY_BUDGET: usize = 128;

struct Slot {
    key: RouteKey,
    response: Response,
    parked: Nanos,
    next: u32,
    waiting: bool,
}

#[derive(Clone, Copy)]
struct Chain {
    first: u32,
    last: u32,
    count: u32,
}

/// What became of parked responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParkedTotals {
    /// Put aside.
    pub parked: u64,
    /// Delivered when their route came.
    pub delivered: u64,
    /// Let go after [`PARKED_LIFETIME`]: nobody announced a route.
    pub expired: u64,
    /// Let go for a newer one, because the ring was full.
    pub displaced: u64,
    /// Not put aside: [`PARKED_PER_ROUTE`] were waiting for their route.
    pub refused: u64,
}

impl std::ops::AddAssign for ParkedTotals {
    fn add_assign(&mut self, o: Self) {
        self.parked += o.parked;
        self.delivered += o.delivered;
        self.expired += o.expired;
        self.displaced += o.displaced;
        self.refused += o.refused;
    }
}

/// The responses that wait. See the module head.
pub struct Parked {
    slots: Vec<Slot>,
    chains: HashTable<Chain>,
    hasher: DefaultHashBuilder,
    capacity: usize,
    /// Oldest slot.
    head: usize,
    /// Slots in use or emptied in the middle.
    span: usize,
    waiting: usize,
    totals: ParkedTotals,
}

impl Parked {
    /// Bytes of one waiting response.
    pub const SLOT_BYTES: usize = size_of::<Slot>();

    /// Room for as many responses as fit in `bytes`, at least one.
    pub fn new(bytes: usize) -> Self {
        let capacity = (bytes / Self::SLOT_BYTES).clamp(1, NIL as usize - 1);
        Self {
            slots: Vec::with_capacity(capacity),
            chains: HashTable::with_capacity(capacity * 2),
            hasher: DefaultHashBuilder::default(),
            capacity,
            head: 0,
            span: 0,
            waiting: 0,
            totals: ParkedTotals::default(),
        }
    }

    /// Puts a response aside. `now` must not run backwards.
    pub fn park(&mut self, now: Nanos, key: RouteKey, response: Response) {
        let hash = self.hasher.hash_one(key);
        let full = self
            .chains
            .find(hash, |c| self.slots[c.first as usize].key == key)
            .is_some_and(|c| c.count >= PARKED_PER_ROUTE);
        if full {
            // The newest goes: the first packets are the ones a session cannot start without.
            self.totals.refused += 1;
            return;
        }
        if self.span == self.capacity && self.pop_head() {
            self.totals.displaced += 1;
        }
        let at = (self.head + self.span) % self.capacity;
        let slot = Slot {
            key,
            response,
            parked: now,
            next: NIL,
            waiting: true,
        };
        match self.slots.get_mut(at) {
            Some(old) => *old = slot,
            None => self.slots.push(slot),
        }
        self.span += 1;
        self.waiting += 1;
        self.totals.parked += 1;
        let Self {
            chains,
            slots,
            hasher,
            ..
        } = self;
        let entry = chains.entry(
            hash,
            |c| slots[c.first as usize].key == key,
            |c| hasher.hash_one(slots[c.first as usize].key),
        );
        match entry {
            Entry::Occupied(mut chain) => {
                let chain = chain.get_mut();
                slots[chain.last as usize].next = at as u32;
                chain.last = at as u32;
                chain.count += 1;
            }
            Entry::Vacant(vacant) => {
                vacant.insert(Chain {
                    first: at as u32,
                    last: at as u32,
                    count: 1,
                });
            }
        }
    }

    /// Takes out what waits for `key`, oldest first.
    pub fn take(&mut self, key: &RouteKey, mut deliver: impl FnMut(&Response)) {
        if self.waiting == 0 {
            return;
        }
        let hash = self.hasher.hash_one(key);
        let Ok(entry) = self
            .chains
            .find_entry(hash, |c| self.slots[c.first as usize].key == *key)
        else {
            return;
        };
        let (chain, _) = entry.remove();
        let mut at = chain.first;
        while let Some(slot) = self.slots.get_mut(at as usize) {
            slot.waiting = false;
            deliver(&slot.response);
            at = slot.next;
        }
        self.waiting -= chain.count as usize;
        self.totals.delivered += u64::from(chain.count);
    }

    /// Bounded expiry work. True if more is to do at once.
    pub fn advance(&mut self, now: Nanos) -> bool {
        for _ in 0..EXPIRY_BUDGET {
            if self.span == 0 {
                return false;
            }
            let oldest = &self.slots[self.head];
            if oldest.waiting && now.since(oldest.parked) < PARKED_LIFETIME {
                return false;
            }
            if self.pop_head() {
                self.totals.expired += 1;
            }
        }
        true
    }

    /// When [`Parked::advance`] may next have something to do.
    pub fn next_deadline(&self) -> Option<Nanos> {
        (self.span > 0).then(|| self.slots[self.head].parked + PARKED_LIFETIME)
    }

    /// Responses that wait now.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// What became of parked responses so far.
    pub fn totals(&self) -> ParkedTotals {
        self.totals
    }

    /// Frees the oldest slot; true if its response was still waiting, and is lost with it. The oldest
    /// slot that waits is always the first of its chain.
    fn pop_head(&mut self) -> bool {
        let slot = &mut self.slots[self.head];
        let lost = std::mem::replace(&mut slot.waiting, false);
        let (key, next) = (slot.key, slot.next);
        if lost {
            self.waiting -= 1;
            let hash = self.hasher.hash_one(key);
            let head = self.head as u32;
            if let Ok(mut entry) = self.chains.find_entry(hash, |c| c.first == head) {
                let chain = entry.get_mut();
                chain.first = next;
                chain.count -= 1;
                if chain.count == 0 {
                    entry.remove();
                }
            }
        }
        self.head = (self.head + 1) % self.capacity;
        self.span -= 1;
        lost
    }
}
