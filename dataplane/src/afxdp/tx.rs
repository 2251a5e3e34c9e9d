//! Sending: levels, kicks and reaping.
//!
//! ```text
//!   reserve ▸ write ▸ commit ──▶ pending ──32──▶ TX ring ──sendto──▶ device
//!                                   └──flush────────▲   (again while it makes progress)
//! ```
//! In copy mode (veth, virtio, a production interface) nothing is ever sent without sendto(2), and one
//! call sends at most 32 descriptors, then answers EAGAIN with the rest still queued: "call again", not
//! an error (net/xdp/xsk.c, `TX_BATCH_SIZE` and `__xsk_generic_xmit`). EBUSY there means that the device
//! dropped one frame, ENOBUFS that an skb could not be allocated and the frame is still queued.

use super::frame::{FilledFrame, FreeFrame, TxRings};
use crate::errnos::ErrnoCounts;
use crate::port::{CounterSink, Transmit};
use rustix::io::Errno;

/// Frames that are collected before the kernel is told: exactly what one sendto(2) sends in copy mode.
/// Fewer means more syscalls per frame; more gains nothing (1.6 Mpps at 32 and at 256).
pub(super) const FLUSH_LEVEL_FRAMES: usize = 32;
/// Most sendto(2) calls per flush: 8192 queued frames drain in 256. A bound because a device that takes
/// one frame per call must not hold the worker.
const KICKS_MAX_PER_FLUSH: usize = 256;
/// Calls without progress after which the rest waits for the next flush. Not 1: EBUSY and ENOBUFS are
/// often gone on the second call.
const IDLE_KICKS_MAX: usize = 3;

pub(super) struct TxPort<R: TxRings> {
    rings: R,
    /// Frames of this half.
    total: usize,
    free: Vec<FreeFrame<R::Desc>>,
    reserved: Option<FreeFrame<R::Desc>>,
    pending: Vec<FilledFrame<R::Desc>>,
    /// Frames in the TX ring when it was last looked at.
    unsent: usize,
    /// The last kick failed in a way that trying again soon will not mend (interface down or gone).
    stalled: bool,
    frames: u64,
    kicks: u64,
    no_frame: u64,
    bad_length: u64,
    errors: ErrnoCounts,
}

impl<R: TxRings> TxPort<R> {
    /// `port` is its name in the log.
    pub(super) fn new(rings: R, free: Vec<FreeFrame<R::Desc>>, port: String) -> Self {
        Self {
            rings,
            total: free.len(),
            free,
            reserved: None,
            pending: Vec::with_capacity(FLUSH_LEVEL_FRAMES),
            unsent: 0,
            stalled: false,
            frames: 0,
            kicks: 0,
            no_frame: 0,
            bad_length: 0,
            errors: ErrnoCounts::new(port),
        }
    }

    fn take_free(&mut self) -> Option<FreeFrame<R::Desc>> {
        if self.free.is_empty() {
            self.rings.reap(&mut self.free);
        }
        if self.free.is_empty() {
            self.flush();
        }
        self.free.pop()
    }

    fn submit(&mut self) {
        loop {
            let before = self.pending.len();
            self.rings.submit(&mut self.pending);
            self.frames += (before - self.pending.len()) as u64;
            if self.pending.is_empty() || self.pending.len() == before {
                break;
            }
        }
        self.unsent = self.rings.unsent();
    }

    /// Kicks up to `most` times, as long as frames leave the ring.
    fn kick(&mut self, most: usize) {
        let mut idle = 0;
        for _ in 0..most {
            if self.unsent == 0 {
                return;
            }
            self.kicks += 1;
            let answer = self.rings.kick();
            let left = self.rings.unsent();
            let progress = left < self.unsent;
            self.unsent = left;
            self.stalled = false;
            match answer {
                Ok(()) if progress => {}
                // A driver in zero-copy mode was told and works by itself; a full completion ring
                // needs a reap first. Either way another call does not help.
                Ok(()) => return,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno @ (Errno::BUSY | Errno::NOBUFS | Errno::NOMEM)) => {
                    self.errors.count(errno);
                }
                Err(errno) => {
                    self.errors.count(errno);
                    self.stalled = true;
                    return;
                }
            }
            idle = if progress { 0 } else { idle + 1 };
            if idle == IDLE_KICKS_MAX {
                return;
            }
        }
    }

    /// Frames that are not in the kernel's rings.
    fn held(&self) -> usize {
        self.free.len() + usize::from(self.reserved.is_some()) + self.pending.len()
    }
}

impl<R: TxRings> Transmit for TxPort<R> {
    fn reserve(&mut self) -> Option<&mut [u8]> {
        if self.reserved.is_none() {
            self.reserved = self.take_free();
            if self.reserved.is_none() {
                self.no_frame += 1;
            }
        }
        self.reserved.as_mut().map(|frame| self.rings.buffer(frame))
    }

    fn commit(&mut self, len: usize) {
        let Some(mut frame) = self.reserved.take() else {
            return;
        };
        if len == 0 || len > self.rings.buffer(&mut frame).len() {
            self.bad_length += 1;
            self.reserved = Some(frame);
            return;
        }
        self.pending.push(frame.fill_in(len));
        if self.pending.len() >= FLUSH_LEVEL_FRAMES {
            self.submit();
            self.kick(1);
        }
    }

    fn flush(&mut self) {
        if !self.pending.is_empty() {
            self.submit();
        }
        if self.unsent > 0 {
            // A driver in zero-copy mode has taken frames by itself meanwhile.
            self.unsent = self.rings.unsent();
            self.kick(KICKS_MAX_PER_FLUSH);
        }
        self.rings.reap(&mut self.free);
    }

    fn busy(&self) -> bool {
        // Frames that the device has taken come back without our help and are found by the next
        // reserve; only those still in our hands need another flush.
        !self.pending.is_empty() || (self.unsent > 0 && !self.stalled)
    }

    fn counters(&mut self, sink: CounterSink<'_>) {
        sink("tx_frames", self.frames);
        sink("tx_kicks", self.kicks);
        sink("tx_no_frame", self.no_frame);
        // What a device took and did not give back was perhaps never sent: two different faults.
        self.rings.reap(&mut self.free);
        let unsent = self.rings.unsent();
        sink("tx_in_ring", unsent as u64);
        let given = self.total.saturating_sub(self.held());
        sink("tx_in_device", given.saturating_sub(unsent) as u64);
        sink("tx_bad_length", self.bad_length);
        sink("tx_invalid_descs", self.rings.invalid());
        self.errors.report(sink);
    }
}

#[cfg(test)]
#[path = "tx_tests.rs"]
mod tests;
