//! One direction between two workers: frames in a byte ring.
//!
//! ```text
//!  | header 32 | bytes, padded to 32 | header 32 | bytes … | padding to the end | (start again)
//! ```
//! Records start at multiples of [`ALIGN_BYTES`], and a record that would wrap begins at the start of
//! the ring instead, behind a padding record: the reader sees every frame in one piece.

use crate::port::BATCH;
use common::flow::{CaptureMeta, Captured, Nanos};
use rtrb::{Consumer, Producer, RingBuffer};

/// Size of a record's header, and alignment of records: what is left at the end of the ring always has
/// room for the header of a padding record.
pub(super) const ALIGN_BYTES: usize = 32;
/// Value of the length field in padding records.
const PADDING: u32 = u32::MAX;

/// The writing end.
pub(crate) struct Sender(Producer<u8>);
/// The reading end.
pub(crate) struct Receiver(Consumer<u8>);

/// A ring of about `bytes` bytes (rounded up).
pub(crate) fn ring(bytes: usize) -> (Sender, Receiver) {
    let capacity = bytes.max(2 * ALIGN_BYTES).next_multiple_of(ALIGN_BYTES);
    let (producer, consumer) = RingBuffer::new(capacity);
    (Sender(producer), Receiver(consumer))
}

const fn padded(len: usize) -> usize {
    ALIGN_BYTES + len.next_multiple_of(ALIGN_BYTES)
}

fn write_header(to: &mut [u8], len: u32, meta: &CaptureMeta) {
    to[0..8].copy_from_slice(&meta.at.0.to_le_bytes());
    to[8..12].copy_from_slice(&len.to_le_bytes());
    to[12..16].copy_from_slice(&meta.frame_len.to_le_bytes());
    to[16..18].copy_from_slice(&meta.gso_size.to_le_bytes());
    to[18..20].copy_from_slice(&meta.vlan_tci.unwrap_or(0).to_le_bytes());
    to[20] = u8::from(meta.vlan_tci.is_some());
}

struct Header {
    len: u32,
    meta: CaptureMeta,
}

