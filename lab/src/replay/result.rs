//! What a run showed: as JSON for programs, as a table for people, as faults for the exit code.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::{Capture, ExitReport};
use crate::traffic::{Comparison, LoadReport};

/// Durations of the report, in the order in which they happen to a request.
const LATENCIES: [&str; 5] = ["connect", "response", "processing", "hold", "lag"];

/// A run and its figures.
#[derive(Clone, Debug)]
pub struct RunResult {
    /// How packets were captured.
    pub capture: Capture,
    /// Who took the target's answers: `pool` or `assistant`.
    pub topology: &'static str,
    /// What the client saw.
    pub load: LoadReport,
    /// What the servers saw.
    pub comparison: Comparison,
    /// What tcpcopy says.
    pub report: ExitReport,
    /// What hosts received with wrong checksums.
    pub checksums: Vec<String>,
}

impl RunResult {
    /// What the demo requires and this run does not show; nothing if all is well.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = self.comparison.faults();
        faults.extend(self.checksums.iter().cloned());
        if self.load.errors > 0 {
            faults.push(format!(
                "production failed {} requests: {:?}",
                self.load.errors, self.load.by_kind
            ));
        }
        faults
    }

    /// One element of `runs`.
    pub fn to_json(&self) -> Value {
        let comparison = &self.comparison;
        json!({
            "capture": self.capture.name(),
            "topology": self.topology,
            "kernel": kernel(),
            "production": { "requests": comparison.production_requests, "errors": self.load.errors },
            "target": { "requests": comparison.target_requests },
            "replay_ratio": comparison.replay_ratio(),
            "duplicates": comparison.duplicates,
            "unexpected": comparison.unexpected,
            "corrupt": comparison.corrupt.count(),
            "load": self.load.to_json(),
            "sessions": self.report.json["sessions"],
            "bytes": self.report.json["bytes"],
            "packets": self.report.json["packets"],
            "latency_us": self.latencies(),
            "ok": self.faults().is_empty(),
        })
    }

    /// Each latency with all the figures that the report gives; p50 and p99 are there even without samples.
    fn latencies(&self) -> Value {
        let one = |name: &str| {
            let mut figures = self.report.json["latency_us"][name]
                .as_object()
                .cloned()
                .unwrap_or_default();
            for quantile in ["p50", "p99"] {
                figures.entry(quantile).or_insert(Value::Null);
            }
            (name.to_owned(), Value::Object(figures))
        };
        Value::Object(
            LATENCIES
                .iter()
                .map(|name| one(name))
                .collect::<Map<_, _>>(),
        )
    }

    /// For people.
    pub fn table(&self) -> String {
        let comparison = &self.comparison;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<12} {value}");
        };
        line(
            "capture",
            format!(
                "{}, topology {}, kernel {}",
                self.capture.name(),
                self.topology,
                kernel()
            ),
        );
        line(
            "production",
            format!(
                "{} requests, {} errors, {:.0} requests/s, answer p50 {} us, p99 {} us",
                comparison.production_requests,
                self.load.errors,
                self.load.requests as f64 / self.load.seconds.max(0.001),
                self.load.p50_us,
                self.load.p99_us
            ),
        );
        line(
            "target",
            format!(
                "{} requests, replay ratio {:.4}, duplicates {}, corrupt {}",
                comparison.target_requests,
                comparison.replay_ratio(),
                comparison.duplicates,
                comparison.corrupt.count()
            ),
        );
        let list = |path: &str| {
            let numbers = self.report.numbers(path);
            let words: Vec<String> = numbers
                .iter()
                .filter(|(_, count)| **count > 0)
                .map(|(name, count)| format!("{name} {count}"))
                .collect();
            if words.is_empty() {
                "none".to_owned()
            } else {
                words.join(", ")
            }
        };
        line("sessions", list("sessions/by_outcome"));
        line(
            "bytes",
            format!(
                "captured {}, delivered {}, undelivered: {}",
                self.report.number("bytes/captured"),
                self.report.number("bytes/delivered"),
                list("bytes/undelivered")
            ),
        );
        line(
            "packets",
            format!(
                "captured {}, transmitted {}, dropped: {}",
                self.report.number("packets/captured"),
                self.report.number("packets/transmitted"),
                list("packets/dropped")
            ),
        );
        line(
            "latency us",
            format!(
                "{:>10} {:>10} {:>10} {:>10} {:>10}",
                "count", "p50", "p90", "p99", "max"
            ),
        );
        for name in LATENCIES {
            let figures = &self.report.json["latency_us"][name];
            let cells: Vec<String> = ["count", "p50", "p90", "p99", "max"]
                .iter()
                .map(|quantile| format!("{:>10}", cell(&figures[*quantile])))
                .collect();
            line(&format!("  {name}"), cells.join(" "));
        }
        for fault in self.faults() {
            line("FAULT", fault);
        }
        text
    }
}

fn cell(figure: &Value) -> String {
    match (figure.as_u64(), figure.as_f64()) {
        (Some(whole), _) => whole.to_string(),
        (None, Some(number)) => format!("{number:.1}"),
        (None, None) => "-".to_owned(),
    }
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result() -> RunResult {
        let report = ExitReport {
            json: json!({
                "version": 1,
                "sessions": {"total": 2, "by_outcome": {"completed": 2, "refused": 0}},
                "bytes": {"captured": 10, "delivered": 10, "undelivered": {}},
                "packets": {"captured": 3, "transmitted": 4, "dropped": {"ring": 0}},
                "latency_us": {"connect": {"count": 2, "p50": 1.25, "p90": 2.0, "p99": 3.0, "max": 3.0}},
            }),
        };
        RunResult {
            capture: Capture::Tap,
            topology: "pool",
            load: LoadReport {
                requests: 2,
                ..LoadReport::default()
            },
            comparison: Comparison {
                production_requests: 2,
                target_requests: 2,
                production_ids: 2,
                replayed_ids: 2,
                ..Comparison::default()
            },
            report,
            checksums: Vec::new(),
        }
    }

    #[test]
    fn json_has_every_field_that_readers_rely_on() {
        let json = result().to_json();
        for path in [
            "/capture",
            "/topology",
            "/kernel",
            "/production/requests",
            "/production/errors",
            "/target/requests",
            "/replay_ratio",
            "/duplicates",
            "/corrupt",
            "/sessions/by_outcome/completed",
        ] {
            assert!(
                json.pointer(path).is_some_and(|value| !value.is_null()),
                "{path}"
            );
        }
        for name in LATENCIES {
            for quantile in ["p50", "p99"] {
                assert!(
                    json.pointer(&format!("/latency_us/{name}/{quantile}"))
                        .is_some(),
                    "{name} {quantile}"
                );
            }
        }
        assert_eq!(json["ok"], true);
    }

    #[test]
    fn the_table_shows_figures_and_faults() {
        let mut run = result();
        assert!(run.table().contains("completed 2"), "{}", run.table());
        assert!(!run.table().contains("refused"));
        run.load.errors = 1;
        assert_eq!(run.faults().len(), 1);
        run.checksums = vec!["target: TcpInCsumErrors is 1".to_owned()];
        assert_eq!(run.faults().len(), 2);
        assert!(run.table().contains("FAULT"));
        assert_eq!(run.to_json()["ok"], false);
    }
}
