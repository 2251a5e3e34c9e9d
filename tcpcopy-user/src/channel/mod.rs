//! The channel to intercept, from the side that asks: one per worker, in the C programs' format, or in ours once
//! intercept has answered the offer in the hello (`common::wire::native`).
//!
//! ```text
//!  engine ──announce──▶ Channel ──▶ Intercept (one per -s) ──▶ Link (-C each) ──CLIENT_ADD──▶ intercept
//!                                     routes of live sessions    bounded queue
//!  engine ◀──ResponseHeader── service() ◀─────────────────────── FrameDecoder ◀──frames────── intercept
//! ```
//! A route is announced to every intercept, on one connection of each; responses come back on that
//! connection. Nothing blocks after start-up and no record is ever left half written while the
//! connection takes bytes. A connection that was lost comes back by itself, and the routes it carried
//! are announced again, at once on another connection if there is one.

mod confirmations;
mod counters;
mod greeting;
mod inbound;
mod intercept;
mod link;
mod liveness;
mod queue;
mod routes;

pub use greeting::KeyRefusal;
pub use inbound::Received;
pub use link::CONNECT_TIMEOUT;

use channel_crypto::Key;
use common::flow::Nanos;
use common::packet::Endpoint;
use confirmations::Confirmations;
use dataplane::poll::PollSet;
use dataplane::{CounterSink, clock};
use intercept::Intercept;
use link::ConnectError;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes read from a connection per loop, some 1000 responses. The rest stays in the socket buffer
/// and comes one loop later.
const READ_BYTES: usize = 64 * 1024;

/// An intercept of ours answers the hello within a round trip and a loop of its own; a C intercept never does.
pub const NATIVE_TIMEOUT: Duration = Duration::from_secs(3);
const NATIVE_PAUSE: Duration = Duration::from_millis(2);

/// Why the channel could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// An intercept did not take a connection.
    #[error(
        "intercept {intercept} cannot be reached: {source}; start intercept-user there first, or go on without it with --lonely"
    )]
    Unreachable {
        /// Its address.
        intercept: Endpoint,
        /// What the connection attempt said.
        source: std::io::Error,
    },
    /// The two have not come together about the key.
    #[error("intercept {intercept} {refusal}")]
    Key {
        /// Its address.
        intercept: Endpoint,
        /// Why.
        refusal: KeyRefusal,
    },
    /// It cannot carry what the transfer list needs.
    #[error(
        "intercept {intercept} has not answered our offer to speak more than the C tools' format, which carries IPv4 only, but target {target} is IPv6; run intercept-user of this version there, or give an IPv4 target"
    )]
    NotNative {
        /// Its address.
        intercept: Endpoint,
        /// The target.
        target: Endpoint,
    },
}

/// Connections of one worker to all intercepts.
#[derive(Debug)]
pub struct Channel {
    intercepts: Vec<Intercept>,
    buffer: Box<[u8]>,
    poll: PollSet,
    /// Announcements of IPv6 that no intercept could carry: they speak the C format, or have not answered yet.
    unspeakable: u64,
    confirmations: Confirmations,
}

impl Channel {
    /// Connects to all intercepts, waiting at most [`CONNECT_TIMEOUT`] for each connection. With
    /// `lonely`, those that cannot be reached are tried again later by [`Channel::service`].
    pub fn connect(
        intercepts: &[Endpoint],
        connections: u8,
        lonely: bool,
        now: Nanos,
    ) -> Result<Self, ChannelError> {
        Self::connect_with(intercepts, connections, lonely, None, now)
    }

    /// The same; with a key, connections are sealed, and only to intercepts that prove the same key.
    pub fn connect_with(
        intercepts: &[Endpoint],
        connections: u8,
        lonely: bool,
        key: Option<&Arc<Key>>,
        now: Nanos,
    ) -> Result<Self, ChannelError> {
        let mut all = Vec::with_capacity(intercepts.len());
        for &peer in intercepts {
            let mut intercept = Intercept::new(peer, connections, key, now);
            match intercept.connect_blocking() {
                Ok(()) => {}
                Err(error) if lonely => {
                    tracing::warn!(intercept = %peer, "not reached, going on without: {error}");
                }
                Err(ConnectError::Unreachable(source)) => {
                    return Err(ChannelError::Unreachable {
                        intercept: peer,
                        source,
                    });
                }
                Err(ConnectError::Key(refusal)) => {
                    return Err(ChannelError::Key {
                        intercept: peer,
                        refusal,
                    });
                }
            }
            all.push(intercept);
        }
        Ok(Self {
            intercepts: all,
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            poll: PollSet::new(),
            unspeakable: 0,
            confirmations: Confirmations::default(),
        })
    }

