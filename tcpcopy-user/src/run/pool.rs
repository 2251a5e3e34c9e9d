//! Topology B: the target's answers come to this host.
//!
//! ```text
//!  next hops ─▶ interfaces ─┐
//!  --pool ─▶ addresses ─────┴▶ checked, claimed, asked for on the links ─▶ attached ─▶ a reader for each worker
//! ```

use super::RunError;
use crate::checks::{self, PoolError};
use crate::cli::{Config, Pool as Choice};
use crate::worker::Counter;
use common::abi::PoolCounter;
use common::flow::Block;
use common::packet::{Addr, Endpoint};
use dataplane::Capture;
use dataplane::bpf::{Pool, PoolSettings};
use dataplane::hops::{Hops, source_address};
use dataplane::iface::Interface;
use dataplane::probe;
use operator::sockets::process_name;
use session::AddressPool;
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Rings of all workers together, shared out among the interfaces: half a second of responses without payload at a million a second.
pub(super) const RING_BYTES_TOTAL: usize = 64 << 20;
/// Of the sockets that stand for a pool, in the abstract namespace (unix(7)), which is the network namespace's: they go
/// with their process.
const CLAIM: &str = "tcpcopy-pool";

/// A pool that this host can serve.
pub struct Plan {
    /// Whose endpoints replayed clients get.
    pub clients: AddressPool,
    own_ports: Option<RangeInclusive<u16>>,
    interfaces: Vec<Interface>,
    claim: UnixListener,
}

/// The attached programs, one for each interface.
pub struct Pools {
    attached: Vec<Pool>,
    conflicts: u64,
    _claim: UnixListener,
}

impl Plan {
    /// Finds interfaces and addresses, and refuses what somebody has.
    pub fn new(
        choice: &Choice,
        config: &Config,
        hops: &Hops,
        targets: &[Addr],
    ) -> Result<Self, RunError> {
        let interfaces = interfaces(hops, targets)?;
        let (clients, own_ports) = match choice {
            Choice::Addresses { addresses, .. } => (addresses.clone(), None),
            Choice::Own(ports) => {
                let own = own_address(targets)?;
                let pool = AddressPool::with_ports(own, ports.clone());
                let pool = pool.ok_or_else(|| {
                    let source = std::io::ErrorKind::InvalidInput.into();
                    RunError::system("make a pool without ports")(source)
                })?;
                (pool, Some(ports.clone()))
            }
        };
        let claim = match &own_ports {
            None => {
                checks::check_pool_addresses(
                    &[&config.transfers, &config.udp_transfers],
                    &clients,
                    &Interface::local_addresses()?,
                )
                .map_err(checks::CheckError::from)?;
                let claim = claim(&clients)?;
                for interface in &interfaces {
                    ask(interface, &clients)?;
                    tell_route(interface, &clients, choice);
                }
                claim
            }
            Some(ports) => {
                checks::check_own_ports(ports).map_err(checks::CheckError::from)?;
                claim(&clients)?
            }
        };
        tracing::info!(
            pool = %choice,
            addresses = clients.len(),
            ports = clients.ports().len(),
            capacity = clients.capacity(),
            "pool: so many sessions to one target at a time, further ones are shed as a whole"
        );
        Ok(Self {
            clients,
            own_ports,
            interfaces,
            claim,
        })
    }

    /// Attaches the program to each interface.
    pub fn attach(self, config: &Config, object: &[u8], workers: usize) -> Result<Pools, RunError> {
        let (targets, udp_targets) = (config.targets(), config.udp_targets());
        let attach = |interface: &Interface| {
            Pool::attach(
                object,
                &PoolSettings {
                    ifname: &interface.name,
                    workers: workers as u32,
                    addresses: self.clients.addresses(),
                    own_ports: self.own_ports.clone(),
                    targets: &targets,
                    udp_targets: &udp_targets,
                    ring_bytes_total: RING_BYTES_TOTAL / self.interfaces.len().max(1),
                    log_packets: config.log_level >= operator::log::LogLevel::Debug,
                },
            )
        };
        Ok(Pools {
            attached: self
                .interfaces
                .iter()
                .map(attach)
                .collect::<Result<_, _>>()?,
            conflicts: 0,
            _claim: self.claim,
        })
    }
}

impl Pools {
    /// Where responses of a worker come by, once.
    pub fn take_readers(&mut self, worker: usize) -> Vec<Box<dyn Capture>> {
        let readers = self
            .attached
            .iter_mut()
            .filter_map(|p| p.take_reader(worker as u32));
        readers.map(|r| Box::new(r) as Box<dyn Capture>).collect()
    }

    /// What the programs counted.
    pub fn counters(&self) -> Vec<Counter> {
        let counters = self.attached.iter().flat_map(Pool::counters);
        counters
            .map(|(counter, value)| Counter {
                group: "pool",
                name: counter.name(),
                value,
            })
            .collect()
    }

