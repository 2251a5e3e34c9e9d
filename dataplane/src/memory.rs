//! Ports over memory: worker loops are tested with these, without root and without a kernel.
//!
//! Both ends are handles on one queue: the test keeps a clone, the worker owns the other.

use crate::port::{BATCH, Capture, CounterSink, Transmit};
use crate::wake::Waker;
use common::flow::{CaptureMeta, Captured};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The queues are valid after every statement, so a panicking test thread spoils nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct CaptureQueue {
    frames: Mutex<VecDeque<(Vec<u8>, CaptureMeta)>>,
    waker: Waker,
}

/// A capture source fed by [`MemoryCapture::push`]. Clones share the queue.
#[derive(Clone, Debug)]
pub struct MemoryCapture(Arc<CaptureQueue>);

impl MemoryCapture {
    /// An empty source.
    pub fn new() -> Result<Self, Errno> {
        Ok(Self(Arc::new(CaptureQueue {
            frames: Mutex::new(VecDeque::new()),
            waker: Waker::new()?,
        })))
    }

    /// Adds a frame; `meta.frame_len` of 0 means its length.
    pub fn push(&self, bytes: &[u8], mut meta: CaptureMeta) {
        if meta.frame_len == 0 {
            meta.frame_len = bytes.len() as u32;
        }
        lock(&self.0.frames).push_back((bytes.to_vec(), meta));
        self.0.waker.handle().wake();
    }

    /// Frames not yet taken.
    pub fn waiting(&self) -> usize {
        lock(&self.0.frames).len()
    }
}

impl Capture for MemoryCapture {
    fn recv(&mut self, act: &mut dyn FnMut(&[Captured<'_>])) -> usize {
        self.0.waker.clear();
        let taken: Vec<_> = {
            let mut frames = lock(&self.0.frames);
            let n = frames.len().min(BATCH);
            frames.drain(..n).collect()
        };
        if !taken.is_empty() {
            let batch: Vec<_> = taken
                .iter()
                .map(|(bytes, meta)| Captured { bytes, meta: *meta })
                .collect();
            act(&batch);
        }
        taken.len()
    }

    fn arm(&mut self) -> bool {
        self.0.waker.prepare_sleep() && lock(&self.0.frames).is_empty()
    }

    fn fds(&self) -> Vec<RawFd> {
        vec![self.0.waker.fd()]
    }

    fn counters(&mut self, sink: CounterSink<'_>) {
        sink("memory_waiting", self.waiting() as u64);
    }
}

#[derive(Debug, Default)]
struct SentFrames {
    frames: Vec<Vec<u8>>,
    flushes: u64,
    no_frame: u64,
    /// Frames that may be queued before a flush; more are refused.
    room: Option<usize>,
}

/// A sink that keeps what was flushed. Clones share the queue of sent frames.
#[derive(Debug)]
pub struct MemoryTransmit {
    sent: Arc<Mutex<SentFrames>>,
    queued: Vec<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Clone for MemoryTransmit {
    fn clone(&self) -> Self {
        Self {
            sent: Arc::clone(&self.sent),
            queued: Vec::new(),
            buffer: self.buffer.clone(),
        }
    }
}

impl MemoryTransmit {
    /// A sink whose buffers have `frame_bytes` bytes.
    pub fn new(frame_bytes: usize) -> Self {
        Self {
            sent: Arc::new(Mutex::new(SentFrames::default())),
            queued: Vec::new(),
            buffer: vec![0; frame_bytes],
        }
    }

    /// From now on only `room` frames may be queued between two flushes, `None` for any number: lets
    /// tests see a worker cope with a full device.
    pub fn limit(&self, room: Option<usize>) {
        lock(&self.sent).room = room;
    }

    /// Takes the frames flushed so far.
    pub fn take_sent(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut lock(&self.sent).frames)
    }

    /// Number of flushes that had something to send.
    pub fn flushes(&self) -> u64 {
        lock(&self.sent).flushes
    }
}

impl Transmit for MemoryTransmit {
    fn reserve(&mut self) -> Option<&mut [u8]> {
        let mut sent = lock(&self.sent);
        if sent.room.is_some_and(|room| self.queued.len() >= room) {
            sent.no_frame += 1;
            return None;
        }
        drop(sent);
        Some(&mut self.buffer)
    }

    fn commit(&mut self, len: usize) {
        self.queued
            .push(self.buffer[..len.min(self.buffer.len())].to_vec());
    }

    fn flush(&mut self) {
        if !self.queued.is_empty() {
            let mut sent = lock(&self.sent);
            sent.frames.append(&mut self.queued);
            sent.flushes += 1;
        }
    }

    fn busy(&self) -> bool {
        !self.queued.is_empty()
    }

    fn counters(&mut self, sink: CounterSink<'_>) {
        let sent = lock(&self.sent);
        sink("tx_frames", sent.frames.len() as u64);
        sink("tx_no_frame", sent.no_frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_in_order_and_in_batches() {
        let mut port = MemoryCapture::new().expect("port");
        let test = port.clone();
        for n in 0..100u8 {
            test.push(&[n; 60], CaptureMeta::default());
        }
        let mut seen = Vec::new();
        let mut batches = Vec::new();
        loop {
            let n = port.recv(&mut |batch| {
                batches.push(batch.len());
                seen.extend(batch.iter().map(|c| (c.bytes[0], c.meta.frame_len)));
            });
            if n == 0 {
                break;
            }
        }
        assert_eq!(batches, [BATCH, 100 - BATCH]);
        assert_eq!(seen, (0..100).map(|n| (n, 60)).collect::<Vec<_>>());
    }

    #[test]
    fn arm_is_refused_while_frames_wait() {
        let mut port = MemoryCapture::new().expect("port");
        assert!(port.arm());
        port.push(&[0; 60], CaptureMeta::default());
        assert!(!port.arm());
        port.recv(&mut |_| ());
        assert!(port.arm());
    }

    #[test]
    fn only_flushed_frames_are_sent() {
        let mut port = MemoryTransmit::new(64);
        let test = port.clone();
        port.reserve().expect("buffer")[0] = 1;
        port.reserve().expect("the same buffer")[1] = 2;
        port.commit(2);
        assert!(port.busy());
        assert!(test.take_sent().is_empty());
        port.flush();
        assert!(!port.busy());
        assert_eq!(test.take_sent(), [vec![1, 2]]);
    }

    #[test]
    fn a_full_device_refuses_and_counts() {
        let mut port = MemoryTransmit::new(64);
        port.limit(Some(1));
        assert!(port.reserve().is_some());
        port.commit(60);
        assert!(port.reserve().is_none());
        port.flush();
        assert!(port.reserve().is_some());
        let mut refused = 0;
        port.counters(&mut |name, value| {
            if name == "tx_no_frame" {
                refused = value;
            }
        });
        assert_eq!(refused, 1);
    }
}
