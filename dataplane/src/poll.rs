//! Sleeping until a descriptor is ready.
//!
//! The descriptors of captures are plain numbers ([`crate::Capture::fds`]), which safe poll wrappers do
//! not take. The set is filled before each sleep, in a buffer that is kept.

use common::flow::Nanos;
use std::os::fd::RawFd;

/// Descriptors to sleep on. One that is closed meanwhile ends the sleep at once, nothing worse.
#[derive(Debug, Default)]
pub struct PollSet {
    fds: Vec<libc::pollfd>,
}

impl PollSet {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all descriptors.
    pub fn clear(&mut self) {
        self.fds.clear();
    }

    /// Adds a descriptor to wait for: input always, room for output too with `write`.
    pub fn add(&mut self, fd: RawFd, write: bool) {
        let events = if write {
            libc::POLLIN | libc::POLLOUT
        } else {
            libc::POLLIN
        };
        self.fds.push(libc::pollfd {
            fd,
            events,
            revents: 0,
        });
    }

    /// Sleeps until one is ready (true) or `timeout` is over or a signal came (false).
    pub fn wait(&mut self, timeout: Nanos) -> bool {
        let timeout = libc::timespec {
            tv_sec: (timeout.0 / 1_000_000_000) as libc::time_t,
            tv_nsec: (timeout.0 % 1_000_000_000) as libc::c_long,
        };
        // SAFETY: the pointer and the count describe the vector's elements, which the kernel reads and
        // whose `revents` it writes; the timespec lives across the call; no signal mask is given.
        let ready = unsafe {
            libc::ppoll(
                self.fds.as_mut_ptr(),
                self.fds.len() as libc::nfds_t,
                &raw const timeout,
                std::ptr::null(),
            )
        };
        ready > 0
    }

    /// After a [`PollSet::wait`] that returned true: for each descriptor, in the order in which they
    /// were added, whether it is ready (or broken, which reading from it will tell).
    pub fn ready(&self) -> impl Iterator<Item = bool> + '_ {
        self.fds.iter().map(|fd| fd.revents != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wake::Waker;

    #[test]
    fn a_ready_descriptor_ends_the_sleep() {
        let waker = Waker::new().expect("waker");
        let mut set = PollSet::new();
        set.add(waker.fd(), false);
        assert!(!set.wait(Nanos(0)));
        assert!(waker.prepare_sleep());
        waker.handle().wake();
        assert!(set.wait(Nanos::from_secs(3600)));
        waker.clear();
        assert!(!set.wait(Nanos::from_micros(1)));
        let other = Waker::new().expect("waker");
        set.clear();
        set.add(other.fd(), false);
        set.add(waker.fd(), true);
        assert!(set.wait(Nanos(0)), "an eventfd can always be written");
        assert_eq!(set.ready().collect::<Vec<_>>(), [false, true]);
    }
}
