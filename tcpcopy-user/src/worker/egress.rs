//! Where segments leave: a port per device, and the way to each target.
//!
//! ```text
//!  Segment.dst ──▶ Way { port, MACs, MTU } ──▶ ports[port]
//!                    ▲ refreshed once per loop, only if the table of next hops changed
//!                  NextHops ── a device without a port ──▶ Supply ── ports, when they are open ──▶ ports
//! ```
//! A way can move to a device that nothing was sent on before: until its port is open the raw-socket path
//! serves it.
//!
//! Only targets have a way: a destination without one is never sent to (no packet to production,
//! whatever goes wrong upstream).

use common::packet::{Addr, Endpoint, FrameAddresses};
use dataplane::Transmit;
use dataplane::hops::{HopTable, Hops, Missing};
use dataplane::supply::PortSupply;
use std::sync::Arc;

/// What is needed to send to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Outgoing device.
    pub ifindex: u32,
    /// Its address and the next hop's.
    pub macs: FrameAddresses,
    /// The address is on this host: frames cannot reach it.
    pub local: bool,
    /// Largest IP packet on the way, in bytes.
    pub mtu: u16,
}

/// Source of next hops. A trait so that workers run in tests without netlink.
pub trait NextHops: Send {
    /// True if anything changed since the last call. One atomic load.
    fn changed(&mut self) -> bool;

    /// The next hop towards `addr`, or why there is none at the moment.
    fn hop(&self, addr: Addr) -> Result<Hop, Missing>;
}

/// Opens ports on devices that next hops move to. A trait so that workers run in tests without devices.
pub trait Supply: Send {
    /// Asks for a port on the device. Does not wait.
    fn want(&mut self, ifindex: u32);

    /// Ports that were opened since, by device index. One atomic load if there are none.
    fn take(&mut self) -> Vec<(u32, Box<dyn Transmit>)>;
}

impl Supply for PortSupply {
    fn want(&mut self, ifindex: u32) {
        Self::want(self, ifindex);
    }

    fn take(&mut self) -> Vec<(u32, Box<dyn Transmit>)> {
        Self::take(self)
    }
}

/// For workers whose devices are all known: nothing is opened.
pub struct NoSupply;

impl Supply for NoSupply {
    fn want(&mut self, _: u32) {}

    fn take(&mut self) -> Vec<(u32, Box<dyn Transmit>)> {
        Vec::new()
    }
}

/// Next hops that are kept fresh by netlink.
pub struct LiveHops {
    hops: Arc<Hops>,
    seen: Option<Arc<HopTable>>,
}

impl LiveHops {
    /// Follows `hops`.
    pub fn new(hops: Arc<Hops>) -> Self {
        Self { hops, seen: None }
    }
}

impl NextHops for LiveHops {
    fn changed(&mut self) -> bool {
        let now = self.hops.load();
        if self
            .seen
            .as_ref()
            .is_some_and(|seen| Arc::ptr_eq(seen, &now))
        {
            return false;
        }
        // Holding the table keeps its address from being used again by a later one.
        self.seen = Some(Arc::clone(&now));
        true
    }

    fn hop(&self, addr: Addr) -> Result<Hop, Missing> {
        let table = self.seen.as_ref().ok_or(Missing::Route)?;
        let hop = table.look_up(addr)?;
        Ok(Hop {
            ifindex: hop.ifindex,
            macs: hop.macs,
            local: hop.local,
            mtu: hop.mtu,
        })
    }
}

/// How frames to a target go.
#[derive(Clone, Copy, Debug)]
struct Way {
    target: Endpoint,
    /// Index of the port, or why there is none.
    port: Result<usize, Missing>,
    macs: FrameAddresses,
    mtu: u16,
}

/// Why a segment has no way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoWay {
    /// Not a target.
    NotATarget,
    /// No next hop at the moment.
    NoNextHop(Missing),
}

