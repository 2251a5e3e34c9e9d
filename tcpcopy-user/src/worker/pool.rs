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

#[cfg(test)]
mod tests {
    use super::*;
    use common::flow::CaptureMeta;
    use common::packet::{
        Addr, Endpoint, FrameAddresses, SeqNumber, TcpFlags, TcpFrame, TcpOptions, build_tcp_frame,
    };
    use dataplane::memory::MemoryCapture;

    const HEADERS_BYTES: usize = 54;

    /// The headers of an answer with `payload` bytes, as the program leaves them in a ring.
    fn answer(port: u16, payload: usize) -> (Vec<u8>, CaptureMeta) {
        let mut frame = vec![0; HEADERS_BYTES + payload];
        let segment = TcpFrame {
            src: Endpoint::new(Addr::v4([10, 0, 0, 30]), 8080),
            dst: Endpoint::new(Addr::v4([10, 0, 0, 200]), port),
            seq: SeqNumber(7),
            ack: SeqNumber(9),
            flags: TcpFlags::ACK,
            window: 1000,
            options: TcpOptions::default(),
            payload: &vec![1; payload],
            ip_id: 1,
        };
        let len = build_tcp_frame(&mut frame, FrameAddresses::default(), &segment).unwrap();
        let meta = CaptureMeta {
            frame_len: len as u32,
            ..CaptureMeta::default()
        };
        frame.truncate(HEADERS_BYTES);
        (frame, meta)
    }

    #[test]
    fn answers_of_all_rings_become_headers_and_tell_what_was_cut_off() {
        let rings = [MemoryCapture::new().unwrap(), MemoryCapture::new().unwrap()];
        let boxed = |ring: &MemoryCapture| Box::new(ring.clone()) as Box<dyn Capture>;
        let mut readers = PoolReaders::new(rings.iter().map(boxed).collect());
        let mut out = Vec::new();
        readers.take(&mut out);
        assert!(out.is_empty() && readers.arm() && readers.fds().count() == 2);
        for (ring, port, payload) in [(0, 1, 0), (1, 2, 1400), (0, 3, 5)] {
            let (frame, meta) = answer(port, payload);
            rings[ring].push(&frame, meta);
        }
        rings[1].push(&[0; 60], CaptureMeta::default());
        assert!(!readers.arm());
        readers.take(&mut out);
        let mut got: Vec<_> = out.iter().map(|h| (h.client.port, h.payload_len)).collect();
        got.sort_unstable();
        assert_eq!(got, [(1, 0), (2, 1400), (3, 5)]);
        let mut undecodable = 0;
        readers.counters(&mut |name, value| {
            if name == "undecodable" {
                undecodable = value;
            }
        });
        assert_eq!(undecodable, 1);
    }
}
