//! Connections that have not shown what they are: port scanners, the half open, and tcpcopys for a round trip.
//!
//! They have places of their own, so that no number of them takes those of peers. When the places are full, one of
//! the address that has most of them goes, its oldest: a flood displaces itself, not the tcpcopy that connects
//! meanwhile. How many are accepted per second is bounded too, and with it what a flood costs.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Reader;

/// Places: some tcpcopys that open all their connections at once. Each holds a reader of 200 bytes and a socket of
/// which at most one record is read.
pub const MAX_STRANGERS: usize = 64;
/// Accepted per second. Each costs some 20 us for accept, read and close: 4 % of a core.
const ACCEPTS_PER_SECOND: u32 = 2000;
/// Accepted at once after a quiet time: as many as the kernel's backlog holds.
const ACCEPT_BURST: u32 = 128;

/// One of them.
pub struct Stranger {
    pub socket: Arc<TcpStream>,
    pub peer: SocketAddr,
    pub reader: Reader,
    pub accepted: Instant,
}

/// All of them, in the order in which they came.
#[derive(Default)]
pub struct Strangers {
    all: Vec<Stranger>,
}

impl Strangers {
    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &Stranger> {
        self.all.iter()
    }

    /// Adds one; another goes if all places are taken.
    pub fn admit(&mut self, stranger: Stranger) -> Option<Stranger> {
        let displaced = (self.all.len() >= MAX_STRANGERS).then(|| {
            let at = self.worst(stranger.peer.ip());
            self.all.remove(at)
        });
        self.all.push(stranger);
        displaced
    }

    /// The oldest of the address that has most, `coming` counted in.
    fn worst(&self, coming: IpAddr) -> usize {
        let mut counts: HashMap<IpAddr, usize> = HashMap::from([(coming, 1)]);
        for s in &self.all {
            *counts.entry(s.peer.ip()).or_default() += 1;
        }
        let count = |s: &Stranger| counts.get(&s.peer.ip()).copied().unwrap_or(0);
        let most = self.all.iter().map(count).max().unwrap_or(0);
        self.all.iter().position(|s| count(s) == most).unwrap_or(0)
    }

    /// Takes those out for which `gone` holds.
    pub fn take_if(&mut self, mut gone: impl FnMut(&Stranger) -> bool) -> Vec<Stranger> {
        self.all.extract_if(.., |s| gone(s)).collect()
    }

    /// Takes all out; those that stay strangers are put back in order.
    pub fn take(&mut self) -> Vec<Stranger> {
        std::mem::take(&mut self.all)
    }

    /// Puts one back.
    pub fn put_back(&mut self, stranger: Stranger) {
        self.all.push(stranger);
    }
}

/// Bounds how many are accepted.
pub struct Pace {
    left: u32,
    filled: Instant,
}

impl Pace {
    /// Full.
    pub fn new(now: Instant) -> Self {
        Self {
            left: ACCEPT_BURST,
            filled: now,
        }
    }

    /// How many may be accepted now.
    pub fn left(&mut self, now: Instant) -> u32 {
        let per_accept = Duration::from_secs(1) / ACCEPTS_PER_SECOND;
        let due = now.saturating_duration_since(self.filled).as_nanos() / per_accept.as_nanos();
        let due = u32::try_from(due).unwrap_or(u32::MAX);
        if due >= ACCEPT_BURST - self.left {
            (self.left, self.filled) = (ACCEPT_BURST, now);
        } else {
            self.left += due;
            self.filled += per_accept * due;
        }
        self.left
    }

    /// One was.
    pub fn accepted(&mut self) {
        self.left = self.left.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn stranger(socket: &Arc<TcpStream>, last: u8, port: u16) -> Stranger {
        Stranger {
            socket: Arc::clone(socket),
            peer: SocketAddr::from(([192, 0, 2, last], port)),
            reader: Reader::new(None, false),
            accepted: Instant::now(),
        }
    }

    #[test]
    fn a_flood_displaces_itself() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let socket = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        let socket = Arc::new(socket);
        let mut strangers = Strangers::default();
        assert!(strangers.admit(stranger(&socket, 1, 1)).is_none());
        for port in 1..MAX_STRANGERS as u16 {
            assert!(strangers.admit(stranger(&socket, 2, port)).is_none());
        }
        for port in 100..300 {
            let gone = strangers.admit(stranger(&socket, 2, port)).expect("full");
            assert_eq!(gone.peer.ip(), IpAddr::from([192, 0, 2, 2]));
            assert_ne!(gone.peer.port(), port, "the oldest goes, not the newest");
        }
        let gone = strangers.admit(stranger(&socket, 3, 1)).expect("full");
        assert_eq!(gone.peer.ip(), IpAddr::from([192, 0, 2, 2]));
        assert_eq!(strangers.iter().count(), MAX_STRANGERS);
        let quiet = strangers.take_if(|s| s.peer.ip() == IpAddr::from([192, 0, 2, 1]));
        assert_eq!(quiet.len(), 1, "who came first and alone is still there");
    }

    #[test]
    fn the_pace_is_kept_whatever_the_steps() {
        let start = Instant::now();
        for step in [Duration::from_micros(70), Duration::from_millis(3)] {
            let mut pace = Pace::new(start);
            let mut accepted = 0;
            let mut now = start;
            while now < start + Duration::from_secs(2) {
                while pace.left(now) > 0 {
                    pace.accepted();
                    accepted += 1;
                }
                now += step;
            }
            let most = 2 * ACCEPTS_PER_SECOND + ACCEPT_BURST;
            assert!((most - 10..=most).contains(&accepted), "{accepted}");
        }
    }
}
