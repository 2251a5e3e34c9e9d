//! What is required of capture, and what the runs say about it.

use serde_json::{Value, json};

use super::capture::Run;
use super::figures::{Spread, over};

/// Pairs below which nothing is judged.
const PAIRS_MIN: usize = 5;

/// A limit on a median.
#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// Printed for what it explains.
    None,
}

/// A comparison and its verdict.
pub struct Finding {
    name: &'static str,
    bytes: usize,
    load: &'static str,
    bound: Bound,
    /// Aimed at, not required.
    aim: bool,
    spread: Option<Spread>,
    judged: bool,
}

impl Finding {
    fn verdict(&self) -> &'static str {
        let Some(spread) = self.spread.filter(|s| self.judged && s.values >= PAIRS_MIN) else {
            return match self.bound {
                Bound::None => "",
                _ => "not judged: too few undisturbed pairs",
            };
        };
        let met = match self.bound {
            Bound::AtMost(limit) => spread.median <= limit,
            Bound::AtLeast(limit) => spread.median >= limit,
            Bound::None => return "",
        };
        match (met, self.aim) {
            (true, false) => "met",
            (false, false) => "MISSED",
            (true, true) => "aim met",
            (false, true) => "aim missed",
        }
    }

    fn bound(&self) -> String {
        match self.bound {
            Bound::AtMost(limit) => format!("<= {limit}"),
            Bound::AtLeast(limit) => format!(">= {limit}"),
            Bound::None => "-".to_owned(),
        }
    }

    /// One line of the table.
    pub fn row(&self) -> String {
        let figures = self.spread.map_or_else(
            || format!("{:>9}  {:<16}", "-", "-"),
            |s| {
                format!(
                    "{:>9.2}  {:<16}",
                    s.median,
                    format!("{:.2} to {:.2}", s.low, s.high)
                )
            },
        );
        format!(
            "{:<46} {:>5}  {:<7} {:>7} {figures} {}",
            self.name,
            self.bytes,
            self.load,
            self.bound(),
            self.verdict()
        )
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        json!({
            "name": self.name,
            "bytes": self.bytes,
            "load": self.load,
            "bound": self.bound(),
            "aim": self.aim,
            "median": self.spread.map(|s| s.median),
            "low": self.spread.map(|s| s.low),
            "high": self.spread.map(|s| s.high),
            "pairs": self.spread.map(|s| s.values),
            "verdict": self.verdict(),
        })
    }
}

/// All that the runs can say. `judged`: with verdicts.
pub fn of(runs: &[Run], judged: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for run in runs {
        match run.scenario {
            "tap" => tap(run, &mut findings),
            "mirror" => {
                findings.push(rate(
                    run,
                    "mirror / bare AF_XDP drop loop, rate",
                    "mirror",
                    Bound::AtLeast(0.9),
                ));
                for load in ["steady", "full"] {
                    findings.push(cost(
                        run,
                        "mirror / bare AF_XDP drop loop, CPU",
                        "mirror",
                        load,
                    ));
                }
            }
            "transmit" => findings.push(rate(
                run,
                "transmit / bare AF_XDP send loop, rate",
                "transmit",
                Bound::None,
            )),
            "forward" => findings.push(rate(
                run,
                "receive and send / bare AF_XDP l2fwd, rate",
                "forward",
                Bound::None,
            )),
            "bulk" => bulk(run, &mut findings),
            _ => {}
        }
    }
    for finding in &mut findings {
        finding.judged = judged;
    }
    findings
}

impl Run {
    fn slot(&self, round: u64, way: &str, load: &str, field: &str) -> Option<f64> {
        self.lines.find(round, &[("way", way), ("load", load)])?[field].as_f64()
    }

    /// Nanoseconds per packet of the receive path, and of it and the reader.
    fn costs(&self, round: u64, way: &str, load: &str) -> Option<(f64, f64)> {
        let of = |field| self.slot(round, way, load, field);
        let packets = of("arrived").filter(|n| *n > 0.0)?;
        let kernel = of("kernel_ns")?;
        Some((kernel / packets, (kernel + of("reader_ns")?) / packets))
    }

