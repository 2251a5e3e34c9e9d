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

pub use json::to_json;
pub use text::to_text;

use crate::worker::{Counter, IntakeCounters, Latencies, SendCounters, WorkerReport};
use common::abi::{StreamKey, StreamState};
use common::flow::Nanos;
use common::packet::TunnelKind;
use session::Totals;
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
    /// Measurements of all workers.
    pub latencies: Latencies,
    /// Frames before the engines.
    pub intake: IntakeCounters,
    /// Segments behind the engines.
    pub sent: SendCounters,
    /// Sums by group and name.
    pub counters: BTreeMap<(&'static str, &'static str), u64>,
    /// What sequence numbers told of the senders of a mirror.
    pub streams: Vec<(StreamKey, StreamState)>,
}

impl Report {
    /// Sums everything up. `kernel` are the counters of the capture program.
    pub fn new(setting: Setting, workers: &[WorkerReport], kernel: &[Counter]) -> Self {
        let mut report = Self {
            setting,
            totals: Totals::default(),
            latencies: Latencies::default(),
            intake: IntakeCounters::default(),
            sent: SendCounters::default(),
            counters: BTreeMap::new(),
            streams: Vec::new(),
        };
        for w in workers {
            report.totals.merge(&w.totals);
            report.latencies.merge(&w.latencies);
            report.intake.merge(&w.intake);
            report.sent.merge(&w.sent);
        }
        for c in workers.iter().flat_map(|w| &w.counters).chain(kernel) {
            *report.counters.entry((c.group, c.name)).or_default() += c.value;
        }
        for (name, value) in report.totals.events() {
            report.counters.insert(("engine", name), value);
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

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
