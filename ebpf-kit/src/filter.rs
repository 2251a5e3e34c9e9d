//! The pcap filter of `-F`, in front of a capture program.
//!
//! ```text
//!  entry program ── ask ──▶ filter (translated by user space) ── match ──▶ capture program
//! ```
//! Without `-F` the capture program is attached itself and nothing else is loaded.

use aya_ebpf::EbpfContext;
use aya_ebpf::btf_maps::ProgramArray;
use common::abi::filter_slots;

/// The tail call array of a program, named `FILTERS`.
pub type Filters = ProgramArray<{ filter_slots::COUNT as usize }>;

/// Hands the packet to the filter. Returns only if there is none, and then the packet is to be passed on.
#[inline(always)]
pub fn ask<C: EbpfContext>(filters: &Filters, ctx: &C) {
    // SAFETY: the callers own nothing that would have to be dropped.
    unsafe { filters.tail_call(ctx, filter_slots::FILTER) };
}
