//! What the programs match.

use crate::packet::{Addr, Endpoint, protocol};
use bytemuck::{Pod, Zeroable};

/// Capacity of the endpoint hash maps (transfers, targets, responses). Entries cost about 100 bytes of
/// kernel memory each and are not preallocated.
pub const MAX_ENDPOINTS: u32 = 65_536;

/// Capacity of the map `LOCAL`: addresses of one host.
pub const MAX_LOCAL_ADDRESSES: u32 = 4096;

/// Key of the maps `TRANSFERS`, `TARGETS` (tcpcopy) and `RESPONSES` (intercept): a protocol, an address and a port,
/// the address [`Addr::ANY`] in rules that name only a port. Programs look up the exact key first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct EndpointKey {
    /// Address or [`Addr::ANY`].
    pub addr: Addr,
    /// Port, host byte order.
    pub port: u16,
    /// Transport protocol, [`protocol::TCP`] or [`protocol::UDP`].
    pub protocol: u16,
}

const _: () = assert!(size_of::<EndpointKey>() == 20);

impl EndpointKey {
    /// Key for a TCP endpoint.
    #[inline(always)]
    pub const fn new(e: Endpoint) -> Self {
        Self {
            addr: e.addr,
            port: e.port,
            protocol: protocol::TCP as u16,
        }
    }

    /// Key for a UDP endpoint.
    #[inline(always)]
    pub const fn udp(e: Endpoint) -> Self {
        Self {
            protocol: protocol::UDP as u16,
            ..Self::new(e)
        }
    }

    /// Key for a TCP port on any address.
    #[inline(always)]
    pub const fn any(port: u16) -> Self {
        Self::new(Endpoint::new(Addr::ANY, port))
    }
}

/// Bits of [`ProgramConfig::flags`].
pub mod config_flags {
    /// Send a log record per packet through aya-log. Off: the branch costs one load.
    pub const LOG_PACKETS: u32 = 1;
    /// Write [`super::super::XdpMeta`] in front of redirected frames.
    pub const XDP_META: u32 = 2;
    /// Some key of `TRANSFERS` or `RESPONSES` has the address [`super::Addr::ANY`]; without it the
    /// second lookup is compiled out.
    pub const ANY_RULES: u32 = 4;
    /// The same for `TARGETS`.
    pub const ANY_TARGETS: u32 = 8;
    /// Rules come from peers, not from the operator: packets to this host's own addresses (map
    /// `LOCAL`) are left alone, so that no peer can cut the host off from anybody.
    pub const LEARNED_RULES: u32 = 16;
    /// `TRANSFERS` has keys of UDP; without it what is not TCP is not looked at again.
    pub const UDP_RULES: u32 = 1 << 12;
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
