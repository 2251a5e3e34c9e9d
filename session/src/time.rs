//! Compact time: what a session remembers in four bytes instead of eight.
//!
//! A session has a dozen moments; as [`Nanos`] they alone would be half of its memory. Both forms count
//! modulo 2^32 and compare by signed difference (as sequence numbers do), and have no zero, so that
//! `Option` costs nothing.

use common::flow::Nanos;
use std::num::NonZeroU32;

/// Length of a tick. The finest wait of the engine is the 2 ms quiet time of turn-taking; half of it is
/// enough resolution for timers.
pub(crate) const TICK_NS: u64 = 1_000_000;
/// A moment in [`Brief`] is the time shifted by so much: units of 1.024 us, about half a cache miss of
/// a loaded machine's jitter, without a division.
const BRIEF_SHIFT: u32 = 10;
/// Longest span that ticks compare: 24 days. Longer limits are cut to half of that.
const LONGEST_TICKS: u64 = (i32::MAX / 2) as u64;

const fn nonzero(n: u32) -> NonZeroU32 {
    match NonZeroU32::new(n) {
        Some(n) => n,
        None => NonZeroU32::MIN,
    }
}

/// A moment in milliseconds, for timers and limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tick(NonZeroU32);

impl Tick {
    /// The tick that `t` lies in.
    pub(crate) const fn of(t: Nanos) -> Self {
        Self(nonzero((t.0 / TICK_NS) as u32))
    }

    /// The first tick that does not begin before `t`.
    pub(crate) const fn after(t: Nanos) -> Self {
        Self(nonzero(t.0.div_ceil(TICK_NS) as u32))
    }

    /// `ticks` later.
    #[must_use]
    pub(crate) const fn plus(self, ticks: u32) -> Self {
        Self(nonzero(self.0.get().wrapping_add(ticks)))
    }

    /// `ticks` earlier.
    #[must_use]
    pub(crate) const fn minus(self, ticks: u32) -> Self {
        Self(nonzero(self.0.get().wrapping_sub(ticks)))
    }

    /// Signed distance in ticks.
    pub(crate) const fn since(self, earlier: Self) -> i32 {
        self.0.get().wrapping_sub(earlier.0.get()) as i32
    }

    /// It is `now` or past.
    pub(crate) const fn due(self, now: Self) -> bool {
        self.since(now) <= 0
    }

    /// The earlier of both.
    #[must_use]
    pub(crate) const fn min(self, other: Self) -> Self {
        if other.since(self) < 0 { other } else { self }
    }

    /// The lower 32 bits of the tick's number.
    pub(crate) const fn number(self) -> u32 {
        self.0.get()
    }
}

/// The ticks that a limit lasts, rounded up.
pub(crate) const fn ticks(span: Nanos) -> u32 {
    let n = span.0.div_ceil(TICK_NS);
    if n < LONGEST_TICKS {
        n as u32
    } else {
        LONGEST_TICKS as u32
    }
}

/// A moment for measurements that take less than 36 minutes, in units of 1.024 us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Brief(NonZeroU32);

impl Brief {
    pub(crate) const fn of(t: Nanos) -> Self {
        Self(nonzero((t.0 >> BRIEF_SHIFT) as u32))
    }

    /// Time since `earlier`; none if that is later.
    pub(crate) const fn since(self, earlier: Self) -> Span {
        let d = self.0.get().wrapping_sub(earlier.0.get()) as i32;
        if d < 0 { Span(0) } else { Span(d as u32) }
    }

    /// By how much (modulo 2^32) this clock runs ahead of `other`'s.
    pub(crate) const fn skew(self, other: Self) -> u32 {
        self.0.get().wrapping_sub(other.0.get())
    }

    /// As another clock shows it that runs ahead by `skew`.
    #[must_use]
    pub(crate) const fn skewed(self, skew: u32) -> Self {
        Self(nonzero(self.0.get().wrapping_add(skew)))
    }
}

/// A time of less than 36 minutes, in the units of [`Brief`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Span(pub(crate) u32);

impl Span {
    /// Rounded down; longer ones are cut.
    pub(crate) const fn of(t: Nanos) -> Self {
        let n = t.0 >> BRIEF_SHIFT;
        Self(if n < i32::MAX as u64 {
            n as u32
        } else {
            i32::MAX as u32
        })
    }

    pub(crate) const fn nanos(self) -> Nanos {
        Nanos((self.0 as u64) << BRIEF_SHIFT)
    }

    /// Rounded: up or down by less than a tick's half.
    pub(crate) const fn ticks(self) -> u32 {
        ((self.nanos().0 + TICK_NS / 2) / TICK_NS) as u32
    }
}

/// The time of one input, in all forms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) at: Nanos,
    /// The tick that has begun: what is due by it is due.
    pub(crate) tick: Tick,
    /// The tick that limits count from, so that none is over before its time.
    pub(crate) from: Tick,
    pub(crate) brief: Brief,
}

impl Clock {
    /// The tick of `moment`, not before it.
    pub(crate) const fn ago(self, moment: Brief) -> Tick {
        let ticks = self.brief.since(moment).nanos().0 / TICK_NS;
        self.from.minus(ticks as u32)
    }

    pub(crate) const fn at(at: Nanos) -> Self {
        Self {
            at,
            tick: Tick::of(at),
            from: Tick::after(at),
            brief: Brief::of(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_compare_across_the_wrap_around() {
        let before = Tick::of(Nanos((u64::from(u32::MAX) - 1) * TICK_NS));
        let after = before.plus(5);
        assert_eq!(after.since(before), 5);
        assert!(before.due(after) && after.due(after) && !after.due(before));
        assert_eq!(before.min(after), before);
        let early = Brief::of(Nanos(u64::from(u32::MAX) << BRIEF_SHIFT));
        let late = early.skewed(Span::of(Nanos::from_millis(2)).0);
        assert_eq!(late.since(early), Span::of(Nanos::from_millis(2)));
        assert_eq!(early.since(late), Span(0));
    }

    #[test]
    fn a_wait_of_whole_units_is_over_when_its_time_has_passed() {
        let wait = Nanos::from_millis(2);
        for start in [1024u64, 1025, 1535, 2047, 999_999] {
            let (a, b) = (Nanos(start), Nanos(start) + wait);
            assert!(
                Brief::of(b).since(Brief::of(a)) >= Span::of(wait),
                "{start}"
            );
        }
    }

    #[test]
    fn limits_are_cut_to_what_compares() {
        assert_eq!(ticks(Nanos(1)), 1);
        assert_eq!(ticks(Nanos(u64::MAX)), i32::MAX as u32 / 2);
        assert_eq!(Span::of(Nanos(u64::MAX)).0, i32::MAX as u32);
    }
}
