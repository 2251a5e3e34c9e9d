//! What a worker does with one response, and with one command. No sockets but through [`Connections`],
//! no clock.

use super::connections::Connections;
use crate::channel::{Command, ConnectionId, Kind, Links, Response, Routed};
use crate::mapping::Mappings;
use crate::routes::{KernelRoutes, Parked, ParkedTotals, RouteKey, RouteTable, RouteTotals};
use common::flow::{Captured, Nanos, ResponseHeader, flow_hash, owner};
use common::packet::{DecodeError, decode_frame};
use common::wire::native::HeaderRecord;
use dataplane::handover::Handover;
use hdrhistogram::Histogram;

/// Sizes of the tables, of all workers together.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Routes.
    pub routes: usize,
    /// Memory for early responses.
    pub parked_bytes: usize,
    /// A route that no response uses for so long is forgotten.
    pub route_idle: Nanos,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            routes: 1 << 20,
            // 60,000 early responses: a second's worth at 60,000 new sessions a second.
            parked_bytes: 8 << 20,
            route_idle: Nanos::from_secs(600),
        }
    }
}

/// Packets by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketTotals {
    /// Frames taken from this worker's queues.
    pub received: u64,
    /// Passed on to the worker that owns their route.
    pub handed_over: u64,
    /// Lost because that worker's ring was full.
    pub handover_dropped: u64,
    /// Not decodable, by cause.
    pub undecodable: [u64; 6],
    /// Records, whose route was there at once.
    pub routed: u64,
    /// Whose addresses were mapped.
    pub mapped: u64,
    /// Records beyond the first of packets that one cannot tell the length of.
    pub split: u64,
}

impl std::ops::AddAssign for PacketTotals {
    fn add_assign(&mut self, o: Self) {
        self.received += o.received;
        self.handed_over += o.handed_over;
        self.handover_dropped += o.handover_dropped;
        for (a, b) in self.undecodable.iter_mut().zip(o.undecodable) {
            *a += b;
        }
        self.routed += o.routed;
        self.mapped += o.mapped;
        self.split += o.split;
    }
}

/// What a worker leaves behind.
pub struct WorkerReport {
    /// Packets.
    pub packets: PacketTotals,
    /// Routes.
    pub routes: RouteTotals,
    /// Routes at the end.
    pub routes_live: u64,
    /// Early responses.
    pub parked: ParkedTotals,
    /// Early responses at the end.
    pub parked_live: u64,
    /// Records lost between two workers.
    pub link_dropped: u64,
    /// Records for a connection that was closed while they were on their way.
    pub homeless: u64,
    /// By connection; without an address: the sum of those not listed.
    pub peers: Vec<(Option<std::net::SocketAddr>, crate::channel::OutputTotals)>,
    /// Nanoseconds from the kernel's capture to the write to the peer's socket.
    pub turnaround: Histogram<u64>,
    /// Of the capture sources.
    pub capture: Vec<(&'static str, u64)>,
}

/// Longest turnaround that is told apart: what waits longer waits for a peer that does not read.
const TURNAROUND_MAX_NS: u64 = 60_000_000_000;

/// A histogram for turnaround times: 1 ns to one minute, three digits (about 200 KiB).
///
/// # Panics
/// Never: the bounds are constants that the crate accepts (low >= 1, high >= 2 * low, digits <= 5).
pub fn turnaround_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, TURNAROUND_MAX_NS, 3)
        .expect("constant bounds: 1 ns to 60 s, 3 digits")
}

/// Most payload that a record tells of: C's has a total length of 16 bits, which holds both headers too.
const MAX_RECORD_PAYLOAD_BYTES: u32 = 65_535 - 20 - 60;

/// State of a worker beside its sources.
pub struct Core {
    worker: u32,
    workers: u32,
    routes: RouteTable,
    parked: Parked,
    /// On the target itself: knows the routes too, and each is confirmed once it does.
    kernel: Option<Box<dyn KernelRoutes>>,
    connections: Connections,
    links: Links,
    mappings: Mappings,
    /// See [`Links::waiting`].
    link_counts: Vec<usize>,
    /// Capture times of records that this flush wrote.
    written: Vec<Nanos>,
    turnaround: Histogram<u64>,
    packets: PacketTotals,
}