/// A way that was found.
pub struct Found<'a> {
    /// Where frames are put.
    pub port: &'a mut dyn Transmit,
    /// Their link-layer addresses.
    pub macs: FrameAddresses,
    /// Largest IP packet in bytes.
    pub mtu: u16,
}

/// Ports and ways of one worker.
pub struct Egress {
    ways: Vec<Way>,
    /// With the device each sends on; the one without is the raw-socket path.
    ports: Vec<(Option<u32>, Box<dyn Transmit>)>,
    hops: Box<dyn NextHops>,
    supply: Box<dyn Supply>,
    /// Devices that a port was asked for.
    wanted: Vec<u32>,
}

impl Egress {
    /// `targets` sorted and each once; `ports` by device index; `raw` takes what no port serves; ports for
    /// devices that next hops move to come from `supply`.
    pub fn new(
        targets: &[Endpoint],
        ports: Vec<(u32, Box<dyn Transmit>)>,
        raw: Option<Box<dyn Transmit>>,
        hops: Box<dyn NextHops>,
        supply: Box<dyn Supply>,
    ) -> Self {
        let ways = targets
            .iter()
            .map(|&target| Way {
                target,
                port: Err(Missing::Route),
                macs: FrameAddresses::default(),
                mtu: 0,
            })
            .collect();
        let mut all: Vec<_> = ports
            .into_iter()
            .map(|(index, port)| (Some(index), port))
            .collect();
        all.extend(raw.map(|port| (None, port)));
        let mut egress = Self {
            ways,
            ports: all,
            hops,
            supply,
            wanted: Vec::new(),
        };
        egress.refresh();
        egress
    }

    /// Takes over changed next hops and new ports. Once per loop.
    pub fn refresh(&mut self) {
        let new = self.supply.take();
        if !self.hops.changed() && new.is_empty() {
            return;
        }
        for (device, port) in new {
            self.ports.push((Some(device), port));
        }
        let on = |ports: &[(Option<u32>, _)], device| ports.iter().position(|(d, _)| *d == device);
        let raw = on(&self.ports, None);
        for way in &mut self.ways {
            let hop = self.hops.hop(way.target.addr);
            let port = hop.and_then(|hop| {
                let own = on(&self.ports, Some(hop.ifindex));
                if !hop.local && own.is_none() && !self.wanted.contains(&hop.ifindex) {
                    self.wanted.push(hop.ifindex);
                    self.supply.want(hop.ifindex);
                }
                let port = if hop.local { raw } else { own.or(raw) };
                port.ok_or(Missing::Route)
            });
            if port.is_err() || port != way.port {
                tracing::debug!(target = %way.target, ?hop, ?port, "way to target");
            }
            way.port = port;
            if let Ok(hop) = hop {
                (way.macs, way.mtu) = (hop.macs, hop.mtu);
            }
        }
    }

    /// Port, link addresses and MTU for a destination.
    pub fn find(&mut self, dst: Endpoint) -> Result<Found<'_>, NoWay> {
        let way = match self.ways.as_slice() {
            [only] if only.target == dst => only,
            ways => {
                let at = ways.binary_search_by_key(&dst, |w| w.target);
                at.ok()
                    .and_then(|at| ways.get(at))
                    .ok_or(NoWay::NotATarget)?
            }
        };
        let at = way.port.map_err(NoWay::NoNextHop)?;
        match self.ports.get_mut(at) {
            Some((_, port)) => Ok(Found {
                port: port.as_mut(),
                macs: way.macs,
                mtu: way.mtu,
            }),
            None => Err(NoWay::NoNextHop(Missing::Route)),
        }
    }

    /// Hands everything queued to the kernel.
    pub fn flush(&mut self) {
        for (_, port) in &mut self.ports {
            port.flush();
        }
    }

    /// Frames are queued or in flight.
    pub fn busy(&self) -> bool {
        self.ports.iter().any(|(_, port)| port.busy())
    }

    /// Counters of all ports.
    pub fn counters(&mut self, sink: dataplane::CounterSink<'_>) {
        for (_, port) in &mut self.ports {
            port.counters(sink);
        }
    }
}
