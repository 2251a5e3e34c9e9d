//! The control thread: accepts peers, reads their announcements, tells the workers.
//!
//! One poll(2) loop over at most `MAX_CONNECTIONS` sockets. From each readable one a bounded piece is
//! read per round, so a peer that floods gets its turn like the others, and one that stalls in the
//! middle of a record (which freezes the C program) only keeps its own partial record.

use super::{Command, CommandSender, ConnectionId, Reader, Refused, Throttle};
use crate::routes::RouteKey;
use common::flow::{Nanos, flow_hash, owner};
use common::packet::Endpoint;
use common::wire::compat::{CLIENT_RECORD_BYTES, ClientRecord, VERSION};
use common::wire::native;
use dataplane::poll::PollSet;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use socket2::{SockRef, TcpKeepalive};
use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Connections at a time: 23 instances of tcpcopy with its most, 11. Each may hold 600 KiB.
pub const MAX_CONNECTIONS: usize = 256;
/// Read per connection and round.
const READ_BYTES: usize = 4096;
/// Commands that one read can become, and the Open and Close that may come with it.
const READ_COMMANDS: usize = READ_BYTES / CLIENT_RECORD_BYTES + 3;
/// tcpcopy says hello at once; who does not is a port scanner or half open.
const HELLO_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest sleep: how late the end of the program or a hello timeout may be seen.
const POLL_TIMEOUT: Nanos = Nanos::from_millis(100);
/// Wait when workers are behind with commands, or descriptors have run out.
const BACKOFF: Duration = Duration::from_millis(1);
/// A tcpcopy host that vanished without a word is noticed after 30 + 3 x 10 s.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
/// Written data unacknowledged, or a peer that does not read, for so long ends the connection
/// (tcp(7), TCP_USER_TIMEOUT): what waits by then is stale.
const USER_TIMEOUT: Duration = Duration::from_mins(1);

/// Settings.
#[derive(Clone, Copy, Debug)]
pub struct ControlOptions {
    /// Who says no hello for so long is closed (30 s).
    pub hello_timeout: Duration,
    /// Peers that do not offer the native format are refused.
    pub native_only: bool,
}

impl Default for ControlOptions {
    fn default() -> Self {
        Self {
            hello_timeout: HELLO_TIMEOUT,
            native_only: false,
        }
    }
}

/// A target that a peer announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Announced {
    /// By its first session.
    Tcp(Endpoint),
    /// As a target of datagrams.
    Udp(Endpoint),
}

/// Told of each target that peers announce, the first time.
pub type TargetSink = Box<dyn FnMut(Announced) + Send>;

/// Targets that are remembered: a peer that makes up more does not get them taken.
const MAX_TARGETS: usize = 4096;

/// What happened on the reading side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlTotals {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that said hello.
    pub greeted: u64,
    /// Closed because the first record was no hello.
    pub not_hello: u64,
    /// Closed because no hello came in time.
    pub hello_timeouts: u64,
    /// Refused because 256 connections were open.
    pub refused_full: u64,
    /// Route announcements.
    pub adds: u64,
    /// Routes given back.
    pub dels: u64,
    /// Announcements of UDP targets.
    pub udp_targets: u64,
    /// Records of unknown type, ignored.
    pub unknown: u64,
}

struct Connection {
    id: ConnectionId,
    socket: Arc<TcpStream>,
    peer: SocketAddr,
    reader: Reader,
    accepted: Instant,
}

/// The control thread's state. See the module head.
pub struct Control {
    listener: TcpListener,
    commands: CommandSender,
    options: ControlOptions,
    /// Who wants to know of new targets, and those it knows.
    targets: Option<(TargetSink, HashSet<Announced>)>,
    /// By place; generations survive the connections.
    connections: Vec<(u32, Option<Connection>)>,
    poll: PollSet,
    totals: ControlTotals,
    full_log: Throttle,
    garbage_log: Throttle,
    unknown_log: Throttle,
    accept_log: Throttle,
}