impl Core {
    /// Worker `worker` of `workers`; `limits` are divided by their number.
    pub fn new(
        worker: u32,
        workers: u32,
        links: Links,
        limits: &Limits,
        mappings: Mappings,
        kernel: Option<Box<dyn KernelRoutes>>,
        now: Nanos,
    ) -> Self {
        let share = workers.max(1) as usize;
        let routes = RouteTable::new(now, limits.routes.div_ceil(share), limits.route_idle);
        Self {
            worker,
            workers,
            routes: if kernel.is_some() {
                routes.lingering()
            } else {
                routes
            },
            parked: Parked::new(limits.parked_bytes / share),
            connections: Connections::default(),
            kernel,
            links,
            mappings,
            link_counts: Vec::with_capacity(share),
            written: Vec::with_capacity(1024),
            turnaround: turnaround_histogram(),
            packets: PacketTotals::default(),
        }
    }

    /// A frame of this worker's own queues: ours, or another worker's by the owner rule.
    #[inline]
    pub fn frame(&mut self, now: Nanos, frame: &Captured<'_>, handover: &mut Handover) {
        self.packets.received += 1;
        let Some(header) = self.decode(frame, true) else {
            return;
        };
        let to = owner(flow_hash(header.client), self.workers);
        if to == self.worker {
            self.response(now, frame, &header);
        } else if handover.send(to as usize, frame) {
            self.packets.handed_over += 1;
        } else {
            self.packets.handover_dropped += 1;
        }
    }

    /// A frame that another worker handed over.
    #[inline]
    pub fn handed_over(&mut self, now: Nanos, frame: &Captured<'_>) {
        if let Some(header) = self.decode(frame, false) {
            self.response(now, frame, &header);
        }
    }

    #[inline]
    fn decode(&mut self, frame: &Captured<'_>, first: bool) -> Option<ResponseHeader> {
        match decode_frame(frame.bytes) {
            Ok(packet) => {
                let length = frame.meta.frame_len as usize;
                let mut header = ResponseHeader::from_packet(frame.bytes, &packet, length);
                if !self.mappings.is_empty() {
                    let mapped = self.mappings.apply(&mut header);
                    // Where it is decoded first.
                    self.packets.mapped += u64::from(mapped && first);
                }
                Some(header)
            }
            Err(error) => {
                self.undecodable(error);
                None
            }
        }
    }

    #[cold]
    fn undecodable(&mut self, error: DecodeError) {
        if let Some(count) = self.packets.undecodable.get_mut(error as usize) {
            *count += 1;
        }
    }

    #[inline]
    fn response(&mut self, now: Nanos, frame: &Captured<'_>, header: &ResponseHeader) {
        if header.payload_len <= MAX_RECORD_PAYLOAD_BYTES {
            self.record(now, frame.meta.at, header);
        } else {
            self.long_response(now, frame.meta.at, header);
        }
    }

    /// What GRO merged into a packet of more than 64 KiB (BIG TCP): as the packets that it would be without.
    #[cold]
    fn long_response(&mut self, now: Nanos, at: Nanos, header: &ResponseHeader) {
        for (n, piece) in header.pieces(MAX_RECORD_PAYLOAD_BYTES).enumerate() {
            self.packets.split += u64::from(n > 0);
            self.record(now, at, &piece);
        }
    }

    #[inline]
    fn record(&mut self, now: Nanos, at: Nanos, header: &ResponseHeader) {
        let response = Response {
            kind: Kind::Header,
            at,
            record: HeaderRecord::new(header).to_bytes(),
        };
        let key = RouteKey {
            client: header.client,
            target: header.target,
        };
        match self.routes.hit(now, &key, header.flags) {
            Some(connection) if self.connections.is_open(connection) => {
                self.packets.routed += 1;
                self.pass_on(connection, &response);
            }
            Some(_) => {
                // Its connection closed a moment ago. tcpcopy may announce it again on another.
                self.routes.forget_closed(now, &key);
                self.parked.park(now, key, response);
            }
            None => self.parked.park(now, key, response),
        }
    }

    /// Takes note of how many records other workers have sent so far; [`Core::take_links`] takes these.
    ///
    /// Called before commands are drained: a record was sent after its connection's Open, so once the
    /// commands are drained, the connection of every record counted here is known.
    pub fn count_links(&mut self) {
        self.links.waiting(&mut self.link_counts);
    }

