//! A capture that another thread fills, for example from a file.
//!
//! ```text
//!  reader thread                         worker
//!  send (waits while the ring is full) ──▶ ring of frames ──▶ recv: those that are due
//!       └─ wakes the worker if it sleeps      │
//!                                             └─ arm: a timer for the next one that is not
//! ```
//! The time of a frame says when it is due, by the clock of [`crate::clock`]. Nothing is ever dropped:
//! the ring is the whole memory between the two threads, and the reader waits.

use crate::clock;
use crate::handover::{FrameReceiver, FrameSender, frame_ring};
use crate::port::{BATCH, Capture, CounterSink};
use crate::wake::WakerHandle;
use common::flow::{CaptureMeta, Captured, Nanos};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// When frames are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Each at its time.
    Due,
    /// At once, as if captured in that moment.
    AtOnce,
}

/// The reader's end.
pub struct FeedSender {
    ring: FrameSender,
    worker: WakerHandle,
}

/// The worker's end.
pub struct Feed {
    ring: FrameReceiver,
    pace: Pace,
    waits_at: usize,
    timer: OwnedFd,
    /// The timer runs, or has fired: its descriptor may be readable.
    timer_set: bool,
    delivered: u64,
}

/// A ring of `bytes` bytes to the worker that `worker` wakes. A frame of a quarter of it always fits at
/// last. See [`Capture::waits_at`] for `waits_at`.
pub fn feed(
    bytes: usize,
    pace: Pace,
    waits_at: usize,
    worker: WakerHandle,
) -> Result<(FeedSender, Feed), Errno> {
    let (sender, receiver) = frame_ring(bytes);
    let timer = timerfd_create(
        TimerfdClockId::Monotonic,
        TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
    )?;
    let feed = Feed {
        ring: receiver,
        pace,
        waits_at,
        timer,
        timer_set: false,
        delivered: 0,
    };
    Ok((
        FeedSender {
            ring: sender,
            worker,
        },
        feed,
    ))
}

impl FeedSender {
    /// Copies a frame in; false: there is no room now, try again later.
    pub fn send(&mut self, frame: &Captured<'_>) -> bool {
        let went = self.ring.send(frame);
        self.worker.wake();
        went
    }

    /// The worker has taken everything.
    pub fn is_drained(&self) -> bool {
        self.ring.is_drained()
    }
}

impl Feed {
    /// At 0 it does not run.
    fn set_timer(&mut self, at: Nanos) {
        self.timer_set = at.0 > 0;
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let spec = Itimerspec {
            it_interval: zero,
            it_value: Timespec {
                tv_sec: (at.0 / 1_000_000_000) as i64,
                tv_nsec: (at.0 % 1_000_000_000) as i64,
            },
        };
        // It fails only for times that are none; the worker's longest sleep bounds what that costs.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec);
    }
}

