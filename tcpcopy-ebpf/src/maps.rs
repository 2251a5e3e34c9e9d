//! Maps; user space finds them by name.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{
    Array, ArrayOfMaps, HashMap, LpmTrie, PerCpuArray, ProgramArray, RingBuf, XskMap,
};
use aya_ebpf::macros::btf_map;
use common::abi::{
    EndpointKey, MAX_DENIED, MAX_ENDPOINTS, MAX_STREAMS, MIRROR_TAILS, PORT_WORDS, PortWord,
    RING_BLOCK_BYTES, RingHead, Stamps, StreamKey, StreamState, TAP_COUNTERS, fragment_slots,
    udp_slots,
};
use ebpf_kit::filter::Filters;

use crate::tunnel::Inner;

/// Sizes that the loader replaces: CPUs, rings, blocks, workers.
const SET_BY_LOADER: usize = 1;
/// For the template of the inner maps only (one page of any size up to 64 KiB).
const TEMPLATE_RING_BYTES: usize = 65_536;
/// Receive queues that can have a socket; no NIC has more. An unused entry costs 8 bytes.
const MAX_QUEUES: usize = 4096;

/// Ports of transfers: what goes to another port, or to one that any address will do for, costs no more
/// than this look, which the kernel compiles into the program.
#[btf_map]
pub static PORTS: Array<PortWord, { PORT_WORDS as usize }> = Array::new();

/// Clients that are left alone, as a trie of the longest prefix.
#[btf_map]
pub static DENY: LpmTrie<[u8; 16], u32, { MAX_DENIED as usize }> = LpmTrie::new();

/// Online addresses and ports that are captured; the value is the index of the transfer.
#[btf_map]
pub static TRANSFERS: HashMap<
    EndpointKey,
    u32,
    { MAX_ENDPOINTS as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Targets, never captured.
#[btf_map]
pub static TARGETS: HashMap<
    EndpointKey,
    u32,
    { MAX_ENDPOINTS as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

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

/// By `TapCounter`.
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { TAP_COUNTERS as usize }> = PerCpuArray::new();

/// The filter and what follows it, by `filter_slots`.
#[btf_map]
pub static FILTERS: Filters = Filters::new();

/// Programs for datagrams, by `udp_slots`.
#[btf_map]
pub static UDP: ProgramArray<{ udp_slots::COUNT as usize }> = ProgramArray::new();

/// The program for fragments, by `fragment_slots`.
#[btf_map]
pub static FRAGMENTS: ProgramArray<{ fragment_slots::COUNT as usize }> = ProgramArray::new();

/// Addresses of transfers without their ports, `Addr::ANY` if one names only a port; the value says nothing.
#[btf_map]
pub static ADDRESSES: HashMap<
    EndpointKey,
    u32,
    { MAX_ENDPOINTS as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Sockets of the mirror by receive queue.
#[btf_map]
pub static XSKS: XskMap<MAX_QUEUES> = XskMap::new();

/// Which packets of the mirror carry the time.
#[btf_map]
pub static STAMPS: PerCpuArray<Stamps, 1> = PerCpuArray::new();

/// The mirror's further programs, by `mirror_tail`, those that are in use.
#[btf_map]
pub static TAIL: ProgramArray<{ MIRROR_TAILS as usize }> = ProgramArray::new();

/// From one of them to the next.
#[btf_map]
pub static INNER: PerCpuArray<Inner, 1> = PerCpuArray::new();

/// What sequence numbers tell of mirrors.
#[btf_map]
pub static STREAMS: HashMap<
    StreamKey,
    StreamState,
    { MAX_STREAMS as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();
