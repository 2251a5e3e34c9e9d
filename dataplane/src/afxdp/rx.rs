//! Receiving: a batch from the RX ring, and its frames back to the fill ring in the same call.

use super::frame::{FreeFrame, ReceivedFrame, RxRings};
use super::joined::Joined;
use crate::clock;
use crate::port::{BATCH, CounterSink};
use common::flow::{CaptureMeta, Captured, Nanos};

pub(super) struct RxPort<R: RxRings> {
    rings: R,
    /// The batch under way; empty between calls.
    received: Vec<ReceivedFrame<R::Desc>>,
    /// On their way to the fill ring; empty between calls unless that was full, which its size rules out.
    returning: Vec<FreeFrame<R::Desc>>,
    /// Marks valid [`common::abi::XdpMeta`]; `None` if the program writes none.
    cookie: Option<u32>,
    /// Packets in several frames.
    joined: Joined,
    frames: u64,
    bytes: u64,
    without_meta: u64,
}

impl<R: RxRings> RxPort<R> {
    /// Gives `frames` to the kernel.
    pub(super) fn new(rings: R, frames: Vec<FreeFrame<R::Desc>>, cookie: Option<u32>) -> Self {
        let mut port = Self {
            rings,
            received: Vec::with_capacity(BATCH),
            returning: frames,
            cookie,
            joined: Joined::default(),
            frames: 0,
            bytes: 0,
            without_meta: 0,
        };
        port.rings.refill(&mut port.returning);
        port.rings.wake_driver();
        port
    }

    pub(super) fn rings(&self) -> &R {
        &self.rings
    }

    pub(super) fn recv(&mut self, act: &mut dyn FnMut(&[Captured<'_>])) -> usize {
        self.rings.receive(&mut self.received);
        let n = self.received.len();
        if n == 0 {
            // An empty fill ring may have put the driver to sleep after our last refill.
            self.rings.wake_driver();
            return 0;
        }
        let mut batch = [Captured {
            bytes: &[],
            meta: CaptureMeta::default(),
        }; BATCH];
        let mut now = None;
        let mut several = self.joined.is_open();
        for (captured, frame) in batch.iter_mut().zip(&self.received) {
            several |= self.rings.continues(frame);
            let meta = self
                .cookie
                .and_then(|cookie| self.rings.take_meta(frame, cookie));
            captured.meta = if let Some(meta) = meta {
                CaptureMeta {
                    at: Nanos(meta.captured_ns),
                    frame_len: meta.frame_len,
                    ..CaptureMeta::default()
                }
            } else {
                self.without_meta += 1;
                let at = *now.get_or_insert_with(clock::now);
                CaptureMeta {
                    at,
                    ..CaptureMeta::default()
                }
            };
        }
        for (captured, frame) in batch.iter_mut().zip(&self.received) {
            captured.bytes = self.rings.bytes(frame);
            // A frame is never shorter on the wire than in memory, whatever the metadata says.
            captured.meta.frame_len = captured.meta.frame_len.max(captured.bytes.len() as u32);
            self.bytes += captured.bytes.len() as u64;
        }
        if several {
            // Rare: one of them is larger than a frame.
            let more: [bool; BATCH] = std::array::from_fn(|at| {
                let frame = self.received.get(at);
                frame.is_some_and(|frame| self.rings.continues(frame))
            });
            let packets = self.joined.deliver(&batch[..n], &more, act);
            self.frames += packets as u64;
        } else {
            act(&batch[..n]);
            self.frames += n as u64;
        }
        self.returning
            .extend(self.received.drain(..).map(ReceivedFrame::into_free));
        self.rings.refill(&mut self.returning);
        self.rings.wake_driver();
        // Frames, also while a packet is not whole yet: there is work.
        n
    }

    /// False if frames wait.
    pub(super) fn arm(&mut self) -> bool {
        !self.rings.waiting()
    }

    pub(super) fn counters(&mut self, sink: CounterSink<'_>) {
        let losses = self.rings.losses();
        sink("rx_frames", self.frames);
        sink("rx_bytes", self.bytes);
        sink("rx_joined", self.joined.joined());
        sink("rx_too_large", self.joined.too_large());
        sink("rx_dropped", losses.dropped);
        sink("rx_ring_full", losses.ring_full);
        sink("rx_fill_ring_empty", losses.fill_ring_empty);
        sink("rx_invalid_descs", losses.invalid_descs);
        if self.cookie.is_some() {
            sink("rx_without_meta", self.without_meta);
        }
    }

    #[cfg(test)]
    fn held(&self) -> usize {
        self.received.len() + self.returning.len()
    }
}

#[cfg(test)]
#[path = "rx_tests.rs"]
mod tests;
