//! What the programs match.

use crate::flow::{Block, Shard, Share};
use crate::packet::{Addr, Endpoint, protocol};
use bytemuck::{Pod, Zeroable};

/// Capacity of the endpoint hash maps (transfers, targets, responses). Entries cost about 100 bytes of
/// kernel memory each and are not preallocated.
pub const MAX_ENDPOINTS: u32 = 65_536;

/// Capacity of the map `LOCAL`: addresses of one host.
pub const MAX_LOCAL_ADDRESSES: u32 = 4096;

/// IPv4 rules that are constants of the programs. Comparing costs a nanosecond each, a look into a hash map
/// 30 to 45.
pub const MAX_FEW: usize = 8;

/// Words of the map `PORTS`, each for 64 ports.
pub const PORT_WORDS: u32 = 1024;

/// Value of the map `PORTS`: bit `p % 64` of word `p / 64` is set if a transfer names port `p`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PortWord {
    /// With an address: `TRANSFERS` says which.
    pub exact: u64,
    /// On any address.
    pub any: u64,
}

const _: () = assert!(size_of::<PortWord>() == 16);

impl PortWord {
    /// Index of a port's word.
    #[inline(always)]
    pub const fn index(port: u16) -> u32 {
        port as u32 / u64::BITS
    }

    /// A port's bit in its word.
    #[inline(always)]
    pub const fn bit(port: u16) -> u64 {
        1 << (port as u32 % u64::BITS)
    }
}

/// Capacity of the map `DENY`: blocks of clients. Entries cost about 100 bytes of kernel memory each
/// and are not preallocated.
pub const MAX_DENIED: u32 = 1 << 20;

/// Key of the map `DENY`, a trie of the longest prefix: number of leading bits, then the address. The
/// kernel's layout (`struct bpf_lpm_trie_key_u8`, include/uapi/linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct DenyKey {
    /// Leading bits of `addr` that count, 0 to 128; host byte order.
    pub bits: u32,
    /// Address.
    pub addr: Addr,
}

const _: () = assert!(size_of::<DenyKey>() == 20);

impl DenyKey {
    /// Key of a block.
    pub const fn new(block: Block) -> Self {
        Self {
            bits: block.bits() as u32,
            addr: block.addr(),
        }
    }
}

/// Key of the maps `TRANSFERS`, `TARGETS`, `ADDRESSES` (tcpcopy) and `RESPONSES` (intercept): a protocol, an address
/// and a port, the address [`Addr::ANY`] in targets and UDP transfers that name only a port (TCP
/// transfers that do are bits of `PORTS`). Programs look up the exact key first.
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

    /// Key of the map `ADDRESSES`: an address of a transfer whatever the port, which fragments do not tell.
    #[inline(always)]
    pub const fn address(addr: Addr, protocol: u8) -> Self {
        Self {
            addr,
            port: 0,
            protocol: protocol as u16,
        }
    }

    /// Key for a TCP port on any address.
    #[inline(always)]
    pub const fn any(port: u16) -> Self {
        Self::new(Endpoint::new(Addr::ANY, port))
    }
}

/// Key of intercept's map `ROUTES`: the client and the target of an announced session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct PairKey {
    /// Client as the target sees it.
    pub client: Addr,
    /// Target.
    pub target: Addr,
    /// Of the client, host byte order.
    pub client_port: u16,
    /// Of the target, host byte order.
    pub target_port: u16,
}

const _: () = assert!(size_of::<PairKey>() == 36);

impl PairKey {
    /// Of a session.
    #[inline(always)]
    pub const fn new(client: Endpoint, target: Endpoint) -> Self {
        Self {
            client: client.addr,
            target: target.addr,
            client_port: client.port,
            target_port: target.port,
        }
    }

    /// As loaders take keys.
    pub fn to_bytes(self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        bytes.copy_from_slice(bytemuck::bytes_of(&self));
        bytes
    }
}

/// Bits of [`ProgramConfig::flags`].
pub mod config_flags {
    /// Send a log record per packet through aya-log. Off: the branch costs one load.
    pub const LOG_PACKETS: u32 = 1;
    /// Write [`super::super::XdpMeta`] in front of redirected frames.
    pub const XDP_META: u32 = 2;
    /// Some transfer names only a port; without it that look is compiled out.
    pub const ANY_RULES: u32 = 4;
    /// The same for `TARGETS`.
    pub const ANY_TARGETS: u32 = 8;
    /// Rules come from peers, not from the operator: packets to this host's own addresses (map
    /// `LOCAL`) are left alone, so that no peer can cut the host off from anybody.
    pub const LEARNED_RULES: u32 = 16;
    /// The map `DENY` is looked at; without it the lookup is compiled out.
    pub const DENY: u32 = 32;
    /// Some transfer has an address; without it the lookup in `TRANSFERS` is compiled out.
    pub const EXACT_RULES: u32 = 64;
    /// Some key of `TRANSFERS` matches what goes to a target; without it `TARGETS` is not looked at.
    pub const COVERED_TARGETS: u32 = 128;
    /// The program runs behind a filter (see [`super::filter_slots`]): what it gets is to be taken, without
    /// a look at the rules.
    pub const BEHIND_FILTER: u32 = 256;
    /// `TRANSFERS` has no IPv4 key of TCP that [`super::ProgramConfig::few`] lacks.
    pub const FEW_RULES: u32 = 1 << 13;
    /// `TRANSFERS` has keys of UDP; without it what is not TCP is not looked at again.
    pub const UDP_RULES: u32 = 1 << 12;
    /// Of packet sockets, which see both ways: what is received is left alone.
    pub const NOT_IN: u32 = 1 << 15;
    /// The same of what is sent.
    pub const NOT_OUT: u32 = 1 << 16;
    /// The filter judges the packet inside tunnels: without a link header it is
    /// [`super::filter_slots::IP_FILTER`]'s.
    pub const INNER_FILTER: u32 = 512;
    /// The processor makes stores visible in their order (x86), so that a plain one can follow a record.
    pub const STORES_IN_ORDER: u32 = 1 << 20;
}

