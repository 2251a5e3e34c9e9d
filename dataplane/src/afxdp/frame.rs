//! Ownership of UMEM frames, as types.
//!
//! ```text
//!            FreeFrame ──fill_in──▶ FilledFrame ──submit──▶ TX ring ▸ device ▸ completion ring ─┐
//!   TX half     ▲                                                                    reap       │
//!               └───────────────────────────────────────────────────────────────────────────────┘
//!            FreeFrame ──refill──▶ fill ring ▸ device ▸ RX ring ──receive──▶ ReceivedFrame ─┐
//!   RX half     ▲                                                            into_free      │
//!               └───────────────────────────────────────────────────────────────────────────┘
//! ```
//! A frame is a value that can be moved but not copied, so it is in one place at a time: who holds it
//! may touch its bytes, and what was given to the kernel cannot be named. The two halves of a socket
//! never exchange frames: a sender that keeps too many cannot starve the ring that brings answers.
//!
//! `D` is what the kernel calls the frame by: xsk-rs's descriptor in [`super::rings`], a number in tests.
//! The ring traits are what [`super::tx`] and [`super::rx`] need of the kernel, so their accounting is
//! tested without one.

use common::abi::XdpMeta;
use rustix::io::Errno;

/// A frame of user space with no contents. Made by [`super::rings`] alone.
#[derive(Debug)]
pub(super) struct FreeFrame<D>(D);

/// A frame with bytes to be sent.
#[derive(Debug)]
pub(super) struct FilledFrame<D> {
    desc: D,
    len: usize,
}

/// A frame with bytes from the wire.
#[derive(Debug)]
pub(super) struct ReceivedFrame<D>(D);

impl<D> FreeFrame<D> {
    /// Only for ring implementations: `desc` must name a frame that nobody else holds.
    pub(super) const fn new(desc: D) -> Self {
        Self(desc)
    }
    pub(super) const fn desc(&self) -> &D {
        &self.0
    }
    pub(super) fn into_desc(self) -> D {
        self.0
    }
    /// States that the first `len` bytes are to be sent.
    pub(super) fn fill_in(self, len: usize) -> FilledFrame<D> {
        FilledFrame { desc: self.0, len }
    }
}

impl<D> FilledFrame<D> {
    pub(super) fn into_parts(self) -> (D, usize) {
        (self.desc, self.len)
    }
}

impl<D> ReceivedFrame<D> {
    /// Only for ring implementations, as [`FreeFrame::new`].
    pub(super) const fn new(desc: D) -> Self {
        Self(desc)
    }
    pub(super) const fn desc(&self) -> &D {
        &self.0
    }
    /// Gives the bytes up.
    pub(super) fn into_free(self) -> FreeFrame<D> {
        FreeFrame(self.0)
    }
}

/// TX and completion ring.
pub(super) trait TxRings: Send {
    type Desc: Send;
    /// The bytes of a frame.
    fn buffer<'a>(&'a mut self, frame: &'a mut FreeFrame<Self::Desc>) -> &'a mut [u8];
    /// Puts all frames into the TX ring, or none if there is no room for all.
    fn submit(&mut self, frames: &mut Vec<FilledFrame<Self::Desc>>);
    /// Takes sent frames back.
    fn reap(&mut self, free: &mut Vec<FreeFrame<Self::Desc>>);
    /// Frames in the TX ring that the kernel has not taken yet.
    fn unsent(&mut self) -> usize;
    /// Tells the kernel to send, if it wants to be told.
    fn kick(&mut self) -> Result<(), Errno>;
    /// `XDP_STATISTICS.tx_invalid_descs`.
    fn invalid(&self) -> u64;
}

/// What the kernel lost on a receive queue: `XDP_STATISTICS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RxLosses {
    pub(super) dropped: u64,
    pub(super) ring_full: u64,
    pub(super) fill_ring_empty: u64,
    pub(super) invalid_descs: u64,
}

/// Fill and RX ring.
pub(super) trait RxRings: Send {
    type Desc: Send;
    /// Takes up to [`crate::BATCH`] frames from the RX ring.
    fn receive(&mut self, into: &mut Vec<ReceivedFrame<Self::Desc>>);
    /// The bytes of a frame.
    fn bytes<'a>(&'a self, frame: &'a ReceivedFrame<Self::Desc>) -> &'a [u8];
    /// The packet goes on in the next frame.
    fn continues(&self, frame: &ReceivedFrame<Self::Desc>) -> bool;
    /// Reads the metadata in front of a frame and invalidates it, if it carries `cookie`.
    fn take_meta(&mut self, frame: &ReceivedFrame<Self::Desc>, cookie: u32) -> Option<XdpMeta>;
    /// Puts frames into the fill ring; those that do not fit stay in `frames`.
    fn refill(&mut self, frames: &mut Vec<FreeFrame<Self::Desc>>);
    /// True if the RX ring holds frames.
    fn waiting(&mut self) -> bool;
    /// Tells the driver that the fill ring has frames, if it wants to be told.
    fn wake_driver(&mut self);
    /// Losses so far.
    fn losses(&self) -> RxLosses;
}
