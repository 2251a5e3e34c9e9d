//! One worker: a thread that owns its share of the sessions and everything they need.
//!
//! ```text
//!        sources (tap rings, AF_XDP queues)      other workers
//!                 │ Captured                       │ Captured
//!                 ▼                                ▼
//!             intake: decode, transfer, owner ──▶ hand-over to others, fragments to be put together
//!                 │ ClientSegment
//!                 ▼
//!   channel ──▶ engine ──▶ sender ──▶ channel (announcements), egress ports (frames)
//!   or pool readers ─┘
//! ```
//! One loop: take a batch from each source → engine → read the channel → timers, once → flush
//! announcements, then frames → rest if there was nothing. Frames go out last, so that what the
//! channel's answers and the timers released leaves in the same loop as what the batch released. The
//! clock is read once per loop. No packet costs an allocation, a lock or a system call, and nothing is
//! shared with other workers but the hand-over rings.

mod backlog;
mod control;
mod cut;
mod datagrams;
mod egress;
mod fragments;
mod intake;
mod large_datagrams;
mod latency;
mod parts;
mod pool;
mod sender;

pub use control::{Control, LiveFigures, LiveStats};
pub use datagrams::{DatagramRules, UdpParts};
pub use egress::{Egress, Hop, LiveHops, NextHops, NoSupply, Supply};
pub use fragments::FragmentRules;
pub use intake::{DECODE_ERROR_NAMES, IntakeCounters};
pub use latency::{Latencies, Latency};
pub use parts::{Counter, WorkerParts, WorkerReport};
pub use sender::SendCounters;

use crate::channel::Received;
use crate::transfers::TransferTable;
use arrayvec::ArrayVec;
use backlog::Backlog;
use common::abi::DecapConfig;
use common::flow::{ClientSegment, Nanos, flow_hash, owner};
use common::packet::DecodeError;
use datagrams::Datagrams;
use dataplane::handover::Handover;
use dataplane::idle::{self, Idle, NAP, Rest, nap};
use dataplane::poll::PollSet;
use dataplane::wake::Waker;
use dataplane::{BATCH, Capture};
use fragments::Fragments;
pub(crate) use intake::{Intake, Place, Rejected};
use pool::PoolReaders;
use sender::Sender;
use session::{Engine, Outcome};
use std::sync::Arc;

/// How often a worker shows its figures to the reporter.
const PUBLISH_INTERVAL: Nanos = Nanos::from_millis(250);
/// Rounds without a frame from before the end after which the sources count as drained although
/// newer frames keep coming: rings take turns, and this is several turns of each.
const DRAINED_ROUNDS: u32 = 256;
/// Naps that the last frames get to leave.
const LAST_FLUSHES: u32 = 200;

/// See the module.
pub struct Worker {
    id: u32,
    workers: u32,
    sources: Vec<Box<dyn Capture>>,
    pool: PoolReaders,
    handover: Handover,
    transfers: Arc<TransferTable>,
    decap: DecapConfig,
    pool_is_v4: Option<bool>,
    engine: Engine,
    datagrams: Option<Datagrams>,
    fragments: Fragments,
    sender: Sender,
    waker: Waker,
    control: Arc<Control>,
    live: Arc<LiveStats>,
    intake: IntakeCounters,
    received: Received,
    counters: Vec<Counter>,
    poll: PollSet,
    idle: Idle,
    publish_at: Nanos,
    capturing: bool,
    working: bool,
    rounds_without_old: u32,
    backlog: Backlog,
}