    /// Says when somebody else claimed an address since the last call.
    pub fn warn_of_conflicts(&mut self) {
        let counters = self.attached.iter().flat_map(Pool::counters);
        let conflicts = counters.filter(|(counter, _)| *counter == PoolCounter::Conflict);
        let conflicts = conflicts.map(|(_, value)| value).sum();
        if conflicts > self.conflicts {
            tracing::warn!(
                packets = conflicts - self.conflicts,
                "another host claims addresses of --pool: responses may go there; choose addresses that nobody takes"
            );
            self.conflicts = conflicts;
        }
    }

    /// Detaches. Counters stay readable.
    pub fn detach(&mut self) {
        self.attached.iter_mut().for_each(Pool::detach);
    }
}

/// Those by which the targets are reached, where they answer.
fn interfaces(hops: &Hops, targets: &[Addr]) -> Result<Vec<Interface>, RunError> {
    let table = hops.load();
    let mut names: Vec<&str> = Vec::new();
    for &target in targets {
        let hop = table
            .get(target)
            .ok_or(checks::CheckError::Pool(PoolError::NoWay { target }))?;
        if hop.local {
            let iface = hop.ifname.clone();
            let refused = PoolError::NotOnEthernet { target, iface };
            return Err(checks::CheckError::Pool(refused).into());
        }
        names.push(&hop.ifname);
    }
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .map(|name| Ok(Interface::by_name(name)?))
        .collect()
}

/// The address that this host has towards the targets.
fn own_address(targets: &[Addr]) -> Result<Addr, RunError> {
    let mut found: Option<(Addr, Addr)> = None;
    for &target in targets {
        let own = source_address(target).map_err(RunError::system(format!(
            "find this host's address towards {target}"
        )))?;
        match found {
            None => found = Some((target, own)),
            Some((_, first)) if first == own => {}
            Some((first_target, first)) => {
                let refused = PoolError::TwoAddresses {
                    a_target: first_target,
                    a: first,
                    b_target: target,
                    b: own,
                };
                return Err(checks::CheckError::Pool(refused).into());
            }
        }
    }
    Ok(found.map_or(Addr::ANY, |(_, own)| own))
}

/// Makes it known to other programs of this kind on this host that the endpoints are taken.
fn claim(pool: &AddressPool) -> Result<UnixListener, RunError> {
    let what = "claim the pool by a socket";
    let (Some(&first), Some(&last)) = (pool.addresses().first(), pool.addresses().last()) else {
        return Err(RunError::system(what)(
            std::io::ErrorKind::InvalidInput.into(),
        ));
    };
    let ports = pool.ports();
    let claim = Claim {
        pid: std::process::id(),
        addresses: (number(first), number(last)),
        // Addresses of a pool are taken with all their ports.
        ports: if pool.is_strict() {
            (*ports.start(), *ports.end())
        } else {
            (0, u16::MAX)
        },
    };
    let address = SocketAddr::from_abstract_name(claim.name()).map_err(RunError::system(what))?;
    // First, then look: of two that start at the same time, at least one sees the other.
    let listener = UnixListener::bind_addr(&address).map_err(RunError::system(what))?;
    let table = std::fs::read_to_string("/proc/self/net/unix").unwrap_or_default();
    let others = table.lines().filter_map(|line| {
        let (_, name) = line.split_once(" @")?;
        Claim::parse(name)
    });
    if let Some(other) = others
        .filter(|o| o.pid != claim.pid)
        .find(|o| o.meets(&claim))
    {
        let refused = PoolError::Shared {
            holder: format!(
                "{} (pid {})",
                process_name(&other.pid.to_string()),
                other.pid
            ),
            first: Endpoint::new(Addr(other.addresses.0.to_be_bytes()), other.ports.0),
            last: Endpoint::new(Addr(other.addresses.1.to_be_bytes()), other.ports.1),
        };
        return Err(checks::CheckError::Pool(refused).into());
    }
    Ok(listener)
}

fn number(addr: Addr) -> u128 {
    u128::from_be_bytes(addr.0)
}

/// What a socket's name says. Pools with gaps count as if they had none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claim {
    pid: u32,
    addresses: (u128, u128),
    ports: (u16, u16),
}

impl Claim {
    fn name(&self) -> String {
        let Self {
            pid,
            addresses: (first, last),
            ports: (low, high),
        } = self;
        format!("{CLAIM} {pid} {first:x} {last:x} {low} {high}")
    }

