//! One connection to an intercept.
//!
//! ```text
//!          start-up (blocking, 3 s)
//!                 │
//!   Down ──due──▶ Connecting ──▶ Up ──error, EOF, frame out of step──▶ Down (back-off doubles)
//!     ▲                │
//!     └──── failed ────┘
//! ```
//! Nothing here blocks after start-up.

use super::queue::{QUEUE_RECORDS, SendQueue};
use common::flow::{Nanos, ResponseHeader};
use common::packet::Endpoint;
use common::wire::native::{ClientMessage, ServerRecord, ServerStream};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

/// How long start-up waits for an intercept: two SYN retransmissions of Linux (after 1 s and 3 s) are
/// one too many for an operator in front of a terminal, one is not.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// First pause before connecting again; a restarted intercept is back within that order.
const BACKOFF_MIN: Nanos = Nanos::from_millis(100);
/// Longest pause: sessions time out in tens of seconds, so more would cost some that could be saved.
const BACKOFF_MAX: Nanos = Nanos::from_secs(5);
/// How often a connection attempt is looked at.
const CONNECT_CHECK: Nanos = Nanos::from_millis(10);
/// A silent peer is probed after this long: C intercepts say nothing for hours when idle.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// Time between probes; three unanswered ones end the connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
const KEEPALIVE_PROBES: u32 = 3;
/// Written bytes that are not acknowledged for this long end the connection (RFC 5482), much earlier
/// than the 15 minutes of retransmissions that Linux would go through.
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// Counters of a connection, over all its lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Times the connection was made.
    pub connects: u64,
    /// Times it was lost.
    pub losses: u64,
    /// Records written whole.
    pub records_sent: u64,
    /// Records dropped because the queue was full.
    pub records_dropped: u64,
    /// Response headers received.
    pub responses: u64,
    /// Records that are no IPv4/TCP header.
    pub responses_bad: u64,
}

/// What has come from intercepts.
#[derive(Debug, Default)]
pub struct Received {
    /// Responses.
    pub headers: Vec<ResponseHeader>,
    /// Client and target of each confirmed route.
    pub confirmed: Vec<(Endpoint, Endpoint)>,
}

#[derive(Debug)]
enum State {
    Down {
        retry_at: Nanos,
    },
    Connecting {
        socket: Socket,
        give_up: Nanos,
        check_at: Nanos,
    },
    Up {
        socket: Socket,
        decoder: Box<ServerStream>,
    },
}

/// What became of a connection in one [`Link::service`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// It is up now, or has just become native: routes that it could not carry before have a way.
    Up,
    /// It is down now.
    Down,
}

/// A connection that comes back by itself.
#[derive(Debug)]
pub struct Link {
    peer: SocketAddr,
    state: State,
    queue: SendQueue,
    backoff: Nanos,
    generation: u32,
    /// Intercept confirms routes: it said so last time.
    confirms: bool,
    /// Totals.
    pub counters: LinkCounters,
}

impl Link {
    /// A connection that is down and is tried at `now`.
    pub fn new(peer: SocketAddr, now: Nanos) -> Self {
        Self {
            peer,
            state: State::Down { retry_at: now },
            queue: SendQueue::new(QUEUE_RECORDS),
            backoff: BACKOFF_MIN,
            generation: 0,
            confirms: false,
            counters: LinkCounters::default(),
        }
    }

    /// Connects and waits for it; for start-up.
    pub fn connect_blocking(&mut self) -> std::io::Result<()> {
        let socket = new_socket(self.peer)?;
        socket.connect_timeout(&self.peer.into(), CONNECT_TIMEOUT)?;
        socket.set_nonblocking(true)?;
        self.established(socket);
        self.flush()
    }

    /// Records can be queued.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// Changes with every new connection.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Queue more than half full.
    pub fn crowded(&self) -> bool {
        self.queue.crowded()
    }

    /// Queues a record. Call only while up.
    pub fn push(&mut self, message: ClientMessage) {
        self.counters.records_dropped += u64::from(self.queue.push(message));
    }

    /// Up, and able to carry routes of this client and target: IPv6 only once intercept has shown that it
    /// speaks our own format.
    pub fn carries(&self, client: Endpoint, target: Endpoint) -> bool {
        self.is_up() && (self.queue.is_native() || (client.addr.is_v4() && target.addr.is_v4()))
    }

    /// Intercept has answered our offer.
    pub fn is_native(&self) -> bool {
        self.is_up() && self.queue.is_native()
    }

    /// Intercept confirms routes, as far as is known.
    pub fn confirms(&self) -> bool {
        self.confirms
    }

    /// Moves the connection on: connects when due, reads at most one buffer.
    pub fn service(&mut self, now: Nanos, buffer: &mut [u8], out: &mut Received) -> Change {
        match &mut self.state {
            State::Down { retry_at } if now < *retry_at => Change::None,
            State::Down { .. } => self.begin(now),
            State::Connecting { check_at, .. } if now < *check_at => Change::None,
            State::Connecting { .. } => self.check_connecting(now),
            State::Up { .. } => self.receive(now, buffer, out),
        }
    }

