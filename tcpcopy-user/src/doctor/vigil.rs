//! Watches a run: when nothing is captured, or what is opened is not answered, the doctor looks why.
//!
//! ```text
//!  supervisor, each tick ── figures of the workers ──▶ Vigil ── Suspicion ──▶ thread: look, probe ──▶ one line in the log
//! ```

use super::capture::{self, Collector};
use super::{at_channel, at_probe, at_way};
use crate::cli::Config;
use crate::worker::{Counter, LiveFigures};
use common::flow::Nanos;
use dataplane::iface::Interface;
use doctor::look::look;
use doctor::{Diagnosis, Finding};
use std::thread::JoinHandle;
use std::time::Duration;
use tracing::subscriber::NoSubscriber;

/// Between two looks of the doctor: each costs a connection to the target, and a line in the log.
const PAUSE: Nanos = Nanos::from_secs(60);
/// How long passing packets are looked at for those that a capture misses.
const CAPTURE_LOOK: Duration = Duration::from_secs(2);
/// The same for an address of a client, which the first packet tells.
const CLIENT_LOOK: Duration = Duration::from_secs(1);
/// Of ten sessions more than one must have been answered.
const UNANSWERED_IN: u64 = 10;
/// What a capture without requests comes to; that is no fault while a run waits for them.
const IDLE: [&str; 3] = ["no_requests", "other_port", "nothing_arrives"];

/// Why the doctor looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// No packet for a whole interval.
    NothingCaptured,
    /// Of the sessions of one interval at least nine in ten had no answer until the end of the next.
    Unanswered,
}

/// When to look: pure, by the figures alone.
#[derive(Clone, Copy, Debug)]
struct Rule {
    every: Nanos,
    at: Nanos,
    last: LiveFigures,
    /// Sessions opened in the interval before, and answers in it.
    before: (u64, u64),
    /// By suspicion: a host that was idle must not hide what comes next.
    quiet_until: [Nanos; 2],
}

impl Rule {
    fn new(every: Nanos, now: Nanos) -> Self {
        Self {
            every,
            at: now + every,
            last: LiveFigures::default(),
            before: (0, 0),
            quiet_until: [now; 2],
        }
    }

    fn is_due(&self, now: Nanos) -> bool {
        now >= self.at
    }

    fn judge(&mut self, now: Nanos, figures: LiveFigures) -> Option<Suspicion> {
        if !self.is_due(now) {
            return None;
        }
        self.at = now + self.every;
        let last = std::mem::replace(&mut self.last, figures);
        let since = |new: u64, old: u64| new.saturating_sub(old);
        let opened = since(figures.sessions, last.sessions);
        let answers = since(figures.responses, last.responses);
        let (opened_before, answers_before) =
            std::mem::replace(&mut self.before, (opened, answers));
        let suspicion = if figures.frames == last.frames {
            Suspicion::NothingCaptured
        } else if opened_before > 0
            && figures.sent > last.sent
            && (answers_before + answers) * UNANSWERED_IN <= opened_before
        {
            Suspicion::Unanswered
        } else {
            return None;
        };
        let quiet_until = &mut self.quiet_until[suspicion as usize];
        if now < *quiet_until {
            return None;
        }
        *quiet_until = now + PAUSE;
        Some(suspicion)
    }
}

/// The supervisor's side.
pub struct Vigil {
    rule: Rule,
    counters: Vec<Counter>,
    looking: Option<JoinHandle<Vec<Finding>>>,
    found: Vec<Finding>,
}

impl Vigil {
    /// Looks at figures once per `every`.
    pub fn new(every: Nanos, now: Nanos) -> Self {
        Self {
            rule: Rule::new(every, now),
            counters: Vec::new(),
            looking: None,
            found: Vec::new(),
        }
    }

    /// To be called now and then; returns at once. `counters` are those of the capture program.
    pub fn tick(
        &mut self,
        now: Nanos,
        figures: LiveFigures,
        config: &Config,
        counters: impl FnOnce() -> Vec<Counter>,
    ) {
        self.hear();
        if !self.rule.is_due(now) {
            return;
        }
        // In each interval, so that what is counted is what it rejected.
        let before = std::mem::replace(&mut self.counters, counters());
        let Some(suspicion) = self.rule.judge(now, figures) else {
            return;
        };
        // With files the reader says what it does.
        let idle = suspicion == Suspicion::NothingCaptured && config.offline.is_some();
        if idle || self.looking.is_some() {
            return;
        }
        let since = |counter: &Counter| {
            let old = before.iter().find(|c| c.name == counter.name);
            (
                counter.name,
                counter.value - old.map_or(0, |c| c.value.min(counter.value)),
            )
        };
        let counted: Vec<_> = self.counters.iter().map(since).collect();
        let config = config.clone();
        let thread = std::thread::Builder::new().name("doctor".to_owned());
        let work = move || {
            // Ports and ways are opened once more for a look; the log has said how, and a queue that the run holds is no news.
            tracing::subscriber::with_default(NoSubscriber::default(), || {
                examine(suspicion, &config, &counted)
            })
        };
        match thread.spawn(work) {
            Ok(thread) => self.looking = Some(thread),
            Err(error) => tracing::debug!(%error, "the doctor did not come"),
        }
    }

