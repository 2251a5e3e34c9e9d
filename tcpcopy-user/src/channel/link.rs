//! One connection to an intercept.
//!
//! ```text
//!          start-up (blocking, 3 s)
//!                 │
//!   Down ──due──▶ Connecting ──▶ [Greeting, with a key] ──▶ Up ──error, EOF, silence, frame out of step──▶ Down
//!     ▲                │                  │                                                  (back-off doubles)
//!     └──── failed ────┴───── refused ────┘
//! ```
//! Nothing here blocks after start-up.

use super::counters::LinkCounters;
use super::greeting::{Greeting, KeyRefusal, Step};
use super::inbound::{Inbound, Received};
use super::liveness::{Due, Liveness, SILENCE_LIMIT};
use super::queue::{QUEUE_RECORDS, SendQueue};
use channel_crypto::{Key, Sealed};
use common::flow::Nanos;
use common::packet::Endpoint;
use common::wire::native::{ClientMessage, Pong, ServerRecord};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// How long the proof of the key may take: two round trips, and intercept's turn.
const GREETING_TIMEOUT: Nanos = Nanos::from_secs(3);
/// Between two looks at a greeting while start-up waits for it.
const GREETING_PAUSE: Duration = Duration::from_millis(1);
/// Between two lines in the log about the same refusal.
const REFUSAL_LOG_INTERVAL: Nanos = Nanos::from_secs(60);

/// Why start-up has no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// None was made.
    Unreachable(std::io::Error),
    /// It was refused, on either side.
    Key(KeyRefusal),
}

impl std::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(e) => e.fmt(f),
            Self::Key(refusal) => write!(f, "intercept {refusal}"),
        }
    }
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
    Greeting {
        socket: Socket,
        greeting: Box<Greeting>,
        give_up: Nanos,
    },
    Up {
        socket: Socket,
        inbound: Box<Inbound>,
        /// Of a peer that answers pings.
        liveness: Option<Liveness>,
        /// What its last answer said.
        pong: Pong,
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
    key: Option<Arc<Key>>,
    state: State,
    queue: SendQueue,
    backoff: Nanos,
    generation: u32,
    /// Intercept confirms routes: it said so last time.
    confirms: bool,
    /// Why the last connection was refused, and when that was logged.
    refusal: Option<(KeyRefusal, Nanos)>,
    /// Totals.
    pub counters: LinkCounters,
}

impl Link {
    /// A connection that is down and is tried at `now`; with a key, only a peer that proves the same is spoken to.
    pub fn new(peer: SocketAddr, key: Option<Arc<Key>>, now: Nanos) -> Self {
        Self {
            peer,
            key,
            state: State::Down { retry_at: now },
            queue: SendQueue::new(QUEUE_RECORDS),
            backoff: BACKOFF_MIN,
            generation: 0,
            confirms: false,
            refusal: None,
            counters: LinkCounters::default(),
        }
    }

    /// Connects and waits for it; for start-up.
    pub fn connect_blocking(&mut self) -> Result<(), ConnectError> {
        let socket = self.connected().map_err(ConnectError::Unreachable)?;
        // The clock of the worker's loop, which goes on with this connection.
        let now = dataplane::clock::now;
        self.established(now(), socket);
        let end = Instant::now() + CONNECT_TIMEOUT;
        // Nothing is announced before the greeting is over, and what follows it is not read here.
        let mut buffer = [0; 256];
        while matches!(self.state, State::Greeting { .. }) {
            if Instant::now() >= end {
                self.refuse(now(), KeyRefusal::NotNative);
            }
            std::thread::sleep(GREETING_PAUSE);
            self.greet(now(), &mut buffer, &mut Received::default());
        }
        match &self.refusal {
            Some((refusal, _)) if !self.is_up() => Err(ConnectError::Key(refusal.clone())),
            _ => self.flush().map_err(ConnectError::Unreachable),
        }
    }

