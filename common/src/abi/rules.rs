//! What the programs match.

use crate::packet::{Addr, Endpoint};
use bytemuck::{Pod, Zeroable};

/// Capacity of the endpoint hash maps (transfers, targets, responses). Entries cost about 100 bytes of
/// kernel memory each and are not preallocated.
pub const MAX_ENDPOINTS: u32 = 65_536;

/// Capacity of the map `LOCAL`: addresses of one host.
pub const MAX_LOCAL_ADDRESSES: u32 = 4096;

/// Key of the maps `TRANSFERS`, `TARGETS` (tcpcopy) and `RESPONSES` (intercept): an address and a port,
/// the address [`Addr::ANY`] in transfers that name only a port. Programs look up the exact key first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct EndpointKey {
    /// Address or [`Addr::ANY`].
    pub addr: Addr,
    /// Port, host byte order.
    pub port: u16,
    /// Zero.
    pub reserved: u16,
}

const _: () = assert!(size_of::<EndpointKey>() == 20);

impl EndpointKey {
    /// Key for an endpoint.
    #[inline(always)]
    pub const fn new(e: Endpoint) -> Self {
        Self {
            addr: e.addr,
            port: e.port,
            reserved: 0,
        }
    }

    /// Key for a port on any address.
    #[inline(always)]
    pub const fn any(port: u16) -> Self {
        Self {
            addr: Addr::ANY,
            port,
            reserved: 0,
        }
    }
}

/// Bits of [`ProgramConfig::flags`].
pub mod config_flags {
    /// Send a log record per packet through aya-log. Off: the branch costs one load.
    pub const LOG_PACKETS: u32 = 1;
    /// Write [`super::super::XdpMeta`] in front of redirected frames.
    pub const XDP_META: u32 = 2;
    /// Some key of `TRANSFERS` has the address [`super::Addr::ANY`]; without it the
    /// second lookup is compiled out.
    pub const ANY_RULES: u32 = 4;
    /// The same for `TARGETS`.
    pub const ANY_TARGETS: u32 = 8;
    /// Rules come from peers, not from the operator: packets to this host's own addresses (map
    /// `LOCAL`) are left alone, so that no peer can cut the host off from anybody.
    pub const LEARNED_RULES: u32 = 16;
    /// The program runs behind a filter (see [`super::filter_slots`]): what it gets is to be taken, without
    /// a look at the rules.
    pub const BEHIND_FILTER: u32 = 256;
}

/// Entries of the tail call array `FILTERS`.
pub mod filter_slots {
    /// The filter. It goes on to [`SELECTED`] with packets that match, and counts the others.
    pub const FILTER: u32 = 0;
    /// The capture program, for packets that the filter let through.
    pub const SELECTED: u32 = 1;
    /// Number of entries.
    pub const COUNT: u32 = 2;
}

/// The global `CONFIG` of every program, set before load and constant afterwards, so that the verifier
/// prunes what is switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct ProgramConfig {
    /// Number of workers: modulus of the owner rule.
    pub workers: u32,
    /// [`config_flags`].
    pub flags: u32,
    /// Random value of this run, to tell our [`super::XdpMeta`] from stale frame contents.
    pub cookie: u32,
    /// Number of CPU slots in the ring array.
    pub cpus: u32,
}

const _: () = assert!(size_of::<ProgramConfig>() == 16);
