//! Keys of addresses, and how they are hashed.

use common::packet::Endpoint;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};

/// Two endpoints: client and online address of a capture, or client and target of a response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pair {
    pub(crate) client: Endpoint,
    pub(crate) server: Endpoint,
}

/// Feeds an endpoint. Of an IPv4 address only one half varies, and of that the lower 32 bits are
/// constant, which leaves room for the port in one word.
pub(crate) fn feed<H: Hasher>(state: &mut H, e: &Endpoint) {
    let [upper, lower] = e.addr.halves();
    if upper == 0 {
        state.write_u64(lower ^ u64::from(e.port));
    } else {
        state.write_u64(upper);
        state.write_u64(lower);
        state.write_u64(u64::from(e.port));
    }
}

impl Hash for Pair {
    fn hash<H: Hasher>(&self, state: &mut H) {
        feed(state, &self.client);
        feed(state, &self.server);
    }
}

/// What a session is found by on the capture side: client and online address, and which copy of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct CaptureKey {
    pub(crate) pair: Pair,
    pub(crate) replica: u16,
}

/// A multiplication per word: a fifth of SipHash's time on these keys. Clients
/// choose their own addresses and ports, so the state starts from a random seed.
#[derive(Clone)]
pub(crate) struct PairHasherBuilder(u64);

impl Default for PairHasherBuilder {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0u8))
    }
}

impl BuildHasher for PairHasherBuilder {
    type Hasher = PairHasher;
    fn build_hasher(&self) -> PairHasher {
        PairHasher(self.0)
    }
}

pub(crate) struct PairHasher(u64);

impl PairHasher {
    /// Odd constant with evenly spread bits (2^64 / golden ratio).
    const K: u64 = 0x9e37_79b9_7f4a_7c15;

    fn step(&mut self, word: u64) {
        let mixed = u128::from(self.0 ^ word) * u128::from(Self::K);
        self.0 = (mixed as u64) ^ ((mixed >> 64) as u64);
    }
}

impl Hasher for PairHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for w in words {
            self.step(u64::from_le_bytes(*w));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            for (to, from) in last.iter_mut().zip(rest) {
                *to = *from;
            }
            self.step(u64::from_le_bytes(last));
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.step(n);
    }

    fn write_u16(&mut self, n: u16) {
        // The replica: 0 for the original, which then costs nothing.
        if n != 0 {
            self.step(u64::from(n));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
