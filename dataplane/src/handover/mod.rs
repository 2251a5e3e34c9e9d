//! Frames that arrive at a worker that does not own their session.
//!
//! ```text
//!   worker 0  ──ring 0→1──▶  worker 1        one single-producer single-consumer byte ring per
//!      ▲  └────ring 0→2──▶  worker 2 …       ordered pair; the frame is copied once
//!      └──────ring 1→0──── worker 1
//! ```
//! A full ring drops the frame and counts it: a slow worker must not slow the others. The sender wakes
//! the owner if it sleeps.

mod ring;

use crate::port::{Capture, CounterSink};
use crate::wake::{Waker, WakerHandle};
use common::flow::Captured;
use ring::{Receiver, Sender};
pub(crate) use ring::{Receiver as FrameReceiver, Sender as FrameSender, ring as frame_ring};
use rustix::io::Errno;
use std::os::fd::RawFd;

/// One worker's ends of all rings. As a [`Capture`] it yields what others sent here.
pub struct Handover {
    worker: usize,
    /// By worker; `None` at the own place.
    to: Vec<Option<(Sender, WakerHandle)>>,
    from: Vec<Receiver>,
    /// Ring to be read first, so that no sender starves the others.
    next: usize,
    waker: Waker,
    sent: u64,
    dropped: u64,
    received: u64,
}

/// Rings between `workers` workers, one handle each, in order. `ring_bytes` is the size of every one of
/// the `workers * (workers - 1)` rings: at least 128 KiB if GRO packets of 64 KiB shall pass.
pub fn mesh(workers: usize, ring_bytes: usize) -> Result<Vec<Handover>, Errno> {
    let wakers = (0..workers)
        .map(|_| Waker::new())
        .collect::<Result<Vec<_>, _>>()?;
    let handles: Vec<_> = wakers.iter().map(Waker::handle).collect();
    let mut ends: Vec<Handover> = wakers
        .into_iter()
        .enumerate()
        .map(|(worker, waker)| Handover {
            worker,
            to: Vec::new(),
            from: Vec::new(),
            next: 0,
            waker,
            sent: 0,
            dropped: 0,
            received: 0,
        })
        .collect();
    for source in 0..workers {
        for (owner, handle) in handles.iter().enumerate() {
            let sender = (source != owner).then(|| {
                let (sender, receiver) = ring::ring(ring_bytes);
                ends[owner].from.push(receiver);
                (sender, handle.clone())
            });
            ends[source].to.push(sender);
        }
    }
    Ok(ends)
}

impl Handover {
    /// Which worker's end this is.
    pub fn worker(&self) -> usize {
        self.worker
    }

    /// Copies a frame to worker `to` and wakes it if it sleeps. False: dropped and counted, because the
    /// ring is full, or `to` is this worker or none.
    pub fn send(&mut self, to: usize, frame: &Captured<'_>) -> bool {
        let went = self
            .to
            .get_mut(to)
            .and_then(Option::as_mut)
            .is_some_and(|(sender, owner)| {
                let went = sender.send(frame);
                // Also when full: an owner that sleeps on a full ring must be told.
                owner.wake();
                went
            });
        if went {
            self.sent += 1;
        } else {
            self.dropped += 1;
        }
        went
    }
}

impl Capture for Handover {
    fn recv(&mut self, act: &mut dyn FnMut(&[Captured<'_>])) -> usize {
        for i in 0..self.from.len() {
            let at = (self.next + i) % self.from.len();
            let n = self.from[at].recv(act);
            if n > 0 {
                self.next = at + 1;
                self.received += n as u64;
                return n;
            }
        }
        0
    }

    fn arm(&mut self) -> bool {
        // A wake-up of an earlier sleep may still be pending: this clears it.
        self.waker.clear();
        self.waker.prepare_sleep() && self.from.iter().all(Receiver::is_empty)
    }

    fn fds(&self) -> Vec<RawFd> {
        vec![self.waker.fd()]
    }

    fn counters(&mut self, sink: CounterSink<'_>) {
        sink("handover_sent", self.sent);
        sink("handover_dropped", self.dropped);
        sink("handover_received", self.received);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::flow::CaptureMeta;
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::time::Timespec;

    fn frame(bytes: &[u8]) -> Captured<'_> {
        Captured {
            bytes,
            meta: CaptureMeta::default(),
        }
    }

    fn counter(end: &mut Handover, wanted: &str) -> u64 {
        let mut found = None;
        end.counters(&mut |name, value| {
            if name == wanted {
                found = Some(value);
            }
        });
        found.expect("counter")
    }

    #[test]
    fn every_ordered_pair_has_its_own_ring() {
        let mut ends = mesh(3, 4096).expect("mesh");
        for (source, end) in ends.iter_mut().enumerate() {
            for owner in (0..3).filter(|&o| o != source) {
                assert!(end.send(owner, &frame(&[source as u8, owner as u8])));
            }
        }
        for (owner, end) in ends.iter_mut().enumerate() {
            let mut got = Vec::new();
            while end.recv(&mut |b| got.extend(b.iter().map(|c| (c.bytes[0], c.bytes[1])))) > 0 {}
            got.sort_unstable();
            let expected: Vec<_> = (0..3)
                .filter(|&s| s != owner)
                .map(|s| (s as u8, owner as u8))
                .collect();
            assert_eq!(got, expected);
            assert_eq!(counter(end, "handover_received"), 2);
        }
    }

    #[test]
    fn sending_to_oneself_or_nobody_is_a_counted_drop() {
        let mut ends = mesh(2, 4096).expect("mesh");
        assert!(!ends[0].send(0, &frame(&[1])));
        assert!(!ends[0].send(2, &frame(&[1])));
        assert_eq!(counter(&mut ends[0], "handover_dropped"), 2);
        assert_eq!(counter(&mut ends[0], "handover_sent"), 0);
    }

    #[test]
    fn a_full_ring_drops_and_counts_and_never_blocks() {
        let mut ends = mesh(2, 1024).expect("mesh");
        let sent = (0..100)
            .filter(|_| ends[0].send(1, &frame(&[7; 64])))
            .count() as u64;
        assert_eq!(counter(&mut ends[0], "handover_sent"), sent);
        assert_eq!(counter(&mut ends[0], "handover_dropped"), 100 - sent);
        let mut received = 0;
        while ends[1].recv(&mut |b| received += b.len() as u64) > 0 {}
        assert_eq!(received, sent);
    }

    #[test]
    fn no_sender_starves_another() {
        let mut ends = mesh(3, 1 << 16).expect("mesh");
        for _ in 0..200 {
            assert!(ends[0].send(2, &frame(&[0])));
        }
        assert!(ends[1].send(2, &frame(&[1])));
        let mut order = Vec::new();
        while ends[2].recv(&mut |b| order.push(b[0].bytes[0])) > 0 {}
        assert!(
            order[..2].contains(&1),
            "second batch at the latest: {order:?}"
        );
    }

    #[test]
    fn a_sleeping_owner_is_woken() {
        let mut ends = mesh(2, 4096).expect("mesh");
        assert!(ends[1].arm());
        assert!(ends[0].send(1, &frame(&[1])));
        let mut fds = [PollFd::new(&ends[1].waker, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        assert_eq!(poll(&mut fds, Some(&now)).expect("poll"), 1);
        assert!(!ends[1].arm(), "a frame waits");
        ends[1].recv(&mut |_| ());
        assert!(ends[1].arm());
    }
}
