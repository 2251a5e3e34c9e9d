//! The four rings over xsk-rs: the only place that sees its descriptors.
//!
//! All `unsafe` here rests on one fact: a descriptor inside a frame token names a frame that nobody else
//! holds, and it is given to the kernel by consuming the token. Descriptors become tokens only when the
//! kernel hands them back.

use super::frame::{FilledFrame, FreeFrame, ReceivedFrame, RxLosses, RxRings, TxRings};
use super::region::Region;
use super::tx::FLUSH_LEVEL_FRAMES;
use crate::port::BATCH;
use bytemuck::Zeroable;
use common::abi::XdpMeta;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use xsk_rs::socket::{RxQueue, TxQueue};
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::umem::{CompQueue, FillQueue};

const META_BYTES: usize = size_of::<XdpMeta>();

pub(super) struct XskTx {
    tx: TxQueue,
    completion: CompQueue,
    region: Region,
    ring_frames: usize,
}

impl XskTx {
    /// `ring_frames` is the size of both rings, at least the number of frames that will be sent by
    /// them: then neither ring can be full.
    pub(super) fn new(
        tx: TxQueue,
        completion: CompQueue,
        region: Region,
        ring_frames: usize,
    ) -> Self {
        Self {
            tx,
            completion,
            region,
            ring_frames,
        }
    }
}

impl TxRings for XskTx {
    type Desc = FrameDesc;

    fn buffer<'a>(&'a mut self, frame: &'a mut FreeFrame<FrameDesc>) -> &'a mut [u8] {
        let addr = frame.desc().addr();
        // SAFETY: the token is borrowed mutably for as long as the slice.
        unsafe {
            self.region
                .bytes_mut(addr, self.region.frame_end(addr) - addr)
        }
    }

    fn submit(&mut self, frames: &mut Vec<FilledFrame<FrameDesc>>) {
        let n = frames.len().min(FLUSH_LEVEL_FRAMES);
        // xsk-rs produces all or nothing: ask first, so that no token is spent in vain.
        if n == 0 || self.tx.nb_free(n as u32) < n as u32 {
            return;
        }
        let mut descs = [FrameDesc::default(); FLUSH_LEVEL_FRAMES];
        for (slot, frame) in descs.iter_mut().zip(frames.drain(..n)) {
            let (mut desc, len) = frame.into_parts();
            // SAFETY: the token was consumed here, the frame is ours until the next statement but one.
            // The length must be set each time: descriptors come from the completion ring with 0.
            unsafe { self.region.umem().data_mut(&mut desc) }
                .cursor()
                .set_pos(len);
            *slot = desc;
        }
        // SAFETY: descriptors of this UMEM, their tokens are gone.
        let produced = unsafe { self.tx.produce(&descs[..n]) };
        debug_assert_eq!(produced, n, "room was checked");
    }

    fn reap(&mut self, free: &mut Vec<FreeFrame<FrameDesc>>) {
        let mut descs = [FrameDesc::default(); BATCH];
        loop {
            // SAFETY: the completion ring of this UMEM; what it returns is no longer the kernel's.
            let n = unsafe { self.completion.consume(&mut descs) };
            free.extend(descs[..n].iter().map(|&desc| FreeFrame::new(desc)));
            if n < BATCH {
                return;
            }
        }
    }

    fn unsent(&mut self) -> usize {
        self.ring_frames
            .saturating_sub(self.tx.nb_free_exact() as usize)
    }

    fn kick(&mut self) -> Result<(), Errno> {
        if !self.tx.needs_wakeup() {
            return Ok(());
        }
        // SAFETY: the TX queue keeps the socket open while it lives.
        let fd = unsafe { BorrowedFd::borrow_raw(self.tx.fd().as_raw_fd()) };
        send(fd, &[], SendFlags::DONTWAIT).map(drop)
    }

    fn invalid(&self) -> u64 {
        self.tx
            .fd()
            .xdp_statistics()
            .map_or(0, |s| s.tx_invalid_descs())
    }
}

