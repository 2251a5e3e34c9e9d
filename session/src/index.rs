//! One table for both directions: from a client's endpoint to its sessions.
//!
//! ```text
//!  captured: (client, online, replica) ──hash(client)──▶ ┌───────┐
//!                                                        │ slots │──▶ session numbers
//!  response: (wire client, target) ─hash(wire client)──▶ └───────┘
//! ```
//! Most sessions keep their client's endpoint on the wire: one entry serves both ways. A session with
//! another endpoint on the wire has a second entry under that. A slot is four bytes, a tag of the hash
//! and a session number; whether a session is the right one, the caller sees from the session.
//!
//! Open addressing with linear probing: the slots that a search looks at lie side by side. Removing an
//! entry moves the ones behind it forward, so there are no tombstones, and no rehashing because of them.

use crate::table::{PairHasherBuilder, feed};
use common::packet::Endpoint;
use std::hash::{BuildHasher, Hasher};

/// The table has room for so many entries from the start: growing means hashing everything again, 50 ms
/// at this size, in which a ring runs over. Untouched memory is not resident.
const RESERVED_ENTRIES: usize = 1 << 20;
const ID_BITS: u32 = 24;
/// Most session numbers: as many as a slot can tell.
pub(crate) const MAX_SESSIONS: usize = ID_MASK as usize;
const ID_MASK: u32 = (1 << ID_BITS) - 1;
/// A slot holds a number more than that of its session, so that memory as the system gives it is empty.
const EMPTY: u32 = 0;
/// Part of a slot that must be as the hash says.
const TAG_MASK: u32 = 0x7f << (ID_BITS + 1);

/// A session number, and whether it stands under the session's endpoint on the wire alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry(u32);

impl Entry {
    const WIRE: u32 = 1 << ID_BITS;

    /// Under the client's own endpoint.
    pub(crate) const fn captured(id: u32) -> Self {
        Self(id + 1)
    }

    /// Under the session's endpoint on the wire, which is not the client's.
    pub(crate) const fn wire(id: u32) -> Self {
        Self((id + 1) | Self::WIRE)
    }

    #[inline(always)]
    pub(crate) const fn id(self) -> u32 {
        (self.0 & ID_MASK).wrapping_sub(1)
    }

    #[inline(always)]
    pub(crate) const fn is_wire(self) -> bool {
        self.0 & Self::WIRE != 0
    }
}

/// Hash of an endpoint.
#[derive(Clone, Copy, Default)]
pub(crate) struct Hash(u64);

impl Hash {
    /// Tag, in its place within a slot. The slot is chosen by the lower bits.
    #[inline(always)]
    fn tag(self) -> u32 {
        (self.0 >> 32) as u32 & TAG_MASK
    }
}

pub(crate) struct Index {
    /// A power of two of them, at most three quarters in use.
    slots: Box<[u32]>,
    used: usize,
    hasher: PairHasherBuilder,
}

impl Index {
    /// A table for up to `sessions` sessions, more if need be.
    pub(crate) fn new(sessions: usize) -> Self {
        let slots = (sessions.clamp(16, RESERVED_ENTRIES) * 4 / 3).next_power_of_two();
        Self {
            slots: vec![EMPTY; slots].into_boxed_slice(),
            used: 0,
            hasher: PairHasherBuilder::default(),
        }
    }

    #[inline(always)]
    pub(crate) fn hash(&self, client: Endpoint) -> Hash {
        let mut state = self.hasher.build_hasher();
        feed(&mut state, &client);
        Hash(state.finish())
    }

    #[inline(always)]
    fn mask(&self) -> usize {
        self.slots.len() - 1
    }

    /// The session under `hash` that `is` it.
    #[inline(always)]
    pub(crate) fn find(&self, hash: Hash, mut is: impl FnMut(Entry) -> bool) -> Option<u32> {
        let mut at = hash.0 as usize & self.mask();
        while let Some(&slot) = self.slots.get(at).filter(|slot| **slot != EMPTY) {
            let entry = Entry(slot & !TAG_MASK);
            if slot & TAG_MASK == hash.tag() && is(entry) {
                return Some(entry.id());
            }
            at = (at + 1) & self.mask();
        }
        None
    }

