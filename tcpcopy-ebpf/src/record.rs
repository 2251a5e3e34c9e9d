//! Copying a packet into a ring, with the tap's counters.

use aya_ebpf::programs::TcContext;
use common::abi::TapCounter;
use ebpf_kit::ring::{Lost, copy_packet};

use crate::matching::count;

/// Copies the whole packet, or counts why not.
#[inline(always)]
pub fn record(ctx: &TcContext, worker: u32) {
    count(match copy_packet(ctx, worker) {
        Ok(()) => TapCounter::Captured,
        Err(Lost::RingFull) => TapCounter::RingFull,
        Err(Lost::Truncated) => TapCounter::Truncated,
        Err(Lost::TooLarge) => TapCounter::TooLarge,
        Err(Lost::LoadFailed) => TapCounter::LoadFailed,
    });
}
