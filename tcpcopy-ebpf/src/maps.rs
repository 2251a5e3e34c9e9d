//! Maps but those of the rings (`ebpf_kit::ring`); user space finds them by name.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, ProgramArray, XskMap};
use aya_ebpf::macros::btf_map;
use common::abi::{
    EndpointKey, MAX_DENIED, MAX_ENDPOINTS, MAX_POOL_ADDRESSES, MAX_STREAMS, MIRROR_TAILS,
    POOL_COUNTERS, PORT_WORDS, PortWord, Stamps, StreamKey, StreamState, TAP_COUNTERS,
    fragment_slots, udp_slots,
};
use common::packet::Addr;
use ebpf_kit::filter::Filters;

use crate::tunnel::Inner;

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

/// Addresses of a pool with gaps.
#[btf_map]
pub static POOL: HashMap<
    Addr,
    u32,
    { MAX_POOL_ADDRESSES as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// By `PoolCounter`.
#[btf_map]
pub static POOL_COUNTS: PerCpuArray<u64, { POOL_COUNTERS as usize }> = PerCpuArray::new();
