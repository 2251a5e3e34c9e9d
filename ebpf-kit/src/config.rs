//! The `CONFIG` global.
//!
//! The loader writes it before load and the map is frozen, so the verifier knows every field as a
//! constant and removes the branches that are off.

use common::abi::{MAX_FEW, ProgramConfig, config_flags};
use common::flow::{Shard, Share};

/// Overridden by the loader, by this name.
#[unsafe(no_mangle)]
static CONFIG: ProgramConfig = ProgramConfig {
    workers: 1,
    flags: 0,
    cookie: 0,
    cpus: 1,
    shard: 0,
    shards: 1,
    share: Share::ALL.as_thousandths(),
    ring_blocks: 1,
    few_count: 0,
    reserved: 0,
    few: [0; MAX_FEW],
};

macro_rules! field {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[inline(always)]
        #[must_use]
        pub fn $name() -> u32 {
            // SAFETY: a valid static of plain integers. Volatile, since the compiler would else use
            // the initialiser, which is not what the loaded object holds.
            unsafe { (&raw const CONFIG.$name).read_volatile() }
        }
    };
}

field!(
    /// Number of workers, at least 1.
    workers
);
field!(
    /// Value that marks our XDP metadata.
    cookie
);
field!(
    /// CPU slots of the ring array.
    cpus
);
field!(
    /// Bits of [`config_flags`].
    flags
);

field!(
    /// Number of this instance's shard.
    shard
);
field!(
    /// Number of shards.
    shards
);
field!(
    /// Share of sessions, in thousandths of a percent.
    share
);

field!(
    /// Blocks of each ring of the tap, a power of two.
    ring_blocks
);

/// The shard whose sessions are taken.
#[inline(always)]
#[must_use]
pub fn own_shard() -> Shard {
    // The loader writes no other: it has it from a `Shard`.
    match Shard::new(shard(), shards()) {
        Some(own) => own,
        None => Shard::WHOLE,
    }
}

/// True if the few rules that are constants name this IPv4 endpoint, as
/// [`common::packet::Endpoint::v4_number`] writes it.
#[inline(always)]
#[must_use]
pub fn few_name(endpoint: u64) -> bool {
    // SAFETY: valid statics of plain integers; volatile as above.
    let count = unsafe { (&raw const CONFIG.few_count).read_volatile() };
    // Written out, since the verifier removes what `count` excludes only where it is code of its own.
    macro_rules! any {
        ($($at:literal),*) => {
            // SAFETY: as above.
            $(($at < count && unsafe { (&raw const CONFIG.few[$at]).read_volatile() } == endpoint))||*
        };
    }
    const { assert!(MAX_FEW == 8) };
    any!(0, 1, 2, 3, 4, 5, 6, 7)
}

/// False if every session is taken, whatever its hash.
#[inline(always)]
#[must_use]
pub fn chooses_sessions() -> bool {
    shards() > 1 || share() < Share::ALL.as_thousandths()
}

/// The share of sessions that is taken.
#[inline(always)]
#[must_use]
pub fn own_share() -> Share {
    Share::thousandths(share())
}

/// True if rules and filter have been asked before this program.
#[inline(always)]
#[must_use]
pub fn behind_filter() -> bool {
    flags() & config_flags::BEHIND_FILTER != 0
}

/// True if a log record per packet is wanted.
#[inline(always)]
#[must_use]
pub fn log_packets() -> bool {
    flags() & config_flags::LOG_PACKETS != 0
}

/// True if a plain store becomes visible after those before it.
#[inline(always)]
#[must_use]
pub fn stores_in_order() -> bool {
    flags() & config_flags::STORES_IN_ORDER != 0
}
