//! Expiry times of routes: a wheel of buckets, each a doubly linked list through the slots themselves.
//!
//! A hit only moves a route's deadline; the route stays in its old bucket and is put into the right one
//! when that bucket comes up. So the packet path touches no list, and no timer work allocates.

use common::flow::Nanos;

/// End of a list.
pub const NIL: u32 = u32::MAX;
/// Buckets. With a tick of 1/100 of the longest lifetime, every deadline lies within one turn.
const BUCKETS: usize = 128;
const TICKS_PER_LIFETIME: u64 = 100;

/// Neighbours of a slot in its bucket.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    prev: u32,
    next: u32,
    bucket: u32,
}

impl Link {
    /// In no bucket.
    pub const UNLINKED: Self = Self {
        prev: NIL,
        next: NIL,
        bucket: NIL,
    };
}

/// Access to the links inside the slots.
pub trait Links {
    /// The link of a slot that is in use.
    fn link(&mut self, slot: u32) -> &mut Link;
}

/// The wheel. Slots are numbers; what they hold is the caller's.
#[derive(Debug)]
pub struct Wheel {
    heads: [u32; BUCKETS],
    tick_ns: u64,
    /// Buckets before this tick are done.
    tick: u64,
}

impl Wheel {
    /// A wheel for deadlines of at most `lifetime` from the time of linking.
    pub fn new(now: Nanos, lifetime: Nanos) -> Self {
        let tick_ns = (lifetime.0 / TICKS_PER_LIFETIME).max(1);
        Self {
            heads: [NIL; BUCKETS],
            tick_ns,
            tick: now.0 / tick_ns,
        }
    }

    /// Puts a slot that is in no bucket into the one of `deadline`.
    pub fn link(&mut self, links: &mut impl Links, slot: u32, deadline: Nanos) {
        // Rounded up: a bucket is looked at when its tick is over, never before the deadline.
        let tick = (deadline.0 / self.tick_ns + 1).max(self.tick);
        let tick = tick.min(self.tick + BUCKETS as u64 - 1);
        let bucket = (tick % BUCKETS as u64) as usize;
        let Some(head) = self.heads.get_mut(bucket) else {
            return;
        };
        let next = std::mem::replace(head, slot);
        *links.link(slot) = Link {
            prev: NIL,
            next,
            bucket: bucket as u32,
        };
        if next != NIL {
            links.link(next).prev = slot;
        }
    }

    /// Takes a slot out of its bucket.
    pub fn unlink(&mut self, links: &mut impl Links, slot: u32) {
        let Link { prev, next, bucket } = std::mem::replace(links.link(slot), Link::UNLINKED);
        if next != NIL {
            links.link(next).prev = prev;
        }
        if prev != NIL {
            links.link(prev).next = next;
        } else if let Some(head) = self.heads.get_mut(bucket as usize) {
            *head = next;
        }
    }

    /// The next slot to be looked at, taken out of its bucket: of the earliest tick that is over by
    /// `now`. `None`: nothing more for now.
    pub fn due(&mut self, links: &mut impl Links, now: Nanos) -> Option<u32> {
        let over = now.0 / self.tick_ns;
        // After a pause longer than a turn, one turn sees every bucket.
        self.tick = self.tick.max((over + 1).saturating_sub(BUCKETS as u64));
        while self.tick <= over {
            let head = self
                .heads
                .get((self.tick % BUCKETS as u64) as usize)
                .copied();
            if let Some(slot) = head.filter(|&slot| slot != NIL) {
                self.unlink(links, slot);
                return Some(slot);
            }
            self.tick += 1;
        }
        None
    }

    /// Some slot of the bucket that comes up first; `None` if there is none at all.
    pub fn earliest(&self) -> Option<u32> {
        (0..BUCKETS as u64)
            .filter_map(|ahead| {
                self.heads
                    .get(((self.tick + ahead) % BUCKETS as u64) as usize)
            })
            .copied()
            .find(|&slot| slot != NIL)
    }

    /// When [`Wheel::due`] may next have something, if it has nothing now.
    pub fn next(&self) -> Option<Nanos> {
        (self.tick..self.tick + BUCKETS as u64)
            .find(|tick| {
                self.heads
                    .get((tick % BUCKETS as u64) as usize)
                    .is_some_and(|&s| s != NIL)
            })
            .map(|tick| Nanos(tick.saturating_mul(self.tick_ns)))
    }
}
