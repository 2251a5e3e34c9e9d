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

use crate::worker::{Counter, IntakeCounters, Latencies, SendCounters, WorkerReport};
use common::flow::Nanos;
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
            *report.counters.entry((c.group, c.name)).or_default() += c.value;
        }
        for (name, value) in report.totals.events() {
            report.counters.insert(("engine", name), value);
        }
        report
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
