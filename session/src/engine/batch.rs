//! Batches: the cache misses of all packets of a batch at the same time, not one after another.
//!
//! ```text
//!  hash all ─▶ read all slots of the index ─▶ read all sessions ─▶ each packet, everything is near
//! ```
//! The loads of one stage do not depend on each other, so the processor has a dozen of them under way.

use super::Engine;
use crate::Output;
use crate::index::{Entry, Hash};
use crate::state::Session;
use common::flow::{ClientSegment, Nanos, ResponseHeader};
use common::packet::Endpoint;
use std::hint::black_box;

/// Packets that are looked at together: what workers take from a ring at a time.
const BATCH: usize = 64;
/// Below so many sessions (4 MiB with their captured bytes) most is in the second-level cache, and
/// looking ahead costs more (60 instructions a packet) than it brings.
const FAR_SESSIONS: usize = 1 << 14;

impl Engine {
    /// Captured packets, as by [`Engine::captured`] one after another.
    pub fn captured_batch<O: Output>(
        &mut self,
        now: Nanos,
        segments: &[ClientSegment<'_>],
        out: &mut O,
    ) {
        self.set_time(now);
        for batch in segments.chunks(BATCH) {
            let hashes = self.look_ahead(batch.iter().map(|s| s.client));
            for (seg, hash) in batch.iter().zip(hashes) {
                self.captured_hashed(hash, seg, out);
            }
        }
    }

    /// Responses, as by [`Engine::response`] one after another.
    pub fn response_batch<O: Output>(
        &mut self,
        now: Nanos,
        headers: &[ResponseHeader],
        out: &mut O,
    ) {
        self.set_time(now);
        for batch in headers.chunks(BATCH) {
            let hashes = self.look_ahead(batch.iter().map(|h| h.client));
            for (h, hash) in batch.iter().zip(hashes) {
                self.response_hashed(hash, h, out);
            }
        }
    }

    /// Hashes of clients, as captured or as responses name them; their sessions come near.
    #[inline(always)]
    fn look_ahead(&self, clients: impl Iterator<Item = Endpoint>) -> [Hash; BATCH] {
        let mut hashes = [Hash::default(); BATCH];
        let mut count = 0;
        for (hash, client) in hashes.iter_mut().zip(clients) {
            *hash = self.index.hash(client);
            count += 1;
        }
        if self.sessions.len() < FAR_SESSIONS {
            return hashes;
        }
        let mut ids = [0; BATCH];
        for (id, hash) in ids.iter_mut().zip(&hashes).take(count) {
            *id = self.index.likely::<true>(*hash).map_or(u32::MAX, Entry::id);
        }
        let sessions = ids.iter().take(count).map(|id| self.sessions.get(*id));
        let seen = sessions.fold(0, |seen, s| seen ^ s.map_or(0, Session::glance));
        // Without a use the loads would be left out.
        black_box(seen);
        hashes
    }
}
