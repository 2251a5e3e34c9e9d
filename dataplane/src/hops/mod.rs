//! Next hops of the targets: interface, link-layer addresses, MTU; kept fresh.
//!
//! ```text
//!   kernel: routes, neighbours, links ──changes──▶ monitor thread ── resolve ──▶ new table ──▶ ArcSwap
//!                    ▲                                  │                                        │
//!                    └── probe neighbours that age ─────┘            workers: load(), get(target)┘
//! ```
//! AF_XDP frames pass the kernel's neighbour table by, so the kernel does not notice that an entry is in
//! use and would let it age. The monitor asks it to check ("use") such entries every few seconds, and
//! follows every change of routes, neighbours and links.
//!
//! A router on the way with a smaller MTU answers the replayed client, not us. So the monitor sends a
//! datagram of our own, as large as a packet may be, behind each gateway now and then: what the router
//! answers to that one the kernel remembers, and its route has the path's MTU from then on (RFC 1191).

mod monitor;
mod path_mtu;
mod resolve;

use arc_swap::{ArcSwap, Guard};
use common::packet::{Addr, FrameAddresses, MacAddr};
use monitor::Monitor;
use resolve::{Resolution, Resolver};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Port of datagrams that are sent for what the kernel and routers make of them: discard (RFC 863).
const DISCARD_PORT: u16 = 9;

/// How long [`Hops::start`] waits for link-layer addresses: the kernel gives up on a neighbour after
/// three probes, one a second.
const INITIAL_WAIT: Duration = Duration::from_secs(3);
/// Pause between looks while waiting for a neighbour. A neighbour on the link answers in microseconds.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How to reach a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Outgoing interface.
    pub ifindex: u32,
    /// Its name.
    pub ifname: String,
    /// Addresses of the Ethernet header; zero if `local`.
    pub macs: FrameAddresses,
    /// Largest IP packet in bytes, by interface, route and what the kernel knows of the path.
    pub mtu: u16,
    /// Frames cannot reach it: it is an address of this host, behind loopback, or behind an interface
    /// without Ethernet. Use the raw-socket path.
    pub local: bool,
    /// The neighbour that frames go to: the target itself or a gateway.
    pub via: Addr,
}

/// Why a target has no next hop at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Missing {
    /// The kernel has no route to it, or one that forbids it.
    Route,
    /// The interface to it is down.
    Link,
    /// Its gateway, or itself, does not answer ARP or neighbour discovery.
    Neighbour,
}

/// A target with its next hop, or with why it has none.
type Entry = (Addr, Result<NextHop, Missing>);

/// Next hops by target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HopTable {
    /// Sorted by address.
    entries: Vec<Entry>,
}

impl HopTable {
    fn new(mut entries: Vec<Entry>) -> Self {
        entries.sort_by_key(|(addr, _)| *addr);
        Self { entries }
    }

    /// The next hop of a target, if it has one.
    #[inline]
    pub fn get(&self, target: Addr) -> Option<&NextHop> {
        self.look_up(target).ok()
    }

    /// The next hop of a target, or why there is none. What is no target has no route.
    #[inline]
    pub fn look_up(&self, target: Addr) -> Result<&NextHop, Missing> {
        let at = self
            .entries
            .binary_search_by_key(&target, |(addr, _)| *addr)
            .ok();
        match at.and_then(|at| self.entries.get(at)) {
            Some((_, hop)) => hop.as_ref().map_err(|missing| *missing),
            None => Err(Missing::Route),
        }
    }

    /// Those that can be reached.
    pub fn iter(&self) -> impl Iterator<Item = (Addr, &NextHop)> {
        self.entries
            .iter()
            .filter_map(|(addr, hop)| Some((*addr, hop.as_ref().ok()?)))
    }
}

/// Why a target cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum HopError {
    /// No route, or one that forbids it.
    #[error("no route to target {target}: {reason}; check `ip route get {target}`")]
    Unreachable {
        /// Target.
        target: Addr,
        /// What the kernel said.
        reason: String,
    },
    /// The neighbour did not answer ARP or neighbour discovery.
    #[error(
        "no link-layer address of {via} on {ifname} for target {target}: asked by {protocol} for {waited_s} s \
         without an answer; check that it is up and on that link"
    )]
    Unresolved {
        /// Target.
        target: Addr,
        /// Target or gateway.
        via: Addr,
        /// Interface asked on.
        ifname: String,
        /// ARP or NDP.
        protocol: &'static str,
        /// Seconds.
        waited_s: u64,
    },
    /// The interface to the target is down.
    #[error("target {target} is behind {ifname}, which is down; set it up")]
    Down {
        /// Target.
        target: Addr,
        /// Interface.
        ifname: String,
    },
    /// The kernel did not answer.
    #[error("cannot ask the kernel for routes and neighbours: {0}")]
    Netlink(#[from] io::Error),
}

impl HopError {
    /// The same in one word; `None` if it says nothing of the target.
    fn missing(&self) -> Option<Missing> {
        match self {
            Self::Unreachable { .. } => Some(Missing::Route),
            Self::Down { .. } => Some(Missing::Link),
            Self::Unresolved { .. } => Some(Missing::Neighbour),
            Self::Netlink(_) => None,
        }
    }
}

