//! Maps but those of the rings (`ebpf_kit::ring`); user space finds them by name.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{HashMap, PerCpuArray, XskMap};
use aya_ebpf::macros::btf_map;
use common::abi::{EndpointKey, INTERCEPT_COUNTERS, MAX_ENDPOINTS, MAX_LOCAL_ADDRESSES, PairKey};
use common::packet::Addr;
use ebpf_kit::filter::Filters;

/// Receive queues that can have a socket; no NIC has more. An unused entry costs 8 bytes.
const MAX_QUEUES: usize = 4096;

/// Sources whose packets are taken, and with port 0 the bare addresses of those rules: fragments
/// carry no port.
#[btf_map]
pub static RESPONSES: HashMap<
    EndpointKey,
    u32,
    { MAX_ENDPOINTS as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// This host's addresses; looked at only with rules that peers gave, those of UDP among them.
#[btf_map]
pub static LOCAL: HashMap<
    Addr,
    u32,
    { MAX_LOCAL_ADDRESSES as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Sizes that the loader replaces.
const SET_BY_LOADER: usize = 1;

/// Announced sessions, whose responses `on_target` takes. As many as user space has routes.
#[btf_map]
pub static ROUTES: HashMap<PairKey, u32, SET_BY_LOADER, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// By `InterceptCounter`.
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { INTERCEPT_COUNTERS as usize }> = PerCpuArray::new();

/// The filter and what follows it, by `filter_slots`.
#[btf_map]
pub static FILTERS: Filters = Filters::new();

/// Sockets by receive queue.
#[btf_map]
pub static XSKS: XskMap<MAX_QUEUES> = XskMap::new();
