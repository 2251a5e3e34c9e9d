//! How a replay of files is shown, and when it is over.

use crate::offline::{Position, Replayer};
use crate::worker::LiveFigures;
use common::flow::Nanos;
use operator::progress::Progress;

/// Workers show their figures four times a second: less than this tells nothing.
const LOOK: Nanos = Nanos::from_millis(600);

/// What changes while sessions get on with what was captured. What a target sends on its own account is
/// no reason to wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Moves {
    open: u64,
    delivered: u64,
    completed: u64,
}

/// From the end of the files to that of the run: as long as something moves, and `--drain` beyond that.
/// While requests are not delivered, the wait for a turn counts as movement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    drain: Nanos,
    turn_limit: Nanos,
    begun: bool,
    seen: Moves,
    moved_at: Nanos,
}

impl Ending {
    pub(super) const fn new(drain: Nanos, turn_limit: Nanos) -> Self {
        Self {
            drain,
            turn_limit,
            begun: false,
            seen: Moves {
                open: 0,
                delivered: 0,
                completed: 0,
            },
            moved_at: Nanos(0),
        }
    }

    pub(super) fn begin(&mut self, now: Nanos) {
        self.begun = true;
        self.moved_at = now;
    }

    /// Open sessions are to be cut off.
    pub(super) fn is_over(&mut self, figures: LiveFigures, now: Nanos) -> bool {
        if !self.begun {
            return false;
        }
        let moves = Moves {
            open: figures.open,
            delivered: figures.bytes_delivered,
            completed: figures.completed,
        };
        if moves != self.seen {
            self.seen = moves;
            self.moved_at = now;
        }
        let undelivered = figures.bytes_captured > figures.bytes_delivered;
        let patience = if self.drain == Nanos(0) {
            self.drain
        } else if undelivered {
            self.drain.max(self.turn_limit + LOOK).max(LOOK)
        } else {
            self.drain.max(LOOK)
        };
        now.since(self.moved_at) >= patience
    }
}

/// The progress of the reader: a line on a terminal, else in the log.
pub(super) struct ReadingShown(Option<Progress>);

impl ReadingShown {
    pub(super) fn new(replayer: Option<&mut Replayer>) -> Self {
        Self(replayer.and_then(|r| Progress::show(r.position().total)))
    }

    pub(super) fn show(&self, replayer: &Replayer) {
        if let Some(line) = &self.0 {
            let at = replayer.position();
            line.set(
                at.bytes,
                format!("{} packets, round {}", at.packets, at.round),
            );
        }
    }

    pub(super) fn log(&self, replayer: &Replayer, elapsed: Nanos) {
        if self.0.is_some() || replayer.is_done() {
            return;
        }
        let at = replayer.position();
        let percent = at.total.map(|total| at.bytes * 100 / total.max(1));
        tracing::info!(
            packets = at.packets,
            round = at.round,
            mib = at.bytes >> 20,
            percent,
            packets_per_s = rate(at.packets, elapsed),
            seconds_left = left(at, elapsed),
            "reading"
        );
    }
}

fn rate(n: u64, elapsed: Nanos) -> u64 {
    (n as f64 * 1e9 / elapsed.0.max(1) as f64) as u64
}

/// If it goes on as it went so far.
fn left(at: Position, elapsed: Nanos) -> Option<u64> {
    let rest = at.total?.checked_sub(at.bytes)?;
    Some((rest as f64 / at.bytes.max(1) as f64 * elapsed.0 as f64 / 1e9) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_when_nothing_has_moved_for_the_drain() {
        let at = Nanos::from_secs;
        let mut ending = Ending::new(at(2), at(5));
        let figures = |open, delivered| LiveFigures {
            open,
            bytes_captured: 100,
            bytes_delivered: delivered,
            ..LiveFigures::default()
        };
        assert!(!ending.is_over(figures(3, 0), at(100)), "not begun");
        ending.begin(at(100));
        assert!(!ending.is_over(figures(3, 0), at(100)));
        assert!(
            !ending.is_over(figures(3, 50), at(105)),
            "a turn may take that long"
        );
        assert!(!ending.is_over(figures(2, 100), at(110)));
        assert!(!ending.is_over(figures(2, 100), at(111)));
        assert!(ending.is_over(figures(2, 100), at(112)), "all delivered");
        let mut at_once = Ending::new(Nanos(0), at(5));
        at_once.begin(at(1));
        assert!(at_once.is_over(LiveFigures::default(), at(1)));
    }

    #[test]
    fn what_is_left_follows_from_what_went_by() {
        let mut position = Position {
            bytes: 25,
            total: Some(100),
            packets: 10,
            round: 1,
        };
        assert_eq!(left(position, Nanos::from_secs(10)), Some(30));
        position.total = None;
        assert_eq!(left(position, Nanos::from_secs(10)), None);
        assert_eq!(rate(500, Nanos::from_secs(2)), 250);
    }
}
