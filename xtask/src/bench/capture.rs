//! `cargo xtask bench capture`: capture and transmit beside what they could be replaced by.
//!
//! ```text
//!   BPF objects, benchmark ─▶ program, once per scenario and size ─▶ lines of slots (figures.rs)
//!                                                                       │
//!                              ways: rate, loss, CPU per packet ◀───────┤
//!                              requirements: ratio, range, met or not ◀─┘   (requirements.rs)
//! ```
//! A bench and no gate: it fails only if it could not measure.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use clap::Args;
use serde_json::{Value, json};

use super::figures::{Lines, Spread, over};
use super::requirements::{self, Finding};
use crate::build::{LAB_PACKAGES, prepare};
use crate::{Result, progress::Progress};

/// Bytes of the frames: the smallest, a middling, a full one.
const SIZES: [usize; 3] = [64, 512, 1400];
/// Size of scenarios that have none of their own.
const ANY_SIZE: [usize; 1] = [64];
/// Scenarios and their sizes.
const SCENARIOS: [(&str, &[usize]); 6] = [
    ("tap", &SIZES),
    ("mirror", &SIZES),
    ("transmit", &SIZES),
    ("forward", &SIZES),
    ("bulk", &ANY_SIZE),
    ("single", &SIZES),
];
/// Slots of a scenario: the ways and loads of `benches/capture`.
const LOADS: [&str; 2] = ["steady", "full"];
const WAYS: [&str; 10] = [
    "none",
    "packet",
    "tap",
    "tap-1ms",
    "none-miss",
    "packet-miss",
    "tap-miss",
    "bare",
    "mirror",
    "transmit",
];
const FORWARD: &str = "forward";
/// Length of a slot: 24,000 packets at the steady rate; all of it in some three minutes.
const SLOT_MS: usize = 60;
const QUICK_SLOT_MS: usize = 20;
const QUICK_PAIRS: usize = 1;

/// How to measure capture.
#[derive(Args)]
pub struct Capture {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Pairs of each comparison that others did not disturb; three times as many are tried at most
    #[arg(long, value_name = "N", default_value_t = 20)]
    pairs: usize,
    /// One short pair of each: whether it runs, not how fast it is
    #[arg(long)]
    quick: bool,
    /// Only this scenario
    #[arg(long, value_name = "NAME", value_parser = SCENARIOS.map(|(name, _)| name))]
    only: Option<String>,
}

/// What one run of the benchmark program gave.
pub struct Run {
    pub scenario: &'static str,
    pub bytes: usize,
    pub lines: Lines,
    /// Rounds that others did not disturb.
    pub calm: BTreeSet<u64>,
    rounds: usize,
}

impl Capture {
    pub(super) fn run(&self) -> Result<()> {
        let progress = Progress::start();
        prepare(&progress, &LAB_PACKAGES)?;
        progress.say("capture: building");
        let program = super::build("dataplane", "capture")?;
        let before = load_average();
        let mut runs = Vec::new();
        for (scenario, sizes) in SCENARIOS {
            if self.only.as_deref().is_some_and(|only| only != scenario) {
                continue;
            }
            let sizes = if self.quick { &ANY_SIZE } else { sizes };
            for &bytes in sizes {
                progress.say(&format!("capture: {scenario}, {bytes} bytes"));
                runs.push(self.measure(&program, scenario, bytes)?);
            }
        }
        let conditions = json!({
            "cores": std::thread::available_parallelism().map_or(1, usize::from),
            "kernel": read("/proc/sys/kernel/osrelease"),
            "load_average_before": before,
            "load_average_after": load_average(),
        });
        // A single short pair says that it runs, nothing else.
        let findings = requirements::of(&runs, !self.quick);
        if self.json {
            let report = json!({
                "conditions": conditions,
                "runs": runs.iter().map(Run::json).collect::<Vec<_>>(),
                "findings": findings.iter().map(Finding::json).collect::<Vec<_>>(),
            });
            println!("{report:#}");
        } else {
            print(&conditions, &runs, &findings);
        }
        Ok(())
    }

