//! The target's responses, where they come to this host itself (`--pool`): a ring for each interface.

use common::flow::{Captured, ResponseHeader};
use common::packet::decode_frame;
use dataplane::{Capture, CounterSink};
use std::os::fd::RawFd;

/// A worker's rings. The kernel has chosen them by the owner rule, so that all of it is this worker's.
pub(super) struct PoolReaders {
    readers: Vec<Box<dyn Capture>>,
    /// The kernel has decoded what it put there: a bug if there is one.
    undecodable: u64,
}

impl PoolReaders {
    pub(super) fn new(readers: Vec<Box<dyn Capture>>) -> Self {
        Self {
            readers,
            undecodable: 0,
        }
    }

    /// Appends a batch of each ring.
    pub(super) fn take(&mut self, out: &mut Vec<ResponseHeader>) {
        let Self {
            readers,
            undecodable,
        } = self;
        let mut act = |batch: &[Captured<'_>]| {
            for frame in batch {
                match decode_frame(frame.bytes) {
                    Ok(packet) => out.push(ResponseHeader::from_packet(
                        frame.bytes,
                        &packet,
                        frame.meta.frame_len as usize,
                    )),
                    Err(_) => *undecodable += 1,
                }
            }
        };
        for reader in readers {
            reader.recv(&mut act);
        }
    }

    /// Asks for a wake-up; false if something is there already.
    pub(super) fn arm(&mut self) -> bool {
        self.readers.iter_mut().all(|reader| reader.arm())
    }

    /// What to sleep on.
    pub(super) fn fds(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.readers.iter().flat_map(|reader| reader.fds())
    }

    /// For the report.
    pub(super) fn counters(&mut self, sink: CounterSink<'_>) {
        if self.readers.is_empty() {
            return;
        }
        for reader in &mut self.readers {
            reader.counters(sink);
        }
        sink("undecodable", self.undecodable);
    }
}