/// What to find next hops for.
#[derive(Clone, Debug, Default)]
pub struct HopOptions {
    /// The targets.
    pub targets: Vec<Addr>,
    /// Link-layer addresses that were given by hand: the next hop's of a target. It is not asked for, and
    /// nothing that the network says replaces it.
    pub macs: Vec<(Addr, MacAddr)>,
    /// Start although a target cannot be reached, and go on trying.
    pub patient: bool,
}

/// The table and the thread that keeps it fresh. Dropping it ends the thread.
pub struct Hops {
    table: Arc<ArcSwap<HopTable>>,
    _monitor: Monitor,
}

impl Hops {
    /// Resolves all targets, waiting up to three seconds for neighbours, and starts the monitor. Works
    /// in the network namespace of the calling thread.
    pub fn start(targets: &[Addr]) -> Result<Self, HopError> {
        Self::start_with(HopOptions {
            targets: targets.to_vec(),
            ..HopOptions::default()
        })
    }

    /// The same with more to say.
    pub fn start_with(options: HopOptions) -> Result<Self, HopError> {
        let mut targets = options.targets;
        targets.sort_unstable();
        targets.dedup();
        // Before the first look: what changes from here on is not missed.
        let changes = monitor::subscribe()?;
        let mut resolver = Resolver::open(options.macs)?;
        let entries = first_look(&mut resolver, &targets, options.patient)?;
        for (target, hop) in &entries {
            if let Ok(hop) = hop {
                log_hop(*target, hop);
            }
        }
        let table = Arc::new(ArcSwap::from_pointee(HopTable::new(entries)));
        let monitor = Monitor::start(changes, resolver, targets, Arc::clone(&table))?;
        Ok(Self {
            table,
            _monitor: monitor,
        })
    }

    /// The table as it is now. Load it once per batch, not per packet.
    #[inline]
    pub fn load(&self) -> Guard<Arc<HopTable>> {
        self.table.load()
    }
}

/// The address that this host's own packets to `target` come from. Connecting a datagram socket sends nothing.
pub fn source_address(target: Addr) -> io::Result<Addr> {
    let socket = UdpSocket::bind(any_of_family(target))?;
    socket.connect((target.to_ip(), DISCARD_PORT))?;
    Ok(socket.local_addr()?.ip().into())
}

/// No address of `other`'s family, and no port.
fn any_of_family(other: Addr) -> SocketAddr {
    if other.is_v4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    }
}

/// Where the kernel sends packets to `addr`: interface and the neighbour there.
pub fn way_to(addr: Addr) -> Result<(String, Addr), HopError> {
    Resolver::open(Vec::new())?.way_to(addr)
}

fn log_hop(target: Addr, hop: &NextHop) {
    if hop.local {
        tracing::info!(%target, ifname = %hop.ifname, "target is reached through the host's own stack");
    } else {
        tracing::info!(%target, via = %hop.via, mac = %hop.macs.dst, ifname = %hop.ifname, mtu = hop.mtu, "next hop");
    }
}

/// Every target's next hop, or the first reason against one. With `patient` reasons are entries as well.
fn first_look(
    resolver: &mut Resolver,
    targets: &[Addr],
    patient: bool,
) -> Result<Vec<Entry>, HopError> {
    let deadline = Instant::now() + INITIAL_WAIT;
    let mut asked = Vec::new();
    loop {
        let late = Instant::now() >= deadline;
        let mut entries = Vec::new();
        let mut waiting = false;
        resolver.forget_links();
        for &target in targets {
            let error = match resolver.resolve(target) {
                Ok(Resolution::Ready { hop, .. }) => {
                    entries.push((target, Ok(hop)));
                    continue;
                }
                Ok(Resolution::Pending { neighbour, .. }) => {
                    if !asked.contains(&neighbour.via) {
                        resolver.probe(&neighbour);
                        asked.push(neighbour.via);
                    }
                    waiting = true;
                    HopError::Unresolved {
                        target,
                        via: neighbour.via,
                        ifname: neighbour.ifname,
                        protocol: if neighbour.via.is_v4() { "ARP" } else { "NDP" },
                        waited_s: INITIAL_WAIT.as_secs(),
                    }
                }
                Err(error) => error,
            };
            match error.missing() {
                // Not yet a reason against it.
                Some(Missing::Neighbour) if !late => {}
                // The monitor says why.
                Some(missing) if patient => entries.push((target, Err(missing))),
                _ => return Err(error),
            }
        }
        if !waiting || late {
            return Ok(entries);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_target_is_local() {
        let target = Addr::v4([127, 0, 0, 1]);
        let hops = Hops::start(&[target, target]).expect("hops");
        let table = hops.load();
        let hop = table.get(target).expect("hop");
        assert!(hop.local);
        assert_eq!(hop.ifname, "lo");
        assert_eq!(hop.macs, FrameAddresses::default());
        assert!(hop.mtu >= 1500);
        assert_eq!(table.get(Addr::v4([127, 0, 0, 2])), None);
        assert_eq!(table.iter().count(), 1);
    }
}