impl Capture for Feed {
    fn recv(&mut self, act: &mut dyn FnMut(&[Captured<'_>])) -> usize {
        if self.ring.is_empty() {
            return 0;
        }
        let now = clock::now();
        let n = match self.pace {
            Pace::Due => self.ring.recv_until(now, act),
            Pace::AtOnce => self.ring.recv(&mut |batch| {
                let mut stamped = [Captured {
                    bytes: &[],
                    meta: CaptureMeta::default(),
                }; BATCH];
                for (stamped, frame) in stamped.iter_mut().zip(batch) {
                    *stamped = *frame;
                    stamped.meta.at = now;
                }
                act(&stamped[..batch.len().min(BATCH)]);
            }),
        };
        self.delivered += n as u64;
        n
    }

    fn arm(&mut self) -> bool {
        match self.ring.next_at() {
            // The sender wakes the worker; a timer that fired must not.
            None => {
                if self.timer_set {
                    self.set_timer(Nanos(0));
                }
                true
            }
            Some(_) if self.pace == Pace::AtOnce => false,
            Some(at) if at <= clock::now() => false,
            Some(at) => {
                self.set_timer(at);
                true
            }
        }
    }

    fn fds(&self) -> Vec<RawFd> {
        vec![self.timer.as_raw_fd()]
    }

    fn waits_at(&self) -> Option<usize> {
        Some(self.waits_at)
    }

    fn counters(&mut self, sink: CounterSink<'_>) {
        sink("feed_delivered", self.delivered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poll::PollSet;
    use crate::wake::Waker;

    fn frame(bytes: &[u8], at: Nanos) -> Captured<'_> {
        Captured {
            bytes,
            meta: CaptureMeta {
                at,
                ..CaptureMeta::default()
            },
        }
    }

    fn times(feed: &mut Feed) -> Vec<u64> {
        let mut all = Vec::new();
        feed.recv(&mut |batch| all.extend(batch.iter().map(|f| f.meta.at.0)));
        all
    }

    #[test]
    fn frames_come_when_they_are_due_and_not_before() {
        let waker = Waker::new().expect("waker");
        let (mut sender, mut feed) =
            feed(1 << 16, Pace::Due, usize::MAX, waker.handle()).expect("feed");
        assert!(feed.arm(), "nothing is there");
        let now = clock::now();
        let late = now + Nanos::from_millis(30);
        assert!(sender.send(&frame(&[1; 60], now)));
        assert!(sender.send(&frame(&[2; 60], late)));
        assert!(!feed.arm(), "one is due");
        assert_eq!(times(&mut feed), [now.0]);
        assert_eq!(times(&mut feed), [0u64; 0]);
        assert!(!sender.is_drained());
        assert!(feed.arm());
        let mut poll = PollSet::new();
        poll.add(feed.fds()[0], false);
        assert!(poll.wait(Nanos::from_secs(60)), "the timer wakes");
        assert!(clock::now() >= late, "and not too early");
        assert_eq!(times(&mut feed), [late.0]);
        assert!(sender.is_drained());
        assert!(feed.arm());
        assert!(!poll.wait(Nanos(0)), "an old timer does not wake again");
    }

    #[test]
    fn the_sender_wakes_a_sleeping_worker() {
        let waker = Waker::new().expect("waker");
        let (mut sender, mut feed) =
            feed(1 << 16, Pace::Due, usize::MAX, waker.handle()).expect("feed");
        assert!(waker.prepare_sleep() && feed.arm());
        sender.send(&frame(&[1; 60], Nanos(1)));
        let mut poll = PollSet::new();
        poll.add(waker.fd(), false);
        assert!(poll.wait(Nanos::from_secs(60)));
        assert_eq!(times(&mut feed), [1]);
    }

    #[test]
    fn at_once_all_come_with_the_time_of_delivery() {
        let waker = Waker::new().expect("waker");
        let (mut sender, mut feed) =
            feed(1 << 16, Pace::AtOnce, 100, waker.handle()).expect("feed");
        let far = Nanos(u64::MAX);
        for n in 0..100u8 {
            assert!(sender.send(&frame(&[n; 60], far)));
        }
        let before = clock::now();
        assert!(!feed.arm());
        let mut all = Vec::new();
        while feed.recv(&mut |batch| all.extend(batch.iter().map(|f| (f.bytes[0], f.meta.at)))) > 0
        {
        }
        assert_eq!(all.len(), 100);
        for (n, (byte, at)) in all.iter().enumerate() {
            assert!(*byte == n as u8 && *at >= before && *at <= clock::now());
        }
        assert_eq!(feed.waits_at(), Some(100));
    }

    #[test]
    fn a_full_ring_refuses_and_loses_nothing() {
        let waker = Waker::new().expect("waker");
        let (mut sender, mut feed) =
            feed(4096, Pace::Due, usize::MAX, waker.handle()).expect("feed");
        let (mut sent, mut seen) = (0u64, 0u64);
        while sent < 5000 {
            if sender.send(&frame(&[7; 333], Nanos(sent))) {
                sent += 1;
            } else {
                for at in times(&mut feed) {
                    assert_eq!(at, seen);
                    seen += 1;
                }
            }
        }
        seen += times(&mut feed).len() as u64;
        assert_eq!(seen, sent);
        assert!(sender.is_drained());
    }
}