impl Worker {
    /// Puts a worker together.
    pub fn new(parts: WorkerParts) -> Self {
        let takes_responses = !parts.pool.is_empty();
        let pool_is_v4 = parts.engine.pool.as_ref().map(session::AddressPool::is_v4);
        Self {
            id: parts.id,
            workers: parts.workers,
            sources: parts.sources,
            pool: PoolReaders::new(parts.pool),
            handover: parts.handover,
            transfers: parts.transfers,
            decap: parts.decap,
            pool_is_v4,
            sender: Sender::new(
                parts.egress,
                parts.channel,
                (parts.id, parts.workers),
                parts.engine.mtu,
                takes_responses,
            ),
            engine: Engine::new(parts.engine),
            datagrams: parts.udp.map(|udp| Datagrams::new(udp, &parts.decap)),
            fragments: Fragments::new(parts.fragments),
            waker: parts.waker,
            control: parts.control,
            live: parts.live,
            intake: IntakeCounters::default(),
            // As many headers as one read of the channel brings, per connection at most; grows to the
            // number of connections once.
            received: Received {
                headers: Vec::with_capacity(1024),
                confirmed: Vec::new(),
            },
            counters: Vec::new(),
            poll: PollSet::new(),
            idle: Idle::default(),
            publish_at: Nanos(0),
            capturing: true,
            working: true,
            rounds_without_old: 0,
            backlog: Backlog::default(),
        }
    }

    /// Works until the control says stop and what was open has ended.
    pub fn run(mut self, clock: impl Fn() -> Nanos) -> WorkerReport {
        idle::prepare_thread();
        // Whether routes are confirmed has been said by now; it must be known before the first session.
        self.receive(clock());
        loop {
            let now = clock();
            let round = self.round(now);
            if self.finished(now, round) {
                return self.finish(&clock);
            }
            let Self {
                engine,
                sender,
                idle,
                ..
            } = &mut self;
            let busy = sender.busy();
            let deadline = || earlier(engine.next_deadline(), sender.channel().deadline());
            match idle.after(round.work, busy, now, deadline) {
                Rest::None => {}
                Rest::Nap(length) => nap(length),
                Rest::Sleep(left) => self.sleep(left),
            }
        }
    }