    fn finding(
        &self,
        name: &'static str,
        load: &'static str,
        bound: Bound,
        value: impl Fn(u64) -> Option<f64>,
    ) -> Finding {
        Finding {
            name,
            bytes: self.bytes,
            load,
            bound,
            aim: false,
            spread: over(&self.calm, value),
            judged: true,
        }
    }
}

/// What a way adds to an untouched receive path: (receive path, all).
fn added(run: &Run, round: u64, way: &str, none: &str, load: &str) -> Option<(f64, f64)> {
    let (base, _) = run.costs(round, none, load)?;
    let (kernel, all) = run.costs(round, way, load)?;
    Some((kernel - base, all - base))
}

fn tap(run: &Run, findings: &mut Vec<Finding>) {
    for load in ["steady", "full"] {
        let ratio = |way: &'static str, part: fn((f64, f64)) -> f64| {
            move |round| {
                let ours = part(added(run, round, way, "none", load)?);
                let theirs = part(added(run, round, "packet", "none", load)?);
                (theirs > 0.0).then(|| ours / theirs)
            }
        };
        let bound = Bound::AtMost(0.8);
        findings.push(run.finding(
            "tap / AF_PACKET v3, cost added in all",
            load,
            bound,
            ratio("tap", |a| a.1),
        ));
        findings.push(run.finding(
            "  with a reader that looks once in 1 ms",
            load,
            Bound::None,
            ratio("tap-1ms", |a| a.1),
        ));
        findings.push(run.finding(
            "  of it in the receive path",
            load,
            Bound::None,
            ratio("tap", |a| a.0),
        ));
        let ns = |way: &'static str, none: &'static str| {
            move |round| added(run, round, way, none, load).map(|a| a.0)
        };
        for (name, way, none, limit) in [
            (
                "tap, ns added to the receive path, matching",
                "tap",
                "none",
                150.0,
            ),
            (
                "tap, ns added to the receive path, not matching",
                "tap-miss",
                "none-miss",
                40.0,
            ),
        ] {
            let aim = run.bytes == 64;
            let bound = if aim {
                Bound::AtMost(limit)
            } else {
                Bound::None
            };
            let mut finding = run.finding(name, load, bound, ns(way, none));
            finding.aim = aim;
            findings.push(finding);
        }
        findings.push(run.finding(
            "AF_PACKET v3, ns added to it, matching",
            load,
            Bound::None,
            ns("packet", "none"),
        ));
        findings.push(run.finding(
            "AF_PACKET v3, ns added to it, not matching",
            load,
            Bound::None,
            ns("packet-miss", "none-miss"),
        ));
    }
}

/// Packets that came through in a time, against the bare loop.
fn rate(run: &Run, name: &'static str, way: &'static str, bound: Bound) -> Finding {
    let rate = |round, way: &str| {
        Some(run.slot(round, way, "full", "taken")? / run.slot(round, way, "full", "elapsed_ns")?)
    };
    run.finding(name, "full", bound, |round| {
        Some(rate(round, way)? / rate(round, "bare")?)
    })
}

fn cost(run: &Run, name: &'static str, way: &'static str, load: &'static str) -> Finding {
    run.finding(name, load, Bound::None, |round| {
        Some(run.costs(round, way, load)?.1 / run.costs(round, "bare", load)?.1)
    })
}

fn bulk(run: &Run, findings: &mut Vec<Finding>) {
    let rate = |round, way| {
        let line = run.lines.find(round, &[("way", way)])?;
        Some(line["received_bytes"].as_f64()? / line["elapsed_ns"].as_f64()?)
    };
    for (name, way, bound) in [
        ("bulk TCP, tapped / untapped", "tap", Bound::AtLeast(0.85)),
        ("bulk TCP, AF_PACKET v3 / untapped", "packet", Bound::None),
    ] {
        findings.push(run.finding(name, "full", bound, |round| {
            Some(rate(round, way)? / rate(round, "none")?)
        }));
    }
}
