//! What a worker does when nothing is to be done.
//!
//! Measured on a tap under load: a reader that sleeps 50 µs when its ring is empty costs least; one
//! that spins is slower than it, since it shares cache lines with the producer; one that asks for a
//! wake-up each time costs the producer 270 to 590 ns a packet.

use common::flow::Nanos;
use std::num::NonZeroU64;
use std::time::Duration;

/// The default of 50 us (prctl(2), PR_SET_TIMERSLACK) would double each nap.
const TIMER_SLACK_NS: NonZeroU64 = NonZeroU64::MIN;
/// Pause on an empty round: at a million packets a second 50 of them gather meanwhile, a batch. Short
/// against the 8192 frames of an AF_XDP ring (2.5 ms at 3 Mpps), long enough to leave the core to the
/// kernel's receive path.
pub const NAP: Nanos = Nanos::from_micros(50);
/// Empty rounds before the worker asks to be woken: a millisecond or so, so that only a quiet line pays for
/// wake-ups.
pub const EMPTY_ROUNDS: u32 = 20;
/// Longest sleep: bounds how late orders and a lost wake-up are noticed.
pub const MAX_SLEEP: Nanos = Nanos::from_millis(100);

/// What to do after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Go on at once.
    None,
    /// Sleep [`NAP`].
    Nap,
    /// Ask for wake-ups and sleep this long at most.
    Sleep(Nanos),
}

/// Makes naps of the calling thread as short as they are meant to be.
pub fn prepare_thread() {
    if let Err(error) = rustix::thread::set_current_timer_slack(Some(TIMER_SLACK_NS)) {
        tracing::debug!(%error, "timer slack stays at its default: naps are longer");
    }
}

/// Sleeps [`NAP`].
pub fn nap() {
    std::thread::sleep(Duration::from_nanos(NAP.0));
}

/// Counts empty rounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Idle {
    empty: u32,
}

impl Idle {
    /// Decides after a round. `busy`: something is under way that no descriptor announces. `deadline` is
    /// asked only when there was nothing to do.
    pub fn after(
        &mut self,
        worked: bool,
        busy: bool,
        now: Nanos,
        deadline: impl FnOnce() -> Option<Nanos>,
    ) -> Rest {
        if worked {
            self.empty = 0;
            return Rest::None;
        }
        self.empty = self.empty.saturating_add(1);
        let left = deadline().map_or(MAX_SLEEP, |at| at.since(now).min(MAX_SLEEP));
        if busy || self.empty <= EMPTY_ROUNDS || left <= NAP {
            Rest::Nap
        } else {
            Rest::Sleep(left)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn naps_then_sleeps_until_the_next_deadline() {
        let mut idle = Idle::default();
        let now = Nanos::from_secs(1);
        assert_eq!(idle.after(true, false, now, || None), Rest::None);
        for _ in 0..EMPTY_ROUNDS {
            assert_eq!(idle.after(false, false, now, || None), Rest::Nap);
        }
        assert_eq!(
            idle.after(false, false, now, || None),
            Rest::Sleep(MAX_SLEEP)
        );
        let soon = now + Nanos::from_millis(7);
        assert_eq!(
            idle.after(false, false, now, || Some(soon)),
            Rest::Sleep(Nanos::from_millis(7))
        );
        assert_eq!(idle.after(false, true, now, || Some(soon)), Rest::Nap);
        assert_eq!(idle.after(false, false, now, || Some(now)), Rest::Nap);
        assert_eq!(idle.after(true, false, now, || Some(now)), Rest::None);
        assert_eq!(idle.after(false, false, now, || None), Rest::Nap);
    }
}
