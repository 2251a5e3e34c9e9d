//! Where segments leave: a port per device, and the way to each target.
//!
//! ```text
//!  Segment.dst ──▶ Way { port, MACs } ──▶ ports[port]
//!                    ▲ refreshed once per loop, only if the table of next hops changed
//!                  NextHops
//! ```
//! Only targets have a way: a destination without one is never sent to (no packet to production,
//! whatever goes wrong upstream).

use common::packet::{Addr, Endpoint, FrameAddresses};
use dataplane::Transmit;
use dataplane::hops::{HopTable, Hops};
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
}

/// Source of next hops. A trait so that workers run in tests without netlink.
pub trait NextHops: Send {
    /// True if anything changed since the last call. One atomic load.
    fn changed(&mut self) -> bool;

    /// The next hop towards `addr`; `None` while it is not known.
    fn hop(&self, addr: Addr) -> Option<Hop>;
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

    fn hop(&self, addr: Addr) -> Option<Hop> {
        let hop = self.seen.as_ref()?.get(addr)?;
        Some(Hop {
            ifindex: hop.ifindex,
            macs: hop.macs,
            local: hop.local,
        })
    }
}

/// How frames to a target go.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    target: Endpoint,
    /// Index of the port; `None` while there is no next hop.
    port: Option<usize>,
    macs: FrameAddresses,
}

/// Why a segment has no way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoWay {
    /// Not a target.
    NotATarget,
    /// Next hop unknown at the moment.
    NoNextHop,
}

/// Ports and ways of one worker.
pub struct Egress {
    ways: Vec<Way>,
    /// With the device each sends on; the last one, without, is the raw-socket path.
    ports: Vec<(Option<u32>, Box<dyn Transmit>)>,
    hops: Box<dyn NextHops>,
}

impl Egress {
    /// `targets` sorted and each once; `ports` by device index; `raw` takes what no port serves.
    pub fn new(
        targets: &[Endpoint],
        ports: Vec<(u32, Box<dyn Transmit>)>,
        raw: Option<Box<dyn Transmit>>,
        hops: Box<dyn NextHops>,
    ) -> Self {
        let ways = targets
            .iter()
            .map(|&target| Way {
                target,
                port: None,
                macs: FrameAddresses::default(),
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
        };
        egress.refresh();
        egress
    }

    /// Takes over changed next hops. Once per loop.
    pub fn refresh(&mut self) {
        if !self.hops.changed() {
            return;
        }
        for way in &mut self.ways {
            let hop = self.hops.hop(way.target.addr);
            let raw = self.ports.iter().position(|(device, _)| device.is_none());
            let port = hop.and_then(|hop| {
                let own = self
                    .ports
                    .iter()
                    .position(|(device, _)| *device == Some(hop.ifindex));
                if hop.local { raw } else { own.or(raw) }
            });
            if port.is_none() || port != way.port {
                tracing::debug!(target = %way.target, ?hop, ?port, "way to target");
            }
            way.port = port;
            way.macs = hop.map_or_else(FrameAddresses::default, |hop| hop.macs);
        }
    }

    /// Port and link addresses for a destination.
    pub fn find(&mut self, dst: Endpoint) -> Result<(&mut dyn Transmit, FrameAddresses), NoWay> {
        let way = match self.ways.as_slice() {
            [only] if only.target == dst => only,
            ways => {
                let at = ways.binary_search_by_key(&dst, |w| w.target);
                at.ok()
                    .and_then(|at| ways.get(at))
                    .ok_or(NoWay::NotATarget)?
            }
        };
        let port = way
            .port
            .and_then(|at| self.ports.get_mut(at))
            .ok_or(NoWay::NoNextHop)?;
        Ok((port.1.as_mut(), way.macs))
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
