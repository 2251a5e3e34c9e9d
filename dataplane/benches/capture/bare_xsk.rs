//! AF_XDP with nothing around it: what the product's ports are measured against.
//!
//! ```text
//!   drop:     RX ring ─▶ count ─▶ fill ring
//!   forward:  RX ring ─▶ swap MACs in place ─▶ TX ring ─▶ completion ring ─▶ fill ring
//!   send:     frames that are filled once ─▶ TX ring ─▶ completion ring
//! ```
//! The same library, frames, rings, batches and naps as the product: the difference is the product.

use dataplane::{BATCH, idle};
use xsk_rs::config::{BindFlags, FrameSize, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::socket::{RxQueue, TxQueue};
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::umem::{CompQueue, FillQueue, Umem};

use std::os::fd::{AsRawFd, RawFd};

use crate::reader::Reader;

/// A socket on queue 0 with all its rings.
pub struct BareXsk {
    umem: Umem,
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    /// Frames that no ring has.
    free: Vec<FrameDesc>,
    forward: bool,
    sent: u64,
}

impl BareXsk {
    /// In this thread's namespace. All `frames` are free.
    pub fn open(ifname: &str, frames: u32) -> Self {
        let ring = QueueSize::new(frames).expect("a power of two");
        let frame = FrameSize::new(dataplane::afxdp::FRAME_BYTES).expect("frame size");
        let config = UmemConfig::builder()
            .frame_size(frame)
            .fill_queue_size(ring)
            .comp_queue_size(ring)
            .build()
            .expect("UMEM");
        let frames = frames.try_into().expect("not zero");
        let (umem, free) = Umem::new(config, frames, false).expect("UMEM");
        let config = SocketConfig::builder()
            .rx_queue_size(ring)
            .tx_queue_size(ring)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        let interface = ifname.parse().expect("interface");
        // SAFETY: the first socket of a new UMEM.
        let (tx, rx, rings) =
            unsafe { xsk_rs::Socket::new(config, &umem, &interface, 0) }.expect("socket");
        let (fill, completion) = rings.expect("rings of the first socket");
        Self {
            umem,
            rx,
            tx,
            fill,
            completion,
            free,
            forward: false,
            sent: 0,
        }
    }

    /// Gives all frames to the kernel for receiving; with `forward`, what comes is sent back.
    pub fn receive(mut self, forward: bool) -> Self {
        let frames = std::mem::take(&mut self.free);
        // SAFETY: free frames of this UMEM.
        let given = unsafe { self.fill.produce(&frames) };
        assert_eq!(given, frames.len(), "the fill ring holds all frames");
        self.forward = forward;
        self
    }

    /// Writes `bytes` into all frames, for sending.
    pub fn filled(mut self, bytes: &[u8]) -> Self {
        for desc in &mut self.free {
            // SAFETY: a free frame of this UMEM.
            let mut data = unsafe { self.umem.data_mut(desc) };
            let mut cursor = data.cursor();
            std::io::Write::write_all(&mut cursor, bytes).expect("room in a frame");
        }
        self
    }

    /// For an XSKMAP.
    pub fn fd(&self) -> RawFd {
        self.rx.fd().as_raw_fd()
    }

    /// Frames that were given to the TX ring.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Sends a batch of filled frames and takes finished ones back.
    pub fn send_batch(&mut self, bytes: usize) {
        let n = self.free.len().min(BATCH);
        let at = self.free.len() - n;
        let mut batch = [FrameDesc::default(); BATCH];
        batch[..n].copy_from_slice(&self.free[at..]);
        for desc in &mut batch[..n] {
            // The length is gone in descriptors that come from the completion ring.
            // SAFETY: a free frame of this UMEM.
            unsafe { self.umem.data_mut(desc) }.cursor().set_pos(bytes);
        }
        self.free.truncate(at);
        self.give(&batch[..n]);
        self.reap();
    }

    /// Has the rest sent, takes finished frames back.
    pub fn finish(&mut self) {
        self.give(&[]);
        self.reap();
    }

    fn reap(&mut self) {
        let mut done = [FrameDesc::default(); BATCH];
        // SAFETY: the completion ring of this UMEM.
        let n = unsafe { self.completion.consume(&mut done) };
        self.free.extend_from_slice(&done[..n]);
    }

    /// True while frames are on their way.
    pub fn busy(&self, frames: usize) -> bool {
        self.free.len() < frames
    }

    /// Gives frames to the TX ring and has them sent.
    fn give(&mut self, batch: &[FrameDesc]) {
        if !batch.is_empty() {
            // SAFETY: frames of this UMEM that no ring has; the ring holds as many as there are frames.
            let given = unsafe { self.tx.produce(batch) };
            assert_eq!(given, batch.len(), "the TX ring holds all frames");
            self.sent += given as u64;
        }
        // One call sends at most 32 frames and then says EAGAIN (net/xdp/xsk.c).
        for _ in 0..batch.len().div_ceil(32).max(1) {
            if self.tx.needs_wakeup() && self.tx.wakeup().is_ok() {
                break;
            }
        }
    }

    fn forward_batch(&mut self, batch: &mut [FrameDesc]) {
        for desc in batch.iter_mut() {
            // SAFETY: a frame that the RX ring just gave, held by nobody else.
            let mut data = unsafe { self.umem.data_mut(desc) };
            swap_macs(data.contents_mut());
        }
        self.give(batch);
    }

    fn refill_from_completions(&mut self) {
        let mut done = [FrameDesc::default(); BATCH];
        loop {
            // SAFETY: the completion ring of this UMEM; what it returns goes to the fill ring only.
            let n = unsafe {
                let n = self.completion.consume(&mut done);
                self.fill.produce(&done[..n])
            };
            if n < BATCH {
                return;
            }
        }
    }
}

impl Reader for BareXsk {
    fn take(&mut self) -> (u64, u64) {
        let mut batch = [FrameDesc::default(); BATCH];
        // SAFETY: the RX ring of this UMEM.
        let n = unsafe { self.rx.consume(&mut batch) };
        let bytes: u64 = batch[..n].iter().map(|d| d.lengths().data() as u64).sum();
        if self.forward {
            self.forward_batch(&mut batch[..n]);
            self.refill_from_completions();
        } else {
            // SAFETY: frames that the RX ring just gave.
            unsafe { self.fill.produce(&batch[..n]) };
        }
        (n as u64, bytes)
    }

    fn rest(&mut self, worked: bool) {
        if !worked {
            idle::nap(idle::NAP);
        }
    }
}

/// Source and destination of an Ethernet frame trade places.
pub fn swap_macs(frame: &mut [u8]) {
    if let Some((destination, source)) = frame.get_mut(..12).map(|macs| macs.split_at_mut(6)) {
        destination.swap_with_slice(source);
    }
}
