//! Which client endpoint a session has on the wire to the target.
//!
//! ```text
//!  client ──(pool address, or its own)──▶ candidate ──▶ free on this (candidate, target)?
//!                                                       owner(hash) == this worker?
//!                                                       shard(hash) == this instance's? ──▶ taken
//! ```
//! Every candidate must hash to this worker, so that responses find it by their destination alone and no
//! two workers can ever choose the same tuple; and to this instance's shard, so that no two instances can.

use crate::EngineConfig;
use crate::pool::{AddressPool, PORTS};
use crate::table::Pair;
use common::flow::{flow_hash, owner};
use common::packet::{Addr, Endpoint};
use std::collections::HashSet;

/// A client's endpoint on the wire, in four bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wire {
    /// Which address of the pool, if there is a pool; the client's own address if not.
    pool_slot: u16,
    port: u16,
}

impl Wire {
    /// As an endpoint, for the session of `client`.
    #[inline]
    pub(crate) fn endpoint(self, config: &EngineConfig, client: Endpoint) -> Endpoint {
        let addr = match &config.pool {
            Some(pool) => pool.at(self.pool_slot).unwrap_or(client.addr),
            None => client.addr,
        };
        Endpoint::new(addr, self.port)
    }
}

/// Chooses wire endpoints; remembers where it stopped, so that a port comes back as late as possible.
#[derive(Clone, Debug, Default)]
pub(crate) struct TupleAllocator {
    cursor: u32,
    /// Addresses without a free port towards a target: until one comes back there is no need to look at
    /// all of them again. At most one entry per address of the pool, or per client, and target.
    exhausted: HashSet<(Addr, Endpoint)>,
}

impl TupleAllocator {
    /// An endpoint for `client` towards `target` that is not `used`; `None` if all ports of its address
    /// are taken.
    pub(crate) fn choose(
        &mut self,
        config: &EngineConfig,
        used: impl Fn(&Pair) -> bool,
        client: Endpoint,
        target: Endpoint,
        replica: u16,
    ) -> Option<Wire> {
        let (addr, pool_slot) = match &config.pool {
            // The client's address alone decides, so that all its sessions keep one address; each
            // replica is another client.
            Some(pool) => {
                let slot = pool.slot(flow_hash(Endpoint::new(client.addr, replica)));
                (pool.at(slot)?, slot)
            }
            None => (client.addr, 0),
        };
        let fits = |port: u16| {
            let pair = Pair {
                client: Endpoint::new(addr, port),
                server: target,
            };
            let hash = flow_hash(pair.client);
            let own = owner(hash, config.workers) == config.worker && config.shard.holds(hash);
            (own && !used(&pair)).then_some(Wire { pool_slot, port })
        };
        let ports = config.pool.as_ref().map_or(PORTS, AddressPool::ports);
        let first = u32::from(*ports.start());
        let number = u32::from(*ports.end()) - first + 1;
        let shifted = u32::from(client.port) + u32::from(config.port_shift) * 2048;
        // A client keeps its port wherever it can, a privileged one too if nobody chose the ports.
        let kept = if config.pool.as_ref().is_some_and(AddressPool::is_strict) {
            (first..first + number).contains(&shifted)
        } else {
            u16::try_from(shifted).is_ok()
        };
        let preferred = if kept {
            shifted as u16
        } else {
            (first + shifted % number) as u16
        };
        if let Some(wire) = fits(preferred) {
            return Some(wire);
        }
        if self.exhausted.contains(&(addr, target)) {
            return None;
        }
        for _ in 0..number {
            self.cursor = (self.cursor + 1) % number;
            if let Some(wire) = fits((first + self.cursor) as u16) {
                return Some(wire);
            }
        }
        self.exhausted.insert((addr, target));
        None
    }

