//! One BPF ring buffer, read without a syscall.
//!
//! ```text
//!   page 0 (ours, writable)   page 1 (kernel)   data ... data mapped a second time
//!   consumer position         producer position  records: u32 len|busy|discard, u32, bytes
//! ```
//! Layout and protocol: kernel/bpf/ringbuf.c, and libbpf's ringbuf.c for this side. Positions count
//! bytes and never wrap in practice (64 bits). Since the data is mapped twice in a row, a record that
//! wraps is contiguous here.
//!
//! Positions are the caller's: a batch reads many records and gives all of them back with one store,
//! which measured twice as fast as aya's store per record.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::Ordering;

use aya::maps::MapData;
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_RINGBUF;

use super::BpfError;
use super::error::{chain, is_permission};
use crate::mmap::Mapping;

/// Set in a record's length while the program writes it (BPF_RINGBUF_BUSY_BIT).
const BUSY: u32 = 1 << 31;
/// Set if the program threw the record away (BPF_RINGBUF_DISCARD_BIT).
const DISCARD: u32 = 1 << 30;
/// Bytes in front of a record (BPF_RINGBUF_HDR_SZ).
const HEADER_BYTES: usize = 8;
const CACHE_LINE_BYTES: usize = 64;
const NAME: &str = "RINGS";

/// What lies at a position.
pub(super) enum Peek<'a> {
    /// Nothing yet.
    Empty,
    /// A record that is being written.
    Busy,
    /// A record that was thrown away; the next position.
    Discarded(u64),
    /// A record and the next position.
    Record(&'a [u8], u64),
}

/// A ring and its mappings.
#[derive(Debug)]
pub(super) struct Ring {
    map: MapData,
    consumer: Mapping,
    /// Producer page, then the data twice.
    producer: Mapping,
    page: usize,
    size: usize,
}

impl Ring {
    /// Creates a ring of `size` bytes, a power of two and a multiple of the page size.
    pub(super) fn create(size: usize) -> Result<Self, BpfError> {
        let definition =
            aya_obj::Map::new_from_params(BPF_MAP_TYPE_RINGBUF as u32, 0, 0, size as u32, 0);
        let map = MapData::create(definition, "tap_ring", None).map_err(|e| {
            if is_permission(&e) {
                BpfError::Permission {
                    action: "create a BPF ring buffer".into(),
                }
            } else {
                BpfError::Map {
                    map: NAME,
                    action: "create a ring buffer",
                    error: chain(&e),
                }
            }
        })?;
        let page = rustix::param::page_size();
        let mapped = |offset, len, writable| {
            Mapping::new(map.fd().as_fd(), offset, len, writable).map_err(|e| BpfError::Map {
                map: NAME,
                action: "map a ring buffer into memory",
                error: e.to_string(),
            })
        };
        let consumer = mapped(0, page, true)?;
        let producer = mapped(page, page + 2 * size, false)?;
        Ok(Self {
            map,
            consumer,
            producer,
            page,
            size,
        })
    }

    /// For the ring array of the program.
    pub(super) fn map(&self) -> &MapData {
        &self.map
    }

    /// Readable when there is something to read and the program chose to wake.
    pub(super) fn fd(&self) -> RawFd {
        self.map.fd().as_fd().as_raw_fd()
    }

    /// End of what the program has reserved, as a position. Records up to there may still be busy.
    #[inline]
    pub(super) fn produced(&self) -> u64 {
        // Pairs with the kernel's store-release after a reserve.
        self.producer
            .word(0)
            .map_or(0, |p| p.load(Ordering::Acquire))
    }

    /// Looks at the record at `at`, where `end` is an earlier [`Self::produced`].
    #[inline]
    pub(super) fn peek(&self, at: u64, end: u64) -> Peek<'_> {
        if at >= end {
            return Peek::Empty;
        }
        let offset = self.page + (at as usize & (self.size - 1));
        let Some(head) = self.producer.half_word(offset) else {
            return Peek::Empty;
        };
        // Pairs with the kernel's exchange at submit: not busy means that all bytes are there.
        let head = head.load(Ordering::Acquire);
        if head & BUSY != 0 {
            return Peek::Busy;
        }
        let len = (head & !DISCARD) as usize;
        let next = at + (HEADER_BYTES + len).next_multiple_of(8) as u64;
        if head & DISCARD != 0 {
            return Peek::Discarded(next);
        }
        // SAFETY: a submitted record is not written to until its bytes are given back by
        // `release`, which needs exclusive access and so outlives no such slice.
        match unsafe { self.producer.bytes(offset + HEADER_BYTES, len) } {
            Some(bytes) => Peek::Record(bytes, next),
            None => Peek::Empty,
        }
    }

    /// Has the start of a record fetched, if one comes to lie at `at`: its header and the packet's own.
    #[inline]
    pub(super) fn prefetch(&self, at: u64) {
        let offset = self.page + (at as usize & (self.size - 1));
        self.producer.prefetch(offset);
        self.producer.prefetch(offset + CACHE_LINE_BYTES);
    }

    /// Gives everything before `at` back to the program.
    #[inline]
    pub(super) fn release(&mut self, at: u64) {
        if let Some(consumer) = self.consumer.word(0) {
            // Release: our reads of the records come before the program may overwrite them.
            consumer.store(at, Ordering::Release);
        }
    }
}