    /// Queues the records counted before; returns their number.
    pub fn take_links(&mut self) -> usize {
        let Self {
            links,
            link_counts,
            connections,
            ..
        } = self;
        links.take(link_counts, |routed| {
            connections.push(routed.connection, &routed.response);
        })
    }

    /// A command of the control thread.
    pub fn command(&mut self, now: Nanos, command: Command) {
        match command {
            Command::Open {
                connection,
                peer,
                writing,
            } => {
                self.connections.open(connection, peer, writing);
            }
            Command::Ping { connection, token } => self.connections.ping(connection, token),
            Command::Close { connection } => {
                if self.connections.close(connection) {
                    self.routes.connection_closed();
                }
            }
            Command::Del { key, connection } => self.routes.retire(now, &key, connection),
            Command::Add { key, connection } => {
                self.routes.add(now, key, connection);
                self.tell_kernel_of(now, key, connection);
                let Self {
                    parked,
                    connections,
                    links,
                    worker,
                    workers,
                    ..
                } = self;
                parked.take(&key, |response| {
                    send(connections, links, *worker, *workers, connection, response);
                });
            }
        }
    }

    /// Puts a new route into the kernel, and confirms it: tcpcopy sends the SYN upon that.
    fn tell_kernel_of(&mut self, now: Nanos, key: RouteKey, connection: ConnectionId) {
        self.forget_in_kernel();
        let Some(kernel) = &mut self.kernel else {
            return;
        };
        if !kernel.insert(&key) {
            return;
        }
        let confirmation = Response {
            kind: Kind::Confirmed,
            at: now,
            record: HeaderRecord::confirmed(key.client, key.target).to_bytes(),
        };
        self.pass_on(connection, &confirmation);
    }

    #[inline]
    fn pass_on(&mut self, connection: ConnectionId, response: &Response) {
        send(
            &mut self.connections,
            &mut self.links,
            self.worker,
            self.workers,
            connection,
            response,
        );
    }

    /// Takes routes that the table has forgotten out of the kernel.
    fn forget_in_kernel(&mut self) {
        if let Some(kernel) = &mut self.kernel {
            for key in self.routes.removed() {
                kernel.remove(&key);
            }
        }
    }

    /// End of a batch: records go to the workers that own their connections, and out. `clock` is read
    /// once, after the writes, if anything was written.
    pub fn flush(&mut self, now: Nanos, clock: impl FnOnce() -> Nanos) {
        self.links.flush();
        self.connections.flush(now, &mut self.written);
        if self.written.is_empty() {
            return;
        }
        let written = clock();
        for at in self.written.drain(..) {
            self.turnaround.saturating_record(written.since(at).0);
        }
    }

    /// Expiry, a bounded piece. True if more is to do at once.
    pub fn advance(&mut self, now: Nanos) -> bool {
        let Self {
            routes,
            parked,
            connections,
            ..
        } = self;
        let more = routes.advance(now, |id| connections.is_open(id));
        let more = parked.advance(now) || more;
        self.forget_in_kernel();
        more
    }

    /// When [`Core::advance`] may next have something to do.
    pub fn next_deadline(&self, now: Nanos) -> Option<Nanos> {
        match (self.routes.next_deadline(now), self.parked.next_deadline()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Nothing from other workers.
    pub fn links_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Connections, for sleeping.
    pub fn connections(&mut self) -> &mut Connections {
        &mut self.connections
    }

    /// The end; `capture` are the counters of its sources.
    pub fn finish(self, capture: Vec<(&'static str, u64)>) -> WorkerReport {
        WorkerReport {
            packets: self.packets,
            routes: self.routes.totals(),
            routes_live: self.routes.len() as u64,
            parked: self.parked.totals(),
            parked_live: self.parked.len() as u64,
            link_dropped: self.links.dropped(),
            homeless: self.connections.homeless(),
            peers: self.connections.finish(),
            turnaround: self.turnaround,
            capture,
        }
    }
}

/// To the connection's queue if it is this worker's, else to the worker that owns it.
#[inline]
fn send(
    connections: &mut Connections,
    links: &mut Links,
    worker: u32,
    workers: u32,
    connection: ConnectionId,
    response: &Response,
) {
    let to = connection.owner(workers);
    if to == worker {
        connections.push(connection, response);
    } else {
        links.stage(
            to,
            Routed {
                connection,
                response: *response,
            },
        );
    }
}
