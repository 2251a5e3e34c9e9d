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
//! something was written. When nothing is to be done: `dataplane::idle`.

mod connections;
mod core;

pub use self::core::{Limits, PacketTotals, WorkerReport, turnaround_histogram};

use self::core::Core;
use crate::channel::{CommandReceiver, Links};
use crate::mapping::Mappings;
use crate::routes::KernelRoutes;
use common::flow::Nanos;
use dataplane::handover::Handover;
use dataplane::idle::{self, Idle, Rest, nap};
use dataplane::poll::PollSet;
use dataplane::wake::Waker;
use dataplane::{Capture, clock};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    /// Addresses behind NAT.
    pub mappings: Mappings,
    /// On the target itself: what must know the routes too.
    pub kernel: Option<Box<dyn KernelRoutes>>,
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
            mappings,
            kernel,
            stop,
        } = parts;
        let now = clock::now();
        Self {
            core: Core::new(worker, workers, links, &limits, mappings, kernel, now),
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
        idle::prepare_thread();
        let mut idle = Idle::default();
        while !self.stop.load(Ordering::Acquire) {
            let now = clock::now();
            let work = self.round(now);
            match idle.after(work, false, now, || self.core.next_deadline(now)) {
                Rest::None => {}
                Rest::Nap(length) => nap(length),
                Rest::Sleep(left) => self.sleep(left),
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

    /// One turn through everything; how much there was to do.
    fn round(&mut self, now: Nanos) -> usize {
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
        work + usize::from(core.advance(now))
    }

    /// Sleeps until something happens, at most for `left`.
    fn sleep(&mut self, left: Nanos) {
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
        if !awake {
            poll.clear();
            poll.add(waker.fd(), false);
            for fd in captures.iter().flat_map(|c| c.fds()).chain(handover.fds()) {
                poll.add(fd, false);
            }
            core.connections().poll_blocked(poll);
            poll.wait(left);
            core.connections().retry_blocked();
        }
        waker.clear();
    }
}
