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
    /// Frames of batches in which none carried the time.
    without_meta: u64,
    /// Of the frame before.
    latest: Nanos,
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
            latest: Nanos(0),
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
        let mut several = self.joined.is_open();
        let mut time = None;
        let mut times = [None; BATCH];
        for (at, frame) in self.received.iter().enumerate() {
            several |= self.rings.continues(frame);
            let meta = self
                .cookie
                .and_then(|cookie| self.rings.take_meta(frame, cookie));
            if let Some(meta) = meta {
                time = Some(Nanos(meta.captured_ns));
                batch[at].meta.frame_len = meta.frame_len;
            }
            times[at] = time;
        }
        // In a flood few frames carry the time (`common::abi::Stamps`): the others came soon after the one
        // before them that does, or before the first.
        let first = times.iter().flatten().next().copied();
        let first = first.unwrap_or_else(|| {
            self.without_meta += n as u64;
            clock::now()
        });
        for ((captured, frame), time) in batch.iter_mut().zip(&self.received).zip(times) {
            // Order is kept also behind a batch whose time was a guess.
            self.latest = self.latest.max(time.unwrap_or(first));
            captured.meta.at = self.latest;
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
