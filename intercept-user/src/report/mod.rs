//! The exit report: what every worker left behind, summed up, as text and as JSON.
//!
//! Every response is accounted for: the sums that must match are in [`Report::unaccounted`].

mod json;
mod text;

pub use json::to_json;
pub use text::to_text;

use crate::channel::{ControlTotals, OutputTotals};
use crate::routes::{ParkedTotals, RouteTotals};
use crate::service::Outcome;
use crate::worker::{PacketTotals, turnaround_histogram};
use common::flow::Nanos;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The run that is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Interface.
    pub iface: String,
    /// Where the program runs: native or generic XDP, or tcx.
    pub mode: &'static str,
    /// Workers.
    pub workers: usize,
    /// From ready to stop.
    pub duration: Nanos,
    /// Of [`dataplane::clock`].
    pub clock_resolution: Nanos,
}

/// What became of encoded records, of all connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordTotals {
    /// By connection, summed up.
    pub outputs: OutputTotals,
    /// Lost between two workers.
    pub link_dropped: u64,
    /// Connection closed while they were on their way.
    pub homeless: u64,
}

/// Everything that is reported.
pub struct Report {
    /// The run.
    pub setting: Setting,
    /// Reading side of the channel.
    pub channel: ControlTotals,
    /// Packets.
    pub packets: PacketTotals,
    /// Routes.
    pub routes: RouteTotals,
    /// Routes at the end.
    pub routes_live: u64,
    /// Early responses.
    pub parked: ParkedTotals,
    /// Early responses still waiting at the end.
    pub parked_live: u64,
    /// Records.
    pub records: RecordTotals,
    /// By connection; without an address: the sum of those not listed.
    pub peers: Vec<(Option<SocketAddr>, OutputTotals)>,
    /// Nanoseconds from the kernel's capture to the write to the peer's socket.
    pub turnaround: Histogram<u64>,
    /// Of the kernel program.
    pub kernel: BTreeMap<&'static str, u64>,
    /// Of capture sources and hand-over rings.
    pub capture: BTreeMap<&'static str, u64>,
}

impl Report {
    /// Sums up.
    pub fn new(
        setting: Setting,
        outcome: Outcome,
        kernel: impl IntoIterator<Item = (&'static str, u64)>,
    ) -> Self {
        let mut report = Self {
            setting,
            channel: outcome.control,
            packets: PacketTotals::default(),
            routes: RouteTotals::default(),
            routes_live: 0,
            parked: ParkedTotals::default(),
            parked_live: 0,
            records: RecordTotals::default(),
            peers: Vec::new(),
            turnaround: turnaround_histogram(),
            kernel: kernel.into_iter().collect(),
            capture: BTreeMap::new(),
        };
        let mut others = OutputTotals::default();
        for worker in outcome.workers {
            report.packets += worker.packets;
            report.routes += worker.routes;
            report.routes_live += worker.routes_live;
            report.parked += worker.parked;
            report.parked_live += worker.parked_live;
            report.records.link_dropped += worker.link_dropped;
            report.records.homeless += worker.homeless;
            report.turnaround += worker.turnaround;
            for (name, value) in worker.capture {
                *report.capture.entry(name).or_default() += value;
            }
            for (peer, totals) in worker.peers {
                report.records.outputs += totals;
                match peer {
                    Some(_) => report.peers.push((peer, totals)),
                    None => others += totals,
                }
            }
        }
        report.peers.sort_unstable_by_key(|(peer, _)| *peer);
        if others != OutputTotals::default() {
            report.peers.push((None, others));
        }
        report
    }

    /// Packets that could not be decoded.
    pub fn undecodable(&self) -> u64 {
        self.packets.undecodable.iter().sum()
    }

    /// Responses that nobody announced: let go, or still waiting at the end.
    pub fn unrouted(&self) -> u64 {
        self.parked.expired + self.parked.displaced + self.parked.refused + self.parked_live
    }

    /// Packets and records without a fate. What was in a ring between two workers at the end counts
    /// here; anything else is a bug.
    pub fn unaccounted(&self) -> (i64, i64) {
        let p = &self.packets;
        let parked = &self.parked;
        let packets =
            p.handover_dropped + self.undecodable() + p.routed + parked.delivered + self.unrouted();
        let r = &self.records;
        let records = r.outputs.sent
            + r.outputs.dropped_full
            + r.outputs.dropped_closed
            + r.link_dropped
            + r.homeless;
        (
            (p.received + p.split) as i64 - packets as i64,
            (p.routed + parked.delivered) as i64 - records as i64,
        )
    }
}
