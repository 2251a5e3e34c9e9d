//! Packets that came in several frames (`XDP_USE_SG`, `XDP_PKT_CONTD`): jumbo frames and TSO packets.
//!
//! ```text
//!  batch   A   B1 B2 B3   C   D1 │ next batch   D2   E
//!  act    [A] [B1+B2+B3] [C]     │             [D1+D2] [E]
//! ```
//! In order; each packet of several frames is copied together and delivered alone. Those of a batch
//! without such packets never come here.

use crate::port::BATCH;
use common::flow::{CaptureMeta, Captured};

/// A packet of more bytes is none: the kernel's largest frame list (18 pages) has fewer.
const MAX_PACKET_BYTES: usize = 128 << 10;

#[derive(Default)]
pub(super) struct Joined {
    /// The packet under way, from its first frame on.
    bytes: Vec<u8>,
    meta: CaptureMeta,
    /// More of it will come.
    open: bool,
    /// It has exceeded the bound, what comes of it is left out.
    overflown: bool,
    completed: u64,
    too_large: u64,
}

impl Joined {
    /// A packet is under way.
    pub(super) const fn is_open(&self) -> bool {
        self.open
    }

    /// Packets put together.
    pub(super) const fn joined(&self) -> u64 {
        self.completed
    }

    /// Packets left out for their size.
    pub(super) const fn too_large(&self) -> u64 {
        self.too_large
    }

    /// Delivers the packets of a batch of frames; `more[n]`: the packet of frame `n` goes on. Returns
    /// how many packets that were.
    pub(super) fn deliver(
        &mut self,
        frames: &[Captured<'_>],
        more: &[bool; BATCH],
        act: &mut dyn FnMut(&[Captured<'_>]),
    ) -> usize {
        let mut packets = 0;
        // First frame of those that are packets by themselves and not delivered yet.
        let mut singles = 0;
        for (at, (frame, more)) in frames.iter().zip(more).enumerate() {
            if !self.open && !more {
                continue;
            }
            if !self.open {
                packets += hand_on(frames.get(singles..at), act);
                self.open = true;
                self.overflown = false;
                self.bytes.clear();
                self.meta = frame.meta;
            }
            singles = at + 1;
            if self.bytes.len() + frame.bytes.len() > MAX_PACKET_BYTES {
                self.overflown = true;
            } else {
                self.bytes.extend_from_slice(frame.bytes);
            }
            if *more {
                continue;
            }
            self.open = false;
            if self.overflown {
                self.too_large += 1;
                continue;
            }
            let len = self.bytes.len() as u32;
            let meta = CaptureMeta {
                frame_len: self.meta.frame_len.max(len),
                ..self.meta
            };
            self.completed += 1;
            packets += hand_on(
                Some(&[Captured {
                    bytes: &self.bytes,
                    meta,
                }]),
                act,
            );
        }
        packets + hand_on(frames.get(singles..), act)
    }
}

fn hand_on(packets: Option<&[Captured<'_>]>, act: &mut dyn FnMut(&[Captured<'_>])) -> usize {
    let packets = packets.unwrap_or_default();
    if !packets.is_empty() {
        act(packets);
    }
    packets.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::flow::Nanos;

    /// Frames of packets of these lengths, cut into pieces of 100 bytes, in batches of `batch`.
    fn run(lengths: &[usize], batch: usize) -> (Vec<(usize, u64, u32)>, u64) {
        let mut frames = Vec::new();
        for (n, len) in lengths.iter().enumerate() {
            let bytes = vec![n as u8; *len];
            let pieces = len.div_ceil(100);
            for (i, piece) in bytes.chunks(100).enumerate() {
                frames.push((piece.to_vec(), n as u64, i + 1 < pieces));
            }
        }
        let (mut joined, mut seen) = (Joined::default(), Vec::new());
        for part in frames.chunks(batch) {
            let captured: Vec<_> = part
                .iter()
                .map(|(bytes, at, _)| Captured {
                    bytes,
                    meta: CaptureMeta {
                        at: Nanos(*at),
                        frame_len: bytes.len() as u32,
                        ..CaptureMeta::default()
                    },
                })
                .collect();
            let more = std::array::from_fn(|n| part.get(n).is_some_and(|f| f.2));
            joined.deliver(&captured, &more, &mut |packets| {
                for p in packets {
                    assert!(p.bytes.iter().all(|b| u64::from(*b) == p.meta.at.0));
                    seen.push((p.bytes.len(), p.meta.at.0, p.meta.frame_len));
                }
            });
        }
        (seen, joined.joined())
    }

    #[test]
    fn packets_come_whole_in_order_and_once_wherever_batches_end() {
        let lengths = [60, 900, 100, 101, 60, 60, 250, 6400, 1];
        let expected: Vec<_> = lengths
            .iter()
            .zip(0u64..)
            .map(|(len, n)| (*len, n, *len as u32))
            .collect();
        for batch in 1..=BATCH {
            assert_eq!(run(&lengths, batch), (expected.clone(), 4), "{batch}");
        }
    }

    #[test]
    fn what_is_too_large_is_counted_and_takes_nothing_else_with_it() {
        let (mut joined, mut seen) = (Joined::default(), 0);
        let bytes = vec![1; 4096];
        let frame = Captured {
            bytes: &bytes,
            meta: CaptureMeta::default(),
        };
        for n in 0..100 {
            joined.deliver(&[frame], &[n < 99; BATCH], &mut |p| seen += p.len());
        }
        joined.deliver(&[frame], &[false; BATCH], &mut |p| seen += p.len());
        assert_eq!((seen, joined.too_large(), joined.is_open()), (1, 1, false));
    }
}