impl Control {
    /// For a nonblocking listener.
    pub fn new(listener: TcpListener, commands: CommandSender, options: ControlOptions) -> Self {
        Self {
            listener,
            commands,
            options,
            targets: None,
            connections: Vec::new(),
            poll: PollSet::new(),
            totals: ControlTotals::default(),
            full_log: Throttle::default(),
            garbage_log: Throttle::default(),
            unknown_log: Throttle::default(),
            accept_log: Throttle::default(),
        }
    }

    /// Tells `sink` of the targets that peers announce, before their routes count.
    #[must_use]
    pub fn with_targets(mut self, sink: Option<TargetSink>) -> Self {
        self.targets = sink.map(|sink| (sink, HashSet::new()));
        self
    }

    /// Serves until `stop` is set.
    pub fn run(mut self, stop: &AtomicBool) -> ControlTotals {
        while !stop.load(Ordering::Acquire) {
            self.poll.clear();
            self.poll.add(self.listener.as_raw_fd(), false);
            for (_, connection) in &self.connections {
                if let Some(c) = connection {
                    self.poll.add(c.socket.as_raw_fd(), false);
                }
            }
            if self.poll.wait(POLL_TIMEOUT) {
                self.accept();
                self.read_all();
            }
            self.drop_silent();
            self.commands.wake();
        }
        self.totals
    }

    fn accept(&mut self) {
        // Bounded: a connect flood does not keep the peers from being read.
        for _ in 0..16 {
            match self.listener.accept() {
                Ok((socket, peer)) => self.admit(socket, peer),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if transient(&e) => {}
                Err(e) => {
                    // Out of descriptors or memory: the connection stays in the backlog.
                    if let Some(more) = self.accept_log.pass(Instant::now()) {
                        tracing::warn!(error = %e, suppressed = more, "cannot accept a tcpcopy");
                    }
                    std::thread::sleep(BACKOFF);
                    return;
                }
            }
        }
    }

    fn admit(&mut self, socket: TcpStream, peer: SocketAddr) {
        self.totals.accepted += 1;
        let index = self.connections.iter().position(|(_, c)| c.is_none());
        let index = index.unwrap_or(self.connections.len());
        if index >= MAX_CONNECTIONS {
            self.totals.refused_full += 1;
            if let Some(more) = self.full_log.pass(Instant::now()) {
                tracing::warn!(%peer, suppressed = more, "refused: {MAX_CONNECTIONS} connections are open");
            }
            return;
        }
        if let Err(error) = prepare(&socket) {
            tracing::warn!(%peer, %error, "closed: cannot set socket options");
            return;
        }
        if index == self.connections.len() {
            self.connections.push((0, None));
        }
        let Some((generation, place)) = self.connections.get_mut(index) else {
            return;
        };
        *generation += 1;
        *place = Some(Connection {
            id: ConnectionId {
                index: index as u32,
                generation: *generation,
            },
            socket: Arc::new(socket),
            peer,
            reader: Reader::new(self.options.native_only),
            accepted: Instant::now(),
        });
    }

