//! The control thread: accepts peers, reads their announcements, tells the workers.
//!
//! One poll(2) loop over at most `MAX_CONNECTIONS` sockets of peers and `MAX_STRANGERS` of those that have not
//! said hello yet (or, with a key, have not proved it). From each readable one a bounded piece is
//! read per round, so a peer that floods gets its turn like the others, and one that stalls in the
//! middle of a record (which freezes the C program) only keeps its own partial record.

use super::reader::{Event, Format, Reader, Refused};
use super::strangers::{Pace, Stranger, Strangers};
use super::{Command, CommandSender, ConnectionId, Throttle};
use crate::routes::RouteKey;
use channel_crypto::Key;
use common::flow::{Nanos, flow_hash, owner};
use common::packet::Endpoint;
use common::wire::compat::{CLIENT_RECORD_BYTES, ClientRecord, VERSION};
use dataplane::poll::PollSet;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
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
/// Of these, those of one address: sixteen workers with the most connections of each. A stranger that speaks C can
/// only be told from a tcpcopy by a key; without one it must not take all places.
pub const MAX_PER_ADDRESS: usize = 192;
/// Read per connection and round.
const READ_BYTES: usize = 4096;
/// Commands that one read can become, and the Open and Close that may come with it.
const READ_COMMANDS: usize = READ_BYTES / CLIENT_RECORD_BYTES + 3;
/// tcpcopy says hello at once; who does not is a port scanner or half open.
const HELLO_TIMEOUT: Duration = Duration::from_secs(30);
/// A tcpcopy of ours pings every 5 s; whose host or process hangs is closed, and its places are free again.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// Sleep while no more may be accepted.
const PACED_TIMEOUT: Nanos = Nanos::from_millis(5);
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
#[derive(Clone, Debug)]
pub struct ControlOptions {
    /// Who says no hello for so long, or does not prove the key, is closed (30 s).
    pub hello_timeout: Duration,
    /// Routes are confirmed; peers that do not offer the native format are refused.
    pub confirms: bool,
    /// Who pings and then says nothing for so long is closed (30 s).
    pub silence: Duration,
    /// Only who proves it is a peer.
    pub key: Option<Arc<Key>>,
}

impl Default for ControlOptions {
    fn default() -> Self {
        Self {
            hello_timeout: HELLO_TIMEOUT,
            confirms: false,
            silence: SILENCE_LIMIT,
            key: None,
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
    /// Connections that said hello, and proved the key if there is one.
    pub greeted: u64,
    /// Closed because the first record was no hello.
    pub not_hello: u64,
    /// Refused because they speak the C format, where routes must be confirmed.
    pub not_native: u64,
    /// Closed because no hello, or no proof of the key, came in time.
    pub hello_timeouts: u64,
    /// Closed before they said hello because newer ones came.
    pub displaced: u64,
    /// Refused because of a key: none, another one, or one where we have none.
    pub key_refused: u64,
    /// Refused because 256 connections were open, or 192 of one address.
    pub refused_full: u64,
    /// Peers closed because they stopped to ping.
    pub silent: u64,
    /// Pings.
    pub pings: u64,
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
    /// When it said something last, if its silence means something.
    heard: Option<Instant>,
}

type Places = Vec<(u32, Option<Connection>)>;

/// The control thread's state. See the module head.
pub struct Control {
    listener: TcpListener,
    commands: CommandSender,
    options: ControlOptions,
    /// Who wants to know of new targets, and those it knows.
    targets: Option<(TargetSink, HashSet<Announced>)>,
    /// By place; generations survive the connections.
    connections: Places,
    strangers: Strangers,
    pace: Pace,
    poll: PollSet,
    /// Of the listener, the connections and the strangers, in order.
    ready: Vec<bool>,
    totals: ControlTotals,
    full_log: Throttle,
    garbage_log: Throttle,
    key_log: Throttle,
    /// Of tcpcopys that cannot do what is demanded.
    peers_log: Throttle,
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
            strangers: Strangers::default(),
            pace: Pace::new(Instant::now()),
            poll: PollSet::new(),
            ready: Vec::new(),
            totals: ControlTotals::default(),
            full_log: Throttle::default(),
            garbage_log: Throttle::default(),
            key_log: Throttle::default(),
            peers_log: Throttle::default(),
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
            let accepting = self.pace.left(Instant::now()) > 0;
            self.poll.clear();
            for (_, connection) in &self.connections {
                if let Some(c) = connection {
                    self.poll.add(c.socket.as_raw_fd(), false);
                }
            }
            for stranger in self.strangers.iter() {
                self.poll.add(stranger.socket.as_raw_fd(), false);
            }
            // Last, so that it may be left out.
            if accepting {
                self.poll.add(self.listener.as_raw_fd(), false);
            }
            if self.poll.wait(if accepting {
                POLL_TIMEOUT
            } else {
                PACED_TIMEOUT
            }) {
                self.ready.clear();
                self.ready.extend(self.poll.ready());
                self.read_all();
                self.accept();
            }
            self.drop_silent();
            self.commands.wake();
        }
        self.totals
    }

