//! Which addresses and ports are of the pool: constants of the program, and a map if there are gaps.

use common::abi::{PoolConfig, after, numbers, pool_flags};
use common::packet::Addr;

use crate::maps::POOL;

/// Overridden by the loader, by this name; frozen, so the verifier knows each field.
#[unsafe(no_mangle)]
static POOL_CONFIG: PoolConfig = PoolConfig::NONE;

macro_rules! constant {
    ($field:ident) => {
        // SAFETY: a valid static of plain integers. Volatile, since the compiler would else use the initialiser, which is
        // not what the loaded object holds.
        unsafe { (&raw const POOL_CONFIG.$field).read_volatile() }
    };
}

/// True if the pool is ports of the host's own address.
#[inline(always)]
pub fn own() -> bool {
    constant!(flags) & pool_flags::OWN_ADDRESS != 0
}

/// True for an address of the pool.
#[inline(always)]
pub fn contain(addr: Addr) -> bool {
    let number = numbers(addr);
    if after(constant!(first), number) || after(number, constant!(last)) {
        return false;
    }
    constant!(flags) & pool_flags::GAPS == 0 || POOL.get_ptr(addr).is_some()
}

/// True for a port of the pool.
#[inline(always)]
pub fn contain_port(port: u16) -> bool {
    port >= constant!(first_port) && port <= constant!(last_port)
}

/// Link-layer address of the interface.
#[inline(always)]
pub fn mac() -> [u8; 6] {
    constant!(mac)
}

/// Its index.
#[inline(always)]
pub fn ifindex() -> u32 {
    constant!(ifindex)
}
