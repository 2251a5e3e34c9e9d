//! Addresses whose packets the program `pool` takes.

use crate::packet::{Addr, MacAddr};
use bytemuck::{Pod, Zeroable};

/// Capacity of the map `POOL`, whose entries cost about 100 bytes of kernel memory each and are not preallocated.
pub const MAX_POOL_ADDRESSES: u32 = 65_536;

/// Bits of [`PoolConfig::flags`].
pub mod pool_flags {
    /// The address is this host's own: what is not of a port of the pool, or of no target, is the host's.
    pub const OWN_ADDRESS: u16 = 1;
    /// Not every address from the first to the last is of the pool: the map `POOL` says which.
    pub const GAPS: u16 = 2;
}

/// The global `POOL_CONFIG` of tcpcopy's programs, constant after the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct PoolConfig {
    /// The lowest address, as [`numbers`] writes it.
    pub first: [u64; 2],
    /// The highest.
    pub last: [u64; 2],
    /// Interface that questions for the addresses are answered on.
    pub ifindex: u32,
    /// The lowest port, host byte order.
    pub first_port: u16,
    /// The highest.
    pub last_port: u16,
    /// Link-layer address of that interface.
    pub mac: [u8; 6],
    /// [`pool_flags`].
    pub flags: u16,
}

const _: () = assert!(size_of::<PoolConfig>() == 48);

impl PoolConfig {
    /// Of programs that serve no pool: no address is in it.
    pub const NONE: Self = Self {
        first: [u64::MAX; 2],
        last: [0; 2],
        ifindex: 0,
        first_port: 1,
        last_port: 0,
        mac: [0; 6],
        flags: 0,
    };

    /// For the addresses from `first` to `last`.
    pub const fn new(first: Addr, last: Addr, mac: MacAddr, ifindex: u32) -> Self {
        Self {
            first: numbers(first),
            last: numbers(last),
            ifindex,
            first_port: 0,
            last_port: u16::MAX,
            mac: mac.0,
            flags: 0,
        }
    }
}

/// An address as two numbers, the higher one first, whose order is that of addresses.
#[inline(always)]
pub const fn numbers(addr: Addr) -> [u64; 2] {
    let [upper, lower] = addr.halves();
    [upper.swap_bytes(), lower.swap_bytes()]
}

/// True if `a` comes after `b`; compared by hand, since arrays compare by a loop that BPF does not like.
#[inline(always)]
pub const fn after(a: [u64; 2], b: [u64; 2]) -> bool {
    a[0] > b[0] || (a[0] == b[0] && a[1] > b[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_ordered_as_addresses() {
        let v4 = |d| Addr::v4([10, 0, 1, d]);
        let mut v6 = Addr([0x20; 16]);
        v6.0[15] = 1;
        let ordered = [
            Addr::ANY,
            v4(1),
            v4(2),
            v4(255),
            Addr([0x20; 16]),
            Addr([0xff; 16]),
        ];
        for pair in ordered.windows(2) {
            assert!(after(numbers(pair[1]), numbers(pair[0])), "{pair:?}");
            assert!(!after(numbers(pair[0]), numbers(pair[1])), "{pair:?}");
            assert!(!after(numbers(pair[0]), numbers(pair[0])), "{pair:?}");
        }
        assert!(after(numbers(Addr([0x20; 16])), numbers(v6)));
    }
}