    fn accept(&mut self) {
        // Bounded: a connect flood does not keep the peers from being read.
        for _ in 0..self.pace.left(Instant::now()).min(16) {
            match self.listener.accept() {
                Ok((socket, peer)) => {
                    self.pace.accepted();
                    self.admit(socket, peer);
                }
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
        if let Err(error) = socket.set_nonblocking(true) {
            tracing::warn!(%peer, %error, "closed: cannot set socket options");
            return;
        }
        let displaced = self.strangers.admit(Stranger {
            socket: Arc::new(socket),
            peer,
            reader: Reader::new(self.options.key.clone(), self.options.confirms),
            accepted: Instant::now(),
        });
        if let Some(old) = displaced {
            self.totals.displaced += 1;
            if let Some(more) = self.garbage_log.pass(Instant::now()) {
                tracing::warn!(
                    peer = %old.peer, suppressed = more,
                    "closed: has not said hello, and newer connections want its place; a port scan, or a flood?"
                );
            }
        }
    }

    fn read_all(&mut self) {
        let mut buffer = [0; READ_BYTES];
        let ready = std::mem::take(&mut self.ready);
        // In the order in which they were put into the poll set.
        let mut readable = ready.iter().copied();
        for index in 0..self.connections.len() {
            let Some((_, place)) = self.connections.get_mut(index) else {
                continue;
            };
            if place.is_none() || readable.next() != Some(true) {
                continue;
            }
            if self.commands.room() < READ_COMMANDS {
                return self.wait_for_workers(ready);
            }
            let Some(mut connection) = place.take() else {
                continue;
            };
            match recv(&*connection.socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => self.closed(&connection, "closed by tcpcopy"),
                Ok((_, n)) => {
                    let bytes = buffer.get(..n).unwrap_or_default();
                    connection.heard = connection.heard.map(|_| Instant::now());
                    let Connection {
                        id,
                        socket,
                        peer,
                        reader,
                        ..
                    } = &mut connection;
                    match self.take(Some(*id), socket, *peer, reader, bytes).refused {
                        None => self.put(connection),
                        Some(refused) => {
                            self.refuse(&connection.socket, connection.peer, &refused);
                            self.closed(&connection, "closed");
                        }
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => self.put(connection),
                Err(error) => self.closed(&connection, &format!("lost: {error}")),
            }
        }
        for stranger in self.strangers.take() {
            if readable.next() != Some(true) || self.commands.room() < READ_COMMANDS {
                self.strangers.put_back(stranger);
                continue;
            }
            match recv(&*stranger.socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => tracing::debug!(peer = %stranger.peer, "closed before a hello"),
                Ok((_, n)) => {
                    let bytes = buffer.get(..n).unwrap_or_default();
                    self.greet(stranger, bytes);
                }
                Err(Errno::AGAIN | Errno::INTR) => self.strangers.put_back(stranger),
                Err(error) => {
                    tracing::debug!(peer = %stranger.peer, "lost before a hello: {error}");
                }
            }
        }
        self.ready = ready;
    }

    /// Workers are behind. Nothing is lost: the peers' data stays in their sockets.
    fn wait_for_workers(&mut self, ready: Vec<bool>) {
        self.ready = ready;
        self.commands.wake();
        std::thread::sleep(BACKOFF);
    }

    fn put(&mut self, connection: Connection) {
        if let Some((_, place)) = self.connections.get_mut(connection.id.index as usize) {
            *place = Some(connection);
        }
    }

    /// Bytes of a stranger, which may make it a peer.
    fn greet(&mut self, mut stranger: Stranger, bytes: &[u8]) {
        let Stranger {
            socket,
            peer,
            reader,
            ..
        } = &mut stranger;
        let said = self.take(None, socket, *peer, reader, bytes);
        if let Some(refused) = &said.refused {
            self.refuse(socket, *peer, refused);
        }
        let peer = *peer;
        match said.id {
            Some(id) if said.refused.is_none() => {
                if let Err(error) = prepare(&stranger.socket) {
                    tracing::warn!(%peer, %error, "cannot set socket options");
                }
                self.put(Connection {
                    id,
                    socket: stranger.socket,
                    peer,
                    reader: stranger.reader,
                    heard: said.pings.then(Instant::now),
                });
            }
            // Greeted, and out of step in the same breath.
            Some(id) => self.tell_closed(id),
            None if said.full => {
                self.totals.refused_full += 1;
                if let Some(more) = self.full_log.pass(Instant::now()) {
                    tracing::warn!(
                        %peer, suppressed = more,
                        "refused: {MAX_CONNECTIONS} connections are open, or {MAX_PER_ADDRESS} of this address"
                    );
                }
            }
            None if said.refused.is_some() => {}
            None => self.strangers.put_back(stranger),
        }
    }

    /// Turns bytes of a peer, or of a stranger without an `id`, into commands.
    fn take(
        &mut self,
        id: Option<ConnectionId>,
        socket: &Arc<TcpStream>,
        peer: SocketAddr,
        reader: &mut Reader,
        bytes: &[u8],
    ) -> Said {
        let Self {
            connections,
            commands,
            totals,
            targets,
            unknown_log,
            ..
        } = self;
        let workers = commands.workers();
        let mut said = Said {
            id,
            ..Said::default()
        };
        let fed = reader.feed(bytes, |event| {
            let record = match event {
                Event::Answer(answer) => {
                    said.failed |= !say(socket, &answer);
                    return;
                }
                Event::Greeted {
                    version,
                    pings,
                    format,
                } => {
                    let Some(id) = reserve(connections, peer) else {
                        said.full = true;
                        return;
                    };
                    (said.id, said.pings) = (Some(id), pings);
                    totals.greeted += 1;
                    if version != VERSION {
                        tracing::warn!(%peer, version, "tcpcopy has another protocol version, expected {VERSION}");
                    }
                    let spoken = match format {
                        Format::Compat => "C",
                        Format::Native(_) => "native",
                        Format::Sealed(_) => "sealed",
                    };
                    tracing::info!(%peer, format = spoken, "tcpcopy connected");
                    let mut writing = Some((Arc::clone(socket), format));
                    for worker in 0..workers {
                        let writing = writing.take_if(|_| worker == id.owner(workers));
                        commands.send(worker, Command::Open { connection: id, peer, writing });
                    }
                    return;
                }
                Event::Record(record) => record,
            };
            // Behind a hello for which there was no place.
            let Some(id) = said.id else { return };
            match record {
                ClientRecord::Hello { .. } => {}
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
                ClientRecord::Ping { token } => {
                    totals.pings += 1;
                    commands.send(id.owner(workers), Command::Ping { connection: id, token });
                }
                ClientRecord::Unknown { kind } => {
                    totals.unknown += 1;
                    if let Some(more) = unknown_log.pass(Instant::now()) {
                        tracing::warn!(%peer, kind, suppressed = more, "ignored a record of unknown type");
                    }
                }
            }
        });
        said.refused = fed.err();
        if said.failed && said.refused.is_none() {
            said.refused = Some(Refused::Failed(
                "the greeting could not be written".to_owned(),
            ));
        }
        said
    }

    fn refuse(&mut self, socket: &TcpStream, peer: SocketAddr, refused: &Refused) {
        // It may not read it; the log has it too.
        let _ = say(socket, &refused.last_words());
        // A flood of one kind does not hide the others.
        let totals = &mut self.totals;
        let (count, log) = match refused {
            Refused::NotHello { .. } => (&mut totals.not_hello, &mut self.garbage_log),
            Refused::NotNative => (&mut totals.not_native, &mut self.peers_log),
            Refused::NoKey { .. } => (&mut totals.key_refused, &mut self.peers_log),
            _ => (&mut totals.key_refused, &mut self.key_log),
        };
        *count += 1;
        if let Some(more) = log.pass(Instant::now()) {
            tracing::warn!(%peer, suppressed = more, "closed: {refused}");
        }
    }

    fn closed(&mut self, connection: &Connection, why: &str) {
        tracing::info!(peer = %connection.peer, "{why}");
        self.tell_closed(connection.id);
    }

    fn tell_closed(&mut self, connection: ConnectionId) {
        for worker in 0..self.commands.workers() {
            self.commands.send(worker, Command::Close { connection });
        }
    }

    /// Closes connections that have said no hello in time, and peers that have stopped to ping.
    fn drop_silent(&mut self) {
        let timeout = self.options.hello_timeout;
        for stranger in self.strangers.take_if(|s| s.accepted.elapsed() >= timeout) {
            self.totals.hello_timeouts += 1;
            if let Some(more) = self.garbage_log.pass(Instant::now()) {
                let seconds = timeout.as_secs();
                tracing::warn!(peer = %stranger.peer, suppressed = more, "closed: no hello within {seconds} s");
            }
        }
        let limit = self.options.silence;
        for index in 0..self.connections.len() {
            let place = self.connections.get_mut(index).map(|(_, place)| place);
            let silent = |c: &mut Connection| c.heard.is_some_and(|at| at.elapsed() >= limit);
            if let Some(connection) = place.and_then(|place| place.take_if(silent)) {
                self.totals.silent += 1;
                let seconds = limit.as_secs();
                self.closed(
                    &connection,
                    &format!("closed: has not pinged for {seconds} s; does tcpcopy hang there?"),
                );
            }
        }
    }
}

/// What became of some bytes.
#[derive(Default)]
struct Said {
    /// Of the peer; of a stranger if it has become one.
    id: Option<ConnectionId>,
    pings: bool,
    refused: Option<Refused>,
    /// It said hello, and there is no place for it.
    full: bool,
    /// It could not be answered.
    failed: bool,
}

/// A free place, which is used once more.
fn reserve(connections: &mut Places, peer: SocketAddr) -> Option<ConnectionId> {
    let of_address =
        |(_, c): &&(u32, Option<Connection>)| c.as_ref().is_some_and(|c| c.peer.ip() == peer.ip());
    if connections.iter().filter(of_address).count() >= MAX_PER_ADDRESS {
        return None;
    }
    let index = connections.iter().position(|(_, c)| c.is_none());
    let index = index.unwrap_or(connections.len());
    if index >= MAX_CONNECTIONS {
        return None;
    }
    if index == connections.len() {
        connections.push((0, None));
    }
    let (generation, _) = connections.get_mut(index)?;
    *generation += 1;
    Some(ConnectionId {
        index: index as u32,
        generation: *generation,
    })
}

/// Writes a message of the greeting, which an empty socket buffer always has room for; false if it had not.
fn say(socket: &TcpStream, message: &[u8]) -> bool {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    message.is_empty() || send(socket, message, flags) == Ok(message.len())
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
