//! CPU time: of a thread, of the kernel's softirq threads, and of everybody else.
//!
//! A softirq runs on top of whichever thread its CPU has, or in ksoftirqd. Without
//! CONFIG_IRQ_TIME_ACCOUNTING its time is in that thread's. With it, it is in no thread's, but in
//! /proc/stat in steps of 10 ms: the kernel's share of a cost would lack it. The caller compares the
//! thread's time with the time that passed, and tells.

use rustix::time::{ClockId, clock_gettime};
use std::fs::read_to_string;

/// Of USER_HZ, in which /proc/stat counts (100 on every architecture that BPF runs on).
const TICK_NS: u64 = 10_000_000;

/// Nanoseconds that the calling thread has run, with what softirqs took from it.
pub fn thread_ns() -> u64 {
    to_ns(clock_gettime(ClockId::ThreadCPUTime))
}

/// The same for all threads of this process, ended ones too.
fn process_ns() -> u64 {
    to_ns(clock_gettime(ClockId::ProcessCPUTime))
}

fn to_ns(t: rustix::time::Timespec) -> u64 {
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// The kernel threads that run softirqs when there are too many.
pub struct Ksoftirqd {
    schedstats: Vec<String>,
}

impl Ksoftirqd {
    /// Finds them; none in a container that does not show the host's processes.
    pub fn find() -> Self {
        let is_one = |pid: &str| {
            read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.starts_with("ksoftirqd/"))
        };
        let schedstats = std::fs::read_dir("/proc")
            .expect("/proc")
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.bytes().all(|b| b.is_ascii_digit()) && is_one(name))
            .map(|pid| format!("/proc/{pid}/schedstat"))
            .collect();
        Self { schedstats }
    }

    /// Nanoseconds that they have run.
    pub fn ns(&self) -> u64 {
        let first = |path: &String| -> Option<u64> {
            read_to_string(path)
                .ok()?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        };
        self.schedstats.iter().filter_map(first).sum()
    }
}

/// What the whole machine and this process have used up to now.
pub struct Usage {
    idle_ns: u64,
    own_ns: u64,
}

impl Usage {
    /// Reads it.
    pub fn now(ksoftirqd: &Ksoftirqd) -> Self {
        let text = read_to_string("/proc/stat").expect("/proc/stat");
        // user nice system idle iowait
        let ticks: Vec<u64> = text
            .lines()
            .next()
            .expect("a line")
            .split_whitespace()
            .skip(1)
            .take(5)
            .map(|n| n.parse().expect("number"))
            .collect();
        // Idle time is kept exactly, the rest in ticks; what the hypervisor stole is not idle.
        let idle: u64 = ticks[3..5].iter().sum();
        Self {
            idle_ns: idle * TICK_NS,
            own_ns: process_ns() + ksoftirqd.ns(),
        }
    }

    /// Share of the machine that others (and the hypervisor) took since `before`.
    pub fn foreign_since(&self, before: &Self, elapsed_ns: u64) -> f64 {
        let all = elapsed_ns as f64 * dataplane::cores::available().len() as f64;
        let idle = (self.idle_ns - before.idle_ns) as f64;
        let own = (self.own_ns - before.own_ns) as f64;
        ((all - idle - own) / all).max(0.0)
    }
}
