//! All connections to one intercept, and the routes it must know.

use super::counters::LinkCounters;
use super::greeting::KeyRefusal;
use super::inbound::Received;
use super::link::{Change, ConnectError, Link};
use super::routes::{Carrier, RouteTable};
use channel_crypto::Key;
use common::flow::Nanos;
use common::packet::Endpoint;
use common::wire::native::ClientMessage;
use std::net::SocketAddr;
use std::sync::Arc;

/// Slots looked at per loop when routes must be announced again: a million routes take a thousand
/// loops, in which packets flow on.
const RESCAN_SLOTS: usize = 1024;

/// One intercept.
#[derive(Debug)]
pub struct Intercept {
    peer: Endpoint,
    links: Vec<Link>,
    routes: RouteTable,
    /// Connection for the next new route.
    turn: usize,
    /// Next slot to look at while routes are announced again.
    rescan: Option<usize>,
    reannounced: u64,
    /// Announcements of UDP targets, for every connection.
    udp_targets: Vec<Endpoint>,
}

impl Intercept {
    /// `connections` connections, all down.
    pub fn new(peer: Endpoint, connections: u8, key: Option<&Arc<Key>>, now: Nanos) -> Self {
        let socket: SocketAddr = peer.to_socket();
        Self {
            peer,
            links: (0..connections.max(1))
                .map(|_| Link::new(socket, key.cloned(), now))
                .collect(),
            routes: RouteTable::default(),
            turn: 0,
            rescan: None,
            reannounced: 0,
            udp_targets: Vec::new(),
        }
    }

    /// Its address.
    pub fn peer(&self) -> Endpoint {
        self.peer
    }

    /// Connects all connections and waits for them.
    pub fn connect_blocking(&mut self) -> Result<(), ConnectError> {
        self.links.iter_mut().try_for_each(Link::connect_blocking)
    }

    /// Why a connection was refused.
    pub fn refusal(&self) -> Option<&KeyRefusal> {
        self.links.iter().find_map(Link::refusal)
    }

    /// At least one connection speaks our own format.
    pub fn is_native(&self) -> bool {
        self.links.iter().any(Link::is_native)
    }

    /// At least one connection is up.
    pub fn is_up(&self) -> bool {
        self.links.iter().any(Link::is_up)
    }

    /// The connection that carries a route confirms it.
    pub fn confirms(&mut self, client: Endpoint, target: Endpoint) -> bool {
        let carrier = self.routes.entry(client, target).carrier;
        carrier.is_some_and(|c| self.links.get(c.link).is_some_and(Link::confirms))
    }

    /// Remembers a route and queues its announcement; false if no connection can carry it now.
    pub fn announce(&mut self, client: Endpoint, target: Endpoint) -> bool {
        let v4 = client.addr.is_v4() && target.addr.is_v4();
        if !v4 && !self.is_native() {
            return false;
        }
        let route = self.routes.entry(client, target);
        let link = match route.carrier {
            // The same connection again: newer announcements win, and order within a connection is
            // kept, so that intercept never has a stale route.
            Some(c) if carries(&self.links, c) => Some(c.link),
            _ => next_up(&self.links, &mut self.turn, client, target),
        };
        let Some(link) = link else {
            route.carrier = None;
            return false;
        };
        let to = &mut self.links[link];
        route.carrier = Some(Carrier {
            link,
            generation: to.generation(),
        });
        to.push(ClientMessage::add(client, target));
        true
    }

    /// Announces UDP targets on all connections, those to come included, once they are native: the C format has
    /// no message for it.
    pub fn set_udp_targets(&mut self, targets: &[Endpoint]) {
        self.udp_targets = targets.to_vec();
        for link in self.links.iter_mut().filter(|link| link.is_native()) {
            for &target in &self.udp_targets {
                link.push(ClientMessage::udp_target(target));
            }
        }
    }

    /// Forgets a route, and tells a native intercept so. C programs have no use for it; they, and ours where the
    /// message is lost, expire routes by themselves.
    pub fn retire(&mut self, client: Endpoint, target: Endpoint) {
        let Some(carrier) = self.routes.remove(client, target) else {
            return;
        };
        if carries(&self.links, carrier)
            && let Some(link) = self.links.get_mut(carrier.link)
            && link.is_native()
            && !link.crowded()
        {
            link.push(ClientMessage::del(client, target));
        }
    }

    /// Moves all connections on and collects response headers. `ready` tells for each connection that
    /// has a descriptor, in order, whether there is something to read.
    pub fn service(
        &mut self,
        now: Nanos,
        ready: &mut impl Iterator<Item = bool>,
        buffer: &mut [u8],
        out: &mut Received,
    ) {
        for link in &mut self.links {
            let ready = link.interest().is_none() || ready.next() != Some(false);
            let change = link.service(now, ready, buffer, out);
            if change == Change::Up && link.is_native() {
                for &target in &self.udp_targets {
                    link.push(ClientMessage::udp_target(target));
                }
            }
            if change != Change::None {
                // Up: routes without a connection have one now. Down: they move to the others.
                self.rescan = Some(0);
            }
        }
        self.announce_again();
    }

    /// Writes what is queued.
    pub fn flush(&mut self, now: Nanos) {
        for link in &mut self.links {
            if let Err(e) = link.flush() {
                link.lose(now, &e);
                self.rescan = Some(0);
            }
        }
    }

    /// Earliest time at which a connection needs [`Intercept::service`].
    pub fn deadline(&self) -> Option<Nanos> {
        self.links.iter().filter_map(Link::deadline).min()
    }

    /// True while routes wait to be announced again.
    pub fn rescanning(&self) -> bool {
        self.rescan.is_some()
    }

    /// Connections.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// Sums over all connections, routes that are live, routes announced again.
    pub fn totals(&self) -> (LinkCounters, u64, u64) {
        let mut sum = LinkCounters::default();
        for l in &self.links {
            sum.add(&l.counters);
        }
        (sum, self.routes.len() as u64, self.reannounced)
    }

    fn announce_again(&mut self) {
        let Some(start) = self.rescan else { return };
        let end = (start + RESCAN_SLOTS).min(self.routes.slots());
        for at in start..end {
            let Some(route) = self.routes.slot(at) else {
                continue;
            };
            if route.carrier.is_some_and(|c| carries(&self.links, c)) {
                continue;
            }
            let (client, target) = (route.client, route.target);
            let Some(link) = next_up(&self.links, &mut self.turn, client, target) else {
                if self.links.iter().any(Link::is_up) {
                    // IPv6 on a connection that is not native yet; when it is, a new pass begins.
                    continue;
                }
                // Nobody to tell; the next connection starts a new pass.
                self.rescan = None;
                return;
            };
            let to = &mut self.links[link];
            if to.crowded() {
                self.rescan = Some(at);
                return;
            }
            route.carrier = Some(Carrier {
                link,
                generation: to.generation(),
            });
            to.push(ClientMessage::add(client, target));
            self.reannounced += 1;
        }
        self.rescan = (end < self.routes.slots()).then_some(end);
    }
}

fn carries(links: &[Link], carrier: Carrier) -> bool {
    links
        .get(carrier.link)
        .is_some_and(|l| l.is_up() && l.generation() == carrier.generation)
}

/// The next connection that can carry the route, each in turn.
fn next_up(links: &[Link], turn: &mut usize, client: Endpoint, target: Endpoint) -> Option<usize> {
    for _ in 0..links.len() {
        let at = *turn % links.len();
        *turn = turn.wrapping_add(1);
        if links.get(at).is_some_and(|l| l.carries(client, target)) {
            return Some(at);
        }
    }
    None
}