    fn read_all(&mut self) {
        let mut buffer = [0; READ_BYTES];
        for index in 0..self.connections.len() {
            if self.commands.room() < READ_COMMANDS {
                // Workers are behind. Nothing is lost: the peers' data stays in their sockets.
                self.commands.wake();
                std::thread::sleep(BACKOFF);
                return;
            }
            let Some((_, Some(connection))) = self.connections.get_mut(index) else {
                continue;
            };
            match recv(&*connection.socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => self.close(index, "closed by tcpcopy"),
                Ok((_, n)) => {
                    let bytes = buffer.get(..n).unwrap_or_default();
                    if let Err(refused) = self.take(index, bytes) {
                        self.refuse(index, &refused);
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => self.close(index, &format!("lost: {error}")),
            }
        }
    }

    /// Turns bytes of a peer into commands.
    fn take(&mut self, index: usize, bytes: &[u8]) -> Result<(), Refused> {
        let Self {
            connections,
            commands,
            totals,
            targets,
            unknown_log,
            ..
        } = self;
        let Some((_, Some(connection))) = connections.get_mut(index) else {
            return Ok(());
        };
        let (id, peer) = (connection.id, connection.peer);
        let workers = commands.workers();
        let socket = &connection.socket;
        connection.reader.feed(bytes, |record| match record {
            ClientRecord::Hello { version, extension } => {
                let native = native::offered(extension);
                totals.greeted += 1;
                if version != VERSION {
                    tracing::warn!(%peer, version, "tcpcopy has another protocol version, expected {VERSION}");
                }
                tracing::info!(%peer, native, "tcpcopy connected");
                for worker in 0..workers {
                    let socket = (worker == id.owner(workers)).then(|| Arc::clone(socket));
                    commands.send(worker, Command::Open { connection: id, peer, native, socket });
                }
            }
            ClientRecord::Add { client, target } => {
                totals.adds += 1;
                tell(targets, Announced::Tcp(target));
                let key = RouteKey { client, target };
                let worker = owner(flow_hash(client), workers);
                commands.send(worker, Command::Add { key, connection: id });
            }
            ClientRecord::Del { client, target } => {
                totals.dels += 1;
                let key = RouteKey { client, target };
                let worker = owner(flow_hash(client), workers);
                commands.send(worker, Command::Del { key, connection: id });
            }
            ClientRecord::UdpTarget { target } => {
                totals.udp_targets += 1;
                tell(targets, Announced::Udp(target));
            }
            ClientRecord::Unknown { kind } => {
                totals.unknown += 1;
                if let Some(more) = unknown_log.pass(Instant::now()) {
                    tracing::warn!(%peer, kind, suppressed = more, "ignored a record of unknown type");
                }
            }
        })
    }

    fn refuse(&mut self, index: usize, refused: &Refused) {
        self.totals.not_hello += 1;
        let Some((_, place)) = self.connections.get_mut(index) else {
            return;
        };
        if let Some(connection) = place.take()
            && let Some(more) = self.garbage_log.pass(Instant::now())
        {
            tracing::warn!(peer = %connection.peer, suppressed = more, "closed: {refused}");
        }
    }

    fn close(&mut self, index: usize, why: &str) {
        let Some((_, place)) = self.connections.get_mut(index) else {
            return;
        };
        let Some(connection) = place.take() else {
            return;
        };
        if !connection.reader.greeted() {
            tracing::debug!(peer = %connection.peer, "{why} before a hello");
            return;
        }
        tracing::info!(peer = %connection.peer, "{why}");
        for worker in 0..self.commands.workers() {
            self.commands.send(
                worker,
                Command::Close {
                    connection: connection.id,
                },
            );
        }
    }

    /// Closes connections that have said no hello in time.
    fn drop_silent(&mut self) {
        let timeout = self.options.hello_timeout;
        for (_, place) in &mut self.connections {
            let Some(c) = place.take_if(|c| !c.reader.greeted() && c.accepted.elapsed() >= timeout)
            else {
                continue;
            };
            self.totals.hello_timeouts += 1;
            if let Some(more) = self.garbage_log.pass(Instant::now()) {
                let seconds = timeout.as_secs();
                tracing::warn!(peer = %c.peer, suppressed = more, "closed: no hello within {seconds} s");
            }
        }
    }
}

/// Tells of a target if it is a new one.
fn tell(targets: &mut Option<(TargetSink, HashSet<Announced>)>, target: Announced) {
    if let Some((sink, known)) = targets
        && known.len() < MAX_TARGETS
        && known.insert(target)
    {
        sink(target);
    }
}

/// Errors of accept(2) that concern the one connection (accept(2), "Error handling").
fn transient(e: &io::Error) -> bool {
    !matches!(
        e.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // Frames are written whole, once per batch: Nagle would only hold them back.
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}
