//! Which sessions an instance replays: those of its shard, and of these a share.
//!
//! ```text
//!  hash of the client ──┬── upper bits ────────▶ worker     owner.rs
//!                       ├── another mix ───────▶ shard      --shard K/N
//!                       └── a third mix ───────▶ share      -r
//! ```
//! All three come from the client's endpoint alone, so each packet of a session gets the same answer,
//! wherever it is asked for: in the kernel programs or in user space, by these functions. They come
//! from different mixes, because they must not know of each other: shard 0 of 2 would else hold just
//! those sessions that a share of 50 % takes, and shard 1 none.

use super::owner::{mix, owner};
use super::shard;

/// One of the shards of `--shard K/N`: of `count` instances behind one mirrored stream, number `index`
/// replays the sessions of this shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u32,
    count: u32,
}

impl Shard {
    /// The only shard: everything.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Number `index` of `count`; `None` unless `index < count`.
    pub const fn new(index: u32, count: u32) -> Option<Self> {
        if index < count {
            Some(Self { index, count })
        } else {
            None
        }
    }

    /// Number of this one, from 0.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.index
    }

    /// How many there are.
    #[inline(always)]
    pub const fn count(self) -> u32 {
        self.count
    }

    /// There are no others.
    #[inline(always)]
    pub const fn is_whole(self) -> bool {
        self.count <= 1
    }

    /// The flow with this hash is of this shard.
    #[inline(always)]
    pub const fn holds(self, hash: u32) -> bool {
        self.is_whole() || shard(hash, self.count) == self.index
    }
}

impl core::fmt::Display for Shard {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// A share of the sessions, in thousandths of a percent. What a share takes, every larger one takes too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// No session.
    pub const NONE: Self = Self(0);
    /// Every session.
    pub const ALL: Self = Self(100_000);

    /// That many percent; more than 100 are 100.
    pub const fn percent(percent: u32) -> Self {
        Self::thousandths(percent.saturating_mul(1000))
    }

    /// That many thousandths of a percent; more than 100,000 are 100,000.
    pub const fn thousandths(n: u32) -> Self {
        if n < Self::ALL.0 { Self(n) } else { Self::ALL }
    }

    /// In thousandths of a percent.
    #[inline(always)]
    pub const fn as_thousandths(self) -> u32 {
        self.0
    }

    /// It takes every session.
    #[inline(always)]
    pub const fn is_all(self) -> bool {
        self.0 >= Self::ALL.0
    }

    /// The flow with this hash is in the share.
    #[inline(always)]
    pub const fn takes(self, hash: u32) -> bool {
        owner(mix(hash ^ SHARE_MIX), Self::ALL.0) < self.0
    }
}

/// As percent: `12.5`.
impl core::fmt::Display for Share {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (whole, mut rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let mut width = 3;
        while rest.is_multiple_of(10) {
            rest /= 10;
            width -= 1;
        }
        write!(f, "{whole}.{rest:0width$}")
    }
}

/// Tells the share's mix from the shard's: any other constant.
const SHARE_MIX: u32 = 0x1b87_3593;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::flow_hash;
    use crate::packet::{Addr, Endpoint};
    use proptest::prelude::*;
    use std::string::ToString;

    fn clients() -> impl Iterator<Item = u32> {
        (0..4u8).flat_map(|host| {
            (32_768..61_000u16)
                .map(move |port| flow_hash(Endpoint::new(Addr::v4([10, 0, 0, host]), port)))
        })
    }

    #[test]
    fn a_share_takes_as_many_as_it_says() {
        let all = clients().count() as f64;
        for thousandths in [0, 100, 500, 1000, 12_500, 50_000, 99_000, 100_000] {
            let share = Share::thousandths(thousandths);
            let taken = clients().filter(|h| share.takes(*h)).count() as f64;
            let expected = all * f64::from(thousandths) / 100_000.0;
            // Five standard deviations of a binomial distribution.
            let p = f64::from(thousandths) / 100_000.0;
            let bound = 5.0 * (all * p * (1.0 - p)).sqrt();
            assert!(
                (taken - expected).abs() <= bound,
                "{share}: {taken} of {all}"
            );
        }
    }

    #[test]
    fn worker_shard_and_share_do_not_know_of_each_other() {
        let mut count = [[[0u32; 2]; 4]; 4];
        let share = Share::percent(50);
        for hash in clients() {
            let cell = &mut count[shard(hash, 4) as usize][owner(hash, 4) as usize];
            cell[usize::from(share.takes(hash))] += 1;
        }
        let mean = clients().count() as u32 / 32;
        for cell in count.as_flattened().as_flattened() {
            assert!(
                cell.abs_diff(mean) < mean / 8,
                "{cell} of {mean}: {count:?}"
            );
        }
    }

    #[test]
    fn shares_are_written_as_people_do() {
        for (thousandths, text) in [
            (500, "0.5"),
            (12_500, "12.5"),
            (1, "0.001"),
            (100_000, "100"),
            (7050, "7.05"),
        ] {
            assert_eq!(Share::thousandths(thousandths).to_string(), text);
        }
    }

    fn client() -> impl Strategy<Value = Endpoint> {
        (any::<[u8; 16]>(), any::<bool>(), any::<u16>()).prop_map(|(a, v4, port)| {
            let addr = if v4 {
                Addr::v4([a[0], a[1], a[2], a[3]])
            } else {
                Addr(a)
            };
            Endpoint::new(addr, port)
        })
    }

    proptest! {
        #[test]
        fn every_session_is_of_exactly_one_shard(client in client(), count in 1u32..100) {
            let hash = flow_hash(client);
            let holders = (0..count).filter(|k| Shard::new(*k, count).unwrap().holds(hash)).count();
            prop_assert_eq!(holders, 1);
            prop_assert_eq!(Shard::new(count, count), None);
        }

        #[test]
        fn a_larger_share_takes_what_a_smaller_one_does(client in client(), a in 0u32..=100_000, b in 0u32..=100_000) {
            let hash = flow_hash(client);
            let (small, large) = (Share::thousandths(a.min(b)), Share::thousandths(a.max(b)));
            prop_assert!(!small.takes(hash) || large.takes(hash));
            prop_assert!(Share::ALL.takes(hash) && !Share::NONE.takes(hash));
        }
    }
}
