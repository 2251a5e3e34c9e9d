//! Slots, rounds, and what is printed of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cpu::{Ksoftirqd, Usage};
use crate::ebpf_support::frames::{HEADERS_V4, tcp, v4};
use crate::lane::Lane;
use crate::reader::{Reader, drain};
use crate::source::{Load, Source};

/// Where captured packets go to, and one port beside it.
pub const ONLINE: [u8; 4] = [10, 99, 0, 20];
pub const ONLINE_PORT: u16 = 80;
pub const OTHER_PORT: u16 = 81;
const CLIENT: [u8; 4] = [10, 99, 0, 1];

/// Share of the machine that others may have in a round that counts. The books of /proc/stat are in steps
/// of 10 ms: a percent or two of a round.
pub const FOREIGN_MAX: f64 = 0.05;
/// Rounds that are tried for each that is to count.
const TRIES: usize = 3;

/// What to measure.
pub struct Plan {
    /// Length of the frames, Ethernet header included.
    pub bytes: usize,
    /// Rounds that are to count: in which others left the machine alone.
    pub rounds: usize,
    /// Length of a slot.
    pub slot: Duration,
    /// Share of the machine that others may have in a round that counts.
    pub foreign_max: f64,
}

impl Plan {
    /// A frame of the length, to a port of the online address.
    pub fn frame(&self, port: u16) -> Vec<u8> {
        let payload = vec![7; self.bytes.saturating_sub(HEADERS_V4)];
        tcp(v4(CLIENT, 40_000), v4(ONLINE, port), &payload)
    }

    /// Runs the rounds: `slots` prints its lines if it is told so. After each round that counts, a line
    /// says what the rest of the machine did meanwhile.
    pub fn run(&self, scenario: &str, mut slots: impl FnMut(&mut Printer<'_>)) {
        let ksoftirqd = Ksoftirqd::find();
        let (mut tried, mut calm) = (0, 0);
        while calm < self.rounds && tried <= self.rounds * TRIES {
            let before = Usage::now(&ksoftirqd);
            let start = Instant::now();
            // The first one warms up.
            let round = tried.checked_sub(1);
            slots(&mut Printer {
                plan: self,
                scenario,
                ksoftirqd: &ksoftirqd,
                round,
            });
            tried += 1;
            let elapsed_ns = start.elapsed().as_nanos() as u64;
            let foreign = Usage::now(&ksoftirqd).foreign_since(&before, elapsed_ns);
            let is_calm = foreign <= self.foreign_max;
            if let Some(round) = round {
                calm += usize::from(is_calm);
                println!(
                    "{}",
                    json!({
                        "scenario": scenario,
                        "bytes": self.bytes,
                        "round": round,
                        "foreign": foreign,
                        "calm": is_calm,
                    })
                );
            }
        }
    }
}

/// One round.
pub struct Printer<'a> {
    pub plan: &'a Plan,
    scenario: &'a str,
    pub ksoftirqd: &'a Ksoftirqd,
    round: Option<usize>,
}

/// What a slot gave. Times in nanoseconds.
pub struct Slot {
    pub sent: u64,
    /// Came to the interface.
    pub arrived: u64,
    /// Came to the reader.
    pub taken: u64,
    pub bytes: u64,
    pub elapsed: Duration,
    /// CPU of sending and of the receive path up to the reader's memory.
    pub kernel_ns: u64,
    /// CPU of the reader's thread.
    pub reader_ns: u64,
}

impl Printer<'_> {
    /// Prints a slot, unless this is the round that warms up.
    pub fn slot(&self, way: &str, load: &str, slot: &Slot) {
        let Some(round) = self.round else { return };
        println!(
            "{}",
            json!({
                "scenario": self.scenario,
                "bytes": self.plan.bytes,
                "round": round,
                "way": way,
                "load": load,
                "sent": slot.sent,
                "arrived": slot.arrived,
                "taken": slot.taken,
                "taken_bytes": slot.bytes,
                "elapsed_ns": slot.elapsed.as_nanos() as u64,
                "kernel_ns": slot.kernel_ns,
                "reader_ns": slot.reader_ns,
            })
        );
    }

    /// Prints any other result.
    pub fn line(&self, mut value: serde_json::Value) {
        let Some(round) = self.round else { return };
        value["scenario"] = self.scenario.into();
        value["bytes"] = self.plan.bytes.into();
        value["round"] = round.into();
        println!("{value}");
    }

    /// A slot of sending `frame` into a lane, with or without a reader at its end.
    pub fn send(
        &self,
        lane: &Lane,
        source: &Source,
        reader: Option<&mut dyn Reader>,
        frame: &[u8],
        load: Load,
    ) -> Slot {
        let (send_core, read_core) = cores();
        let arrived = lane.arrived();
        let stop = AtomicBool::new(false);
        let (sent, taken) = std::thread::scope(|scope| {
            let thread = reader.map(|reader| scope.spawn(|| drain(reader, read_core, &stop)));
            let sent = source.send(lane, frame, load, self.plan.slot, send_core, self.ksoftirqd);
            stop.store(true, Ordering::Relaxed);
            let taken = thread.map(|thread| thread.join().expect("reader"));
            (sent, taken.unwrap_or_default())
        });
        Slot {
            sent: sent.packets,
            arrived: lane.arrived() - arrived,
            taken: taken.packets,
            bytes: taken.bytes,
            elapsed: sent.elapsed,
            kernel_ns: sent.kernel_ns,
            reader_ns: taken.cpu_ns,
        }
    }
}

/// Cores of source and reader: apart wherever there are two.
pub fn cores() -> (usize, usize) {
    let cores = dataplane::cores::available();
    (cores[0], cores[cores.len().min(2) - 1])
}
