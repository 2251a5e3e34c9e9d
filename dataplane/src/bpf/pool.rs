//! Responses to addresses that no host has, or to ports of this host that none of its sockets has: tcx ingress on the
//! interface that they arrive by.
//!
//! The program also answers who asks for such an address. A killed process takes it with it.

use std::ops::RangeInclusive;

use aya::Ebpf;
use aya::maps::HashMap;
use aya::programs::TcAttachType;
use common::abi::{EndpointKey, MAX_POOL_ADDRESSES, PoolConfig, PoolCounter, pool_flags};
use common::packet::{Addr, Endpoint};

use super::error::chain;
use super::rings::Rings;
use super::tcx::{self, RingCapture, RingSetup};
use super::{BpfError, TapReader, load};
use crate::iface::{Interface, SolicitedGroups};

const PROGRAM: &str = "pool";
const COUNTERS: &str = "POOL_COUNTS";

/// What is taken and where.
#[derive(Clone, Debug)]
pub struct PoolSettings<'a> {
    /// Interface by which targets answer.
    pub ifname: &'a str,
    /// Number of readers.
    pub workers: u32,
    /// The addresses, sorted, of one family, not empty.
    pub addresses: &'a [Addr],
    /// The ports of the one address, if that is this host's.
    pub own_ports: Option<RangeInclusive<u16>>,
    /// Whose responses are wanted.
    pub targets: &'a [Endpoint],
    /// Whose answers are dropped.
    pub udp_targets: &'a [Endpoint],
    /// Memory for all rings together in bytes.
    pub ring_bytes_total: usize,
    /// A log record per response, at debug level. Slow.
    pub log_packets: bool,
}

/// The attached program. Dropping it detaches; readers can still empty their rings afterwards.
pub struct Pool {
    rings: RingCapture,
    groups: Option<SolicitedGroups>,
}

impl Pool {
    /// Loads `object` and attaches its program `pool` to the interface.
    pub fn attach(object: &[u8], settings: &PoolSettings<'_>) -> Result<Self, BpfError> {
        let interface = Interface::by_name(settings.ifname)?;
        tcx::find(&interface.name)?;
        let workers = settings.workers.max(1);
        let rings = Rings::of(workers, settings.ring_bytes_total);
        let mut program = load::config(workers, 1, settings.log_packets, &[], &[]);
        rings.put_into(&mut program);
        let mut sizes = rings.sizes().to_vec();
        sizes.extend(load::log_size(settings.log_packets));
        let pool = config(settings, &interface);
        let value = bytemuck::bytes_of(&pool);
        let mut ebpf = load::load_globals(object, program, "POOL_CONFIG", value, &sizes)?;
        if pool.flags & pool_flags::GAPS != 0 {
            put_addresses(&mut ebpf, settings.addresses)?;
        }
        load::put_endpoints(&mut ebpf, "TARGETS", settings.targets)?;
        load::put_keys(&mut ebpf, "TARGETS", settings.udp_targets, EndpointKey::udp)?;
        let setup = RingSetup {
            program: PROGRAM,
            ifname: &interface.name,
            rings,
            counters: COUNTERS,
            log_packets: settings.log_packets,
            filter: None,
        };
        let mut capture = RingCapture::load(ebpf, &setup)?;
        let groups = match settings.own_ports {
            Some(_) => None,
            None => SolicitedGroups::join(&interface, settings.addresses).map_err(|source| {
                BpfError::Groups {
                    ifname: interface.name.clone(),
                    source,
                }
            })?,
        };
        capture.attach(&[TcAttachType::Ingress])?;
        tracing::info!(
            interface = interface.name,
            workers,
            rings = rings.number(),
            ring_bytes = rings.bytes(),
            "responses to the pool are taken by tcx ingress, first of its hook"
        );
        Ok(Self {
            rings: capture,
            groups,
        })
    }

    /// The reader of a worker, once; `None` afterwards and for a worker that does not exist.
    pub fn take_reader(&mut self, worker: u32) -> Option<TapReader> {
        self.rings.take_reader(worker)
    }

    /// The program's counters, summed over CPUs.
    pub fn counters(&self) -> Vec<(PoolCounter, u64)> {
        PoolCounter::ALL
            .iter()
            .map(|c| (*c, self.rings.counters.get(c.index())))
            .collect()
    }

    /// Detaches; counters stay readable, further calls do nothing.
    pub fn detach(&mut self) {
        self.rings.detach();
        self.groups = None;
    }
}

fn config(settings: &PoolSettings<'_>, interface: &Interface) -> PoolConfig {
    let (Some(first), Some(last)) = (settings.addresses.first(), settings.addresses.last()) else {
        return PoolConfig::NONE;
    };
    let mut config = PoolConfig::new(*first, *last, interface.mac, interface.index);
    if let Some(ports) = &settings.own_ports {
        config.first_port = *ports.start();
        config.last_port = *ports.end();
        config.flags |= pool_flags::OWN_ADDRESS;
    }
    if has_gaps(settings.addresses) {
        config.flags |= pool_flags::GAPS;
    }
    config
}

/// Sorted addresses that do not all follow on each other.
fn has_gaps(addresses: &[Addr]) -> bool {
    let number = |addr: &Addr| u128::from_be_bytes(addr.0);
    addresses
        .windows(2)
        .any(|pair| number(&pair[1]) - number(&pair[0]) != 1)
}

fn put_addresses(ebpf: &mut Ebpf, addresses: &[Addr]) -> Result<(), BpfError> {
    if addresses.len() > MAX_POOL_ADDRESSES as usize {
        return Err(BpfError::TooManyEndpoints {
            map: "POOL",
            got: addresses.len(),
            max: MAX_POOL_ADDRESSES,
        });
    }
    let mut map: HashMap<_, [u8; 16], u32> = load::borrow(ebpf, "POOL")?;
    for addr in addresses {
        map.insert(addr.0, 0, 0).map_err(|e| BpfError::Map {
            map: "POOL",
            action: "insert an address",
            error: chain(&e),
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_seen() {
        let at = |d| Addr::v4([10, 0, 0, d]);
        assert!(!has_gaps(&[at(255)]));
        assert!(!has_gaps(&[at(255), Addr::v4([10, 0, 1, 0])]));
        assert!(has_gaps(&[at(1), at(2), at(4)]));
    }
}
