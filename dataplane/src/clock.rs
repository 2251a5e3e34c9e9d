//! The one clock.

use common::flow::Nanos;
use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

/// Now, by `CLOCK_MONOTONIC`: the clock of `bpf_ktime_get_ns`, so kernel capture times can be
/// subtracted. A vDSO call, about 20 ns; workers read it once per loop.
#[inline]
pub fn now() -> Nanos {
    to_nanos(clock_gettime(ClockId::Monotonic))
}

/// Nanoseconds since 1970 when [`now`] was 0: added to its times, it makes those of `CLOCK_REALTIME`,
/// until somebody sets that clock.
pub fn epoch_offset() -> u64 {
    to_nanos(clock_gettime(ClockId::Realtime))
        .0
        .saturating_sub(now().0)
}

/// Resolution of [`now`], for reports.
pub fn resolution() -> Nanos {
    to_nanos(clock_getres(ClockId::Monotonic))
}

#[inline]
const fn to_nanos(t: Timespec) -> Nanos {
    // Monotonic time since boot is never negative; 2^64 ns are 584 years.
    Nanos(
        (t.tv_sec as u64)
            .wrapping_mul(1_000_000_000)
            .wrapping_add(t.tv_nsec as u64),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_runs_backwards_and_resolves_nanoseconds() {
        let mut last = now();
        for _ in 0..1000 {
            let next = now();
            assert!(next >= last, "{next:?} after {last:?}");
            last = next;
        }
        assert!(last > Nanos(0));
        let wall = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .expect("after 1970");
        let ours = std::time::Duration::from_nanos(epoch_offset() + now().0);
        assert!(wall.abs_diff(ours) < std::time::Duration::from_secs(1));
        assert!(resolution() <= Nanos::from_millis(10));
    }
}