    /// Writes what is queued, as far as the socket takes it.
    pub fn flush(&mut self) -> std::io::Result<()> {
        let State::Up { socket, .. } = &mut self.state else {
            return Ok(());
        };
        if self.queue.is_empty() {
            return Ok(());
        }
        self.counters.records_sent += self.queue.write_to(socket)?;
        Ok(())
    }

    /// Takes the connection down and says why in the log.
    pub fn lose(&mut self, now: Nanos, why: &dyn std::fmt::Display) {
        let was_up = self.is_up();
        self.queue.clear();
        let pause = self.backoff;
        self.backoff = Nanos((pause.0 * 2).min(BACKOFF_MAX.0));
        self.state = State::Down {
            retry_at: now + pause,
        };
        if was_up {
            self.counters.losses += 1;
            tracing::warn!(intercept = %self.peer, "connection to intercept lost: {why}");
        } else {
            tracing::debug!(intercept = %self.peer, "intercept not reached: {why}");
        }
    }

    /// When [`Link::service`] has something to do without input.
    pub fn deadline(&self) -> Option<Nanos> {
        match &self.state {
            State::Down { retry_at } => Some(*retry_at),
            State::Connecting { check_at, .. } => Some(*check_at),
            State::Up { .. } => None,
        }
    }

    /// Descriptor to poll for reading, and whether for writing too.
    pub fn interest(&self) -> Option<(RawFd, bool)> {
        match &self.state {
            State::Up { socket, .. } => Some((socket.as_raw_fd(), !self.queue.is_empty())),
            _ => None,
        }
    }

    fn begin(&mut self, now: Nanos) -> Change {
        let begun = new_socket(self.peer).and_then(|socket| {
            socket.set_nonblocking(true)?;
            match socket.connect(&self.peer.into()) {
                Ok(()) => Ok(socket),
                Err(e) if e.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => Ok(socket),
                Err(e) => Err(e),
            }
        });
        match begun {
            Ok(socket) => {
                let give_up = now + Nanos(CONNECT_TIMEOUT.as_nanos() as u64);
                self.state = State::Connecting {
                    socket,
                    give_up,
                    check_at: now + CONNECT_CHECK,
                };
            }
            Err(e) => self.lose(now, &e),
        }
        Change::None
    }

    fn check_connecting(&mut self, now: Nanos) -> Change {
        let State::Connecting {
            socket,
            give_up,
            check_at,
        } = &mut self.state
        else {
            return Change::None;
        };
        let failed = match socket.take_error() {
            Ok(None) => None,
            Ok(Some(e)) | Err(e) => Some(e),
        };
        if let Some(e) = failed {
            self.lose(now, &e);
            return Change::None;
        }
        if socket.peer_addr().is_err() {
            if now >= *give_up {
                self.lose(now, &"no answer");
            } else {
                *check_at = now + CONNECT_CHECK;
            }
            return Change::None;
        }
        let state = std::mem::replace(&mut self.state, State::Down { retry_at: now });
        if let State::Connecting { socket, .. } = state {
            self.established(socket);
            tracing::info!(intercept = %self.peer, "connected to intercept again");
        }
        Change::Up
    }

    fn established(&mut self, socket: Socket) {
        self.queue.restart();
        self.generation = self.generation.wrapping_add(1);
        self.counters.connects += 1;
        self.state = State::Up {
            socket,
            decoder: Box::default(),
        };
    }

    fn receive(&mut self, now: Nanos, buffer: &mut [u8], out: &mut Received) -> Change {
        let State::Up { socket, decoder } = &mut self.state else {
            return Change::None;
        };
        let why: String = match socket.read(buffer) {
            Ok(0) => "closed by intercept".to_owned(),
            Ok(n) => {
                // Bytes prove that the peer works; a peer that accepts and closes keeps its back-off.
                self.backoff = BACKOFF_MIN;
                let counters = &mut self.counters;
                let known = decoder.compat_variant();
                let fed =
                    decoder.feed(buffer.get(..n).unwrap_or_default(), |record| match record {
                        ServerRecord::Header(header) => {
                            counters.responses += 1;
                            out.headers.push(header);
                        }
                        ServerRecord::NoHeader => counters.responses_bad += 1,
                        ServerRecord::Confirmed { client, target } => {
                            out.confirmed.push((client, target));
                        }
                    });
                if let (None, Some(build)) = (known, decoder.compat_variant()) {
                    tracing::info!(intercept = %self.peer, "intercept speaks the C tools' format, {build}");
                }
                if decoder.is_native() {
                    self.confirms = decoder.confirms();
                }
                match fed {
                    Ok(()) if decoder.is_native() && self.queue.switch() => return Change::Up,
                    Ok(()) => return Change::None,
                    Err(bad) => bad.to_string(),
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Change::None;
            }
            Err(e) => e.to_string(),
        };
        self.lose(now, &why);
        Change::Down
    }
}

fn new_socket(peer: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(peer), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(socket)
}