    fn parse(name: &str) -> Option<Self> {
        let mut fields = name.strip_prefix(CLAIM)?.split_whitespace();
        let mut next = || fields.next();
        let address = |text: &str| u128::from_str_radix(text, 16).ok();
        Some(Self {
            pid: next()?.parse().ok()?,
            addresses: (address(next()?)?, address(next()?)?),
            ports: (next()?.parse().ok()?, next()?.parse().ok()?),
        })
    }

    fn meets(&self, other: &Self) -> bool {
        self.addresses.0 <= other.addresses.1
            && other.addresses.0 <= self.addresses.1
            && self.ports.0 <= other.ports.1
            && other.ports.0 <= self.ports.1
    }
}

/// Refuses addresses that somebody on the link has.
fn ask(interface: &Interface, pool: &AddressPool) -> Result<(), RunError> {
    let found = probe::in_use(interface, pool.addresses()).map_err(RunError::system(format!(
        "ask on {} whether the pool's addresses are in use",
        interface.name
    )))?;
    if let Some((addr, mac)) = found {
        let iface = interface.name.clone();
        let refused = PoolError::InUse { addr, mac, iface };
        return Err(checks::CheckError::Pool(refused).into());
    }
    if pool.len() > probe::MAX_PROBES {
        tracing::warn!(
            asked_for = probe::MAX_PROBES,
            of = pool.len(),
            "not every address of the pool was asked for on the link: check that nobody has the others"
        );
    }
    Ok(())
}

/// A pool that is in no network of the link is reached by a route only.
fn tell_route(interface: &Interface, pool: &AddressPool, choice: &Choice) {
    let on_link = |addr: &Addr| on_link(&interface.addresses, *addr);
    if pool.addresses().iter().all(on_link) {
        return;
    }
    let own = interface
        .addresses
        .iter()
        .map(|(addr, _)| *addr)
        .find(|addr| addr.is_v4() == pool.is_v4());
    let via = own.map_or_else(|| "this host".to_owned(), |addr| addr.to_string());
    tracing::warn!(
        interface = interface.name,
        "the pool {choice} is in no network of this interface: the target, or the router in front of it, needs a route \
         to it by this host, such as `ip route add {choice} via {via}`"
    );
}

/// True if the address is in a network of one of these addresses with their prefix lengths.
fn on_link(own: &[(Addr, u8)], addr: Addr) -> bool {
    let mut networks = own
        .iter()
        .filter(|(own, _)| own.is_v4() == addr.is_v4())
        .filter_map(|(own, prefix)| Block::new(*own, *prefix));
    networks.any(|network| network.contains(addr))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn claims_are_read_back_and_meet_where_endpoints_do() {
        let claim = |first: &str, last: &str, ports| Claim {
            pid: u32::MAX,
            addresses: (
                number(first.parse::<IpAddr>().unwrap().into()),
                number(last.parse::<IpAddr>().unwrap().into()),
            ),
            ports,
        };
        let all = (0, u16::MAX);
        let a = claim("10.0.0.129", "10.0.0.254", all);
        assert_eq!(Claim::parse(&a.name()), Some(a));
        assert!(a.meets(&claim("10.0.0.254", "10.0.1.1", all)));
        assert!(!a.meets(&claim("10.0.0.1", "10.0.0.128", all)));
        let own = claim("10.0.0.2", "10.0.0.2", (61_000, 62_000));
        assert!(own.meets(&claim("10.0.0.2", "10.0.0.2", (62_000, 63_000))));
        assert!(!own.meets(&claim("10.0.0.2", "10.0.0.2", (62_001, 63_000))));
        let longest = claim("ffff::ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", all);
        assert_eq!(Claim::parse(&longest.name()), Some(longest));
        // sun_path (unix(7)), whose first byte is zero.
        assert!(longest.name().len() < 108);
        for other in ["", CLAIM, "/run/x", "tcpcopy-pool 1 x"] {
            assert_eq!(Claim::parse(other), None, "{other}");
        }
    }

    #[test]
    fn networks() {
        let at = |text: &str| Addr::from(text.parse::<IpAddr>().unwrap());
        let same_network = |a, b, prefix| on_link(&[(a, prefix)], b);
        assert!(same_network(at("10.0.0.20"), at("10.0.0.200"), 24));
        assert!(!same_network(at("10.0.0.20"), at("10.0.1.200"), 24));
        assert!(same_network(at("2001:db8::1"), at("2001:db8::ffff:1"), 64));
        assert!(!same_network(at("2001:db8::1"), at("2001:db8:0:1::1"), 64));
        assert!(same_network(at("10.0.0.20"), at("192.0.2.1"), 0));
        assert!(!same_network(at("::1"), at("192.0.2.1"), 0));
    }

    #[test]
    fn the_own_address_towards_a_target() {
        let target = Addr::v4([127, 0, 0, 1]);
        assert_eq!(own_address(&[target, target]).unwrap(), target);
    }
}
