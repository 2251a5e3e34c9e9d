//! One ring of the tap, read without a syscall. What lies where: `common::abi::RingHead`.
//!
//! Positions are the caller's: a batch reads many records and gives all of them back with one store. All that
//! is read from the memory is checked: whatever it holds, nothing outside is looked at, and the position moves on.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aya::maps::MapData;
use common::abi::{
    RECORD_HEADER_BYTES, RECORD_MAX_DATA_BYTES, RING_BLOCK_BYTES, RecordHeader, RingHead,
    record_bytes, record_start,
};

use super::BpfError;
use crate::mmap::Mapping;

const CACHE_LINE_BYTES: usize = 64;
const READ_AT: usize = std::mem::offset_of!(RingHead, read);
const WRITTEN_AT: usize = std::mem::offset_of!(RingHead, written);

/// What lies at a position.
pub(super) enum Peek<'a> {
    /// Nothing.
    Empty,
    /// A record, its bytes of the packet, and where the next is.
    Record(RecordHeader, &'a [u8], Position),
    /// Something that contradicts itself.
    Malformed,
}

/// Where a reader is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// Position in the chain of blocks.
    pub(super) at: u64,
    /// The block where that is.
    block: u64,
}

/// Where a ring's records end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// As a position.
    pub(super) end: u64,
    /// A record is being written behind it. If none is, what appears later was captured later.
    pub(super) more: bool,
}

/// A ring in the memory that is shared with the program.
#[derive(Debug)]
pub(super) struct Ring {
    heads: Arc<Mapping>,
    /// Offset of this ring's.
    head: usize,
    next: Arc<Mapping>,
    /// Offset of this ring's.
    first: usize,
    memory: Mapping,
    /// A power of two.
    blocks: u64,
}

/// The maps of the rings.
pub(super) struct Maps<'a> {
    pub(super) heads: &'a MapData,
    pub(super) next: &'a MapData,
    pub(super) blocks: &'a MapData,
}

/// Maps `rings` rings of `blocks` blocks each, which is a power of two, all of them in order.
pub(super) fn map(maps: &Maps<'_>, rings: usize, blocks: usize) -> Result<Vec<Ring>, BpfError> {
    let shared = |map: &'static str, data: &MapData, offset, len, writable| {
        Mapping::new(data.fd().as_fd(), offset, len, writable).map_err(|e| BpfError::Map {
            map,
            action: "map it into memory",
            error: e.to_string(),
        })
    };
    let page = rustix::param::page_size();
    let whole_pages = |bytes: usize| bytes.next_multiple_of(page);
    let len = whole_pages(rings * size_of::<RingHead>());
    let heads = Arc::new(shared("HEADS", maps.heads, 0, len, true)?);
    let len = whole_pages(rings * blocks * size_of::<u64>());
    let next = Arc::new(shared("NEXT", maps.next, 0, len, false)?);
    let bytes = blocks * RING_BLOCK_BYTES as usize;
    (0..rings)
        .map(|ring| {
            Ok(Ring {
                heads: Arc::clone(&heads),
                head: ring * size_of::<RingHead>(),
                next: Arc::clone(&next),
                first: ring * blocks * size_of::<u64>(),
                memory: shared("BLOCKS", maps.blocks, ring * bytes, bytes, false)?,
                blocks: blocks as u64,
            })
        })
        .collect()
}

impl Ring {
    /// Where the records end.
    #[inline]
    pub(super) fn written(&self) -> Written {
        let word = self
            .heads
            .word(self.head + WRITTEN_AT)
            // Pairs with the program's publishing store.
            .map_or(0, |word| word.load(Ordering::Acquire));
        Written {
            end: word & !RingHead::WRITING,
            more: word & RingHead::WRITING != 0,
        }
    }

