//! The exit report: what every worker and the kernel counted, as one object.
//!
//! ```text
//!  WorkerReport × n ┐
//!  kernel counters  ├─▶ Report ─▶ text (for people)
//!  setting          ┘          └▶ json (--report FILE, schema version 1)
//! ```

mod drops;
mod json;
mod text;
mod udp;

pub use json::to_json;
pub use text::to_text;

use crate::offline::ReadReport;
use crate::record::WriteReport;
use crate::worker::{Counter, IntakeCounters, Latencies, SendCounters, WorkerReport};
use common::abi::{StreamKey, StreamState};
use common::flow::Nanos;
use common::packet::TunnelKind;
use doctor::Finding;
use session::{Totals, UdpTotals};
use std::collections::BTreeMap;

/// Circumstances of a run.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Capture kind as on the command line.
    pub capture: &'static str,
    /// Interface.
    pub iface: String,
    /// Number of workers.
    pub workers: usize,
    /// From the first to the last packet that could be captured.
    pub duration: Nanos,
    /// Resolution of the clock.
    pub clock_resolution: Nanos,
}

/// Everything that a run left.
#[derive(Clone, Debug)]
pub struct Report {
    /// Circumstances.
    pub setting: Setting,
    /// Books of all engines.
    pub totals: Totals,
    /// Books of all UDP replays, if there were any.
    pub udp: Option<UdpTotals>,
    /// Measurements of all workers.
    pub latencies: Latencies,
    /// Frames before the engines.
    pub intake: IntakeCounters,
    /// Segments behind the engines.
    pub sent: SendCounters,
    /// Sums by group and name.
    pub counters: BTreeMap<(&'static str, &'static str), u64>,
    /// Files that were replayed (`--read`).
    pub read: Option<ReadReport>,
    /// What was recorded (`--write`).
    pub written: Option<WriteReport>,
    /// What sequence numbers told of the senders of a mirror.
    pub streams: Vec<(StreamKey, StreamState)>,
    /// Why nothing was captured or answered for a while, as far as that was found out.
    pub doctor: Vec<Finding>,
}

impl Report {
    /// Sums everything up. `kernel` are the counters of the capture program.
    pub fn new(setting: Setting, workers: &[WorkerReport], kernel: &[Counter]) -> Self {
        let mut report = Self {
            setting,
            totals: Totals::default(),
            udp: None,
            latencies: Latencies::default(),
            intake: IntakeCounters::default(),
            sent: SendCounters::default(),
            counters: BTreeMap::new(),
            read: None,
            written: None,
            streams: Vec::new(),
            doctor: Vec::new(),
        };
        for w in workers {
            report.totals.merge(&w.totals);
            if let Some(udp) = &w.udp {
                report.udp.get_or_insert_default().merge(udp);
            }
            report.latencies.merge(&w.latencies);
            report.intake.merge(&w.intake);
            report.sent.merge(&w.sent);
        }
        for c in workers.iter().flat_map(|w| &w.counters).chain(kernel) {
            let sum = report.counters.entry(place(c)).or_default();
            *sum = if c.name.ends_with("_max_ns") {
                c.value.max(*sum)
            } else {
                *sum + c.value
            };
        }
        for (name, value) in report.totals.events() {
            *report.counters.entry(("engine", name)).or_default() += value;
        }
        for (name, value) in [
            ("sessions_denied", report.intake.denied),
            ("sessions_other_shard", report.intake.other_shard),
        ] {
            *report.counters.entry(("engine", name)).or_default() += value;
        }
        for kind in TunnelKind::ALL {
            let n = report.intake.out_of(*kind);
            if n > 0 {
                report.counters.insert(("tunnels", kind.name()), n);
            }
        }
        report
    }

    /// Packets that mirrors lost before they came here, as far as their sequence numbers tell.
    pub fn mirror_lost(&self) -> u64 {
        self.streams.iter().map(|(_, state)| state.missing).sum()
    }

    /// A counter, 0 if nobody counts it.
    pub fn counter(&self, group: &'static str, name: &'static str) -> u64 {
        self.counters.get(&(group, name)).copied().unwrap_or(0)
    }

    /// Packets that were lost, by cause, zero counts left out.
    pub fn dropped(&self) -> BTreeMap<String, u64> {
        drops::dropped(self)
    }
}

/// Where a counter stands. Sessions that the kernel leaves out stand where those stand that are left out
/// behind it: no session comes to both places.
fn place(counter: &Counter) -> (&'static str, &'static str) {
    match (counter.group, counter.name) {
        ("kernel" | "read", "denied") => ("engine", "sessions_denied"),
        ("kernel" | "read", "other_shard") => ("engine", "sessions_other_shard"),
        ("kernel", "not_sampled") => ("engine", "sessions_not_sampled"),
        place => place,
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