    fn round(&mut self, now: Nanos) -> Round {
        self.sender.begin_loop(now);
        let stop_at = self.control.stop_at();
        let frames_before = self.intake.frames;
        let late_before = self.intake.after_end;
        let mut taken = 0;
        for at in 0..self.sources.len() {
            taken += self.take(Some(at), now, stop_at);
        }
        let old = (self.intake.frames - frames_before) - (self.intake.after_end - late_before);
        let handed_over = self.take(None, now, stop_at);
        if stop_at.is_some() && self.capturing {
            self.rounds_without_old = if old == 0 {
                self.rounds_without_old + 1
            } else {
                0
            };
            if taken == 0 || self.rounds_without_old > DRAINED_ROUNDS {
                self.end_capture();
            }
        }

        self.receive(now);
        self.engine.advance(now, &mut self.sender);
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.advance(now);
        }
        let sent = self.sender.flush(now);
        if now >= self.publish_at {
            self.publish(now);
        }
        Round {
            work: taken + handed_over + self.received.headers.len() + usize::from(sent),
            handed_over,
        }
    }

    /// What the channel has.
    fn receive(&mut self, now: Nanos) {
        self.received.headers.clear();
        self.received.confirmed.clear();
        self.sender.channel().service(now, &mut self.received);
        self.pool.take(&mut self.received.headers);
        for &(client, target) in &self.received.confirmed {
            self.engine
                .route_ready(now, client, target, &mut self.sender);
        }
        self.engine
            .response_batch(now, &self.received.headers, &mut self.sender);
    }

    /// Takes one batch from a source (`None`: from other workers) through the engine.
    fn take(&mut self, source: Option<usize>, now: Nanos, stop_at: Option<Nanos>) -> usize {
        let waits_at = source
            .and_then(|at| self.sources.get(at))
            .and_then(|source| source.waits_at());
        if waits_at.is_some_and(|bytes| self.backlog.holds(bytes, &self.engine, now)) {
            return 0;
        }
        let Self {
            sources,
            handover,
            transfers,
            decap,
            engine,
            datagrams,
            fragments,
            sender,
            intake,
            ..
        } = self;
        let rules = Intake::live(transfers, decap, self.pool_is_v4, stop_at);
        let (id, workers) = (self.id, self.workers);
        let act = &mut |batch: &[common::flow::Captured<'_>], mut others: Option<&mut Handover>| {
            let mut segments: ArrayVec<ClientSegment<'_>, BATCH> = ArrayVec::new();
            for frame in batch {
                let taken = match rules.take(frame) {
                    Ok(taken) => {
                        // Once, where the frame came in.
                        if others.is_some() {
                            intake.taken(&taken);
                        }
                        taken
                    }
                    Err(why) => {
                        match (why, &mut *datagrams) {
                            (Rejected::Undecodable(DecodeError::NotTcp), Some(datagrams)) => {
                                let others = others.as_deref_mut();
                                let mine = (id, workers, now);
                                datagram(datagrams, mine, frame, others, sender, intake);
                            }
                            (Rejected::Undecodable(DecodeError::Fragment), _) => {
                                let others = others.as_deref_mut();
                                fragments.gather((id, workers), frame, others, intake);
                            }
                            _ => intake.leave_out(why),
                        }
                        continue;
                    }
                };
                let owner = owner(flow_hash(taken.segment.client), workers);
                match &mut others {
                    Some(others) if owner != id => {
                        if !others.send(owner as usize, frame) {
                            intake.handover_full += 1;
                        }
                    }
                    _ => {
                        for segment in taken.each() {
                            if let Err(full) = segments.try_push(segment) {
                                // Sources keep to BATCH, but each frame may have several targets.
                                engine.captured_batch(now, &segments, sender);
                                segments.clear();
                                segments.push(full.element());
                            }
                        }
                    }
                }
            }
            engine.captured_batch(now, &segments, sender);
        };
        let n = if let Some(at) = source {
            let Some(source) = sources.get_mut(at) else {
                return 0;
            };
            // A packet of several AF_XDP frames is more work than one, and one packet.
            let mut packets = 0;
            let n = source.recv(&mut |batch| {
                packets += batch.len() as u64;
                act(batch, Some(&mut *handover));
            });
            self.intake.frames += packets;
            n
        } else {
            let n = handover.recv(&mut |batch| act(batch, None));
            self.intake.handed_over += n as u64;
            n
        };
        if self.fragments.are_ready() {
            self.replay_whole(now, stop_at);
        }
        n
    }

    /// All frames from before the end are in: notes the sources' counters and lets go of them.
    fn end_capture(&mut self) {
        for source in &mut self.sources {
            let counters = &mut self.counters;
            source.counters(&mut |name, value| {
                counters.push(Counter {
                    group: "capture",
                    name,
                    value,
                });
            });
        }
        self.sources.clear();
        self.capturing = false;
        self.control.capture_done();
    }

    /// All workers end together: those without an own transmit queue send through another's.
    fn finished(&mut self, now: Nanos, round: Round) -> bool {
        if self.control.stop_at().is_none() {
            return false;
        }
        let quiet = !self.capturing
            && self.control.capturing() == 0
            && round.handed_over == 0
            && self.engine.open_sessions() == 0
            && !self.engine.awaits_syn();
        if quiet && self.working {
            self.working = false;
            self.control.work_done();
        }
        (quiet && self.control.working() == 0) || now >= self.control.give_up_at()
    }

    fn finish(mut self, clock: &impl Fn() -> Nanos) -> WorkerReport {
        if self.capturing {
            self.end_capture();
        }
        let now = clock();
        self.engine.shutdown(now, &mut self.sender);
        self.sender.flush(now);
        for _ in 0..LAST_FLUSHES {
            if !self.sender.busy() {
                break;
            }
            nap(NAP);
            self.sender.flush(now);
        }
        self.sender.begin_loop(clock());
        self.publish(now);
        self.fragments.end();
        self.counters.extend(self.fragments.counters());
        let counters = &mut self.counters;
        self.handover.counters(&mut |name, value| {
            counters.push(Counter {
                group: "handover",
                name,
                value,
            });
        });
        self.sender.egress().counters(&mut |name, value| {
            counters.push(Counter {
                group: "tx",
                name,
                value,
            });
        });
        counters.push(Counter {
            group: "tx",
            name: "segments_cut",
            value: self.sender.counters().cut,
        });
        self.pool.counters(&mut |name, value| {
            counters.push(Counter {
                group: "pool",
                name,
                value,
            });
        });
        self.sender.channel().counters(&mut |name, value| {
            counters.push(Counter {
                group: "channel",
                name,
                value,
            });
        });
        WorkerReport {
            totals: self.engine.totals().clone(),
            udp: self.datagrams.as_ref().map(Datagrams::totals),
            latencies: self.sender.latencies().clone(),
            sent: self.sender.counters(),
            intake: self.intake,
            counters: self.counters,
        }
    }

    fn publish(&mut self, now: Nanos) {
        self.publish_at = now + PUBLISH_INTERVAL;
        self.fragments.expire(now);
        let totals = self.engine.totals();
        self.live.publish(LiveFigures {
            open: self.engine.open_sessions() as u64,
            sessions: totals.sessions,
            completed: totals.outcome(Outcome::Completed),
            frames: self.intake.frames,
            sent: self.sender.counters().sent
                + self.datagrams.as_ref().map_or(0, |d| d.totals().sent),
            responses: totals.responses,
            bytes_captured: totals.bytes_captured,
            bytes_delivered: totals.bytes_delivered,
        });
    }

    /// Asks everything that can bring work for a wake-up, looks once more, and sleeps.
    fn sleep(&mut self, mut at_most: Nanos) {
        // Sources that are held back have frames, which is no reason to stay awake.
        let held = self.backlog.is_holding();
        if held {
            at_most = at_most.min(backlog::LOOK_AGAIN);
        }
        let listens = |source: &dyn Capture| !(held && source.waits_at().is_some());
        let armed = self.waker.prepare_sleep()
            && self.handover.arm()
            && self.pool.arm()
            && self
                .sources
                .iter_mut()
                .all(|source| !listens(source.as_ref()) || source.arm());
        if armed {
            self.poll.clear();
            self.poll.add(self.waker.fd(), false);
            for fd in self.handover.fds() {
                self.poll.add(fd, false);
            }
            for fd in self.pool.fds() {
                self.poll.add(fd, false);
            }
            let sources = self.sources.iter().filter(|s| listens(s.as_ref()));
            for fd in sources.flat_map(|source| source.fds()) {
                self.poll.add(fd, false);
            }
            let poll = &mut self.poll;
            self.sender
                .channel()
                .interests(|fd, write| poll.add(fd, write));
            self.poll.wait(at_most);
        }
        self.waker.clear();
    }
}

/// What a round came to.
#[derive(Clone, Copy, Debug)]
struct Round {
    work: usize,
    handed_over: usize,
}

/// Replays a frame that is not TCP, or hands it to its owner; `mine` are this worker's number, that of all
/// workers, and the time.
fn datagram(
    datagrams: &mut Datagrams,
    (id, workers, now): (u32, u32, Nanos),
    frame: &common::flow::Captured<'_>,
    others: Option<&mut Handover>,
    sender: &mut Sender,
    intake: &mut IntakeCounters,
) {
    let (owner, taken) = match datagrams.decode(frame, workers) {
        Ok(taken) => taken,
        Err(why) => return intake.leave_out(why),
    };
    // Once, where the frame came in.
    if others.is_some() {
        intake.came_in(taken.tunnels, taken.cut);
    }
    match others {
        Some(others) if owner != id => {
            if !others.send(owner as usize, frame) {
                intake.handover_full += 1;
            }
        }
        _ => datagrams.replay(now, &taken.datagram, sender),
    }
}

fn earlier(a: Option<Nanos>, b: Option<Nanos>) -> Option<Nanos> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
