//! When a packet of a file is due.

use crate::cli::Speed;
use common::flow::Nanos;
use operator::fraction::PARTS;

/// Packets of several processors or queues stand in a file this much out of order at most. A larger step
/// back is another recording, or a clock that was set.
const REORDERED_NS: u64 = 1_000_000_000;

/// The file's clock, brought to ours.
///
/// The first request of the first file is due at once; from then on pauses are those of the file, divided
/// by the acceleration, and cut to the limit before that. Time never runs backwards.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    millionths: u64,
    gap_limit_ns: u64,
    started: Option<Nanos>,
    /// Of the packet before, by the file's clock.
    last_ns: Option<u64>,
    /// Sum of all pauses, by the file's clock.
    elapsed_ns: u64,
}

impl Schedule {
    /// `None`: at once.
    pub(super) fn new(speed: Speed) -> Option<Self> {
        match speed {
            Speed::Top => None,
            Speed::Paced {
                millionths,
                gap_limit,
            } => Some(Self {
                millionths: millionths.max(1),
                gap_limit_ns: gap_limit.map_or(u64::MAX, |limit| limit.0),
                started: None,
                last_ns: None,
                elapsed_ns: 0,
            }),
        }
    }

    /// The same packets come again: the first one follows the last one without a pause.
    pub(super) fn begin_round(&mut self) {
        self.last_ns = None;
    }

    /// When a packet captured at `at_ns` is due.
    pub(super) fn due(&mut self, at_ns: u64, now: impl FnOnce() -> Nanos) -> Nanos {
        let started = *self.started.get_or_insert_with(now);
        match self.last_ns {
            Some(last) if at_ns >= last => {
                let gap = (at_ns - last).min(self.gap_limit_ns);
                self.elapsed_ns = self.elapsed_ns.saturating_add(gap);
                self.last_ns = Some(at_ns);
            }
            Some(last) if last - at_ns <= REORDERED_NS => {}
            _ => self.last_ns = Some(at_ns),
        }
        let scaled = u128::from(self.elapsed_ns) * u128::from(PARTS) / u128::from(self.millionths);
        started + Nanos(u64::try_from(scaled).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Nanos = Nanos(5_000);
    const S: u64 = 1_000_000_000;

    fn dues(speed: Speed, times: &[u64]) -> Vec<u64> {
        let mut schedule = Schedule::new(speed).unwrap();
        let due = |at: &u64| schedule.due(*at, || START).since(START).0;
        times.iter().map(due).collect()
    }

    fn paced(millionths: u64, gap_limit: Option<u64>) -> Speed {
        Speed::Paced {
            millionths,
            gap_limit: gap_limit.map(Nanos),
        }
    }

    #[test]
    fn pauses_are_the_files_scaled_and_cut() {
        let file = [100 * S, 101 * S, 101 * S, 121 * S];
        assert_eq!(dues(paced(1_000_000, None), &file), [0, S, S, 21 * S]);
        assert_eq!(
            dues(paced(2_000_000, None), &file),
            [0, S / 2, S / 2, 21 * S / 2]
        );
        assert_eq!(dues(paced(500_000, None), &file), [0, 2 * S, 2 * S, 42 * S]);
        assert_eq!(dues(paced(1_000_000, Some(3 * S)), &file), [0, S, S, 4 * S]);
        assert_eq!(
            dues(paced(2_000_000, Some(3 * S)), &file),
            [0, S / 2, S / 2, 2 * S]
        );
    }

    #[test]
    fn steps_back_are_no_pauses() {
        let file = [10 * S, 12 * S, 12 * S - 5, 13 * S, S, 2 * S];
        assert_eq!(
            dues(paced(1_000_000, None), &file),
            [0, 2 * S, 2 * S, 3 * S, 3 * S, 4 * S]
        );
        // A year from one time stamp to the next does not overflow at the slowest speed.
        let far = dues(paced(1, None), &[0, u64::MAX]);
        assert!(far[1] > far[0]);
    }

    #[test]
    fn rounds_follow_each_other() {
        let mut schedule = Schedule::new(paced(1_000_000, None)).unwrap();
        for round in 0..3 {
            schedule.begin_round();
            assert_eq!(schedule.due(7 * S, || START), START + Nanos(round * 2 * S));
            assert_eq!(
                schedule.due(9 * S, || START),
                START + Nanos((round + 1) * 2 * S)
            );
        }
        assert!(Schedule::new(Speed::Top).is_none());
    }
}
