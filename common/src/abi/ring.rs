//! The rings of the tap: whose memory is whose, and where in it records lie.
//!
//! ```text
//!   HEADS   by ring            written, chain: the program's           read: the reader's
//!   BLOCKS  by ring, block     │ record │ record │ record │ ..... │ slack │
//!   NEXT    by ring, block     the block that follows it in the chain
//!
//!   the chain:   oldest ─▶ block ─▶ block ─▶ current          spare ─▶ block ─▶ block
//!                          the reader is here  └ written          given back, or never used
//! ```
//! A position counts bytes along the chain since its beginning and never wraps in practice (64 bits): number of the
//! block in the chain, offset in it. A record begins on a multiple of [`RECORD_ALIGN_BYTES`], at [`RECORD_LAST_START`] of its
//! block at the latest, so that the largest record ends within: none is split, and the verifier sees that without
//! knowing how long a packet is. A block is filled without asking the reader; it is asked about at the next.
//!
//! A ring has room for a reader who is kept from its core for long, but goes round in the first
//! [`RING_WARM_BLOCKS`] of it as long as it is read in time: these stay in the processor's cache.

use bytemuck::{Pod, Zeroable};

use super::RecordHeader;

/// Bytes of a block: three of the largest records at least.
pub const RING_BLOCK_BYTES: u64 = 256 * 1024;

/// Largest number of bytes of a packet in one record: the largest GRO packet of 64 KiB with its link header.
pub const RECORD_MAX_DATA_BYTES: u64 = 65_560;

/// Every record begins on a multiple of this. Half a cache line: the header lies in one, and an
/// acknowledgement with its header takes one and a half.
pub const RECORD_ALIGN_BYTES: u64 = 32;

/// Bytes of [`RecordHeader`].
pub const RECORD_HEADER_BYTES: u64 = size_of::<RecordHeader>() as u64;

/// Where in a block a record may begin at the latest. Behind the largest that does there is a rest, so that no
/// position is at the start of a block that has not been chosen.
pub const RECORD_LAST_START: u64 =
    RING_BLOCK_BYTES - record_bytes(RECORD_MAX_DATA_BYTES) - RECORD_ALIGN_BYTES;

/// Blocks that a ring goes round in when it is read in time: 2 MiB, what gathers in a millisecond at 1.4 million full
/// packets a second, and little enough for the caches of most processors. With 8 MiB in use a packet of 1400 bytes cost
/// the receive path some 70 ns more.
pub const RING_WARM_BLOCKS: u64 = 8;

const _: () = assert!(
    RING_BLOCK_BYTES.is_power_of_two()
        && RECORD_LAST_START.is_multiple_of(RECORD_ALIGN_BYTES)
        && RECORD_ALIGN_BYTES.is_power_of_two()
        && RING_BLOCK_BYTES.is_multiple_of(RECORD_ALIGN_BYTES)
);

/// State of a ring, all zero at first. Each part in cache lines of its own, and not in neighbouring ones, which
/// processors fetch in pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RingHead {
    /// Position of the end of the records, or that and [`RingHead::WRITING`].
    pub written: u64,
    /// Zero.
    pub written_line: [u64; 15],
    /// What the reader has read up to.
    pub read: u64,
    /// Zero.
    pub read_line: [u64; 15],
    /// Which block is which, for the program alone.
    pub chain: RingChain,
    /// Zero.
    pub chain_line: [u64; 10],
}

const _: () = assert!(size_of::<RingHead>() == 384);

/// Which block of a ring is which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct RingChain {
    /// Block of [`RingHead::written`].
    pub current: u64,
    /// Number in the chain of its last block: the current one, or one that was chosen for a packet that could not be
    /// copied.
    pub last_number: u64,
    /// First block of the chain.
    pub oldest: u64,
    /// Its number.
    pub oldest_number: u64,
    /// First of the blocks that were given back, plus one; zero for none.
    pub spare: u64,
    /// Blocks that were ever chosen, without block 0, where the chain begins.
    pub chosen: u64,
}

impl RingHead {
    /// Bit of [`RingHead::written`]: a record is being written behind it.
    pub const WRITING: u64 = 1;
}

/// Where a record goes or lies that follows what ends at `at`: there, or at the start of the next block.
#[inline(always)]
#[must_use]
pub const fn record_start(at: u64) -> u64 {
    let offset = at % RING_BLOCK_BYTES;
    if offset > RECORD_LAST_START {
        (at - offset).saturating_add(RING_BLOCK_BYTES)
    } else {
        at
    }
}

/// Bytes that a record of `len` bytes of a packet takes.
#[inline(always)]
#[must_use]
pub const fn record_bytes(len: u64) -> u64 {
    (RECORD_HEADER_BYTES + len).next_multiple_of(RECORD_ALIGN_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_record_is_split() {
        for at in (0..3 * RING_BLOCK_BYTES).step_by(RECORD_ALIGN_BYTES as usize) {
            let start = record_start(at);
            assert!(start >= at && start - at < RING_BLOCK_BYTES);
            let end = start + record_bytes(RECORD_MAX_DATA_BYTES);
            assert_eq!(start / RING_BLOCK_BYTES, end / RING_BLOCK_BYTES, "{at}");
        }
        assert_eq!(record_bytes(1), 64);
        assert_eq!(record_bytes(32), 64);
        assert_eq!(record_bytes(33), 96);
    }
}
