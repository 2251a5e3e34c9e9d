//! What the supervisor tells the workers, and what they tell it while they run.
//!
//! The supervisor writes a few words that workers read once per loop; each worker writes a cache line
//! of its own now and then. Nobody waits for anybody.

use common::flow::Nanos;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Orders to all workers of a run.
#[derive(Debug)]
pub struct Control {
    /// Packets captured after this time are not part of the run; 0 while running.
    stop_at_ns: AtomicU64,
    /// Open sessions are cut off at this time; `u64::MAX` while running.
    give_up_at_ns: AtomicU64,
    /// Workers that still capture. Frames may come from them by hand-over.
    capturing: AtomicUsize,
    /// Workers that still have sessions. They may send through the queue of one that has none.
    working: AtomicUsize,
}

impl Control {
    /// For `workers` workers.
    pub fn new(workers: usize) -> Self {
        Self {
            stop_at_ns: AtomicU64::new(0),
            give_up_at_ns: AtomicU64::new(u64::MAX),
            capturing: AtomicUsize::new(workers),
            working: AtomicUsize::new(workers),
        }
    }

    /// Ends the capture at `now`; sessions that are open at `give_up` are cut off. Calling it again
    /// only brings the second time forward.
    pub fn stop(&self, now: Nanos, give_up: Nanos) {
        self.give_up_at_ns.fetch_min(give_up.0, Ordering::Release);
        let _ =
            self.stop_at_ns
                .compare_exchange(0, now.0.max(1), Ordering::Release, Ordering::Relaxed);
    }

    /// When the capture ended, if it did.
    pub fn stop_at(&self) -> Option<Nanos> {
        match self.stop_at_ns.load(Ordering::Acquire) {
            0 => None,
            at => Some(Nanos(at)),
        }
    }

    /// When open sessions are cut off.
    pub fn give_up_at(&self) -> Nanos {
        Nanos(self.give_up_at_ns.load(Ordering::Acquire))
    }

    /// A worker has taken the last frame from its own sources.
    pub fn capture_done(&self) {
        self.capturing.fetch_sub(1, Ordering::AcqRel);
    }

    /// A worker has ended its last session and will get no other.
    pub fn work_done(&self) {
        self.working.fetch_sub(1, Ordering::AcqRel);
    }

    /// Workers that still have sessions.
    pub fn working(&self) -> usize {
        self.working.load(Ordering::Acquire)
    }

    /// Workers that still capture.
    pub fn capturing(&self) -> usize {
        self.capturing.load(Ordering::Acquire)
    }
}

/// Figures of a running worker, for the statistics line. Its own cache lines: two, since adjacent lines
/// are fetched in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct LiveStats {
    values: [AtomicU64; LIVE_FIGURES],
}

const LIVE_FIGURES: usize = 8;

/// A snapshot of [`LiveStats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveFigures {
    /// Sessions open now.
    pub open: u64,
    /// Sessions seen.
    pub sessions: u64,
    /// Sessions that completed.
    pub completed: u64,
    /// Frames taken from capture.
    pub frames: u64,
    /// Segments sent.
    pub sent: u64,
    /// Response headers received.
    pub responses: u64,
    /// Payload bytes captured.
    pub bytes_captured: u64,
    /// Payload bytes acknowledged by targets.
    pub bytes_delivered: u64,
}

impl LiveFigures {
    fn to_array(self) -> [u64; LIVE_FIGURES] {
        [
            self.open,
            self.sessions,
            self.completed,
            self.frames,
            self.sent,
            self.responses,
            self.bytes_captured,
            self.bytes_delivered,
        ]
    }

    fn from_array(v: [u64; LIVE_FIGURES]) -> Self {
        let [
            open,
            sessions,
            completed,
            frames,
            sent,
            responses,
            bytes_captured,
            bytes_delivered,
        ] = v;
        Self {
            open,
            sessions,
            completed,
            frames,
            sent,
            responses,
            bytes_captured,
            bytes_delivered,
        }
    }

    /// Sum with another worker's.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let mut sum = self.to_array();
        for (a, b) in sum.iter_mut().zip(other.to_array()) {
            *a += b;
        }
        Self::from_array(sum)
    }
}

impl LiveStats {
    /// Stores a worker's figures.
    pub fn publish(&self, figures: LiveFigures) {
        for (slot, value) in self.values.iter().zip(figures.to_array()) {
            slot.store(value, Ordering::Relaxed);
        }
    }

    /// Reads them; figures of one worker may be one publication apart.
    pub fn read(&self) -> LiveFigures {
        let mut values = [0; LIVE_FIGURES];
        for (value, slot) in values.iter_mut().zip(&self.values) {
            *value = slot.load(Ordering::Relaxed);
        }
        LiveFigures::from_array(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_stop_only_hurries() {
        let c = Control::new(2);
        assert_eq!(c.stop_at(), None);
        c.stop(Nanos(100), Nanos(600));
        c.stop(Nanos(200), Nanos(200));
        assert_eq!(c.stop_at(), Some(Nanos(100)));
        assert_eq!(c.give_up_at(), Nanos(200));
        c.stop(Nanos(300), Nanos(900));
        assert_eq!(c.give_up_at(), Nanos(200));
    }

    #[test]
    fn workers_are_counted_off() {
        let c = Control::new(2);
        c.capture_done();
        c.work_done();
        assert_eq!((c.capturing(), c.working()), (1, 1));
        c.work_done();
        assert_eq!(c.working(), 0);
    }

    #[test]
    fn figures_come_back_as_published() {
        let figures = LiveFigures {
            open: 1,
            sessions: 2,
            completed: 3,
            frames: 4,
            sent: 5,
            responses: 6,
            bytes_captured: 7,
            bytes_delivered: 8,
        };
        let stats = LiveStats::default();
        stats.publish(figures);
        assert_eq!(stats.read(), figures);
        assert_eq!(stats.read().plus(figures).bytes_delivered, 16);
        assert_eq!(stats.read().plus(figures).open, 2);
    }
}
