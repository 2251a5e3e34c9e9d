//! `cargo xtask bench engine`: the session engine alone.
//!
//! ```text
//!  cargo bench --no-run ─▶ program ─┬─ under callgrind ─▶ instructions per packet ─▶ against the baseline
//!                                   └─ as it is ────────▶ nanoseconds per packet, beside the null engine
//! ```
//! Instructions repeat to within half a percent (hash seeds differ) and are judged; times are reported.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use serde_json::{Value, json};

use super::build;
use crate::{Result, paths, progress::Progress, setup};

const PACKAGES: [&str; 1] = ["valgrind"];
/// Mix, sessions and packets whose instructions are counted: tables that are neither empty nor cold.
const COUNTED: [(&str, usize, usize); 3] = [
    ("data-ack", 10_000, 64_000),
    ("request-answer", 10_000, 64_000),
    ("lifecycle", 1_000, 64_000),
];
/// A count may be so much above its baseline: what another placement of the same code costs.
const MOST_ABOVE: f64 = 1.05;
/// Repetitions of a measurement of time; the smallest is what the machine can do undisturbed.
const REPEATS: usize = 15;
const PACKETS: usize = 200_000;

/// How to measure the engine.
#[derive(Args, Default)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
pub struct Engine {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Count instructions only
    #[arg(long)]
    instructions: bool,
    /// Ten million sessions, too (4 GB of memory)
    #[arg(long, conflicts_with = "instructions")]
    huge: bool,
    /// Take the counts as the new baseline
    #[arg(long)]
    save: bool,
}

/// Instructions per packet of one mix.
struct Count {
    mix: &'static str,
    instructions: f64,
    baseline: Option<f64>,
}

impl Count {
    fn is_fine(&self) -> bool {
        self.baseline
            .is_none_or(|b| self.instructions <= b * MOST_ABOVE)
    }
}

impl Engine {
    /// Counts instructions against the baseline, and no more.
    pub fn gate() -> Result<()> {
        let gate = Self {
            instructions: true,
            ..Self::default()
        };
        gate.run()
    }

    pub(super) fn run(&self) -> Result<()> {
        let progress = Progress::start();
        setup::install(&PACKAGES)?;
        progress.say("engine: building");
        let program = build("session", "engine")?;
        progress.say("engine: counting instructions");
        let compiler = compiler()?;
        let baseline = Baseline::read()?;
        let counts = COUNTED
            .iter()
            .map(|task| count(&program, task, &baseline, &compiler))
            .collect::<Result<Vec<_>>>()?;
        let times = if self.instructions {
            Vec::new()
        } else {
            progress.say("engine: measuring time");
            times(&program, self.huge)?
        };
        if self.json {
            let report = json!({
                "compiler": compiler,
                "instructions_per_packet": counts.iter().map(|c| json!({
                    "mix": c.mix, "instructions": c.instructions, "baseline": c.baseline,
                })).collect::<Vec<_>>(),
                "times": times,
            });
            println!("{report:#}");
        } else {
            print(&counts, &times);
        }
        if self.save {
            return Baseline::write(&counts, &compiler);
        }
        if baseline.compiler != compiler {
            eprintln!(
                "not judged: counted with {compiler}, the baseline with {}; \
                 `cargo xtask bench engine --save` makes another",
                baseline.compiler
            );
        }
        let above: Vec<_> = counts.iter().filter(|c| !c.is_fine()).collect();
        if let Some(worst) = above.first() {
            return Err(format!(
                "engine: {} takes {:.1} instructions per packet, expected at most {:.1} (baseline and 5 %); \
                 make it faster, or take the new count with `cargo xtask bench engine --save` and say why",
                worst.mix,
                worst.instructions,
                worst.baseline.unwrap_or_default() * MOST_ABOVE
            )
            .into());
        }
        Ok(())
    }
}

/// Compiler and architecture: counts of another one are not comparable.
fn compiler() -> Result<String> {
    let output = Command::new("rustc")
        .arg("-V")
        .output()
        .map_err(|e| format!("cannot run rustc: {e}; is rustup's toolchain on the path?"))?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Ok(format!("{version}, {}", std::env::consts::ARCH))
}

/// Committed counts.
struct Baseline {
    compiler: String,
    counts: Value,
}

impl Baseline {
    fn path() -> PathBuf {
        paths::workspace().join("session/benches/engine/baseline.json")
    }

