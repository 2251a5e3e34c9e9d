//! Who takes the packets: counts them and their bytes, on a core of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::flow::Nanos;
use dataplane::idle::{self, Idle, Rest};
use dataplane::poll::PollSet;
use dataplane::{Capture, clock, cores};

use crate::cpu::thread_ns;

/// After the end of sending, a reader stops when nothing has come for so long: longer than a block of
/// AF_PACKET waits for more (its 1 ms, up to two ticks of 4 ms where timers are coarse).
const QUIET: Duration = Duration::from_millis(15);
/// Longest sleep, so that the end of a slot is noticed.
const MAX_SLEEP: Nanos = Nanos::from_millis(5);

/// What was taken.
#[derive(Clone, Copy, Default)]
pub struct Taken {
    pub packets: u64,
    pub bytes: u64,
    /// Thread time until the last packet was taken.
    pub cpu_ns: u64,
}

/// A source of packets with a loop of its own way.
pub trait Reader: Send {
    /// Takes what is there; returns packets and bytes.
    fn take(&mut self) -> (u64, u64);

    /// Rests after a round; `worked` if it took something.
    fn rest(&mut self, worked: bool);
}

/// Reads until `stop` and then until it is quiet.
pub fn drain(reader: &mut dyn Reader, core: usize, stop: &AtomicBool) -> Taken {
    cores::pin(core).expect("pin the reader");
    idle::prepare_thread();
    let start = thread_ns();
    let mut taken = Taken::default();
    let mut last = Instant::now();
    let mut worked = false;
    loop {
        let (packets, bytes) = reader.take();
        taken.packets += packets;
        taken.bytes += bytes;
        // The clocks are read only on rounds that would rest.
        if packets == 0 {
            if worked {
                taken.cpu_ns = thread_ns() - start;
                last = Instant::now();
            } else if stop.load(Ordering::Relaxed) && last.elapsed() > QUIET {
                return taken;
            }
        }
        worked = packets > 0;
        reader.rest(worked);
    }
}

/// A capture of the product, with the loop of its workers (tcpcopy-user, `worker::Worker::run`).
pub struct Product<C> {
    capture: C,
    idle: Idle,
    /// Packets of the last round.
    work: usize,
    poll: PollSet,
    /// Pause on an empty round instead of the product's.
    pause: Option<Duration>,
}

impl<C: Capture> Product<C> {
    /// Over one source.
    pub fn new(capture: C) -> Self {
        Self {
            capture,
            idle: Idle::default(),
            work: 0,
            poll: PollSet::new(),
            pause: None,
        }
    }

    /// Looks less often than the product does: what of the cost is looking.
    pub fn pause(&mut self, pause: Option<Duration>) {
        self.pause = pause;
    }
}

impl<C: Capture> Reader for Product<C> {
    fn take(&mut self) -> (u64, u64) {
        let mut bytes = 0;
        let packets = self.capture.recv(&mut |batch| {
            bytes += batch.iter().map(|c| c.bytes.len() as u64).sum::<u64>();
        });
        self.work = packets;
        (packets as u64, bytes)
    }

    fn rest(&mut self, worked: bool) {
        if let Some(pause) = self.pause.filter(|_| !worked) {
            return std::thread::sleep(pause);
        }
        match self.idle.after(self.work, false, clock::now(), || None) {
            Rest::None => {}
            Rest::Nap(length) => idle::nap(length),
            Rest::Sleep(longest) => {
                if self.capture.arm() {
                    self.poll.clear();
                    for fd in self.capture.fds() {
                        self.poll.add(fd, false);
                    }
                    self.poll.wait(longest.min(MAX_SLEEP));
                }
            }
        }
    }
}

/// Waits for input on a descriptor.
pub fn wait_for(poll: &mut PollSet, fd: std::os::fd::RawFd) {
    poll.clear();
    poll.add(fd, false);
    poll.wait(MAX_SLEEP);
}
