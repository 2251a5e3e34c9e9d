//! The tap's ring as the description in `common::abi` has it, read by nothing of `dataplane`.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use aya::Ebpf;
use aya::maps::Map;
use common::abi::{RECORD_LAST_START, RING_BLOCK_BYTES, RecordHeader, RingHead};

const BLOCK: usize = RING_BLOCK_BYTES as usize;

/// Ring 0, which is all of the memory.
pub struct Ring {
    head: Shared,
    next: Shared,
    blocks: Shared,
    at: usize,
    block: usize,
}

impl Ring {
    pub fn new(ebpf: &Ebpf, blocks: u32) -> Self {
        let blocks = blocks as usize;
        Self {
            head: Shared::new(ebpf, "HEADS", size_of::<RingHead>()),
            next: Shared::new(ebpf, "NEXT", blocks * 8),
            blocks: Shared::new(ebpf, "BLOCKS", blocks * BLOCK),
            at: 0,
            block: 0,
        }
    }

    /// Position of the end, as it is, with the mark of a ring that is being written to.
    pub fn written(&self) -> &AtomicU64 {
        self.head.word(std::mem::offset_of!(RingHead, written))
    }

    /// Takes all records and gives their room back.
    pub fn take(&mut self) -> Vec<(RecordHeader, Vec<u8>)> {
        self.take_some(usize::MAX)
    }

    /// At most `most` of them.
    pub fn take_some(&mut self, most: usize) -> Vec<(RecordHeader, Vec<u8>)> {
        let end = self.written().load(Ordering::Acquire) as usize;
        let mut records = Vec::new();
        while records.len() < most && self.at < end {
            if self.at % BLOCK > RECORD_LAST_START as usize {
                self.at = self.at.next_multiple_of(BLOCK);
                self.block = self.next.word(self.block * 8).load(Ordering::Relaxed) as usize;
                continue;
            }
            let from = self.block * BLOCK + self.at % BLOCK;
            let bytes = self.blocks.bytes();
            let header: RecordHeader = bytemuck::pod_read_unaligned(&bytes[from..from + 32]);
            let len = header.len as usize;
            records.push((header, bytes[from + 32..from + 32 + len].to_vec()));
            self.at += (32 + len).next_multiple_of(32);
        }
        let read = self.head.word(std::mem::offset_of!(RingHead, read));
        read.store(self.at as u64, Ordering::Release);
        records
    }

    /// Number of the block that is read, in memory.
    pub fn block(&self) -> usize {
        self.block
    }
}

/// An array that is mapped.
struct Shared {
    base: *mut u8,
    len: usize,
}

// SAFETY: plain memory for the life of the value.
unsafe impl Send for Shared {}
// SAFETY: words are accessed atomically; bytes only by who has the ring to itself.
unsafe impl Sync for Shared {}

impl Shared {
    fn new(ebpf: &Ebpf, name: &str, len: usize) -> Self {
        let Some(Map::Array(map)) = ebpf.map(name) else {
            panic!("no array {name}");
        };
        let len = len.next_multiple_of(rustix::param::page_size());
        // SAFETY: at an address that the kernel chooses.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        assert_ne!(
            base,
            libc::MAP_FAILED,
            "{name}: {}",
            std::io::Error::last_os_error()
        );
        Self {
            base: base.cast(),
            len,
        }
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.len);
        // SAFETY: inside the mapping and aligned.
        unsafe { &*self.base.add(offset).cast() }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping; programs run only within calls of the test that reads here.
        unsafe { std::slice::from_raw_parts(self.base, self.len) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}