    fn read() -> Result<Self> {
        let path = Self::path();
        let text =
            std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut value: Value =
            serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Self {
            compiler: value["compiler"].as_str().unwrap_or_default().to_owned(),
            counts: value["instructions_per_packet"].take(),
        })
    }

    fn write(counts: &[Count], compiler: &str) -> Result<()> {
        let counts: serde_json::Map<_, _> = counts
            .iter()
            .map(|c| {
                (
                    c.mix.to_owned(),
                    json!((c.instructions * 10.0).round() / 10.0),
                )
            })
            .collect();
        let text = json!({ "compiler": compiler, "instructions_per_packet": counts });
        std::fs::write(Self::path(), format!("{text:#}\n"))?;
        Ok(())
    }
}

/// Counts the instructions of one mix under callgrind.
fn count(
    program: &Path,
    &(mix, sessions, packets): &(&'static str, usize, usize),
    baseline: &Baseline,
    compiler: &str,
) -> Result<Count> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args(["--collect-atstart=no", "--toggle-collect=*measured_engine*"])
        .arg(program)
        .args([mix, &sessions.to_string(), &packets.to_string(), "1"])
        .output()
        .map_err(|e| format!("cannot run valgrind: {e}"))?;
    let log = String::from_utf8_lossy(&output.stderr);
    let collected = log
        .lines()
        .find_map(|line| line.split_once("Collected :"))
        .and_then(|(_, n)| n.trim().parse::<f64>().ok());
    let result: Option<Value> = serde_json::from_slice(&output.stdout).ok();
    let measured = result.and_then(|r| r["packets"].as_f64());
    let (Some(collected), Some(measured)) = (collected, measured) else {
        return Err(format!("callgrind counted nothing of mix {mix}: {log}").into());
    };
    let baseline = baseline.counts[mix]
        .as_f64()
        .filter(|_| baseline.compiler == compiler);
    Ok(Count {
        mix,
        instructions: collected / measured,
        baseline,
    })
}

/// Times of all mixes over the numbers of sessions, each beside the null engine of the same minute.
fn times(program: &Path, huge: bool) -> Result<Vec<Value>> {
    let mut tasks = Vec::new();
    let mut established = vec![10_000, 100_000, 1_000_000];
    established.extend(huge.then_some(10_000_000));
    for sessions in established {
        for order in ["uniform", "zipf"] {
            tasks.extend(["data-ack", "request-answer"].map(|mix| (mix, sessions, order)));
        }
    }
    tasks.extend([1_000, 10_000, 100_000].map(|alive| ("lifecycle", alive, "uniform")));
    tasks
        .into_iter()
        .map(|(mix, sessions, order)| {
            let mut time = time(program, mix, sessions, order)?;
            time["ns_null"] = self::time(program, "null", 1, "uniform")?["ns_min"].take();
            Ok(time)
        })
        .collect()
}

fn time(program: &Path, mix: &str, sessions: usize, order: &str) -> Result<Value> {
    // As many packets as one life of all sessions has, at least.
    let packets = if mix == "lifecycle" {
        PACKETS.max(8 * sessions)
    } else {
        PACKETS
    };
    let output = Command::new(program)
        .args([mix, &sessions.to_string(), &packets.to_string()])
        .args([&REPEATS.to_string(), order])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("cannot run {}: {e}", program.display()))?;
    serde_json::from_slice(&output.stdout)
        .map_err(|e| format!("benchmark {mix} with {sessions} sessions: {e}").into())
}

fn print(counts: &[Count], times: &[Value]) {
    println!("instructions per packet");
    for c in counts {
        let baseline = c
            .baseline
            .map_or_else(|| "-".to_owned(), |b| format!("{b:.1}"));
        println!(
            "  {:<16} {:>8.1}   baseline {baseline}",
            c.mix, c.instructions
        );
    }
    if times.is_empty() {
        return;
    }
    println!("nanoseconds per packet, {REPEATS} repetitions, and the null engine beside it");
    println!(
        "  {:<16} {:>9} {:>8} {:>8} {:>8} {:>8}",
        "", "sessions", "", "min", "median", "null"
    );
    for t in times {
        let order = if t["zipf"] == true { "zipf" } else { "uniform" };
        println!(
            "  {:<16} {:>9} {order:>8} {:>8} {:>8} {:>8}",
            t["mix"].as_str().unwrap_or_default(),
            t["sessions"],
            t["ns_min"],
            t["ns_median"],
            t["ns_null"]
        );
    }
}