    /// Waits until every intercept carries IPv6 responses, as those of `target`, at most `limit`
    /// ([`NATIVE_TIMEOUT`]).
    pub fn await_native(&mut self, target: Endpoint, limit: Duration) -> Result<(), ChannelError> {
        let end = Instant::now() + limit;
        // Nothing has been announced yet.
        let mut none = Received::default();
        loop {
            let Some(other) = self.intercepts.iter().find(|i| !i.is_native()) else {
                return Ok(());
            };
            if let Some(refusal) = other.refusal() {
                return Err(ChannelError::Key {
                    intercept: other.peer(),
                    refusal: refusal.clone(),
                });
            }
            if Instant::now() >= end {
                return Err(ChannelError::NotNative {
                    intercept: other.peer(),
                    target,
                });
            }
            self.flush(clock::now());
            self.service(clock::now(), &mut none);
            std::thread::sleep(NATIVE_PAUSE);
        }
    }

    /// Asks all intercepts for the responses of `target` to `client`. False: none could be asked.
    pub fn announce(&mut self, client: Endpoint, target: Endpoint) -> bool {
        let mut told = false;
        for intercept in &mut self.intercepts {
            // Every one must hear it, not only the first that can.
            told |= intercept.announce(client, target);
        }
        if !told && self.is_up() && !(client.addr.is_v4() && target.addr.is_v4()) {
            self.unspeakable += 1;
        }
        told
    }

    /// True if the SYN of a session that has just been announced had better wait: one or more intercepts, on targets,
    /// will confirm that they take its responses. False the second time.
    pub fn awaits(&mut self, client: Endpoint, target: Endpoint) -> bool {
        let mut due = 0;
        for intercept in &mut self.intercepts {
            due += usize::from(intercept.confirms(client, target));
        }
        self.confirmations.awaits(client, target, due)
    }

    /// Tells all intercepts of the targets of UDP, whose answers they shall swallow: now, and on each
    /// connection that is made later.
    pub fn set_udp_targets(&mut self, targets: &[Endpoint]) {
        for intercept in &mut self.intercepts {
            intercept.set_udp_targets(targets);
        }
    }

    /// The responses are not needed any more.
    pub fn retire(&mut self, client: Endpoint, target: Endpoint) {
        self.confirmations.forget(client, target);
        for i in &mut self.intercepts {
            i.retire(client, target);
        }
    }

    /// Moves connections on and appends received headers to `out`, and the routes that every intercept has confirmed
    /// that will. One poll tells which of several
    /// connections to read; most rounds find nothing, and a read of each would say so one by one.
    pub fn service(&mut self, now: Nanos, out: &mut Received) {
        let mut up = 0;
        self.poll.clear();
        for link in self.intercepts.iter().flat_map(Intercept::links) {
            if let Some((fd, _)) = link.interest() {
                self.poll.add(fd, false);
                up += 1;
            }
        }
        // A single connection is read at once: the same one call.
        let polled = up > 1;
        let any = polled && self.poll.wait(Nanos(0));
        let mut ready = self.poll.ready().map(|ready| !polled || (any && ready));
        for i in &mut self.intercepts {
            i.service(now, &mut ready, &mut self.buffer, out);
        }
        let confirmations = &mut self.confirmations;
        out.confirmed
            .retain(|&(client, target)| confirmations.complete(client, target));
    }

    /// Writes what announcements have queued. Called before the packets that need them go out.
    pub fn flush(&mut self, now: Nanos) {
        for i in &mut self.intercepts {
            i.flush(now);
        }
    }

    /// When [`Channel::service`] is needed without input.
    pub fn deadline(&self) -> Option<Nanos> {
        self.intercepts.iter().filter_map(Intercept::deadline).min()
    }

    /// True while announcements are outstanding that no descriptor would wake the worker for.
    pub fn busy(&self) -> bool {
        self.intercepts.iter().any(Intercept::rescanning)
    }

    /// True if at least one intercept can be asked.
    pub fn is_up(&self) -> bool {
        self.intercepts.iter().any(Intercept::is_up)
    }

    /// Addresses of intercepts without any connection.
    pub fn unreachable(&self) -> impl Iterator<Item = Endpoint> + '_ {
        self.intercepts
            .iter()
            .filter(|i| !i.is_up())
            .map(Intercept::peer)
    }

    /// Descriptors to wait for, with true for those that wait for room to write as well.
    pub fn interests(&self, mut each: impl FnMut(RawFd, bool)) {
        for link in self.intercepts.iter().flat_map(Intercept::links) {
            if let Some((fd, write)) = link.interest() {
                each(fd, write);
            }
        }
    }

    /// Totals for the report.
    pub fn counters(&self, sink: CounterSink<'_>) {
        for i in &self.intercepts {
            let (c, live, again) = i.totals();
            sink("connects", c.connects);
            sink("losses", c.losses);
            sink("records_sent", c.records_sent);
            sink("records_dropped", c.records_dropped);
            sink("responses", c.responses);
            sink("responses_bad", c.responses_bad);
            sink("key_refused", c.refused);
            sink("pongs", c.pongs);
            sink("intercept_sent", c.far_sent);
            sink("intercept_dropped", c.far_dropped);
            sink("intercept_lag_max_ns", c.far_lag_max_ns);
            sink("routes_live", live);
            sink("routes_announced_again", again);
        }
        sink("family_not_carried", self.unspeakable);
        let (awaited, confirmed) = self.confirmations.totals();
        sink("confirmations_awaited", awaited);
        sink("confirmations_come", confirmed);
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
