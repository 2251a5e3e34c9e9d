//! A worker's side of the ring of a packet socket.
//!
//! ```text
//!   block that is ours ─▶ up to 64 packets, borrowed ─▶ act(batch) ─ last of the block? ─▶ the kernel's again
//! ```
//! The kernel hands a block over when it is full, and otherwise when it is some milliseconds old: so much later
//! than with the tap's rings may a packet come on a quiet line, and one waker wakes for many packets. Packets of
//! a socket are in one order, that of the lock under which CPUs write to its ring.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::flow::{CaptureMeta, Captured, Nanos};
use rustix::net::sockopt::socket_error;

use super::block::{Cursor, STATUS_AT};
use super::socket::RingSize;
use crate::clock;
use crate::mmap::Mapping;
use crate::port::{BATCH, Capture, CounterSink};

/// Reads what a packet socket copied for one worker.
#[derive(Debug)]
pub struct PacketReader {
    ring: Mapping,
    size: RingSize,
    /// Block that is read, or waited for.
    block: usize,
    /// In that block, once it is ours.
    cursor: Option<Cursor>,
    /// Of the last packet: times never go back.
    last: Nanos,
    socket: Arc<OwnedFd>,
    frames: u64,
    bytes: u64,
    cut: u64,
    malformed: u64,
}

impl PacketReader {
    /// `ring` is the socket's, of that size.
    pub(super) const fn new(socket: Arc<OwnedFd>, ring: Mapping, size: RingSize) -> Self {
        Self {
            ring,
            size,
            block: 0,
            cursor: None,
            last: Nanos(0),
            socket,
            frames: 0,
            bytes: 0,
            cut: 0,
            malformed: 0,
        }
    }

    const fn block_at(&self) -> usize {
        self.block * self.size.block_bytes
    }

    /// The block is ours.
    fn filled(&self) -> bool {
        let status = self.ring.half_word(self.block_at() + STATUS_AT);
        // Pairs with the barrier in front of the kernel's store (`prb_close_block`).
        status.is_some_and(|s| s.load(Ordering::Acquire) & libc::TP_STATUS_USER != 0)
    }

    /// Gives the block back and waits for the next.
    fn release(&mut self) {
        if let Some(status) = self.ring.half_word(self.block_at() + STATUS_AT) {
            // Our reads of the block come before the kernel may overwrite it.
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        }
        self.cursor = None;
        self.block = (self.block + 1) % self.size.blocks;
    }
}

impl Capture for PacketReader {
    fn recv(&mut self, act: &mut dyn FnMut(&[Captured<'_>])) -> usize {
        if self.cursor.is_none() && !self.filled() {
            return 0;
        }
        let (at, len) = (self.block_at(), self.size.block_bytes);
        // SAFETY: the kernel does not write to a block that it has handed over until its status is stored in
        // `release`, which needs exclusive access and so outlives no such slice. The status word itself is
        // only read meanwhile.
        let block = unsafe { self.ring.bytes(at, len) }.unwrap_or_default();
        let mut cursor = self
            .cursor
            .or_else(|| Cursor::new(block))
            .unwrap_or_default();
        // Once per batch: the clock that the kernel stamps with may be set, ours may not.
        let (now, offset) = (clock::now(), clock::epoch_offset());
        let mut batch = [Captured {
            bytes: &[],
            meta: CaptureMeta::default(),
        }; BATCH];
        let mut n = 0;
        while let Some(slot) = batch.get_mut(n)
            && let Some(packet) = cursor.next(block)
        {
            let at = packet.realtime_ns.saturating_sub(offset);
            self.last = Nanos(at.min(now.0)).max(self.last);
            *slot = Captured {
                bytes: packet.bytes,
                meta: CaptureMeta {
                    at: self.last,
                    frame_len: packet.frame_len,
                    gso_size: packet.gso_size,
                    vlan_tci: packet.vlan_tci,
                },
            };
            self.bytes += packet.bytes.len() as u64;
            self.cut += u64::from(packet.frame_len as usize > packet.bytes.len());
            n += 1;
        }
        if n > 0 {
            act(batch.get(..n).unwrap_or_default());
            self.frames += n as u64;
        }
        if n == BATCH && cursor.left() > 0 {
            self.cursor = Some(cursor);
        } else {
            self.malformed += u64::from(cursor.left());
            self.release();
        }
        n
    }

    fn arm(&mut self) -> bool {
        // An interface that goes down leaves an error, which would end each sleep until it is read. When it
        // comes up again the kernel goes on by itself.
        if let Ok(Err(error)) = socket_error(&self.socket) {
            tracing::warn!("packet socket: {error}: nothing is captured until the interface is up");
        }
        self.cursor.is_none() && !self.filled()
    }

    fn fds(&self) -> Vec<RawFd> {
        vec![self.socket.as_raw_fd()]
    }

    fn counters(&mut self, sink: CounterSink<'_>) {
        sink("packet_frames", self.frames);
        sink("packet_bytes", self.bytes);
        sink("packet_cut", self.cut);
        sink("packet_malformed", self.malformed);
    }
}
