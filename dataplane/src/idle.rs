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
/// The same under a flood: a nap costs its thread some 10 us and more, whatever its length (timers of a virtual
/// machine), half a microsecond per packet at 400,000 a second and naps of 50 us. As long as a block of AF_PACKET
/// waits. The 8192 frames of an AF_XDP ring hold this long at 8 Mpps, more than a worker takes.
pub const LONGEST_NAP: Nanos = Nanos::from_millis(1);
/// Packets per millisecond up to which naps are [`NAP`], and from which they are [`LONGEST_NAP`]; between them
/// they grow evenly. What waits that much longer is one of many: nobody pays for it on a quiet line.
const FLOOD_PER_MS: (u64, u64) = (100, 300);
/// Over which packets are counted: two long naps, so that a burst makes no flood.
const WINDOW: Nanos = Nanos::from_millis(2);
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
    /// Sleep this long, [`NAP`] to [`LONGEST_NAP`].
    Nap(Nanos),
    /// Ask for wake-ups and sleep this long at most.
    Sleep(Nanos),
}

/// Makes naps of the calling thread as short as they are meant to be.
pub fn prepare_thread() {
    if let Err(error) = rustix::thread::set_current_timer_slack(Some(TIMER_SLACK_NS)) {
        tracing::debug!(%error, "timer slack stays at its default: naps are longer");
    }
}

/// Sleeps.
pub fn nap(length: Nanos) {
    std::thread::sleep(Duration::from_nanos(length.0));
}

/// Counts empty rounds, and packets for the length of naps.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    empty: u32,
    packets: u64,
    since: Nanos,
    nap: Nanos,
}

impl Default for Idle {
    fn default() -> Self {
        Self {
            empty: 0,
            packets: 0,
            since: Nanos(0),
            nap: NAP,
        }
    }
}

impl Idle {
    /// Decides after a round that did `work`: packets, and anything else that should not wait. `busy`:
    /// something is under way that no descriptor announces. `deadline` is asked only when there was nothing to
    /// do.
    pub fn after(
        &mut self,
        work: usize,
        busy: bool,
        now: Nanos,
        deadline: impl FnOnce() -> Option<Nanos>,
    ) -> Rest {
        self.packets += work as u64;
        if work > 0 {
            self.empty = 0;
            return Rest::None;
        }
        self.empty = self.empty.saturating_add(1);
        let window = now.since(self.since);
        if window >= WINDOW {
            self.nap = nap_at(self.packets * Nanos::from_millis(1).0 / window.0);
            (self.packets, self.since) = (0, now);
        }
        let left = deadline().map_or(MAX_SLEEP, |at| at.since(now).min(MAX_SLEEP));
        if busy || left <= NAP {
            Rest::Nap(NAP)
        } else if self.empty <= EMPTY_ROUNDS {
            Rest::Nap(self.nap.min(left))
        } else {
            Rest::Sleep(left)
        }
    }
}

/// Length of naps at so many packets per millisecond.
fn nap_at(per_ms: u64) -> Nanos {
    let (from, to) = FLOOD_PER_MS;
    let above = per_ms.clamp(from, to) - from;
    Nanos(NAP.0 + (LONGEST_NAP.0 - NAP.0) * above / (to - from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn naps_then_sleeps_until_the_next_deadline() {
        let mut idle = Idle::default();
        let now = Nanos::from_secs(1);
        assert_eq!(idle.after(1, false, now, || None), Rest::None);
        for _ in 0..EMPTY_ROUNDS {
            assert_eq!(idle.after(0, false, now, || None), Rest::Nap(NAP));
        }
        assert_eq!(idle.after(0, false, now, || None), Rest::Sleep(MAX_SLEEP));
        let soon = now + Nanos::from_millis(7);
        assert_eq!(
            idle.after(0, false, now, || Some(soon)),
            Rest::Sleep(Nanos::from_millis(7))
        );
        assert_eq!(idle.after(0, true, now, || Some(soon)), Rest::Nap(NAP));
        assert_eq!(idle.after(0, false, now, || Some(now)), Rest::Nap(NAP));
        assert_eq!(idle.after(1, false, now, || Some(now)), Rest::None);
        assert_eq!(idle.after(0, false, now, || None), Rest::Nap(NAP));
    }

    #[test]
    fn naps_are_long_under_a_flood_only() {
        let mut idle = Idle::default();
        let mut now = Nanos::from_secs(1);
        let mut at = |idle: &mut Idle, per_ms: usize, busy: bool| {
            for _ in 0..10 {
                now += Nanos::from_millis(1);
                if per_ms > 0 {
                    assert_eq!(idle.after(per_ms, busy, now, || None), Rest::None);
                }
                idle.after(0, busy, now, || None);
            }
            let soon = now + Nanos::from_micros(80);
            (
                idle.after(0, busy, now, || None),
                idle.after(0, busy, now, || Some(soon)),
            )
        };
        let nap = |us| Rest::Nap(Nanos::from_micros(us));
        assert_eq!(at(&mut idle, 20, false), (nap(50), nap(50)));
        assert_eq!(at(&mut idle, 200, false), (nap(525), nap(80)));
        assert_eq!(at(&mut idle, 4000, false), (nap(1000), nap(80)));
        assert_eq!(at(&mut idle, 4000, true), (nap(50), nap(50)));
        // Two milliseconds without packets, and naps are short again.
        assert_eq!(at(&mut idle, 0, false), (nap(50), nap(50)));
    }
}
