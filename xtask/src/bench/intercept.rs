//! `cargo xtask bench intercept`: responses through intercept-user, from the target's send to the read at tcpcopy's end.
//!
//! ```text
//!   target ── flood, paced ──▶ switch ──▶ assistant: intercept-user, core 1 ── channel ──▶ peer
//!   core 0, and the receive path of the veth                                    any core
//! ```
//! A bench and no gate: it fails only if it could not measure.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Mutex;
use std::time::Duration;

use clap::Args;
use lab::replay::{self, Programs, TARGET_PORT};
use lab::tool::Tool;
use lab::traffic::{Pace, Responses, ResponsesReport};
use lab::{Host, Lab, LabOptions, Process};
use serde_json::{Value, json};

use crate::build::{LAB_PACKAGES, prepare, programs, programs_folder};
use crate::{Result, progress::Progress};

/// Bytes of the frames: an acknowledgement or a short answer, and a full packet.
const SIZES: [usize; 2] = [64, 1400];
/// Ways to take responses, by topology.
const WAYS: [Way; 2] = [
    Way {
        topology: "assistant",
        name: "xdp",
    },
    Way {
        topology: "assistant",
        name: "tcx",
    },
];
/// Shares of what came through when as much was sent as could be, in percent.
const LOADS: [u64; 3] = [90, 50, 10];
const FULL: &str = "full";
const BURSTS: &str = "bursts";
/// Packets of a burst: less than the rings of each way hold.
const BURST: u64 = 1_500;
const SESSIONS: u16 = 10_000;
/// The target routes it to the assistant, and nobody has it.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
const CHANNEL_PORT: u16 = 36_524;
const RUN: Duration = Duration::from_secs(2);
const QUICK_RUN: Duration = Duration::from_millis(200);

/// How to measure intercept.
#[derive(Args)]
pub struct Intercept {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// One short run of each: whether it works, not how fast it is
    #[arg(long)]
    quick: bool,
}

#[derive(Clone, Copy)]
struct Way {
    topology: &'static str,
    /// Of `--capture`.
    name: &'static str,
}

/// What one run gave.
struct Row {
    way: Way,
    bytes: usize,
    /// "full", percent of that, or "bursts".
    load: String,
    report: ResponsesReport,
    /// Processor time of intercept's threads, by name.
    threads_ns: BTreeMap<String, u64>,
    /// What intercept reports.
    own: Value,
}

impl Intercept {
    pub(super) fn run(&self) -> Result<()> {
        let progress = Progress::start();
        prepare(&progress, &LAB_PACKAGES)?;
        programs(&progress)?;
        // Nothing of the lab's own is started.
        let programs = Programs::in_folder(&programs_folder(), Tool::new("", &[]));
        let mut rows = Vec::new();
        let mut without = Vec::new();
        let sizes = if self.quick { &SIZES[..1] } else { &SIZES };
        for &bytes in sizes {
            progress.say(&format!("intercept: {bytes} bytes, no program"));
            without.push((bytes, self.without(bytes)?));
            for way in WAYS {
                progress.say(&format!("intercept: {bytes} bytes, {}", way.name));
                let measure = |pace, load: &str| self.measure(&programs, way, bytes, pace, load);
                let full = measure(Pace::Full, FULL)?;
                let highest = full.report.received as f64 / full.report.seconds.max(0.001);
                rows.push(full);
                for percent in LOADS {
                    let rate = (highest * percent as f64 / 100.0) as u64;
                    rows.push(measure(Pace::Rate(rate), &format!("{percent} %"))?);
                }
                rows.push(measure(Pace::Bursts(BURST), BURSTS)?);
            }
        }
        let conditions = json!({
            "cores": std::thread::available_parallelism().map_or(1, usize::from),
            "kernel": std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
            "sessions": SESSIONS,
            "seconds": self.duration().as_secs_f64(),
        });
        if self.json {
            let without = without.iter().map(|(bytes, report)| {
                json!({ "bytes": bytes, "sent_per_second": report.rate(), "sender_ns": sender_ns(report) })
            });
            let report = json!({
                "conditions": conditions,
                "without": without.collect::<Vec<_>>(),
                "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
            });
            println!("{report:#}");
        } else {
            print(&conditions, &without, &rows);
        }
        Ok(())
    }

    fn duration(&self) -> Duration {
        if self.quick { QUICK_RUN } else { RUN }
    }

    fn responses(&self, bytes: usize) -> Responses {
        Responses {
            target: (Host::Target.address(), TARGET_PORT),
            client: CLIENT,
            sessions: SESSIONS,
            bytes,
            duration: self.duration(),
            pace: Pace::Full,
            intercept: None,
            sender_core: 0,
        }
    }

    /// What sending costs if the assistant's stack drops the packets, as it does where it forwards nothing.
    fn without(&self, bytes: usize) -> Result<ResponsesReport> {
        let lab = Lab::up(&LabOptions::default())?;
        let [target, peer] = [Host::Target, Host::Production].map(|host| lab.host(host));
        Ok(self
            .responses(bytes)
            .run(&target, &peer, || (), || (), |_| ())?)
    }

