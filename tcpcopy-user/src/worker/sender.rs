//! The engine's output side of one worker: frames, announcements, measurements.
//!
//! ```text
//!  engine ─Segment─▶ Egress::find ─▶ reserve ─▶ build_tcp_frame ─▶ commit ┐
//!         ─announce─▶ Channel queue ┐                                    │
//!                                   ▼ flush(): announcements, then frames ▼
//! ```
//! Processing latency: the worker reads the clock once per loop, so the time at which a batch was
//! flushed is the next loop's reading, which follows at once (a loop that sent something does not
//! sleep). Until then the samples wait in `flushed`.

use super::egress::{Egress, NoWay};
use super::latency::{Latencies, Latency};
use crate::channel::Channel;
use common::flow::{Cause, Nanos, Segment};
use common::packet::{Endpoint, UdpFrame, build_tcp_frame, build_udp_frame};
use dataplane::BATCH;
use session::{Metric, Outcome, Output, SessionEnd, UdpDrop, UdpOutput};

/// Samples that may wait for a flush: some batches of merged packets cut into segments. What comes
/// beyond is not measured, never delayed.
const SAMPLES: usize = 64 * BATCH;

/// Sessions that did not complete and are named in the log, per worker and run: enough to see a
/// pattern, and a target that is down does not flood the disk.
const NAMED_SESSIONS: u32 = 100;

/// Segments by what became of them here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendCounters {
    /// Handed to a port.
    pub sent: u64,
    /// Destination was no target: a bug upstream, stopped here.
    pub not_a_target: u64,
    /// Next hop unknown at the time.
    pub no_next_hop: u64,
    /// All transmit frames were in flight.
    pub no_frame: u64,
    /// Larger than a transmit frame, or of two address families.
    pub not_built: u64,
}

impl SendCounters {
    /// Adds another worker's.
    pub fn merge(&mut self, other: &Self) {
        self.sent += other.sent;
        self.not_a_target += other.not_a_target;
        self.no_next_hop += other.no_next_hop;
        self.no_frame += other.no_frame;
        self.not_built += other.not_built;
    }
}

/// See the module.
pub struct Sender {
    egress: Egress,
    channel: Channel,
    latencies: Latencies,
    counters: SendCounters,
    /// For each captured segment committed since the last flush: its capture time plus what was
    /// deliberate.
    committed: Vec<Nanos>,
    /// The same, flushed, waiting for the next clock reading.
    flushed: Vec<Nanos>,
    /// Frames were committed since the last flush.
    dirty: bool,
    /// Sessions named in the log so far.
    named: u32,
}

impl Sender {
    /// For a new worker.
    pub fn new(egress: Egress, channel: Channel) -> Self {
        Self {
            egress,
            channel,
            latencies: Latencies::default(),
            counters: SendCounters::default(),
            committed: Vec::with_capacity(SAMPLES),
            flushed: Vec::with_capacity(SAMPLES),
            dirty: false,
            named: 0,
        }
    }

    /// Takes the clock reading that follows the last flush, and changed next hops.
    pub fn begin_loop(&mut self, now: Nanos) {
        for due in self.flushed.drain(..) {
            self.latencies.record(Latency::Processing, now.since(due));
        }
        self.egress.refresh();
    }

    /// Announcements first, so that intercept knows a session before its SYN leaves; then frames. True
    /// if there were any.
    pub fn flush(&mut self, now: Nanos) -> bool {
        self.channel.flush(now);
        self.egress.flush();
        self.flushed.append(&mut self.committed);
        std::mem::take(&mut self.dirty)
    }

    /// The channel.
    pub fn channel(&mut self) -> &mut Channel {
        &mut self.channel
    }

    /// Frames or announcements that need further calls of [`Sender::flush`] or service.
    pub fn busy(&self) -> bool {
        self.egress.busy() || self.channel.busy()
    }

    /// Segments so far.
    pub fn counters(&self) -> SendCounters {
        self.counters
    }

    /// Ports, for their counters.
    pub fn egress(&mut self) -> &mut Egress {
        &mut self.egress
    }

    /// What was measured.
    pub fn latencies(&self) -> &Latencies {
        &self.latencies
    }
}

impl Output for Sender {
    fn transmit(&mut self, segment: &Segment<'_>, cause: Cause) {
        let (port, macs) = match self.egress.find(segment.dst) {
            Ok(way) => way,
            Err(NoWay::NotATarget) => {
                self.counters.not_a_target += 1;
                return;
            }
            Err(NoWay::NoNextHop) => {
                self.counters.no_next_hop += 1;
                return;
            }
        };
        let Some(buffer) = port.reserve() else {
            self.counters.no_frame += 1;
            return;
        };
        let Ok(len) = build_tcp_frame(buffer, macs, segment) else {
            self.counters.not_built += 1;
            return;
        };
        port.commit(len);
        self.dirty = true;
        self.counters.sent += 1;
        if let Cause::Captured { at, held } = cause
            && self.committed.len() < SAMPLES
        {
            self.committed.push(at + held);
        }
    }

    fn announce(&mut self, client: Endpoint, target: Endpoint) -> bool {
        self.channel.announce(client, target)
    }

    fn retire(&mut self, client: Endpoint, target: Endpoint) {
        self.channel.retire(client, target);
    }

    fn ended(&mut self, end: &SessionEnd) {
        if end.outcome != Outcome::Completed && self.named < NAMED_SESSIONS {
            self.named += 1;
            tracing::info!(
                client = %end.client,
                online = %end.online,
                wire = %end.wire,
                target = %end.target,
                outcome = end.outcome.name(),
                waiting_for = end.waiting.name(),
                captured = end.captured,
                delivered = end.delivered,
                seconds = end.lasted.0 as f64 / 1e9,
                "session ended"
            );
        }
    }

    fn sample(&mut self, metric: Metric, value: Nanos) {
        self.latencies.record(metric.into(), value);
    }
}

impl UdpOutput for Sender {
    fn send(&mut self, datagram: &UdpFrame<'_>, at: Nanos) -> Result<(), UdpDrop> {
        let (port, macs) = self.egress.find(datagram.dst).map_err(|why| match why {
            NoWay::NotATarget => UdpDrop::NotATarget,
            NoWay::NoNextHop => UdpDrop::NoNextHop,
        })?;
        let buffer = port.reserve().ok_or(UdpDrop::NoFrame)?;
        let len = build_udp_frame(buffer, macs, datagram).map_err(|_| UdpDrop::NotBuilt)?;
        port.commit(len);
        self.dirty = true;
        if self.committed.len() < SAMPLES {
            self.committed.push(at);
        }
        Ok(())
    }
}