    /// Looks at the record that follows `position`, where `end` is an earlier end of the records.
    #[inline]
    pub(super) fn peek(&self, mut position: Position, end: u64) -> Peek<'_> {
        let start = record_start(position.at);
        if start >= end {
            return Peek::Empty;
        }
        if start != position.at {
            position = Position {
                at: start,
                block: self.next(position.block),
            };
        }
        let offset = self.offset(position);
        let header_bytes = RECORD_HEADER_BYTES as usize;
        // SAFETY: what lies before `end` is not written to until it is given back by `release`, which needs
        // exclusive access and so outlives no such slice.
        let header = unsafe { self.memory.bytes(offset, header_bytes) };
        let Some(header) = header else {
            return Peek::Malformed;
        };
        let header: RecordHeader = bytemuck::pod_read_unaligned(header);
        let len = u64::from(header.len);
        position.at = start.saturating_add(record_bytes(len));
        if len > RECORD_MAX_DATA_BYTES || position.at > end {
            return Peek::Malformed;
        }
        // SAFETY: as above.
        match unsafe { self.memory.bytes(offset + header_bytes, len as usize) } {
            Some(bytes) => Peek::Record(header, bytes, position),
            None => Peek::Malformed,
        }
    }

    /// The next block, where something contradicts itself; its records are lost. At `end` at the latest.
    pub(super) fn skip(&self, position: Position, end: u64) -> Position {
        let start = record_start(position.at | (RING_BLOCK_BYTES - 1));
        if start > end || end - start > self.blocks * RING_BLOCK_BYTES {
            Position {
                at: end,
                ..position
            }
        } else {
            Position {
                at: start,
                block: self.next(position.block),
            }
        }
    }

    /// Has the start of the record fetched that comes to lie `ahead` bytes behind `position`, if one does: its header
    /// and the packet's own.
    #[inline]
    pub(super) fn prefetch(&self, position: Position, ahead: u64) {
        let offset = self.offset(position) + ahead as usize;
        self.memory.prefetch(offset);
        self.memory.prefetch(offset + CACHE_LINE_BYTES);
    }

    /// Gives everything before `at` back to the program.
    #[inline]
    pub(super) fn release(&mut self, at: u64) {
        if let Some(read) = self.heads.word(self.head + READ_AT) {
            // Release: our reads of the records come before the program may overwrite them.
            read.store(at, Ordering::Release);
        }
    }

    /// The block behind `block`, which the program chose before it published anything there.
    fn next(&self, block: u64) -> u64 {
        let offset = self.first + (block & (self.blocks - 1)) as usize * size_of::<u64>();
        self.next
            .word(offset)
            .map_or(0, |next| next.load(Ordering::Relaxed))
    }

    #[inline]
    fn offset(&self, position: Position) -> usize {
        let block = position.block & (self.blocks - 1);
        (block * RING_BLOCK_BYTES + position.at % RING_BLOCK_BYTES) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::os::fd::OwnedFd;

    const BLOCKS: u64 = 4;
    const BYTES: usize = (BLOCKS * RING_BLOCK_BYTES) as usize;

    /// Memory that looks like a map.
    fn memory(len: usize) -> (OwnedFd, Mapping) {
        let fd = memfd_create("ring", MemfdFlags::CLOEXEC).expect("memfd");
        ftruncate(&fd, len as u64).expect("size");
        let mapping = Mapping::new(fd.as_fd(), 0, len, true).expect("mapping");
        (fd, mapping)
    }

    /// A ring of words that a program would never write.
    fn garbage(heads: &[u64], next: &[u64], words: &[(usize, u64)]) -> Ring {
        let page = rustix::param::page_size();
        let (_, head) = memory(page);
        let (_, follows) = memory(page);
        let (_, blocks) = memory(BYTES);
        let fill = |mapping: &Mapping, at: usize, value: u64| {
            let word = mapping.word(at).expect("inside");
            word.store(value, Ordering::Relaxed);
        };
        for (at, value) in heads.iter().enumerate() {
            fill(&head, at * 8, *value);
        }
        for (at, value) in next.iter().enumerate() {
            fill(&follows, at * 8, *value);
        }
        for (at, value) in words {
            fill(&blocks, at * 8 % BYTES, *value);
        }
        Ring {
            heads: Arc::new(head),
            head: 0,
            next: Arc::new(follows),
            first: 0,
            memory: blocks,
            blocks: BLOCKS,
        }
    }

    proptest! {
        /// Whatever the memory holds: nothing outside is looked at, and the reader gets to an end.
        #[test]
        fn a_reader_of_garbage_gets_to_its_end(
            end in prop_oneof![any::<u64>(), 0..2 * BYTES as u64],
            next in prop::collection::vec(any::<u64>(), BLOCKS as usize),
            words in prop::collection::vec((0..BYTES / 8, prop_oneof![any::<u64>(), 0..100_000u64]), 0..200),
        ) {
            let ring = garbage(&[end], &next, &words);
            let end = ring.written().end;
            let mut position = Position::default();
            // A record takes 32 bytes at least, so that no ring has more.
            let mut most = BYTES / RECORD_HEADER_BYTES as usize + BLOCKS as usize + 2;
            loop {
                let before = position.at;
                match ring.peek(position, end) {
                    Peek::Empty => break,
                    Peek::Record(header, bytes, next) => {
                        prop_assert_eq!(header.len as usize, bytes.len());
                        position = next;
                    }
                    Peek::Malformed => position = ring.skip(position, end),
                }
                ring.prefetch(position, u64::from(u32::MAX));
                prop_assert!(position.at > before && position.at <= end);
                most -= 1;
                if most == 0 {
                    // The end lies beyond all memory, where a program never gets.
                    prop_assert!(end > BYTES as u64);
                    break;
                }
            }
        }
    }
}