    fn measure(&self, program: &Path, scenario: &'static str, bytes: usize) -> Result<Run> {
        let (pairs, slot_ms) = if self.quick {
            (QUICK_PAIRS, QUICK_SLOT_MS)
        } else {
            (self.pairs.max(1), SLOT_MS)
        };
        let output = Command::new(program)
            .arg(scenario)
            .args([bytes, pairs, slot_ms].map(|n| n.to_string()))
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(|e| format!("cannot run {}: {e}", program.display()))?;
        if !output.status.success() {
            return Err(format!(
                "could not measure {scenario} with {bytes} bytes ({}); the reason is above; \
                 it needs root, veth, AF_XDP and tcx (Linux 6.6)",
                output.status
            )
            .into());
        }
        let lines = Lines::parse(&String::from_utf8_lossy(&output.stdout));
        let (rounds, calm) = lines.rounds();
        // Nothing is judged by them.
        let calm = if self.quick {
            (0..rounds as u64).collect()
        } else {
            calm
        };
        if rounds == 0 {
            return Err(format!("{scenario} with {bytes} bytes gave no round").into());
        }
        Ok(Run {
            scenario,
            bytes,
            lines,
            calm,
            rounds,
        })
    }
}

/// One way of a run, medians of its calm rounds.
struct Way {
    name: &'static str,
    load: &'static str,
    mpps: f64,
    /// Of what arrived, in percent.
    lost: f64,
    kernel_ns: f64,
    reader_ns: f64,
}

impl Run {
    fn ways(&self) -> Vec<Way> {
        let mut ways = Vec::new();
        for load in LOADS {
            for way in WAYS.into_iter().chain([FORWARD]) {
                let field = |name: &'static str| {
                    move |round| {
                        self.lines.find(round, &[("way", way), ("load", load)])?[name].as_f64()
                    }
                };
                let median =
                    |value: &dyn Fn(u64) -> Option<f64>| over(&self.calm, value).map(|s| s.median);
                let arrived = field("arrived");
                let per_packet = |name| {
                    let total = field(name);
                    median(&|r| Some(total(r)? / arrived(r)?))
                };
                // A way without a reader has what arrived.
                let took = field("taken");
                let done = |r| took(r).filter(|n| *n > 0.0).or_else(|| arrived(r));
                let elapsed = field("elapsed_ns");
                let Some(mpps) = median(&|r| Some(done(r)? * 1e3 / elapsed(r)?)) else {
                    continue;
                };
                let sums = self
                    .calm
                    .iter()
                    .filter_map(|r| Some((arrived(*r)?, done(*r)?)));
                let (came, done) = sums.fold((0.0, 0.0), |sum, n| (sum.0 + n.0, sum.1 + n.1));
                ways.push(Way {
                    name: way,
                    load,
                    mpps,
                    lost: (came - done) / came * 100.0,
                    kernel_ns: per_packet("kernel_ns").unwrap_or_default(),
                    reader_ns: per_packet("reader_ns").unwrap_or_default(),
                });
            }
        }
        ways
    }

    /// A value of the lines of a program or of a TCP connection, over calm rounds.
    fn spread(
        &self,
        fields: &[(&str, &str)],
        value: impl Fn(&Value) -> Option<f64>,
    ) -> Option<Spread> {
        over(&self.calm, |round| value(self.lines.find(round, fields)?))
    }

    fn bulk(&self) -> Vec<Value> {
        ["none", "packet", "tap"]
            .into_iter()
            .filter_map(|way| {
                let of = |name| move |line: &Value| line[name].as_f64();
                let gigabits = |l: &Value| {
                    Some(l["received_bytes"].as_f64()? * 8.0 / l["elapsed_ns"].as_f64()?)
                };
                Some(json!({
                    "way": way,
                    "gigabits_per_second": self.spread(&[("way", way)], gigabits)?.median,
                    "packets_taken": self.spread(&[("way", way)], of("taken"))?.median,
                    "packets_lost": self.spread(&[("way", way)], of("lost"))?.median,
                }))
            })
            .collect()
    }

    fn programs(&self) -> Vec<Value> {
        self.lines
            .facts()
            .map(|fact| {
                let program = fact["program"].as_str().unwrap_or_default();
                let mut all = fact.clone();
                for name in ["empty_ns", "other_ns", "miss_ns", "hit_ns"] {
                    let spread = self.spread(&[("program", program)], |l| l[name].as_f64());
                    all[name] = json!(spread.map(|s| s.median));
                }
                all
            })
            .collect()
    }

    fn json(&self) -> Value {
        let ways = self.ways().into_iter().map(|w| {
            json!({
                "way": w.name,
                "load": w.load,
                "mpps": w.mpps,
                "lost_percent": w.lost,
                "kernel_ns": w.kernel_ns,
                "reader_ns": w.reader_ns,
            })
        });
        json!({
            "scenario": self.scenario,
            "bytes": self.bytes,
            "rounds": self.rounds,
            "rounds_calm": self.calm.len(),
            "foreign_share": self.lines.foreign_median(),
            "ways": ways.collect::<Vec<_>>(),
            "connections": if self.scenario == "bulk" { self.bulk() } else { Vec::new() },
            "programs": self.programs(),
        })
    }
}

