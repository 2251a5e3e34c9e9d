//! What request number `n` of seed `s` looks like.

use std::fmt;

use crate::random::Random;

/// Largest request body in bytes: the demo's promise is 0 to 20 KB.
pub const MAX_BODY_BYTES: usize = 20_000;

/// Names one request; on the wire it is the path `/lab/<seed>/<number>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// Seed of the run.
    pub seed: u64,
    /// Number of the request within the run.
    pub number: u64,
}

/// What the request and its answer look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// POST with a body, else GET.
    pub post: bool,
    /// Bytes of the request's body.
    pub body_bytes: usize,
    /// Bytes of the answer's body.
    pub answer_bytes: usize,
}

impl RequestId {
    /// The path on the wire.
    pub fn path(self) -> String {
        format!("/lab/{self}")
    }

    /// Reads a path back.
    pub fn from_path(path: &str) -> Option<Self> {
        path.strip_prefix("/lab/")?.parse().ok()
    }

    /// Method and sizes.
    pub fn spec(self) -> Spec {
        let mut random = self.random();
        let post = random.below(2) == 0;
        let body_bytes = match random.below(8) {
            _ if !post => 0,
            0 => 0,
            1 => MAX_BODY_BYTES,
            // Sizes around one segment (1448 bytes of payload) are where off-by-one errors live.
            2 => 1448 - 250 + random.below(500),
            _ => random.below(MAX_BODY_BYTES),
        };
        let answer_bytes = match random.below(256) {
            0 => 512 * 1024,
            1..=8 => 64 * 1024,
            9..=31 => 0,
            _ => random.below(4000),
        };
        Spec {
            post,
            body_bytes,
            answer_bytes,
        }
    }

    /// The request's body: different for each request, so that bytes of another session can't pass.
    pub fn body(self) -> Vec<u8> {
        let length = self.spec().body_bytes;
        let mut random = Random(self.random().0 ^ 0x5bd1_e995);
        let mut body = Vec::with_capacity(length + 8);
        while body.len() < length {
            body.extend_from_slice(&random.next().to_le_bytes());
        }
        body.truncate(length);
        body
    }

    fn random(self) -> Random {
        Random(self.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ self.number)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:x}/{}", self.seed, self.number)
    }
}

impl std::str::FromStr for RequestId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (seed, number) = text.split_once('/').ok_or(())?;
        Ok(Self {
            seed: u64::from_str_radix(seed, 16).map_err(drop)?,
            number: number.parse().map_err(drop)?,
        })
    }
}

/// FNV-1a, 64 bit: catches swapped, lost and foreign bytes; nobody attacks the lab.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fnv(u64);

impl Fnv {
    pub const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub const fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_their_request() {
        let id = RequestId {
            seed: 0xabc,
            number: 17,
        };
        assert_eq!(id.path(), "/lab/abc/17");
        assert_eq!(RequestId::from_path("/lab/abc/17"), Some(id));
        for path in ["/lab/abc", "/lab/xyz/1", "/lab/1/-1", "/", "/lab/1/2/3"] {
            assert_eq!(RequestId::from_path(path), None, "{path}");
        }
    }

    #[test]
    fn the_mix_has_every_kind_and_stays_in_its_bounds() {
        let specs: Vec<Spec> = (0..2000)
            .map(|number| RequestId { seed: 1, number }.spec())
            .collect();
        assert!(specs.iter().all(|spec| spec.body_bytes <= MAX_BODY_BYTES));
        assert!(specs.iter().all(|spec| spec.post || spec.body_bytes == 0));
        assert!(specs.iter().any(|spec| spec.post && spec.body_bytes == 0));
        assert!(specs.iter().any(|spec| spec.body_bytes == MAX_BODY_BYTES));
        assert!(specs.iter().any(|spec| spec.answer_bytes == 0));
        assert!(specs.iter().any(|spec| spec.answer_bytes > 500_000));
        assert!(specs.iter().filter(|spec| spec.post).count().abs_diff(1000) < 150);
    }

    #[test]
    fn bodies_differ_and_repeat() {
        let posts: Vec<RequestId> = (0..100)
            .map(|number| RequestId { seed: 2, number })
            .filter(|id| id.spec().body_bytes > 100)
            .collect();
        assert!(posts.len() > 20);
        let bodies: std::collections::BTreeSet<Vec<u8>> =
            posts.iter().map(|id| id.body()).collect();
        assert_eq!(bodies.len(), posts.len());
        assert!(
            posts
                .iter()
                .all(|id| id.body().len() == id.spec().body_bytes && bodies.contains(&id.body()))
        );
    }
}