    /// The first entry under `hash`, most likely the one that is looked for; with `ANY`, also one that
    /// stands under the endpoint on the wire alone.
    #[inline(always)]
    pub(crate) fn likely<const ANY: bool>(&self, hash: Hash) -> Option<Entry> {
        let bits = if ANY {
            TAG_MASK
        } else {
            TAG_MASK | Entry::WIRE
        };
        let mut at = hash.0 as usize & self.mask();
        loop {
            let slot = *self.slots.get(at)?;
            if slot == EMPTY {
                return None;
            }
            if (slot ^ hash.tag()) & bits == 0 {
                return Some(Entry(slot & !TAG_MASK));
            }
            at = (at + 1) & self.mask();
        }
    }

    /// `hash_of` tells under what entries stand that are there already.
    pub(crate) fn insert(
        &mut self,
        hash: Hash,
        entry: Entry,
        hash_of: impl Fn(&Self, Entry) -> Hash,
    ) {
        if (self.used + 1) * 4 > self.slots.len() * 3 {
            let grown = vec![EMPTY; self.slots.len() * 2].into_boxed_slice();
            for slot in std::mem::replace(&mut self.slots, grown) {
                if slot != EMPTY {
                    let entry = Entry(slot & !TAG_MASK);
                    self.put(hash_of(self, entry), entry);
                }
            }
        }
        self.used += 1;
        self.put(hash, entry);
    }

    fn put(&mut self, hash: Hash, entry: Entry) {
        let mask = self.mask();
        let mut at = hash.0 as usize & mask;
        while let Some(slot) = self.slots.get_mut(at) {
            if *slot == EMPTY {
                *slot = entry.0 | hash.tag();
                return;
            }
            at = (at + 1) & mask;
        }
    }

    /// `hash_of` as for [`Index::insert`].
    pub(crate) fn remove(
        &mut self,
        hash: Hash,
        entry: Entry,
        hash_of: impl Fn(&Self, Entry) -> Hash,
    ) {
        let mask = self.mask();
        let mut hole = hash.0 as usize & mask;
        loop {
            match self.slots.get(hole) {
                Some(slot) if *slot == entry.0 | hash.tag() => break,
                Some(slot) if *slot != EMPTY => hole = (hole + 1) & mask,
                _ => return,
            }
        }
        self.used -= 1;
        // What lies behind the hole may move into it if its search passes there.
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let slot = self.slots.get(at).copied().unwrap_or(EMPTY);
            if slot == EMPTY {
                break;
            }
            let home = hash_of(self, Entry(slot & !TAG_MASK)).0 as usize & mask;
            let (from_home, from_hole) =
                (at.wrapping_sub(home) & mask, at.wrapping_sub(hole) & mask);
            if from_home >= from_hole {
                self.set(hole, slot);
                hole = at;
            }
        }
        self.set(hole, EMPTY);
    }

    fn set(&mut self, at: usize, value: u32) {
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = value;
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.used == 0 && self.slots.iter().all(|slot| *slot == EMPTY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::packet::Addr;
    use proptest::prelude::*;

    fn endpoint(n: u16) -> Endpoint {
        Endpoint::new(Addr::v4([10, 0, 0, 1]), n)
    }

    fn hash_of(index: &Index, entry: Entry) -> Hash {
        index.hash(endpoint(entry.id() as u16))
    }

    proptest! {
        /// Few slots, so that searches are long and wrap around, and the table grows.
        #[test]
        fn agrees_with_a_set(ops in prop::collection::vec((0u16..60, any::<bool>()), 1..400)) {
            let mut index = Index::new(0);
            let mut there = std::collections::HashSet::new();
            for (n, wire) in ops {
                let id = u32::from(n);
                let entry = if wire { Entry::wire(id) } else { Entry::captured(id) };
                let hash = index.hash(endpoint(n));
                if there.remove(&(n, wire)) {
                    index.remove(hash, entry, hash_of);
                } else {
                    there.insert((n, wire));
                    index.insert(hash, entry, hash_of);
                }
                for n in 0..60u16 {
                    for wire in [false, true] {
                        let hash = index.hash(endpoint(n));
                        let is = |e: Entry| e.id() == u32::from(n) && e.is_wire() == wire;
                        let found = index.find(hash, is).is_some();
                        prop_assert_eq!(found, there.contains(&(n, wire)), "{} {}", n, wire);
                    }
                }
            }
            for (n, wire) in there {
                let id = u32::from(n);
                let entry = if wire { Entry::wire(id) } else { Entry::captured(id) };
                index.remove(index.hash(endpoint(n)), entry, hash_of);
            }
            prop_assert!(index.is_empty());
        }
    }
}