    /// A tuple is not used any more.
    pub(crate) fn freed(&mut self, wire: &Pair) {
        // Empty but in the worst of times: one comparison then.
        if !self.exhausted.is_empty() {
            self.exhausted.remove(&(wire.client.addr, wire.server));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Endpoint = Endpoint::new(Addr::v4([10, 0, 0, 9]), 80);
    const CLIENT: Endpoint = Endpoint::new(Addr::v4([192, 0, 2, 1]), 40_000);

    /// An allocator and what it gave out.
    #[derive(Default)]
    struct Rig {
        config: EngineConfig,
        allocator: TupleAllocator,
        used: HashSet<Pair>,
    }

    impl Rig {
        fn choose(&mut self, client: Endpoint) -> Option<Endpoint> {
            let used = |pair: &Pair| self.used.contains(pair);
            let wire = self
                .allocator
                .choose(&self.config, used, client, TARGET, 0)?;
            Some(wire.endpoint(&self.config, client))
        }

        fn take(&mut self, client: Endpoint) -> Option<Endpoint> {
            let wire = self.choose(client)?;
            assert!(self.used.insert(pair(wire)), "given out twice: {wire}");
            Some(wire)
        }
    }

    fn pair(client: Endpoint) -> Pair {
        Pair {
            client,
            server: TARGET,
        }
    }

    #[test]
    fn workers_never_share_a_tuple_and_exhaustion_is_none() {
        let mut total = 0;
        for worker in 0..3 {
            let mut rig = Rig {
                config: EngineConfig {
                    worker,
                    workers: 3,
                    pool: Some("10.1.0.1".parse().unwrap()),
                    ..EngineConfig::default()
                },
                ..Rig::default()
            };
            while let Some(wire) = rig.take(CLIENT) {
                assert_eq!(owner(flow_hash(wire), 3), worker);
                assert_eq!(wire.addr, Addr::v4([10, 1, 0, 1]));
            }
            total += rig.used.len();
        }
        assert_eq!(total, PORTS.len());
    }

    #[test]
    fn instances_with_one_pool_never_share_a_tuple() {
        let mut all = HashSet::new();
        for (index, worker) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let mut rig = Rig {
                config: EngineConfig {
                    worker,
                    workers: 2,
                    shard: common::flow::Shard::new(index, 2).unwrap(),
                    pool: Some("10.1.0.1".parse().unwrap()),
                    ..EngineConfig::default()
                },
                ..Rig::default()
            };
            let mut taken = 0;
            while rig.take(CLIENT).is_some() {
                taken += 1;
            }
            assert!(taken > PORTS.len() / 5, "{taken} of {PORTS:?}");
            assert!(all.is_disjoint(&rig.used));
            all.extend(rig.used);
        }
        assert_eq!(all.len(), PORTS.len());
    }

    #[test]
    fn a_pool_of_ports_gives_out_those_and_no_other() {
        let own = Addr::v4([10, 0, 0, 2]);
        let mut all = HashSet::new();
        for worker in 0..2 {
            let mut rig = Rig {
                config: EngineConfig {
                    worker,
                    workers: 2,
                    port_shift: 3,
                    pool: AddressPool::with_ports(own, 61_000..=61_999),
                    ..EngineConfig::default()
                },
                ..Rig::default()
            };
            for port in [1, 40_000, 61_500, 65_535].into_iter().cycle() {
                let Some(wire) = rig.take(Endpoint::new(CLIENT.addr, port)) else {
                    break;
                };
                assert_eq!(wire.addr, own);
                assert!((61_000..=61_999).contains(&wire.port), "{wire}");
            }
            all.extend(rig.used);
        }
        assert_eq!(all.len(), 1000);
    }

    #[test]
    fn without_a_pool_clients_keep_their_endpoint() {
        let mut rig = Rig::default();
        assert_eq!(rig.take(CLIENT), Some(CLIENT));
        let other = rig.choose(CLIENT).unwrap();
        assert_eq!(other.addr, CLIENT.addr);
        assert_ne!(other.port, CLIENT.port);
    }

    #[test]
    fn ports_that_come_free_are_found_whatever_other_addresses_use() {
        let mut rig = Rig::default();
        while rig.take(CLIENT).is_some() {}
        // One port comes back, while another address takes two.
        let freed = pair(Endpoint::new(CLIENT.addr, 50_000));
        rig.used.remove(&freed);
        rig.allocator.freed(&freed);
        for port in [1, 2] {
            rig.take(Endpoint::new(Addr::v4([192, 0, 2, 2]), port));
        }
        assert_eq!(rig.choose(CLIENT), Some(freed.client));
    }
}
