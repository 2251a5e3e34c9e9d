//! Many seeds on all cores.

use crate::faults::Injected;
use crate::setting::Setting;
use crate::watch::Violation;
use crate::world::{Report, run};
use session::{Outcome, Totals};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Failures that are printed in full.
const SHOWN: usize = 5;

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

/// Seeds `0..count`, times SIMULATION_SCALE; or SIMULATION_SEED alone.
pub fn seeds(count: u64) -> Range<u64> {
    match number("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..count * number("SIMULATION_SCALE").unwrap_or(1),
    }
}

#[derive(Default)]
pub struct Sum {
    pub seeds: u64,
    pub totals: Totals,
    pub injected: Injected,
    pub steps: u64,
    pub violations: usize,
    pub failures: Vec<(u64, Vec<Violation>)>,
}

impl Sum {
    fn add(&mut self, seed: u64, report: Report) {
        self.seeds += 1;
        self.totals.merge(&report.totals);
        self.injected.merge(&report.injected);
        self.steps += report.steps;
        self.violations += report.violations.len();
        if !report.violations.is_empty() {
            self.failures.push((seed, report.violations));
        }
    }

    /// Figures for people.
    pub fn print(&self) {
        let t = &self.totals;
        println!(
            "{} seeds, {} sessions, {} steps, {} segments sent ({} again)",
            self.seeds, t.sessions, self.steps, t.segments_sent, t.segments_retransmitted
        );
        println!(
            "{} bytes captured, {} delivered; {} adopted, {} connections opened again",
            t.bytes_captured, t.bytes_delivered, t.adopted, t.reopened
        );
        let outcomes = Outcome::ALL.map(|o| format!("{} {}", o.name(), t.outcome(o)));
        println!("outcomes: {}", outcomes.join(", "));
        println!("faults injected:\n{}", self.injected);
        println!(
            "{} violations; {} of {} seeds failed",
            self.violations,
            self.failures.len(),
            self.seeds
        );
    }

    /// Panics with what a reader needs to see a failure again, if there is one.
    pub fn must_be_clean(&mut self, test: &str, setting: impl Fn(u64) -> Setting) {
        if self.failures.is_empty() {
            return;
        }
        self.failures.sort_by_key(|(seed, _)| *seed);
        for (seed, violations) in self.failures.iter().take(SHOWN) {
            println!("seed {seed}: {violations:#?}\n{:?}", setting(*seed));
        }
        for (seed, violations) in &self.failures {
            for v in violations.iter().take(1) {
                println!("failed: seed {seed}: {:?}: {}", v.rule, v.text);
            }
            println!(
                "  again: SIMULATION_SEED={seed} cargo test -p session --test simulation {test} -- \
                 --exact --nocapture"
            );
        }
        panic!(
            "{} violations in {} seeds",
            self.violations,
            self.failures.len()
        );
    }
}

/// Runs `seeds` with `setting`; `check` adds what else must hold of a report.
pub fn sweep(
    seeds: Range<u64>,
    progress: bool,
    setting: impl Fn(u64) -> Setting + Sync,
    check: impl Fn(&Setting, &mut Report) + Sync,
) -> Sum {
    let (next, sum) = (AtomicU64::new(seeds.start), Mutex::new(Sum::default()));
    let begun = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.min((seeds.end - seeds.start) as usize).max(1);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let setting = setting(seed);
                    let mut report = run(&setting);
                    check(&setting, &mut report);
                    sum.lock()
                        .expect("no thread panics with it")
                        .add(seed, report);
                }
            });
        }
        while progress && next.load(Ordering::Relaxed) < seeds.end {
            std::thread::sleep(Duration::from_secs(2));
            let sum = sum.lock().expect("no thread panics with it");
            eprintln!(
                "[{:>4} s] {} of {} seeds, {} sessions, {} violations",
                begun.elapsed().as_secs(),
                sum.seeds,
                seeds.end - seeds.start,
                sum.totals.sessions,
                sum.violations
            );
        }
    });
    sum.into_inner().expect("no thread panics with it")
}