fn read_header(from: &[u8]) -> Option<Header> {
    let u16_at = |at: usize| Some(u16::from_le_bytes(from.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(from.get(at..at + 4)?.try_into().ok()?));
    let at = u64::from_le_bytes(from.get(0..8)?.try_into().ok()?);
    let tci = u16_at(18)?;
    Some(Header {
        len: u32_at(8)?,
        meta: CaptureMeta {
            at: Nanos(at),
            frame_len: u32_at(12)?,
            gso_size: u16_at(16)?,
            vlan_tci: (*from.get(20)? != 0).then_some(tci),
        },
    })
}

impl Sender {
    /// The reader has taken everything, and is done with it.
    pub(crate) fn is_drained(&self) -> bool {
        self.0.slots() == self.0.buffer().capacity()
    }

    /// Copies the frame in; false if it does not fit now (or ever).
    pub(crate) fn send(&mut self, frame: &Captured<'_>) -> bool {
        let need = padded(frame.bytes.len());
        let Ok(mut chunk) = self.0.write_chunk(need) else {
            return false;
        };
        let before_end = chunk.as_mut_slices().0.len();
        if before_end >= need {
            write_record(chunk.as_mut_slices().0, frame);
            chunk.commit_all();
            return true;
        }
        drop(chunk);
        // It would wrap: fill up to the end, then a whole record from the start.
        let Ok(mut chunk) = self.0.write_chunk(before_end + need) else {
            return false;
        };
        let (tail, start) = chunk.as_mut_slices();
        write_header(tail, PADDING, &CaptureMeta::default());
        write_record(start, frame);
        chunk.commit_all();
        true
    }
}

fn write_record(to: &mut [u8], frame: &Captured<'_>) {
    write_header(to, frame.bytes.len() as u32, &frame.meta);
    to[ALIGN_BYTES..ALIGN_BYTES + frame.bytes.len()].copy_from_slice(frame.bytes);
}

impl Receiver {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Time of the next frame, if there is one.
    pub(crate) fn next_at(&mut self) -> Option<Nanos> {
        let chunk = self.0.read_chunk(self.0.slots()).ok()?;
        let (first, second) = chunk.as_slices();
        let header = match read_header(first)? {
            Header { len: PADDING, .. } => read_header(second)?,
            header => header,
        };
        Some(header.meta.at)
    }

    /// Calls `act` with up to [`BATCH`] frames in one piece each, then frees their bytes.
    pub(crate) fn recv(&mut self, act: &mut dyn FnMut(&[Captured<'_>])) -> usize {
        self.recv_until(Nanos(u64::MAX), act)
    }

    /// The same with frames whose time is `limit` at the latest.
    pub(crate) fn recv_until(
        &mut self,
        limit: Nanos,
        act: &mut dyn FnMut(&[Captured<'_>]),
    ) -> usize {
        let available = self.0.slots();
        if available == 0 {
            return 0;
        }
        let Ok(chunk) = self.0.read_chunk(available) else {
            return 0;
        };
        let (first, second) = chunk.as_slices();
        let mut batch = [Captured {
            bytes: &[],
            meta: CaptureMeta::default(),
        }; BATCH];
        let (mut n, mut consumed) = (0, 0);
        for part in [first, second] {
            let mut rest = part;
            while n < BATCH {
                let Some(header) = read_header(rest) else {
                    break;
                };
                if header.len == PADDING {
                    consumed += rest.len();
                    rest = &[];
                    break;
                }
                if header.meta.at > limit {
                    break;
                }
                let size = padded(header.len as usize);
                let Some(bytes) = rest.get(ALIGN_BYTES..ALIGN_BYTES + header.len as usize) else {
                    break;
                };
                batch[n] = Captured {
                    bytes,
                    meta: header.meta,
                };
                n += 1;
                consumed += size;
                rest = rest.get(size..).unwrap_or_default();
            }
            if !rest.is_empty() {
                break;
            }
        }
        if n > 0 {
            act(&batch[..n]);
        }
        chunk.commit(consumed);
        n
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// xorshift64, so that a failure can be repeated.
    struct Random(u64);
    impl Random {
        fn below(&mut self, n: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % n
        }
    }

    #[test]
    fn any_mix_of_sizes_comes_out_as_it_went_in() {
        for capacity in [64, 96, 256, 4096, 70_000] {
            let (mut tx, mut rx) = ring(capacity);
            let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ capacity as u64);
            let mut model: VecDeque<(Vec<u8>, CaptureMeta)> = VecDeque::new();
            let (mut sent, mut received) = (0u32, 0u32);
            for step in 0..4_000u32 {
                if random.below(3) != 0 {
                    let len = random.below(capacity as u64 / 2) as usize;
                    let bytes: Vec<u8> = (0..len).map(|i| (step as usize + i) as u8).collect();
                    let meta = CaptureMeta {
                        at: Nanos(u64::from(step)),
                        frame_len: len as u32 + 7,
                        gso_size: step as u16,
                        vlan_tci: (step % 3 == 0).then_some(step as u16),
                    };
                    if tx.send(&Captured {
                        bytes: &bytes,
                        meta,
                    }) {
                        model.push_back((bytes, meta));
                        sent += 1;
                    }
                } else {
                    let n = rx.recv(&mut |batch| {
                        for frame in batch {
                            let (bytes, meta) = model.pop_front().expect("more than was sent");
                            assert_eq!(frame.bytes, bytes, "step {step} capacity {capacity}");
                            assert_eq!(frame.meta, meta);
                            received += 1;
                        }
                    });
                    assert!(
                        n > 0 || model.is_empty(),
                        "step {step}: frames wait, none came"
                    );
                }
            }
            while rx.recv(&mut |batch| received += batch.len() as u32) > 0 {}
            assert_eq!(sent, received, "capacity {capacity}");
            assert!(sent > 200, "capacity {capacity}: only {sent} sent");
            assert!(rx.is_empty());
        }
    }

    #[test]
    fn what_can_never_fit_is_refused_and_harms_nothing() {
        let (mut tx, mut rx) = ring(256);
        let meta = CaptureMeta::default();
        assert!(!tx.send(&Captured {
            bytes: &[0; 300],
            meta
        }));
        assert!(tx.send(&Captured {
            bytes: &[5; 64],
            meta
        }));
        let mut seen = 0;
        rx.recv(&mut |batch| seen += usize::from(batch[0].bytes == [5; 64]));
        assert_eq!(seen, 1);
    }

    #[test]
    fn full_means_refused_until_read() {
        let (mut tx, mut rx) = ring(256);
        let frame = Captured {
            bytes: &[1; 60],
            meta: CaptureMeta::default(),
        };
        let mut sent = 0;
        while tx.send(&frame) {
            sent += 1;
        }
        assert_eq!(sent, 2, "two records of 96 bytes fit 256");
        assert_eq!(rx.recv(&mut |_| ()), 2);
        assert!(tx.send(&frame));
    }
}
