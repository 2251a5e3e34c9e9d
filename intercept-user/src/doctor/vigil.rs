//! Watches a run: when tcpcopy has announced targets and nothing is taken from them, the doctor looks where it is.

use super::arrive;
use common::packet::Endpoint;
use dataplane::bpf::Filter;
use doctor::Finding;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Without a response for so long the doctor looks.
const QUIET: Duration = Duration::from_secs(10);
/// Between two looks.
const PAUSE: Duration = Duration::from_mins(1);
/// How long a look takes.
const LOOK: Duration = Duration::from_secs(2);
/// What an idle replay comes to: only tcpcopy knows whether it has sent anything.
const IDLE: &str = "no_responses";

/// Targets that tcpcopy has announced.
#[derive(Clone, Debug, Default)]
pub struct Announcements(Arc<Mutex<Vec<Endpoint>>>);

impl Announcements {
    /// One more.
    pub fn add(&self, target: Endpoint) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(target);
    }

    fn all(&self) -> Vec<Endpoint> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The waiting thread's side.
pub struct Vigil {
    iface: (String, u32),
    filter: Option<Filter>,
    announced: Announcements,
    taken: u64,
    since: Instant,
    quiet_until: Instant,
    looking: Option<JoinHandle<Option<Finding>>>,
}

impl Vigil {
    /// For an interface by name and index.
    pub fn new(iface: (&str, u32), filter: Option<&Filter>, announced: Announcements) -> Self {
        let now = Instant::now();
        Self {
            iface: (iface.0.to_owned(), iface.1),
            filter: filter.cloned(),
            announced,
            taken: 0,
            since: now,
            quiet_until: now,
            looking: None,
        }
    }

    /// To be called now and then with the number of responses taken so far; returns at once.
    pub fn tick(&mut self, taken: impl FnOnce() -> u64) {
        if let Some(thread) = self.looking.take_if(|thread| thread.is_finished())
            && let Some(finding) = thread.join().ok().flatten()
            && finding.cause != IDLE
        {
            tracing::warn!(cause = finding.cause, "doctor: {finding}");
        }
        let now = Instant::now();
        if now.duration_since(self.since) < QUIET {
            return;
        }
        self.since = now;
        let before = std::mem::replace(&mut self.taken, taken());
        let targets = self.announced.all();
        if self.taken != before
            || targets.is_empty()
            || now < self.quiet_until
            || self.looking.is_some()
        {
            return;
        }
        self.quiet_until = now + PAUSE;
        let (iface, filter) = (self.iface.clone(), self.filter.clone());
        let thread = std::thread::Builder::new().name("doctor".to_owned());
        let look = move || {
            let iface = (iface.0.as_str(), iface.1);
            arrive(iface, filter.as_ref(), true, targets, LOOK, |line| {
                tracing::debug!("doctor: {line}");
            })
        };
        match thread.spawn(look) {
            Ok(thread) => self.looking = Some(thread),
            Err(error) => tracing::debug!(%error, "the doctor did not come"),
        }
    }
}
