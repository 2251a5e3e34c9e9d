//! When frames are left in a source that waits without loss, such as a file.
//!
//! The engine holds what targets have not acknowledged, and requests whose turn has not come. While that
//! is as much as the source allows, or the engine has no room for another session, reading on would only
//! cost memory, or sessions. What makes room is mostly an answer of a target; but it may also be a packet
//! that is still in the source (the end of a session). So the worker reads on, a batch a round, when
//! nothing has moved for a while.

use common::flow::Nanos;
use session::Engine;

/// Nothing moved for this long: longer than a target takes to answer usually, short against the
/// turn limit of 5 s.
const STALLED: Nanos = Nanos::from_secs(1);
/// Longest sleep while sources are held back: answers wake the worker, sessions that end do not.
pub(super) const LOOK_AGAIN: Nanos = Nanos::from_millis(5);

/// What changes when targets answer and sessions end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    buffered: usize,
    open: usize,
    responses: u64,
}

impl Progress {
    /// What reading on cannot bring about.
    const fn is_better_than(self, before: Self) -> bool {
        self.responses > before.responses
            || self.buffered < before.buffered
            || self.open < before.open
    }
}

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backlog {
    seen: Progress,
    moved_at: Nanos,
    full: bool,
    holding: bool,
}

impl Backlog {
    /// Frames are to be left where they are.
    pub(super) fn holds(&mut self, limit_bytes: usize, engine: &Engine, now: Nanos) -> bool {
        let full = engine.buffered_bytes() >= limit_bytes || !engine.has_room();
        self.decide(full, now, || Progress {
            buffered: engine.buffered_bytes(),
            open: engine.open_sessions(),
            responses: engine.totals().responses,
        })
    }

    fn decide(&mut self, full: bool, now: Nanos, progress: impl FnOnce() -> Progress) -> bool {
        if full {
            let progress = progress();
            if !self.full || progress.is_better_than(self.seen) {
                self.moved_at = now;
            }
            self.seen = progress;
        }
        self.full = full;
        self.holding = full && now.since(self.moved_at) < STALLED;
        self.holding
    }

    /// What the last call of [`Backlog::holds`] said.
    pub(super) const fn is_holding(&self) -> bool {
        self.holding
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_while_full_and_something_moves() {
        let mut backlog = Backlog::default();
        let at = |ms| Nanos::from_secs(9) + Nanos::from_millis(ms);
        let seen = |responses| {
            move || Progress {
                responses,
                buffered: 1000 + responses as usize,
                open: 7,
            }
        };
        assert!(!backlog.decide(false, at(0), seen(1)));
        assert!(backlog.decide(true, at(1), seen(1)));
        assert!(backlog.decide(true, at(900), seen(1)));
        assert!(backlog.decide(true, at(950), seen(2)), "an answer");
        assert!(backlog.decide(true, at(1900), seen(2)));
        assert!(!backlog.decide(true, at(1950), seen(2)), "stalled: read on");
        assert!(!backlog.is_holding());
        let grown = || Progress {
            responses: 2,
            buffered: 9000,
            open: 8,
        };
        assert!(
            !backlog.decide(true, at(1950), grown),
            "reading is no progress"
        );
        assert!(backlog.decide(true, at(1951), seen(3)), "it moves again");
        assert!(!backlog.decide(false, at(1952), seen(3)));
        assert!(backlog.decide(true, at(5000), seen(3)), "full anew");
    }
}
