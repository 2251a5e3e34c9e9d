//! Waking a sleeping worker.
//!
//! ```text
//!   worker                                   other threads
//!   prepare_sleep: AWAKE ──▶ SLEEPING        publish work
//!   re-check sources, poll(fd, …)            wake: SLEEPING ──▶ NOTIFIED + eventfd write
//!   clear: ──▶ AWAKE, eventfd drained              AWAKE ──▶ NOTIFIED, no syscall
//! ```
//! No wake-up is lost: either the sleeper sees the work when it re-checks after `prepare_sleep`, or the
//! waker sees `SLEEPING`. The sequentially consistent fences on both sides are what forbids the third
//! case (store buffering), as in the kernel's `prepare_to_wait` / `wake_up` pair.

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, read, write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

const AWAKE: u32 = 0;
const SLEEPING: u32 = 1;
/// Woken, and nobody need wake again until the worker has looked.
const NOTIFIED: u32 = 2;

#[derive(Debug)]
struct Shared {
    state: AtomicU32,
    event: OwnedFd,
}

/// The sleeper's side, one per worker.
#[derive(Debug)]
pub struct Waker(Arc<Shared>);

/// The other threads' side.
#[derive(Clone, Debug)]
pub struct WakerHandle(Arc<Shared>);

impl Waker {
    /// Makes one. Fails if the process is out of file descriptors.
    pub fn new() -> Result<Self, Errno> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Shared {
            state: AtomicU32::new(AWAKE),
            event,
        })))
    }

    /// For those who wake.
    pub fn handle(&self) -> WakerHandle {
        WakerHandle(Arc::clone(&self.0))
    }

    /// Readable after a wake-up of a sleeper. Stays the same.
    pub fn fd(&self) -> RawFd {
        self.0.event.as_fd().as_raw_fd()
    }

    /// Announces the sleep. False: somebody woke since the last [`Waker::clear`]; do not sleep, look at
    /// the sources again. After true the sources must be checked once more before poll(2), and
    /// [`Waker::clear`] called after it.
    pub fn prepare_sleep(&self) -> bool {
        let went = self
            .0
            .state
            .compare_exchange(AWAKE, SLEEPING, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok();
        if went {
            fence(Ordering::SeqCst);
        } else {
            self.clear();
        }
        went
    }

    /// Back to work: takes wake-ups as seen and makes the descriptor unreadable.
    pub fn clear(&self) {
        // The swap comes first: a wake between it and the read is seen as NOTIFIED by the next
        // prepare_sleep even though the read took its event.
        if self.0.state.swap(AWAKE, Ordering::SeqCst) != AWAKE {
            let mut count = [0u8; 8];
            // EAGAIN is the usual answer after a timeout; an eventfd fails in no other way.
            let _ = read(&self.0.event, &mut count);
        }
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

impl WakerHandle {
    /// Wakes the worker if it sleeps, else leaves word. Call it after publishing the work. While the
    /// worker is busy this costs a fence and a load.
    #[inline]
    pub fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.0.state.load(Ordering::Relaxed) != NOTIFIED {
            self.notify();
        }
    }

    #[cold]
    fn notify(&self) {
        if self.0.state.swap(NOTIFIED, Ordering::SeqCst) == SLEEPING {
            // Fails only when the counter is full, and then the descriptor is readable anyway.
            let _ = write(&self.0.event, &1u64.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};
    use std::sync::atomic::AtomicU64;

    fn readable(waker: &Waker) -> bool {
        let mut fds = [PollFd::new(&waker.0.event, PollFlags::IN)];
        let now = rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&now)).expect("poll") == 1
    }

    #[test]
    fn a_sleeper_is_woken_once() {
        let waker = Waker::new().expect("waker");
        let handle = waker.handle();
        assert!(waker.prepare_sleep());
        assert!(!readable(&waker));
        handle.wake();
        handle.wake();
        assert!(readable(&waker));
        waker.clear();
        assert!(!readable(&waker));
        assert!(waker.prepare_sleep());
    }

    #[test]
    fn a_wake_before_the_sleep_prevents_it() {
        let waker = Waker::new().expect("waker");
        waker.handle().wake();
        assert!(!readable(&waker), "a worker that is awake costs no syscall");
        assert!(!waker.prepare_sleep());
        assert!(waker.prepare_sleep());
    }

    #[test]
    fn no_wake_is_lost_between_threads() {
        const ROUNDS: u64 = 20_000;
        let waker = Waker::new().expect("waker");
        let handle = waker.handle();
        let published = Arc::new(AtomicU64::new(0));
        let producer = {
            let published = Arc::clone(&published);
            std::thread::spawn(move || {
                for n in 1..=ROUNDS {
                    published.store(n, Ordering::Release);
                    handle.wake();
                    if n % 64 == 0 {
                        std::thread::yield_now();
                    }
                }
            })
        };
        let mut seen = 0;
        while seen < ROUNDS {
            let now = published.load(Ordering::Acquire);
            if now != seen {
                seen = now;
                continue;
            }
            if waker.prepare_sleep() {
                if published.load(Ordering::SeqCst) == seen {
                    // No timeout: a lost wake-up would hang the test.
                    let mut fds = [PollFd::new(&waker.0.event, PollFlags::IN)];
                    poll(&mut fds, None).expect("poll");
                }
                waker.clear();
            }
        }
        producer.join().expect("producer");
    }
}