pub(super) struct XskRx {
    rx: RxQueue,
    fill: FillQueue,
    region: Region,
}

impl XskRx {
    /// The fill ring must hold all frames that will ever be put into it.
    pub(super) fn new(rx: RxQueue, fill: FillQueue, region: Region) -> Self {
        Self { rx, fill, region }
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.rx.fd().as_raw_fd()
    }
}

impl RxRings for XskRx {
    type Desc = FrameDesc;

    fn receive(&mut self, into: &mut Vec<ReceivedFrame<FrameDesc>>) {
        let mut descs = [FrameDesc::default(); BATCH];
        // SAFETY: the RX ring of this UMEM; what it returns is no longer the kernel's.
        let n = unsafe { self.rx.consume(&mut descs) };
        into.extend(descs[..n].iter().map(|&desc| ReceivedFrame::new(desc)));
    }

    fn bytes<'a>(&'a self, frame: &'a ReceivedFrame<FrameDesc>) -> &'a [u8] {
        let desc = frame.desc();
        // SAFETY: the token is borrowed for as long as the slice, and writing needs it mutably or, in
        // `take_meta`, exclusive access to these rings.
        unsafe { self.region.bytes(desc.addr(), desc.lengths().data()) }
    }

    fn continues(&self, frame: &ReceivedFrame<FrameDesc>) -> bool {
        frame.desc().has_more_frames()
    }

    fn take_meta(&mut self, frame: &ReceivedFrame<FrameDesc>, cookie: u32) -> Option<XdpMeta> {
        let at = frame.desc().addr().checked_sub(META_BYTES)?;
        // SAFETY: the bytes in front of the packet belong to the same frame (the kernel reserves
        // XDP_PACKET_HEADROOM, 256 bytes, before any packet), its token is borrowed, and `&mut self`
        // excludes slices from `bytes`.
        let bytes = unsafe { self.region.bytes_mut(at, META_BYTES) };
        let mut meta = XdpMeta::zeroed();
        let copy = bytemuck::bytes_of_mut(&mut meta);
        if bytes.len() != copy.len() {
            return None;
        }
        copy.copy_from_slice(bytes);
        if meta.cookie != cookie {
            return None;
        }
        // The next packet in this frame may come without metadata.
        bytes.fill(0);
        Some(meta)
    }

    fn refill(&mut self, frames: &mut Vec<FreeFrame<FrameDesc>>) {
        let mut descs = [FrameDesc::default(); BATCH];
        while !frames.is_empty() {
            let n = frames.len().min(BATCH);
            if self.fill.nb_free(n as u32) < n as u32 {
                return;
            }
            for (slot, frame) in descs.iter_mut().zip(frames.drain(..n)) {
                *slot = frame.into_desc();
            }
            // SAFETY: descriptors of this UMEM, their tokens are gone. The kernel masks the address
            // down to the start of the frame (net/xdp/xsk_buff_pool.c, xp_check_aligned).
            let produced = unsafe { self.fill.produce(&descs[..n]) };
            debug_assert_eq!(produced, n, "room was checked");
        }
    }

    fn waiting(&mut self) -> bool {
        self.rx.nb_avail(1) > 0
    }

    fn wake_driver(&mut self) {
        if self.fill.needs_wakeup() {
            // Only drivers in zero-copy mode ask. A failure leaves packets in the driver's queue, which
            // its own counters show; the next call tries again.
            let _ = self.fill.wakeup(self.rx.fd_mut(), 0);
        }
    }

    fn losses(&self) -> RxLosses {
        self.rx.fd().xdp_statistics().map_or_else(
            |_| RxLosses::default(),
            |s| RxLosses {
                dropped: s.rx_dropped(),
                ring_full: s.rx_ring_full(),
                fill_ring_empty: s.rx_fill_ring_empty_descs(),
                invalid_descs: s.rx_invalid_descs(),
            },
        )
    }
}
