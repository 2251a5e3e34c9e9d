//! Which client endpoint a session has on the wire to the target.
//!
//! ```text
//!  client ──(pool address, or its own)──▶ candidate ──▶ free on this (candidate, target)?
//!                                                       owner(hash) == this worker?     ──▶ taken
//! ```
//! Every candidate must hash to this worker, so that responses find it by their destination alone and no
//! two workers can ever choose the same tuple.

use crate::EngineConfig;
use crate::table::{Pair, Table};
use common::flow::{flow_hash, owner};
use common::packet::{Addr, Endpoint};
use std::collections::HashSet;

/// Lowest port handed out: below are system services, which firewalls and logs treat specially.
const FIRST_PORT: u16 = 1024;
/// Ports that are handed out: 1024 to 65535.
const PORTS: u32 = 65_536 - FIRST_PORT as u32;

/// Chooses wire endpoints; remembers where it stopped, so that a port comes back as late as possible.
#[derive(Clone, Debug, Default)]
pub(crate) struct TupleAllocator {
    cursor: u32,
    /// Addresses without a free port towards a target: until one comes back there is no need to look at
    /// all of them again. At most one entry per address of the pool, or per client, and target.
    exhausted: HashSet<(Addr, Endpoint)>,
}

impl TupleAllocator {
    /// An endpoint for `client` towards `target` that no entry of `used` has; `None` if all ports of
    /// its address are taken.
    pub(crate) fn choose(
        &mut self,
        config: &EngineConfig,
        used: &Table,
        client: Endpoint,
        target: Endpoint,
        replica: u16,
    ) -> Option<Endpoint> {
        let addr = match &config.pool {
            // The client's address alone decides, so that all its sessions keep one address; each
            // replica is another client.
            Some(pool) => pool.pick(flow_hash(Endpoint::new(client.addr, replica)))?,
            None => client.addr,
        };
        let fits = |port: u16| {
            let wire = Endpoint::new(addr, port);
            (owner(flow_hash(wire), config.workers) == config.worker
                && !used.contains_key(&Pair {
                    client: wire,
                    server: target,
                }))
            .then_some(wire)
        };
        let shifted = u32::from(client.port) + u32::from(config.port_shift) * 2048;
        let preferred = if u16::try_from(shifted).is_ok() {
            shifted as u16
        } else {
            FIRST_PORT + (shifted % PORTS) as u16
        };
        if let Some(wire) = fits(preferred) {
            return Some(wire);
        }
        if self.exhausted.contains(&(addr, target)) {
            return None;
        }
        for _ in 0..PORTS {
            self.cursor = (self.cursor + 1) % PORTS;
            if let Some(wire) = fits(FIRST_PORT + self.cursor as u16) {
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
    use crate::table::table;

    #[test]
    fn workers_never_share_a_tuple_and_exhaustion_is_none() {
        let target = Endpoint::new(Addr::v4([10, 0, 0, 9]), 80);
        let mut total = 0;
        for worker in 0..3 {
            let config = EngineConfig {
                worker,
                workers: 3,
                pool: Some("10.1.0.1".parse().unwrap()),
                ..EngineConfig::default()
            };
            let (mut alloc, mut used) = (TupleAllocator::default(), table());
            let client = Endpoint::new(Addr::v4([192, 0, 2, 1]), 40_000);
            while let Some(wire) = alloc.choose(&config, &used, client, target, 0) {
                assert_eq!(owner(flow_hash(wire), 3), worker);
                assert_eq!(wire.addr, Addr::v4([10, 1, 0, 1]));
                assert!(
                    used.insert(
                        Pair {
                            client: wire,
                            server: target
                        },
                        0
                    )
                    .is_none()
                );
            }
            total += used.len();
        }
        assert_eq!(total, PORTS as usize);
    }

    #[test]
    fn without_a_pool_clients_keep_their_endpoint() {
        let config = EngineConfig::default();
        let client = Endpoint::new(Addr::v4([192, 0, 2, 1]), 40_000);
        let target = Endpoint::new(Addr::v4([10, 0, 0, 9]), 80);
        let mut used = table();
        let mut alloc = TupleAllocator::default();
        assert_eq!(
            alloc.choose(&config, &used, client, target, 0),
            Some(client)
        );
        used.insert(
            Pair {
                client,
                server: target,
            },
            0,
        );
        let other = alloc.choose(&config, &used, client, target, 0).unwrap();
        assert_eq!(other.addr, client.addr);
        assert_ne!(other.port, client.port);
    }

    #[test]
    fn ports_that_come_free_are_found_whatever_other_addresses_use() {
        let (client, target) = (
            Endpoint::new(Addr::v4([192, 0, 2, 1]), 40_000),
            Endpoint::new(Addr::v4([10, 0, 0, 9]), 80),
        );
        let config = EngineConfig::default();
        let (mut alloc, mut used) = (TupleAllocator::default(), table());
        while let Some(wire) = alloc.choose(&config, &used, client, target, 0) {
            used.insert(
                Pair {
                    client: wire,
                    server: target,
                },
                0,
            );
        }
        // One port comes back, while another address takes two.
        let freed = Pair {
            client: Endpoint::new(client.addr, 50_000),
            server: target,
        };
        used.remove(&freed);
        alloc.freed(&freed);
        for port in [1, 2] {
            let client = Endpoint::new(Addr::v4([192, 0, 2, 2]), port);
            used.insert(
                Pair {
                    client,
                    server: target,
                },
                0,
            );
        }
        let again = alloc.choose(&config, &used, client, target, 0);
        assert_eq!(again, Some(freed.client));
    }
}