fn print(conditions: &Value, runs: &[Run], findings: &[Finding]) {
    println!(
        "kernel {}, {} cores, load average {} before and {} after; veth, copy mode, medians",
        conditions["kernel"].as_str().unwrap_or_default(),
        conditions["cores"],
        conditions["load_average_before"]
            .as_str()
            .unwrap_or_default(),
        conditions["load_average_after"]
            .as_str()
            .unwrap_or_default(),
    );
    println!(
        "\nCPU ns per packet: kernel = sending, veth, program and stack (softirq on the sender's"
    );
    println!("core); reader = the thread that takes packets. Loss is of what arrived.\n");
    println!(
        "scenario   bytes  load    way             Mpps    loss %  kernel ns  reader ns  calm rounds"
    );
    for run in runs {
        for w in run.ways() {
            println!(
                "{:<10} {:>5}  {:<6}  {:<12} {:>7.3} {:>9.3} {:>10.0} {:>10.0}  {:>5}/{}",
                run.scenario,
                run.bytes,
                w.load,
                w.name,
                w.mpps,
                w.lost,
                w.kernel_ns,
                w.reader_ns,
                run.calm.len(),
                run.rounds
            );
        }
    }
    for run in runs.iter().filter(|r| r.scenario == "bulk") {
        println!(
            "\nbulk TCP          Gb/s  packets taken   lost   ({}/{} rounds calm)",
            run.calm.len(),
            run.rounds
        );
        for line in run.bulk() {
            println!(
                "  {:<12} {:>8.2} {:>14} {:>6}",
                line["way"].as_str().unwrap_or_default(),
                line["gigabits_per_second"].as_f64().unwrap_or_default(),
                line["packets_taken"],
                line["packets_lost"]
            );
        }
    }
    println!(
        "\nprograms    bytes  empty ns  no TCP ns  no match ns  match ns  instructions  verified"
    );
    for run in runs.iter().filter(|r| r.scenario == "single") {
        for p in run.programs() {
            let ns = |name: &str| p[name].as_f64().unwrap_or(f64::NAN);
            println!(
                "{:<11} {:>5} {:>9.0} {:>10.0} {:>12.0} {:>9.0} {:>13} {:>9}",
                p["program"].as_str().unwrap_or_default(),
                run.bytes,
                ns("empty_ns"),
                ns("other_ns"),
                ns("miss_ns"),
                ns("hit_ns"),
                p["instructions"],
                p["verified"]
            );
        }
    }
    println!(
        "\nrequirement                                    bytes  load      bound    median   10-90 %          verdict"
    );
    for finding in findings {
        println!("{}", finding.row());
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Of the last minute, what ran before this included.
fn load_average() -> String {
    read("/proc/loadavg")
        .split_whitespace()
        .next()
        .unwrap_or("?")
        .to_owned()
}