    fn measure(
        &self,
        programs: &Programs,
        way: Way,
        bytes: usize,
        pace: Pace,
        load: &str,
    ) -> Result<Row> {
        let lab = Lab::up(&LabOptions::default())?;
        let report = lab.file("intercept.json");
        let mut intercept = replay::Intercept::default();
        intercept
            .more
            .extend(["--capture", way.name, "--report"].map(str::to_owned));
        intercept.more.push(report.display().to_string());
        let mut process = intercept.start(&lab, programs)?;
        let responses = Responses {
            pace,
            intercept: Some(SocketAddrV4::new(Host::Assistant.address(), CHANNEL_PORT)),
            ..self.responses(bytes)
        };
        let [target, peer] = [Host::Target, Host::Production].map(|host| lab.host(host));
        let times = Mutex::new(Vec::new());
        let take = || {
            if let Ok(mut times) = times.lock() {
                times.push(threads(&process));
            }
        };
        // SIGSTOP lets a burst gather in intercept's rings; what it costs to work it off is what a busy core does.
        let hold = |on| {
            // If it has ended there will be no report.
            let _ = process.hold(on);
        };
        let measured = responses.run(&target, &peer, take, take, hold)?;
        replay::stop(&mut process)?;
        let own = std::fs::read_to_string(&report)
            .map_err(|e| format!("intercept-user has left no report: {e}"))?;
        let times = times.into_inner().unwrap_or_default();
        let threads_ns = match &times[..] {
            [before, after] => after
                .iter()
                .map(|(name, ns)| (name.clone(), ns - before.get(name).unwrap_or(&0)))
                .collect(),
            _ => BTreeMap::new(),
        };
        if measured.received == 0 {
            return Err(format!("{} with {bytes} bytes: no response came back", way.name).into());
        }
        Ok(Row {
            way,
            bytes,
            load: load.to_owned(),
            report: measured,
            threads_ns,
            own: serde_json::from_str(&own)?,
        })
    }
}

/// Processor time of each thread so far (proc(5), schedstat: nanoseconds first).
fn threads(process: &Process) -> BTreeMap<String, u64> {
    let folder = format!("/proc/{}/task", process.id());
    let mut times = BTreeMap::new();
    for task in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let read = |file| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let ns = read("schedstat")
            .split_whitespace()
            .next()
            .and_then(|n| n.parse().ok());
        *times.entry(read("comm").trim().to_owned()).or_insert(0) += ns.unwrap_or(0u64);
    }
    times
}

fn sender_ns(report: &ResponsesReport) -> f64 {
    report.sender_ns as f64 / report.sent.max(1) as f64
}

impl Row {
    fn worker_ns(&self) -> f64 {
        let workers = self
            .threads_ns
            .iter()
            .filter(|(name, _)| name.starts_with("worker"));
        workers.map(|(_, ns)| ns).sum::<u64>() as f64 / self.report.received.max(1) as f64
    }

    fn lost_percent(&self) -> f64 {
        let sent = self.report.sent.max(1) as f64;
        (sent - self.report.received as f64).max(0.0) * 100.0 / sent
    }

    fn json(&self) -> Value {
        json!({
            "topology": self.way.topology,
            "way": self.way.name,
            "mode": self.own["mode"],
            "bytes": self.bytes,
            "load": self.load,
            "sent_per_second": self.report.rate(),
            "received_per_second": self.report.received as f64 / self.report.seconds.max(0.001),
            "lost_percent": self.lost_percent(),
            // A worker has one core: what it does while it need not wait, which elsewhere it does too.
            "per_core_second": (self.load == BURSTS).then(|| 1e9 / self.worker_ns().max(1.0)),
            "worker_ns": self.worker_ns(),
            // With a pace the sender spins.
            "sender_ns": (self.load == FULL).then(|| sender_ns(&self.report)),
            "send_to_read_us": self.latency(&[0.5, 0.99].map(|q| json!(self.report.delay_us(q)))),
            "capture_to_write_us": self.latency(&["p50", "p99"].map(|q| self.own["latency_us"]["turnaround"][q].clone())),
        })
    }

    /// Nothing for bursts, which are held back.
    fn latency(&self, [p50, p99]: &[Value; 2]) -> Value {
        (self.load != BURSTS)
            .then(|| json!({ "p50": p50, "p99": p99 }))
            .into()
    }
}

fn print(conditions: &Value, without: &[(usize, ResponsesReport)], rows: &[Row]) {
    println!(
        "kernel {}, {} cores; veth, copy mode, {} sessions, one worker, {} s each",
        conditions["kernel"].as_str().unwrap_or_default(),
        conditions["cores"],
        conditions["sessions"],
        conditions["seconds"],
    );
    println!(
        "\nworker ns: CPU of intercept's worker for each response, its system calls included. sender ns: CPU of"
    );
    println!(
        "the sending thread for each packet, the receive path and intercept's program on the assistant included."
    );
    println!(
        "send-read: from the target's send to the peer's read; capture-write: intercept's own, whole run."
    );
    println!(
        "bursts: intercept is stopped while {BURST} packets come, then works them off: what a busy core needs.\n"
    );
    for (bytes, report) in without {
        println!(
            "no program   {bytes:>5} bytes: {:>8.0}/s sent, sender {:.0} ns",
            report.rate(),
            sender_ns(report)
        );
    }
    println!(
        "\ntopology   way   bytes  load       sent/s  through/s  lost %  worker ns  sender ns  send-read us p50     p99  capture-write us p50     p99"
    );
    for row in rows {
        let json = row.json();
        let cell = |path: &str, digits: usize| {
            let number = json.pointer(path).and_then(Value::as_f64);
            number.map_or("-".to_owned(), |n| format!("{n:.digits$}"))
        };
        println!(
            "{:<10} {:<4} {:>6}  {:<6} {:>9} {:>10} {:>7} {:>10} {:>10} {:>17} {:>7} {:>21} {:>7}",
            row.way.topology,
            row.way.name,
            row.bytes,
            row.load,
            cell("/sent_per_second", 0),
            cell("/received_per_second", 0),
            cell("/lost_percent", 2),
            cell("/worker_ns", 0),
            cell("/sender_ns", 0),
            cell("/send_to_read_us/p50", 1),
            cell("/send_to_read_us/p99", 1),
            cell("/capture_to_write_us/p50", 1),
            cell("/capture_to_write_us/p99", 1),
        );
    }
}