/// Entries of the tail call array `FILTERS`.
pub mod filter_slots {
    /// The filter. It goes on to [`SELECTED`] with packets that match, and counts the others.
    pub const FILTER: u32 = 0;
    /// The capture program, for packets that the filter let through.
    pub const SELECTED: u32 = 1;
    /// The filter for IP packets without a link header, out of tunnels.
    pub const IP_FILTER: u32 = 2;
    /// Number of entries.
    pub const COUNT: u32 = 3;
}

/// Entries of the tail call array `UDP`, filled only if there are rules for UDP: programs of their own,
/// since a stack of 512 bytes and the verifier's patience do not do for both protocols in one.
pub mod udp_slots {
    /// Captures datagrams.
    pub const CAPTURE: u32 = 0;
    /// Looks at the rules and hands on to the filter, if there is one.
    pub const FILTERED: u32 = 1;
    /// Captures datagrams in tunnels, or asks the filter.
    pub const INNER: u32 = 2;
    /// Number of entries.
    pub const COUNT: u32 = 3;
}

/// Entries of the tail call array `FRAGMENTS`, of a program of its own like those of `UDP`.
pub mod fragment_slots {
    /// Captures fragments.
    pub const CAPTURE: u32 = 0;
    /// Number of entries.
    pub const COUNT: u32 = 1;
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
    /// Number of this instance's shard, less than `shards`.
    pub shard: u32,
    /// Number of shards, at least 1.
    pub shards: u32,
    /// Share of sessions that is taken, in thousandths of a percent.
    pub share: u32,
    /// Blocks of each ring, a power of two.
    pub ring_blocks: u32,
    /// Entries of `few` that are used, with [`config_flags::FEW_RULES`].
    pub few_count: u32,
    /// 0.
    pub reserved: u32,
    /// The IPv4 endpoints of the rules, as [`Endpoint::v4_number`] writes them.
    pub few: [u64; MAX_FEW],
}

const _: () = assert!(size_of::<ProgramConfig>() == 40 + 8 * MAX_FEW);

impl ProgramConfig {
    /// With these TCP rules, of which a few are compared with, not looked up: as many as take no longer
    /// than the look. What stands for any address is not among them.
    #[must_use]
    pub fn with_rules(mut self, rules: &[Endpoint]) -> Self {
        self.flags &= !config_flags::FEW_RULES;
        self.few_count = 0;
        for number in rules.iter().filter_map(Endpoint::v4_number) {
            let used = self.few_count as usize;
            if self.few[..used].contains(&number) {
                continue;
            }
            let Some(free) = self.few.get_mut(used) else {
                return self;
            };
            *free = number;
            self.few_count += 1;
        }
        self.flags |= config_flags::FEW_RULES;
        self
    }

    /// Takes only sessions of `shard`, and of these `share`.
    #[must_use]
    pub const fn selecting(self, shard: Shard, share: Share) -> Self {
        Self {
            shard: shard.index(),
            shards: shard.count(),
            share: share.as_thousandths(),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn few(rules: &[Endpoint]) -> Option<(u32, [u64; MAX_FEW])> {
        let config = ProgramConfig::zeroed().with_rules(rules);
        (config.flags & config_flags::FEW_RULES != 0).then_some((config.few_count, config.few))
    }

    #[test]
    fn a_few_ipv4_rules_become_constants() {
        let at = |host, port| Endpoint::new(Addr::v4([10, 0, 0, host]), port);
        let number = |host: u64, port| (0x0a00_0000 | host) << 16 | port;
        assert_eq!(few(&[]), Some((0, [0; MAX_FEW])));
        let mut v6 = at(1, 80);
        v6.addr.0[0] = 0x20;
        let rules = [at(1, 80), v6, Endpoint::new(Addr::ANY, 81), at(1, 80)];
        let mut expected = [0; MAX_FEW];
        expected[0] = number(1, 80);
        assert_eq!(few(&rules), Some((1, expected)));

        let mut many: Vec<_> = (0..MAX_FEW as u8).map(|host| at(host, 65_535)).collect();
        let expected = core::array::from_fn(|host| number(host as u64, 65_535));
        assert_eq!(few(&many), Some((MAX_FEW as u32, expected)));
        many.push(at(3, 1));
        assert_eq!(few(&many), None);
    }
}
