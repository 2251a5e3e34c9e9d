//! The worker loop.
//!
//! ```text
//!  own queues ─▶ decode ─▶ owner? ──other──▶ hand-over ring ─▶ the owner
//!                            │ me
//!                            ▼
//!        route lookup ─hit─▶ connection mine? ─yes─▶ its queue ─▶ frames, one write per batch
//!             │ miss                    └──no──▶ record ring ─▶ its owner's queue
//!             ▼
//!           parked until the ADD comes (commands of the control thread)
//! ```
//! Everything in the picture belongs to one thread, rings apart. One clock read per loop, one more when
//! something was written. Under load the worker sleeps 50 us when its sources are empty; after 20 empty
//! rounds it arms them and sleeps in poll(2) (measured against adaptive wake-ups and spinning: design
//! 3.1).

mod connections;
mod core;

pub use self::core::{Limits, PacketTotals, WorkerReport, turnaround_histogram};

use self::core::Core;
use crate::channel::{CommandReceiver, Links};
use common::flow::Nanos;
use dataplane::handover::Handover;
use dataplane::poll::PollSet;
use dataplane::wake::Waker;
use dataplane::{Capture, clock};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Sleep under load: short against the 8192 frames of a ring (2.5 ms at 3 Mpps), long enough to leave the
/// core to the kernel's receive path.
const SLEEP: Duration = Duration::from_micros(50);
/// Empty rounds before the worker arms its sources and sleeps in poll: 1 ms of silence.
const EMPTY_ROUNDS: u32 = 20;
/// Longest sleep in poll.
const POLL_MAX: Nanos = Nanos::from_millis(100);
/// The default of 50 us (prctl(2), PR_SET_TIMERSLACK) would double the sleep.
const TIMER_SLACK_NS: NonZeroU64 = NonZeroU64::MIN;

/// What a worker is made of.
pub struct Parts {
    /// Its number.
    pub worker: u32,
    /// How many there are.
    pub workers: u32,
    /// Its queues.
    pub captures: Vec<Box<dyn Capture>>,
    /// Frames to and from other workers.
    pub handover: Handover,
    /// Records to and from other workers.
    pub links: Links,
    /// From the control thread.
    pub commands: CommandReceiver,
    /// Wakes this worker: commands and records.
    pub waker: Waker,
    /// Table sizes.
    pub limits: Limits,
    /// Set when the program ends; followed by a wake-up.
    pub stop: Arc<AtomicBool>,
}

/// A worker, ready to run.
pub struct Worker {
    core: Core,
    captures: Vec<Box<dyn Capture>>,
    handover: Handover,
    commands: CommandReceiver,
    waker: Waker,
    poll: PollSet,
    stop: Arc<AtomicBool>,
}

impl Worker {
    /// Puts the parts together and reserves the tables.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            worker,
            workers,
            captures,
            handover,
            links,
            commands,
            waker,
            limits,
            stop,
        } = parts;
        Self {
            core: Core::new(worker, workers, links, &limits, clock::now()),
            captures,
            handover,
            commands,
            waker,
            poll: PollSet::new(),
            stop,
        }
    }

    /// Runs until the stop flag is set. The sources, with their sockets, are closed on return.
    pub fn run(mut self) -> WorkerReport {
        if let Err(error) = rustix::thread::set_current_timer_slack(Some(TIMER_SLACK_NS)) {
            tracing::debug!(%error, "timer slack stays at its default: sleeps are longer");
        }
        let mut empty_rounds = 0;
        while !self.stop.load(Ordering::Acquire) {
            if self.round(clock::now()) {
                empty_rounds = 0;
                continue;
            }
            empty_rounds += 1;
            if empty_rounds <= EMPTY_ROUNDS {
                std::thread::sleep(SLEEP);
            } else if self.sleep() {
                empty_rounds = 0;
            }
        }
        // What has arrived by now still goes out, as far as sockets take it.
        self.round(clock::now());
        let mut counters = Vec::new();
        for capture in &mut self.captures {
            capture.counters(&mut |name, value| counters.push((name, value)));
        }
        self.handover
            .counters(&mut |name, value| counters.push((name, value)));
        self.core.finish(counters)
    }

    /// One turn through everything; false if there was nothing to do.
    fn round(&mut self, now: Nanos) -> bool {
        let Self {
            core,
            captures,
            handover,
            commands,
            ..
        } = self;
        core.count_links();
        let mut work = 0;
        // Announcements first: tcpcopy sends them before the SYN, so the answer finds its route.
        let drained = commands.drain(|command| {
            work += 1;
            core.command(now, command);
        });
        for capture in captures {
            work += capture.recv(&mut |batch| {
                for frame in batch {
                    core.frame(now, frame, handover);
                }
            });
        }
        work += handover.recv(&mut |batch| {
            for frame in batch {
                core.handed_over(now, frame);
            }
        });
        if drained {
            work += core.take_links();
        }
        core.flush(now, clock::now);
        core.advance(now) || work > 0
    }

    /// Sleeps until something happens; false after a timeout.
    fn sleep(&mut self) -> bool {
        let Self {
            core,
            captures,
            handover,
            commands,
            waker,
            poll,
            stop,
        } = self;
        let awake = !waker.prepare_sleep()
            || captures.iter_mut().any(|capture| !capture.arm())
            || !handover.arm()
            || !commands.is_empty()
            || !core.links_empty()
            || stop.load(Ordering::Acquire);
        if awake {
            waker.clear();
            return true;
        }
        let now = clock::now();
        let timeout = core
            .next_deadline(now)
            .map_or(POLL_MAX, |at| at.since(now).min(POLL_MAX));
        poll.clear();
        poll.add(waker.fd(), false);
        for fd in captures.iter().flat_map(|c| c.fds()).chain(handover.fds()) {
            poll.add(fd, false);
        }
        core.connections().poll_blocked(poll);
        let woken = poll.wait(timeout);
        waker.clear();
        core.connections().retry_blocked();
        woken
    }
}
