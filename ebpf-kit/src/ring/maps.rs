//! The maps that are the rings, in each object whose programs write to some; user space finds them by name.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::{Array, ArrayOfMaps, RingBuf};
use aya_ebpf::macros::btf_map;
use common::abi::{RING_BLOCK_BYTES, RingHead};

/// Sizes that the loader replaces: CPUs, rings, blocks, workers.
const SET_BY_LOADER: usize = 1;
/// For the template of the inner maps only (one page of any size up to 64 KiB).
const TEMPLATE_RING_BYTES: usize = 65_536;

/// First ring of each CPU; its workers' follow. CPUs that came up later share those of others.
#[btf_map]
pub static CPU_RINGS: Array<u32, SET_BY_LOADER> = Array::new();

/// State of the rings. Mapped by user space.
#[btf_map]
pub static HEADS: Array<RingHead, SET_BY_LOADER, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Memory of the rings, `config::ring_blocks` blocks each. Mapped by user space.
#[btf_map]
pub static BLOCKS: Array<Block, SET_BY_LOADER, { BPF_F_MMAPABLE as usize }> = Array::new();

/// One of them.
pub type Block = [u8; RING_BLOCK_BYTES as usize];

/// Set by a worker before it sleeps, taken by the program that wakes it. A cache line each, so that
/// the producers of one worker do not slow those of another. Mapped by user space.
#[btf_map]
pub static SLEEP: Array<[u64; 8], SET_BY_LOADER, { BPF_F_MMAPABLE as usize }> = Array::new();

/// By ring and block: the block that follows. Mapped by user space.
#[btf_map]
pub static NEXT: Array<u64, SET_BY_LOADER, { BPF_F_MMAPABLE as usize }> = Array::new();

/// By worker: where it waits. Nothing goes through them but wake-ups.
#[btf_map]
pub static WAKE: ArrayOfMaps<WakeRing, SET_BY_LOADER> = ArrayOfMaps::new();

/// One of them.
pub type WakeRing = RingBuf<u8, TEMPLATE_RING_BYTES>;