    fn connected(&self) -> std::io::Result<Socket> {
        let socket = new_socket(self.peer)?;
        socket.connect_timeout(&self.peer.into(), CONNECT_TIMEOUT)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Why the last connection was refused.
    pub fn refusal(&self) -> Option<&KeyRefusal> {
        self.refusal.as_ref().map(|(refusal, _)| refusal)
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

    /// Moves the connection on: connects when due, reads at most one buffer. `ready` is false if its descriptor
    /// has nothing to read.
    pub fn service(
        &mut self,
        now: Nanos,
        ready: bool,
        buffer: &mut [u8],
        out: &mut Received,
    ) -> Change {
        match &mut self.state {
            State::Down { retry_at } if now < *retry_at => Change::None,
            State::Down { .. } => self.begin(now),
            State::Connecting { check_at, .. } if now < *check_at => Change::None,
            State::Connecting { .. } => self.check_connecting(now),
            State::Greeting { give_up, .. } if now >= *give_up => {
                self.refuse(now, KeyRefusal::NotNative);
                Change::Down
            }
            State::Greeting { .. } if ready => self.greet(now, buffer, out),
            State::Greeting { .. } => Change::None,
            State::Up { .. } => {
                let change = if ready {
                    self.receive(now, buffer, out)
                } else {
                    Change::None
                };
                if self.is_alive(now) {
                    change
                } else {
                    Change::Down
                }
            }
        }
    }

    /// Pings when that is due; false if the peer was silent for too long, which ends the connection.
    fn is_alive(&mut self, now: Nanos) -> bool {
        let State::Up {
            liveness: Some(liveness),
            ..
        } = &mut self.state
        else {
            return true;
        };
        match liveness.due(now) {
            Due::Nothing => {}
            Due::Ping => self.push(ClientMessage::ping(now.0)),
            Due::Lost => {
                let seconds = SILENCE_LIMIT.0 / 1_000_000_000;
                self.lose(
                    now,
                    &format!("no answer for {seconds} s; does intercept hang there?"),
                );
                return false;
            }
        }
        true
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
        self.take_down(now);
        if was_up {
            self.counters.losses += 1;
            tracing::warn!(intercept = %self.peer, "connection to intercept lost: {why}");
        } else {
            tracing::debug!(intercept = %self.peer, "intercept not reached: {why}");
        }
    }

    /// Takes the connection down because one side does not accept the other.
    fn refuse(&mut self, now: Nanos, refusal: KeyRefusal) {
        self.take_down(now);
        self.counters.refused += 1;
        let last = self
            .refusal
            .as_ref()
            .filter(|(last, at)| *last == refusal && now.since(*at) < REFUSAL_LOG_INTERVAL);
        let logged_at = last.map_or(now, |(_, at)| *at);
        if last.is_none() {
            tracing::warn!("intercept {} {refusal}", self.peer);
        }
        self.refusal = Some((refusal, logged_at));
    }

    fn take_down(&mut self, now: Nanos) {
        self.queue.clear();
        let pause = self.backoff;
        self.backoff = Nanos((pause.0 * 2).min(BACKOFF_MAX.0));
        self.state = State::Down {
            retry_at: now + pause,
        };
    }

    /// When [`Link::service`] has something to do without input.
    pub fn deadline(&self) -> Option<Nanos> {
        match &self.state {
            State::Down { retry_at } => Some(*retry_at),
            State::Connecting { check_at, .. } => Some(*check_at),
            State::Greeting { give_up, .. } => Some(*give_up),
            State::Up { liveness, .. } => liveness.as_ref().map(Liveness::deadline),
        }
    }

    /// Descriptor to poll for reading, and whether for writing too.
    pub fn interest(&self) -> Option<(RawFd, bool)> {
        match &self.state {
            State::Up { socket, .. } => Some((socket.as_raw_fd(), !self.queue.is_empty())),
            State::Greeting { socket, .. } => Some((socket.as_raw_fd(), false)),
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
            self.established(now, socket);
            if self.is_up() {
                tracing::info!(intercept = %self.peer, "connected to intercept again");
                return Change::Up;
            }
        }
        Change::None
    }

    /// A TCP connection is there: up without a key, else to be greeted.
    fn established(&mut self, now: Nanos, socket: Socket) {
        let Some(key) = &self.key else {
            self.queue.restart();
            self.up(socket, Inbound::open(), now);
            return;
        };
        self.state = State::Greeting {
            greeting: Box::new(Greeting::new(Arc::clone(key))),
            give_up: now + GREETING_TIMEOUT,
            socket,
        };
        self.say(now, &Greeting::hello());
    }

    fn up(&mut self, socket: Socket, inbound: Inbound, now: Nanos) {
        self.generation = self.generation.wrapping_add(1);
        self.counters.connects += 1;
        let liveness = inbound.pongs().then(|| Liveness::new(now));
        self.state = State::Up {
            socket,
            inbound: Box::new(inbound),
            liveness,
            pong: Pong::default(),
        };
    }

    /// Sends a message of the greeting: less than any socket buffer holds.
    fn say(&mut self, now: Nanos, message: &[u8]) {
        let State::Greeting { socket, .. } = &mut self.state else {
            return;
        };
        match socket.write(message) {
            Ok(n) if n == message.len() => {}
            Ok(n) => self.lose(now, &format!("{n} of {} bytes were taken", message.len())),
            Err(e) => self.lose(now, &e),
        }
    }

    fn greet(&mut self, now: Nanos, buffer: &mut [u8], out: &mut Received) -> Change {
        let State::Greeting {
            socket, greeting, ..
        } = &mut self.state
        else {
            return Change::None;
        };
        let n = match socket.read(buffer) {
            Ok(0) => {
                self.refuse(now, KeyRefusal::Closed);
                return Change::Down;
            }
            Ok(n) => n,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Change::None;
            }
            Err(_) => {
                self.refuse(now, KeyRefusal::Closed);
                return Change::Down;
            }
        };
        let mut bytes = buffer.get(..n).unwrap_or_default();
        // One message answers another: nothing comes behind it before we have said more, but for what follows the
        // last one.
        match greeting.feed(&mut bytes) {
            Ok(Step::More) => Change::None,
            Ok(Step::Send(message)) => {
                self.say(now, &message);
                Change::None
            }
            Ok(Step::Done { sealed, flags }) => self.greeted(now, sealed, flags, bytes, out),
            Err(refusal) => {
                self.refuse(now, refusal);
                Change::Down
            }
        }
    }

    /// Both sides have proved the key; `rest` has come behind the proof.
    fn greeted(
        &mut self,
        now: Nanos,
        sealed: Sealed,
        flags: u8,
        rest: &[u8],
        out: &mut Received,
    ) -> Change {
        let state = std::mem::replace(&mut self.state, State::Down { retry_at: now });
        let State::Greeting { socket, .. } = state else {
            return Change::None;
        };
        self.queue.restart_sealed(sealed.sealer);
        self.up(socket, Inbound::sealed(sealed.opener, flags), now);
        self.backoff = BACKOFF_MIN;
        if self.refusal.take().is_some() || self.counters.connects > 1 {
            tracing::info!(intercept = %self.peer, "connected to intercept again, sealed");
        }
        match self.read(rest, out) {
            Ok(()) => Change::Up,
            Err(why) => {
                self.lose(now, &why);
                Change::Down
            }
        }
    }

    /// Records of the peer. An error is why the connection must end.
    fn read(&mut self, bytes: &[u8], out: &mut Received) -> Result<(), String> {
        let State::Up {
            inbound,
            pong: last,
            ..
        } = &mut self.state
        else {
            return Ok(());
        };
        let counters = &mut self.counters;
        let known = inbound.compat_variant();
        let fed = inbound.feed(bytes, |record| match record {
            ServerRecord::Header(header) => {
                counters.responses += 1;
                out.headers.push(header);
            }
            ServerRecord::NoHeader => counters.responses_bad += 1,
            ServerRecord::Confirmed { client, target } => out.confirmed.push((client, target)),
            ServerRecord::Pong(pong) => counters.note(last, pong),
        });
        if let (None, Some(build)) = (known, inbound.compat_variant()) {
            tracing::info!(intercept = %self.peer, "intercept speaks the C tools' format, {build}");
        }
        if inbound.is_native() {
            self.confirms = inbound.confirms();
        }
        fed
    }

    fn receive(&mut self, now: Nanos, buffer: &mut [u8], out: &mut Received) -> Change {
        let State::Up {
            socket, liveness, ..
        } = &mut self.state
        else {
            return Change::None;
        };
        let why: String = match socket.read(buffer) {
            Ok(0) => "closed by intercept".to_owned(),
            Ok(n) => {
                if let Some(liveness) = liveness {
                    liveness.heard();
                }
                match self.read(buffer.get(..n).unwrap_or_default(), out) {
                    Ok(()) => return self.answered(now),
                    Err(why) => why,
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

    /// Bytes have come, in step.
    fn answered(&mut self, now: Nanos) -> Change {
        let State::Up {
            inbound, liveness, ..
        } = &mut self.state
        else {
            return Change::None;
        };
        if inbound.wants_key() {
            self.refuse(now, KeyRefusal::Required);
            return Change::Down;
        }
        // Bytes prove that the peer works; a peer that accepts and closes keeps its back-off.
        self.backoff = BACKOFF_MIN;
        if liveness.is_none() && inbound.pongs() {
            *liveness = Some(Liveness::new(now));
        }
        if inbound.is_native() && self.queue.switch() {
            self.refusal = None;
            return Change::Up;
        }
        Change::None
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
