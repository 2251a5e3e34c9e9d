//! Per-CPU counters: no atomics, since softirqs of one CPU do not nest.

use aya_ebpf::btf_maps::PerCpuArray;
use common::abi::{InterceptCounter, TapCounter};
use common::packet::DecodeError;

/// Adds one to entry `index`.
#[inline(always)]
pub fn bump<const N: usize>(map: &PerCpuArray<u64, N>, index: u32) {
    if let Some(slot) = map.get_ptr_mut(index) {
        // SAFETY: the kernel's pointer to this CPU's slot, valid while the program runs.
        unsafe { *slot += 1 };
    }
}

/// The counter of a decoding error in tcpcopy's programs; `None` for traffic that is simply not ours.
#[inline(always)]
#[must_use]
pub const fn tap_error(error: DecodeError) -> Option<TapCounter> {
    match error {
        DecodeError::Truncated => Some(TapCounter::Truncated),
        DecodeError::BadIp => Some(TapCounter::BadIp),
        DecodeError::Fragment => Some(TapCounter::Fragment),
        DecodeError::BadTcp => Some(TapCounter::BadTcp),
        DecodeError::BadUdp => Some(TapCounter::BadUdp),
        DecodeError::NotIp | DecodeError::NotTcp => None,
    }
}

/// The same for intercept. Fragments are counted by the program, which knows the addresses.
#[inline(always)]
#[must_use]
pub const fn intercept_error(error: DecodeError) -> Option<InterceptCounter> {
    match error {
        DecodeError::Truncated => Some(InterceptCounter::Truncated),
        DecodeError::BadIp => Some(InterceptCounter::BadIp),
        DecodeError::BadTcp => Some(InterceptCounter::BadTcp),
        DecodeError::Fragment | DecodeError::NotIp | DecodeError::NotTcp | DecodeError::BadUdp => {
            None
        }
    }
}
