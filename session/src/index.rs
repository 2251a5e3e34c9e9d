//! One table for both directions: from a client's endpoint to its sessions.
//!
//! ```text
//!  captured: (client, online, replica) ──hash(client)──▶ ┌───────┐
//!                                                        │ table │──▶ session numbers
//!  response: (wire client, target) ─hash(wire client)──▶ └───────┘
//! ```
//! Most sessions keep their client's endpoint on the wire: one entry serves both ways. A session with
//! another endpoint on the wire has a second entry under that. The table holds numbers only (5 bytes an
//! entry with its tag); whether a session is the right one, the caller sees from the session.

use crate::table::{PairHasherBuilder, feed};
use common::packet::Endpoint;
use hashbrown::HashTable;
use std::hash::{BuildHasher, Hasher};

/// The table has room for so many entries from the start: growing means hashing everything again, 50 ms
/// at this size, in which a ring runs over. Untouched memory is not resident.
const RESERVED_ENTRIES: usize = 1 << 20;

/// A session number, and whether it stands under the session's endpoint on the wire alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry(u32);

impl Entry {
    const WIRE: u32 = 1 << 31;

    /// Under the client's own endpoint.
    pub(crate) const fn captured(id: u32) -> Self {
        Self(id)
    }

    /// Under the session's endpoint on the wire, which is not the client's.
    pub(crate) const fn wire(id: u32) -> Self {
        Self(id | Self::WIRE)
    }

    pub(crate) const fn id(self) -> u32 {
        self.0 & !Self::WIRE
    }

    pub(crate) const fn is_wire(self) -> bool {
        self.0 & Self::WIRE != 0
    }
}

#[inline]
fn hash_with(hasher: &PairHasherBuilder, client: Endpoint) -> u64 {
    let mut state = hasher.build_hasher();
    feed(&mut state, &client);
    state.finish()
}

pub(crate) struct Index {
    table: HashTable<Entry>,
    hasher: PairHasherBuilder,
}

impl Index {
    /// A table for up to `sessions` sessions, more if need be.
    pub(crate) fn new(sessions: usize) -> Self {
        Self {
            table: HashTable::with_capacity(sessions.min(RESERVED_ENTRIES)),
            hasher: PairHasherBuilder::default(),
        }
    }

    #[inline]
    pub(crate) fn hash(&self, client: Endpoint) -> u64 {
        hash_with(&self.hasher, client)
    }

    /// The session under `hash` that `is` it.
    #[inline]
    pub(crate) fn find(&self, hash: u64, mut is: impl FnMut(Entry) -> bool) -> Option<u32> {
        self.table.find(hash, |e| is(*e)).map(|e| e.id())
    }

    /// `endpoint_of` tells under what entries stand that are there already.
    pub(crate) fn insert(
        &mut self,
        hash: u64,
        entry: Entry,
        endpoint_of: impl Fn(Entry) -> Endpoint,
    ) {
        let hasher = &self.hasher;
        let hash_of = |e: &Entry| hash_with(hasher, endpoint_of(*e));
        self.table.insert_unique(hash, entry, hash_of);
    }

    pub(crate) fn remove(&mut self, hash: u64, entry: Entry) {
        if let Ok(found) = self.table.find_entry(hash, |e| *e == entry) {
            found.remove();
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}
