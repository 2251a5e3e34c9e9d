//! The engine's output side of one worker: frames, announcements, measurements.
//!
//! ```text
//!  engine ─Segment─▶ Egress::find ─▶ reserve ─▶ build_tcp_frame ─▶ commit ┐
//!         ─announce─▶ Channel queue ┐                                    │
//!                                   ▼ flush(): announcements, then frames ▼
//! ```
//! A segment too large for the way as it is now (a route with a smaller MTU, an interface that was set lower)
//! is cut here, a datagram into IP fragments. What is sent again goes without DF: if a router dropped the first one as too large, and its
//! answer went to the client whose address it bore, it cuts the second.
//!
//! Processing latency: the worker reads the clock once per loop, so the time at which a batch was
//! flushed is the next loop's reading, which follows at once (a loop that sent something does not
//! sleep). Until then the samples wait in `flushed`.

use super::cut;
use super::egress::{Egress, Found, NoWay};
use super::large_datagrams::LargeDatagrams;
use super::latency::{Latencies, Latency};
use crate::channel::Channel;
use common::flow::{Cause, Nanos, Segment};
use common::packet::{
    Endpoint, FrameAddresses, UdpFrame, allow_fragments, build_tcp_frame, build_udp_frame,
};
use dataplane::hops::Missing;
use dataplane::{BATCH, Transmit};
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
    /// The kernel had no route, or none that permits it, at the time.
    pub no_route: u64,
    /// The interface was down at the time.
    pub link_down: u64,
    /// The next hop did not answer ARP or neighbour discovery at the time.
    pub no_neighbour: u64,
    /// All transmit frames were in flight.
    pub no_frame: u64,
    /// Larger than a transmit frame, or of two address families.
    pub not_built: u64,
    /// Cut because the way takes smaller packets than when the session began. No loss.
    pub cut: u64,
}

impl SendCounters {
    /// Adds another worker's.
    pub fn merge(&mut self, other: &Self) {
        self.sent += other.sent;
        self.not_a_target += other.not_a_target;
        self.no_route += other.no_route;
        self.link_down += other.link_down;
        self.no_neighbour += other.no_neighbour;
        self.no_frame += other.no_frame;
        self.not_built += other.not_built;
        self.cut += other.cut;
    }
}

impl SendCounters {
    #[cold]
    fn no_way(&mut self, why: NoWay) {
        match why {
            NoWay::NotATarget => self.not_a_target += 1,
            NoWay::NoNextHop(Missing::Route) => self.no_route += 1,
            NoWay::NoNextHop(Missing::Link) => self.link_down += 1,
            NoWay::NoNextHop(Missing::Neighbour) => self.no_neighbour += 1,
        }
    }
}

/// Builds one frame and queues it; false, and counted, if that is not possible.
#[inline]
fn send(
    port: &mut dyn Transmit,
    macs: FrameAddresses,
    segment: &Segment<'_>,
    cause: Cause,
    counters: &mut SendCounters,
) -> bool {
    let Some(buffer) = port.reserve() else {
        counters.no_frame += 1;
        return false;
    };
    let Ok(len) = build_tcp_frame(buffer, macs, segment) else {
        counters.not_built += 1;
        return false;
    };
    if cause == Cause::Retransmit {
        allow_fragments(buffer);
    }
    port.commit(len);
    counters.sent += 1;
    true
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
    large: LargeDatagrams,
    /// Largest packet (`-M`), in bytes.
    mtu: u16,
    /// Responses come to this host by themselves.
    takes_responses: bool,
}

impl Sender {
    /// For a worker, its number and that of all, whose packets have at most `mtu` bytes. `takes_responses`: no
    /// intercept needs to hear of sessions.
    pub fn new(
        egress: Egress,
        channel: Channel,
        worker: (u32, u32),
        mtu: u16,
        takes_responses: bool,
    ) -> Self {
        Self {
            egress,
            channel,
            latencies: Latencies::default(),
            counters: SendCounters::default(),
            committed: Vec::with_capacity(SAMPLES),
            flushed: Vec::with_capacity(SAMPLES),
            dirty: false,
            named: 0,
            large: LargeDatagrams::new(worker),
            mtu,
            takes_responses,
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
        let found = match self.egress.find(segment.dst) {
            Ok(found) => found,
            Err(why) => {
                self.counters.no_way(why);
                return;
            }
        };
        let Found { port, macs, mtu } = found;
        let counters = &mut self.counters;
        let sent = if cut::fits(segment, mtu) {
            send(port, macs, segment, cause, counters)
        } else {
            counters.cut += 1;
            let mut sent = false;
            cut::pieces(segment, mtu, |piece| {
                sent |= send(port, macs, piece, cause, counters);
            });
            sent
        };
        if !sent {
            return;
        }
        self.dirty = true;
        if let Cause::Captured { at, held } = cause
            && self.committed.len() < SAMPLES
        {
            self.committed.push(at + held);
        }
    }

    fn announce(&mut self, client: Endpoint, target: Endpoint) -> bool {
        self.takes_responses || self.channel.announce(client, target)
    }

    fn awaits(&mut self, client: Endpoint, target: Endpoint) -> bool {
        self.channel.awaits(client, target)
    }

    fn retire(&mut self, client: Endpoint, target: Endpoint) {
        if !self.takes_responses {
            self.channel.retire(client, target);
        }
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
        let Found { port, macs, mtu } =
            self.egress.find(datagram.dst).map_err(|why| match why {
                NoWay::NotATarget => UdpDrop::NotATarget,
                NoWay::NoNextHop(_) => UdpDrop::NoNextHop,
            })?;
        let mtu = mtu.min(self.mtu);
        // Some of its fragments may be queued whatever becomes of the rest.
        self.dirty = true;
        if datagram.packet_len() > usize::from(mtu) {
            self.large.send(port, macs, datagram, mtu)?;
        } else {
            let buffer = port.reserve().ok_or(UdpDrop::NoFrame)?;
            let len = build_udp_frame(buffer, macs, datagram).map_err(|_| UdpDrop::NotBuilt)?;
            port.commit(len);
        }
        if self.committed.len() < SAMPLES {
            self.committed.push(at);
        }
        Ok(())
    }
}
