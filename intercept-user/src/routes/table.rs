//! Routes: which connection of which tcpcopy wants the responses of a session.
//!
//! ```text
//!   index: hash(4-tuple) ─▶ slot ─▶ Route { key, connection, deadline, link } ◀─ wheel (expiry)
//! ```
//! Owned by one worker, the one that [`common::flow::owner`] names for the client; nothing is shared.
//! All memory is reserved at the start, so that no response waits for a table to grow. Pages are touched
//! as routes come.

use super::RouteKey;
use super::wheel::{Link, Links, Wheel};
use crate::channel::ConnectionId;
use common::flow::Nanos;
use common::packet::TcpFlags;
use hashbrown::{DefaultHashBuilder, HashTable, hash_table::Entry};
use std::hash::BuildHasher;

/// A route whose target has sent FIN or RST, or that tcpcopy has given back, is kept for stragglers
/// (retransmitted FINs, late acknowledgements) as long as Linux keeps TIME-WAIT, then forgotten. Without it
/// short connections at 10,000 a second would fill a million routes within the idle time.
pub const CLOSING_LIFETIME: Nanos = Nanos::from_secs(60);
/// Routes looked at per worker loop for expiry and for closed connections: a few microseconds.
const EXPIRY_BUDGET: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Route {
    key: RouteKey,
    connection: ConnectionId,
    deadline: Nanos,
    link: Link,
    closing: bool,
    /// False: the slot is on the free list.
    used: bool,
}

/// What became of routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteTotals {
    /// ADDs that made a route.
    pub added: u64,
    /// ADDs for a route that existed: the newest wins.
    pub replaced: u64,
    /// Forgotten after the idle time (or the shorter time after FIN, RST or DEL).
    pub expired: u64,
    /// Forgotten because their connection closed.
    pub closed: u64,
    /// Forgotten because the table was full.
    pub evicted: u64,
}

impl std::ops::AddAssign for RouteTotals {
    fn add_assign(&mut self, o: Self) {
        self.added += o.added;
        self.replaced += o.replaced;
        self.expired += o.expired;
        self.closed += o.closed;
        self.evicted += o.evicted;
    }
}

struct Slots(Vec<Route>);

impl Links for Slots {
    fn link(&mut self, slot: u32) -> &mut Link {
        &mut self.0[slot as usize].link
    }
}

/// The table. See the module head.
pub struct RouteTable {
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    slots: Slots,
    free: Vec<u32>,
    wheel: Wheel,
    capacity: usize,
    idle: Nanos,
    closing: Nanos,
    /// Slots still to be searched for routes of closed connections, downwards.
    purge_below: usize,
    /// Routes without a connection are kept as closing ones, and those removed are listed in `removed`.
    lingers: bool,
    removed: Vec<RouteKey>,
    totals: RouteTotals,
}

impl RouteTable {
    /// A table of at most `capacity` routes (at least 1), each kept for `idle` after its last response.
    pub fn new(now: Nanos, capacity: usize, idle: Nanos) -> Self {
        let capacity = capacity.clamp(1, u32::MAX as usize - 1);
        Self {
            // Twice the room: below half load hashbrown leaves almost no tombstones, so it never has to
            // rehash a million routes between two packets.
            index: HashTable::with_capacity(capacity * 2),
            hasher: DefaultHashBuilder::default(),
            slots: Slots(Vec::with_capacity(capacity)),
            free: Vec::with_capacity(capacity),
            wheel: Wheel::new(now, idle),
            capacity,
            idle,
            closing: idle.min(CLOSING_LIFETIME),
            purge_below: 0,
            lingers: false,
            removed: Vec::new(),
            totals: RouteTotals::default(),
        }
    }

    /// Routes of closed connections are kept as if they had been given back, since their target goes on
    /// sending for a while; and [`RouteTable::removed`] tells of routes that are forgotten.
    #[must_use]
    pub fn lingering(mut self) -> Self {
        self.lingers = true;
        self
    }

