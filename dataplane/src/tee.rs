//! A copy of everything that a worker captures, for a thread that records it.
//!
//! ```text
//!  capture ──▶ Tee ──▶ worker
//!               └─▶ ring, or counted as lost if it is full ──▶ TeeReceiver, which looks now and then
//! ```
//! The worker never waits and wakes nobody: a copy costs it the copying.

use crate::handover::{FrameReceiver, FrameSender, frame_ring};
use crate::port::{Capture, CounterSink};
use common::flow::Captured;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
struct Tally {
    copied: AtomicU64,
    lost: AtomicU64,
}

/// A capture whose frames are copied.
pub struct Tee {
    inner: Box<dyn Capture>,
    ring: FrameSender,
    tally: Arc<Tally>,
}

/// The copies.
pub struct TeeReceiver {
    ring: FrameReceiver,
    tally: Arc<Tally>,
}

/// Puts a ring of `bytes` bytes beside `inner`.
pub fn tee(inner: Box<dyn Capture>, bytes: usize) -> (Tee, TeeReceiver) {
    let (sender, receiver) = frame_ring(bytes);
    let tally = Arc::new(Tally::default());
    (
        Tee {
            inner,
            ring: sender,
            tally: Arc::clone(&tally),
        },
        TeeReceiver {
            ring: receiver,
            tally,
        },
    )
}

impl Capture for Tee {
    fn recv(&mut self, act: &mut dyn FnMut(&[Captured<'_>])) -> usize {
        let Self { inner, ring, tally } = self;
        inner.recv(&mut |batch| {
            let copied = batch.iter().filter(|frame| ring.send(frame)).count();
            tally.copied.fetch_add(copied as u64, Ordering::Relaxed);
            tally
                .lost
                .fetch_add((batch.len() - copied) as u64, Ordering::Relaxed);
            act(batch);
        })
    }

    fn arm(&mut self) -> bool {
        self.inner.arm()
    }

    fn fds(&self) -> Vec<RawFd> {
        self.inner.fds()
    }

    fn waits_at(&self) -> Option<usize> {
        self.inner.waits_at()
    }

    fn counters(&mut self, sink: CounterSink<'_>) {
        self.inner.counters(sink);
    }
}

impl TeeReceiver {
    /// Calls `act` with a batch of copies, not at all if there are none. Returns how many there were.
    pub fn recv(&mut self, act: &mut dyn FnMut(&[Captured<'_>])) -> usize {
        self.ring.recv(act)
    }

    /// Frames copied so far.
    pub fn copied(&self) -> u64 {
        self.tally.copied.load(Ordering::Relaxed)
    }

    /// Frames so far for which there was no room.
    pub fn lost(&self) -> u64 {
        self.tally.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryCapture;
    use common::flow::{CaptureMeta, Nanos};

    #[test]
    fn the_worker_gets_all_and_the_copies_are_counted() {
        let source = MemoryCapture::new().expect("source");
        let (mut tee, mut copies) = tee(Box::new(source.clone()), 1024);
        for n in 0..30u8 {
            let meta = CaptureMeta {
                at: Nanos(u64::from(n)),
                vlan_tci: Some(u16::from(n)),
                ..CaptureMeta::default()
            };
            source.push(&[n; 60], meta);
        }
        let mut seen = 0;
        assert_eq!(tee.recv(&mut |batch| seen += batch.len()), 30);
        assert_eq!(seen, 30);
        let mut kept = Vec::new();
        copies.recv(&mut |batch| {
            kept.extend(batch.iter().map(|f| (f.bytes[0], f.meta.vlan_tci)));
        });
        assert_eq!(kept.len() as u64, copies.copied());
        assert_eq!(copies.copied() + copies.lost(), 30);
        assert!(copies.copied() >= 5 && copies.lost() > 0);
        assert!(
            kept.iter()
                .enumerate()
                .all(|(n, k)| *k == (n as u8, Some(n as u16)))
        );
        source.push(&[99; 60], CaptureMeta::default());
        tee.recv(&mut |_| ());
        assert_eq!(copies.recv(&mut |_| ()), 1, "room again");
    }
}
