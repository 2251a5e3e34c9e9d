//! Which worker owns a session: the one rule of the whole system.
//!
//! The client's address and port (as seen on the wire of the side that asks) decide. Requests are
//! hashed by their source, responses by their destination, so both meet on one worker without a table.
//! Kernel programs call the same functions.

use crate::packet::{Addr, Endpoint};

/// 32-bit finaliser of MurmurHash3 (public domain, Austin Appleby): every input bit changes every
/// output bit with probability near 1/2, three multiplications, no table, BPF-friendly.
#[inline(always)]
pub(super) const fn mix(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

/// Hash of a client endpoint. Not secret: a client that wants to overload one worker can.
#[inline(always)]
pub const fn flow_hash(client: Endpoint) -> u32 {
    let [a, b, c, d] = client.addr.words();
    // The three upper words are constant for IPv4, where the compiler folds nothing but the CPU
    // predicts all; one multiplication each keeps IPv6 prefixes apart.
    let upper = a
        .wrapping_mul(0x9e37_79b1)
        .wrapping_add(b)
        .wrapping_mul(0x85eb_ca77)
        .wrapping_add(c)
        .wrapping_mul(0xc2b2_ae3d);
    mix(mix(upper ^ d).wrapping_add(client.port as u32))
}

/// Hash of a packet that comes in fragments, which carry no ports: all of them meet on the worker of this
/// hash, and what is put together there goes on to the owner of its flow.
#[inline(always)]
pub const fn fragment_hash(src: Addr, dst: Addr, id: u32) -> u32 {
    let from = flow_hash(Endpoint::new(src, id as u16));
    let to = flow_hash(Endpoint::new(dst, (id >> 16) as u16));
    mix(from ^ to.rotate_left(16))
}

/// Worker of a flow: `hash * workers / 2^32`, a uniform choice from the upper bits without a division.
/// `workers` of 0 counts as 1.
#[inline(always)]
pub const fn owner(hash: u32, workers: u32) -> u32 {
    ((hash as u64 * workers as u64) >> 32) as u32
}

/// Shard of a flow for `--shard K/N`: from a second mix of the hash, since the upper bits already
/// choose the worker; taking both from the same bits would leave workers of a shard idle.
#[inline(always)]
pub const fn shard(hash: u32, shards: u32) -> u32 {
    owner(mix(hash ^ 0x5bd1_e995), shards)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Addr;

    #[test]
    fn consecutive_ports_spread_evenly() {
        for workers in [1u32, 2, 3, 4, 7, 64] {
            let mut count = std::vec![0u32; workers as usize];
            for host in 0..4u8 {
                for port in 32768..61000u16 {
                    let h = flow_hash(Endpoint::new(Addr::v4([10, 0, 0, host]), port));
                    count[owner(h, workers) as usize] += 1;
                }
            }
            let mean = 4 * (61000 - 32768) / workers;
            for c in count {
                assert!(
                    c.abs_diff(mean) < mean / 10,
                    "{c} of mean {mean}, {workers} workers"
                );
            }
        }
    }

    #[test]
    fn fragments_spread_over_workers_by_their_id() {
        let (a, b) = (Addr::v4([10, 0, 0, 1]), Addr::v4([10, 0, 0, 2]));
        for shift in [0, 16] {
            let mut count = [0u32; 4];
            for id in 0..40_000u32 {
                count[owner(fragment_hash(a, b, id << shift), 4) as usize] += 1;
            }
            assert!(count.iter().all(|c| c.abs_diff(10_000) < 500), "{count:?}");
        }
        assert_ne!(fragment_hash(a, b, 1), fragment_hash(b, a, 1));
    }

    #[test]
    fn shards_are_independent_of_workers() {
        let mut count = [[0u32; 4]; 4];
        for port in 1024..65000u16 {
            let h = flow_hash(Endpoint::new(Addr::v4([192, 0, 2, 1]), port));
            count[shard(h, 4) as usize][owner(h, 4) as usize] += 1;
        }
        for cell in count.as_flattened() {
            assert!(cell.abs_diff(3998) < 400, "{count:?}");
        }
    }

    #[test]
    fn ipv6_prefixes_matter() {
        let at = |first: u8| {
            let mut a = [0u8; 16];
            a[0] = first;
            a[15] = 1;
            flow_hash(Endpoint::new(Addr(a), 80))
        };
        assert_ne!(at(0x20), at(0x21));
    }
}
