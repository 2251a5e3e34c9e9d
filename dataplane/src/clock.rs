//! The one clock.

use common::flow::Nanos;
use rustix::time::{ClockId, Timespec, clock_getres, clock_gettime};

/// Now, by `CLOCK_MONOTONIC`: the clock of `bpf_ktime_get_ns`, so kernel capture times can be
/// subtracted. A vDSO call, about 20 ns; workers read it once per loop.
#[inline]
pub fn now() -> Nanos {
    to_nanos(clock_gettime(ClockId::Monotonic))
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
        assert!(resolution() <= Nanos::from_millis(10));
    }
}