    /// The routes that were forgotten since the last call, if the table is a [`RouteTable::lingering`] one. At most as
    /// many as the calls of [`RouteTable::add`] and [`RouteTable::advance`] in between can forget.
    pub fn removed(&mut self) -> impl Iterator<Item = RouteKey> + '_ {
        self.removed.drain(..)
    }

    /// Adds a route or hands an existing one to `connection`.
    pub fn add(&mut self, now: Nanos, key: RouteKey, connection: ConnectionId) {
        if self.index.len() >= self.capacity
            && !self.contains(&key)
            && let Some(victim) = self.wheel.earliest()
        {
            self.remove(victim);
            self.totals.evicted += 1;
        }
        let Self {
            index,
            hasher,
            slots,
            free,
            ..
        } = self;
        let hash = hasher.hash_one(key);
        let deadline = now + self.idle;
        let slot = match index.entry(
            hash,
            |&s| slots.0[s as usize].key == key,
            |&s| hasher.hash_one(slots.0[s as usize].key),
        ) {
            Entry::Occupied(found) => {
                let slot = *found.get();
                let route = &mut slots.0[slot as usize];
                route.connection = connection;
                route.deadline = deadline;
                route.closing = false;
                self.totals.replaced += 1;
                self.wheel.unlink(slots, slot);
                slot
            }
            Entry::Vacant(vacant) => {
                let route = Route {
                    key,
                    connection,
                    deadline,
                    link: Link::UNLINKED,
                    closing: false,
                    used: true,
                };
                let slot = if let Some(slot) = free.pop() {
                    slots.0[slot as usize] = route;
                    slot
                } else {
                    slots.0.push(route);
                    slots.0.len() as u32 - 1
                };
                vacant.insert(slot);
                self.totals.added += 1;
                slot
            }
        };
        self.wheel.link(&mut self.slots, slot, deadline);
    }

    /// The connection for a response with these flags, and the route lives on.
    #[inline]
    pub fn hit(&mut self, now: Nanos, key: &RouteKey, flags: TcpFlags) -> Option<ConnectionId> {
        let slot = self.find(key)?;
        let route = &mut self.slots.0[slot as usize];
        let connection = route.connection;
        if flags.has(TcpFlags::FIN.with(TcpFlags::RST)) && !route.closing {
            self.shorten(now, slot);
        } else {
            route.deadline = now
                + if route.closing {
                    self.closing
                } else {
                    self.idle
                };
        }
        Some(connection)
    }

    /// tcpcopy does not need the route any more. Only the connection that has it can give it back.
    pub fn retire(&mut self, now: Nanos, key: &RouteKey, connection: ConnectionId) {
        if let Some(slot) = self.find(key)
            && self.slots.0[slot as usize].connection == connection
        {
            self.shorten(now, slot);
        }
    }

    /// Some connection closed: its routes go, a few per [`RouteTable::advance`].
    pub fn connection_closed(&mut self) {
        self.purge_below = self.slots.0.len();
    }

    /// Forgets a route because its connection is closed: at once, unless it lingers.
    pub fn forget_closed(&mut self, now: Nanos, key: &RouteKey) {
        if let Some(slot) = self.find(key) {
            self.close(now, slot);
        }
    }

    /// Bounded expiry work: what is over its time, and what `is_open` says is closed. True if more is
    /// to do at once.
    pub fn advance(&mut self, now: Nanos, is_open: impl Fn(ConnectionId) -> bool) -> bool {
        let purge_to = self.purge_below.saturating_sub(EXPIRY_BUDGET);
        for slot in purge_to..self.purge_below {
            let route = &self.slots.0[slot];
            if route.used && !is_open(route.connection) {
                self.close(now, slot as u32);
            }
        }
        self.purge_below = purge_to;
        for _ in 0..EXPIRY_BUDGET {
            let Some(slot) = self.wheel.due(&mut self.slots, now) else {
                return purge_to > 0;
            };
            let deadline = self.slots.0[slot as usize].deadline;
            // Linked again in any case: `remove` expects it.
            self.wheel.link(&mut self.slots, slot, deadline);
            if deadline <= now {
                self.remove(slot);
                self.totals.expired += 1;
            }
        }
        true
    }

    /// When [`RouteTable::advance`] may next have something to do.
    pub fn next_deadline(&self, now: Nanos) -> Option<Nanos> {
        if self.purge_below > 0 {
            Some(now)
        } else {
            self.wheel.next()
        }
    }

    /// There is a route; does not extend its life.
    pub fn contains(&self, key: &RouteKey) -> bool {
        self.find(key).is_some()
    }

    /// Routes there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// No routes at all.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// What became of routes so far.
    pub fn totals(&self) -> RouteTotals {
        self.totals
    }

    #[inline]
    fn find(&self, key: &RouteKey) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.index
            .find(hash, |&s| self.slots.0[s as usize].key == *key)
            .copied()
    }

    fn close(&mut self, now: Nanos, slot: u32) {
        if !self.lingers {
            self.remove(slot);
            self.totals.closed += 1;
        } else if !self.slots.0[slot as usize].closing {
            self.shorten(now, slot);
        }
    }

    fn shorten(&mut self, now: Nanos, slot: u32) {
        let route = &mut self.slots.0[slot as usize];
        route.closing = true;
        route.deadline = now + self.closing;
        let deadline = route.deadline;
        self.wheel.unlink(&mut self.slots, slot);
        self.wheel.link(&mut self.slots, slot, deadline);
    }

    fn remove(&mut self, slot: u32) {
        self.wheel.unlink(&mut self.slots, slot);
        let route = &mut self.slots.0[slot as usize];
        route.used = false;
        if self.lingers {
            self.removed.push(route.key);
        }
        let hash = self.hasher.hash_one(route.key);
        if let Ok(entry) = self.index.find_entry(hash, |&s| s == slot) {
            entry.remove();
        }
        self.free.push(slot);
    }
}
