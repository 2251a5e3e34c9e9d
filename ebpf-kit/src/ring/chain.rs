//! Which block of a ring comes next (`common::abi::RingChain`). Asked once a block; all of it belongs to who has the
//! ring's mark.
//!
//! ```text
//!   read in time, the chain is long enough ─▶ the oldest of the chain
//!   else                                   ─▶ a spare one ─▶ one never used ─▶ the oldest, if it is read ─▶ full
//! ```

use super::maps::NEXT;
use crate::config;
use common::abi::{RING_BLOCK_BYTES, RING_WARM_BLOCKS, RingChain, RingHead};

/// The block that records go to.
#[inline(always)]
pub fn current(head: *mut RingHead) -> u64 {
    // SAFETY: a value of the map; whole aligned words.
    unsafe { (&raw const (*head).chain.current).read_volatile() }
}

/// From now on they go to `block`.
#[inline(always)]
pub fn set_current(head: *mut RingHead, block: u64) {
    // SAFETY: as above.
    unsafe { (&raw mut (*head).chain.current).write_volatile(block) }
}

/// Index of a block in the maps. In bounds whatever the words of the ring hold.
#[inline(always)]
pub fn index(ring: u32, block: u64) -> u32 {
    let blocks = config::ring_blocks();
    ring * blocks + (block as u32 & (blocks - 1))
}

/// The block behind `block`, with the number `number` in the chain. `None` if the ring is full.
#[inline(always)]
pub fn follow(ring: u32, head: *mut RingHead, block: u64, number: u64) -> Option<u64> {
    // SAFETY: a value of the map; whole aligned words. Who has the mark is alone with the chain.
    let chain = unsafe { &mut *(&raw mut (*head).chain) };
    // SAFETY: as above; the reader moves this word at any time.
    let read = unsafe { (&raw const (*head).read).read_volatile() } / RING_BLOCK_BYTES;
    if number <= chain.last_number {
        // Chosen already, for a packet that was not copied then.
        return next(ring, block);
    }
    let warm = chain.last_number - chain.oldest_number + 1 >= RING_WARM_BLOCKS;
    let chosen = if warm && chain.oldest_number < read {
        take_oldest(ring, chain)?
    } else if chain.spare != 0 {
        let spare = chain.spare - 1;
        chain.spare = next(ring, spare)?;
        spare
    } else if chain.chosen + 1 < u64::from(config::ring_blocks()) {
        chain.chosen += 1;
        chain.chosen
    } else if chain.oldest_number < read {
        take_oldest(ring, chain)?
    } else {
        return None;
    };
    set_next(ring, block, chosen)?;
    chain.last_number = number;
    // A chain that had to become longer becomes shorter, by one block each time.
    let long = chain.last_number - chain.oldest_number + 1 > RING_WARM_BLOCKS;
    if long && chain.oldest_number < read {
        let spare = take_oldest(ring, chain)?;
        set_next(ring, spare, chain.spare)?;
        chain.spare = spare + 1;
    }
    Some(chosen)
}

/// Takes the first block off the chain, which the reader has left.
#[inline(always)]
fn take_oldest(ring: u32, chain: &mut RingChain) -> Option<u64> {
    let oldest = chain.oldest;
    chain.oldest = next(ring, oldest)?;
    chain.oldest_number += 1;
    Some(oldest)
}

#[inline(always)]
fn next(ring: u32, block: u64) -> Option<u64> {
    NEXT.get(index(ring, block)).copied()
}

#[inline(always)]
fn set_next(ring: u32, block: u64, next: u64) -> Option<()> {
    let slot = NEXT.get_ptr_mut(index(ring, block))?;
    // SAFETY: a value of the map, a whole aligned word.
    unsafe { slot.write(next) };
    Some(())
}