    /// What was found during the run, each cause once.
    pub fn finish(mut self) -> Vec<Finding> {
        self.hear();
        self.found
    }

    /// Says what a look that has ended found.
    fn hear(&mut self) {
        let Some(thread) = self.looking.take_if(|thread| thread.is_finished()) else {
            return;
        };
        for finding in thread.join().unwrap_or_default() {
            tracing::warn!(cause = finding.cause, "doctor: {finding}");
            if self.found.iter().all(|f| f.cause != finding.cause) {
                self.found.push(finding);
            }
        }
    }
}

fn examine(suspicion: Suspicion, config: &Config, counted: &[(&'static str, u64)]) -> Vec<Finding> {
    let index = Interface::by_name(&config.iface).map_or(0, |iface| iface.index);
    let mut collector = Collector::new(config, index);
    match suspicion {
        Suspicion::NothingCaptured => {
            for &(name, value) in counted {
                collector.count(name, value);
            }
            // The figures of the workers say so; the counter also counts what came before.
            collector.facts.captured = 0;
            collector.facts.seconds = CAPTURE_LOOK.as_secs();
            if look(CAPTURE_LOOK, |seen| collector.see(seen), || false).is_err() {
                return Vec::new();
            }
            let found = capture::judge(&collector.facts);
            found
                .into_iter()
                .filter(|f| !IDLE.contains(&f.cause))
                .collect()
        }
        Suspicion::Unanswered => {
            // An address of a pool is not probed.
            let own = config.clients.is_some() || config.pool.is_some();
            if !own && config.offline.is_none() {
                let seen = std::cell::RefCell::new(&mut collector);
                let _ = look(
                    CLIENT_LOOK,
                    |packet| seen.borrow_mut().see(packet),
                    || seen.borrow().client.is_some(),
                );
            }
            let mut diagnosis = Diagnosis::default();
            let reaches = at_channel(config, &mut diagnosis);
            let ways = at_way(config, &mut diagnosis);
            at_probe(config, &reaches, &ways, collector.client, &mut diagnosis);
            // The first hop that fails is the cause; what follows it may be a consequence.
            diagnosis.findings.truncate(1);
            diagnosis.findings
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = Nanos::from_secs(1);

    fn figures(frames: u64, sessions: u64, sent: u64, responses: u64) -> LiveFigures {
        LiveFigures {
            sessions,
            frames,
            sent,
            responses,
            ..LiveFigures::default()
        }
    }

    fn at(seconds: u64) -> Nanos {
        Nanos::from_secs(seconds)
    }

    #[test]
    fn sessions_have_an_interval_to_be_answered() {
        let mut rule = Rule::new(SECOND, at(0));
        assert_eq!(rule.judge(at(1), figures(10, 10, 10, 0)), None, "too early");
        let slow = figures(12, 10, 12, 9);
        assert_eq!(rule.judge(at(2), slow), None, "answered late");
        let mut rule = Rule::new(SECOND, at(0));
        assert_eq!(rule.judge(at(1), figures(10, 10, 10, 0)), None);
        let lost = rule.judge(at(2), figures(12, 10, 12, 1));
        assert_eq!(lost, Some(Suspicion::Unanswered));
    }

    #[test]
    fn one_look_a_minute() {
        let mut rule = Rule::new(SECOND, at(0));
        let mut times = Vec::new();
        for second in 1..150 {
            let n = second * 10;
            if rule.judge(at(second), figures(n, n, n, 0)).is_some() {
                times.push(second);
            }
        }
        assert_eq!(times, [2, 62, 122]);
    }

    #[test]
    fn a_capture_that_stands_still() {
        let mut rule = Rule::new(SECOND, at(0));
        assert_eq!(
            rule.judge(at(1), figures(0, 0, 0, 0)),
            Some(Suspicion::NothingCaptured)
        );
        let mut rule = Rule::new(SECOND, at(0));
        assert_eq!(rule.judge(at(1), figures(5, 0, 0, 0)), None);
        assert_eq!(
            rule.judge(at(2), figures(6, 0, 0, 0)),
            None,
            "no sessions, no answers"
        );
    }
}
