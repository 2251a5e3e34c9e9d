//! Datagrams that a mirror sent twice: at both ports that they pass, or by two switches.
//!
//! A client may well say the same twice. What comes twice is a *packet*: the same identification (RFC 6864), ends
//! and bytes, at nearly the same time. Packets without one, IPv6's and those of systems that write 0 where nothing
//! is fragmented, are told apart by time alone, and for them one further packet is taken away at most.
//!
//! ```text
//!  hash of all that ─▶ bucket of four ─ there, and not long ago? ─▶ again
//! ```
//! Bounded: of 16384 packets the latest are known, more than a worker sends in the time that counts.

use std::hash::{BuildHasher, Hasher};

use common::flow::{ClientDatagram, Nanos};

use crate::table::{Pair, PairHasherBuilder};

/// Between two copies of a packet: queues of the mirror's way, one of which may be in another building. A client's
/// counter of identifications comes around in seconds at the earliest.
const WINDOW: Nanos = Nanos::from_millis(10);
/// The same without identification: between two ports of a switch. Who resends waits longer for an answer.
const WINDOW_WITHOUT_ID: Nanos = Nanos::from_millis(1);
/// A cache line.
const BUCKET: usize = 4;
/// At a million datagrams a second, four times what comes in [`WINDOW`] would be 40 thousand; a worker sends
/// hardly more than a million.
const BUCKETS: usize = 4096;

#[derive(Clone, Copy, Default)]
struct Seen {
    /// 0: none.
    hash: u64,
    at: Nanos,
}

/// The latest packets of one worker.
pub(super) struct Twins {
    hasher: PairHasherBuilder,
    buckets: Box<[[Seen; BUCKET]]>,
}

impl Twins {
    pub(super) fn new() -> Self {
        Self {
            hasher: PairHasherBuilder::default(),
            buckets: vec![[Seen::default(); BUCKET]; BUCKETS].into_boxed_slice(),
        }
    }

    /// True if this packet has been here.
    pub(super) fn again(&mut self, d: &ClientDatagram<'_>) -> bool {
        let hash = self.hash(d);
        let Some(bucket) = self.buckets.get_mut(hash as usize % BUCKETS) else {
            return false;
        };
        let window = if d.packet_id == 0 {
            WINDOW_WITHOUT_ID
        } else {
            WINDOW
        };
        let twin = bucket
            .iter_mut()
            .find(|seen| seen.hash == hash && seen.at.0.abs_diff(d.at.0) <= window.0);
        if let Some(twin) = twin {
            if d.packet_id == 0 {
                *twin = Seen::default();
            }
            return true;
        }
        if let Some(oldest) = bucket.iter_mut().min_by_key(|seen| seen.at) {
            *oldest = Seen { hash, at: d.at };
        }
        false
    }

    fn hash(&self, d: &ClientDatagram<'_>) -> u64 {
        let mut state = self.hasher.build_hasher();
        let pair = Pair {
            client: d.client,
            server: d.online,
        };
        std::hash::Hash::hash(&pair, &mut state);
        state.write_u64(u64::from(d.packet_id) << 32 | u64::from(d.payload_len));
        state.write(d.payload);
        state.finish().max(1)
    }
}
