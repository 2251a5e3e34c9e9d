//! What waits to be written to one connection.

use common::wire::compat::CLIENT_RECORD_BYTES;
use std::collections::VecDeque;
use std::io::{ErrorKind, Write};

/// Records that may wait: a burst of this many new sessions within one stall of the peer. 896 KiB per
/// connection; beyond, the peer has been away for so long that the oldest sessions have timed out.
pub const QUEUE_RECORDS: usize = 65_536;
/// Records gathered for one write.
const WRITE_RECORDS: usize = 128;

type Record = [u8; CLIENT_RECORD_BYTES];

/// A bounded queue of whole records; when full it drops the oldest that is not being written.
#[derive(Debug)]
pub struct SendQueue {
    records: VecDeque<Record>,
    /// Bytes of the front record that are written already.
    front_written: usize,
    capacity: usize,
}

impl SendQueue {
    /// An empty queue for `capacity` records (at least 2).
    pub fn new(capacity: usize) -> Self {
        Self {
            records: VecDeque::new(),
            front_written: 0,
            capacity: capacity.max(2),
        }
    }

    /// Forgets everything and begins a connection with `hello`.
    pub fn restart(&mut self, hello: Record) {
        self.clear();
        self.records.push_back(hello);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.records.clear();
        self.front_written = 0;
    }

    /// Appends a record. True if an older one had to go for it.
    pub fn push(&mut self, record: Record) -> bool {
        let full = self.records.len() >= self.capacity;
        if full {
            // Not the front: it may be half written, and a stream out of step freezes a C peer. The
            // hello of a connection is the front until it is out.
            let _ = self.records.remove(1);
        }
        self.records.push_back(record);
        full
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// More than half full: bulk work such as announcing again should pause.
    pub fn crowded(&self) -> bool {
        self.records.len() > self.capacity / 2
    }

    /// Writes as much as `to` takes; returns the number of records that are complete now. An error is
    /// one that ends the connection.
    pub fn write_to(&mut self, to: &mut impl Write) -> std::io::Result<u64> {
        let mut done = 0;
        while !self.records.is_empty() {
            let mut bytes = [0u8; WRITE_RECORDS * CLIENT_RECORD_BYTES];
            let mut len = 0;
            for (slot, record) in bytes
                .as_chunks_mut::<CLIENT_RECORD_BYTES>()
                .0
                .iter_mut()
                .zip(&self.records)
            {
                *slot = *record;
                len += CLIENT_RECORD_BYTES;
            }
            let rest = bytes.get(self.front_written..len).unwrap_or_default();
            match to.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => {
                    let whole = self.front_written + n;
                    self.front_written = whole % CLIENT_RECORD_BYTES;
                    let complete = whole / CLIENT_RECORD_BYTES;
                    self.records.drain(..complete.min(self.records.len()));
                    done += complete as u64;
                    if n < rest.len() {
                        return Ok(done);
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(done),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `room` bytes, then would block.
    struct Narrow {
        room: usize,
        got: Vec<u8>,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let n = bytes.len().min(self.room);
            if n == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.room -= n;
            self.got.extend_from_slice(&bytes[..n]);
            Ok(n)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_half_written_record_is_completed_whatever_is_dropped() {
        let mut q = SendQueue::new(4);
        q.restart([0; 14]);
        let mut to = Narrow {
            room: 14 + 5,
            got: Vec::new(),
        };
        q.push([1; 14]);
        assert_eq!(q.write_to(&mut to).unwrap(), 1);
        for n in 2..=9u8 {
            let dropped = q.push([n; 14]);
            assert_eq!(dropped, n > 4, "record {n}");
        }
        to.room = 1000;
        assert_eq!(q.write_to(&mut to).unwrap(), 4);
        let order: Vec<u8> = to.got.chunks(14).map(|r| r[0]).collect();
        assert_eq!(order, [0, 1, 7, 8, 9]);
        assert!(
            to.got.chunks(14).all(|r| r.iter().all(|b| *b == r[0])),
            "torn record"
        );
        assert!(q.is_empty());
    }

    #[test]
    fn every_split_of_the_stream_gives_the_same_bytes() {
        for step in 1..40 {
            let mut q = SendQueue::new(300);
            let mut want = Vec::new();
            for n in 0..200u8 {
                q.push([n; 14]);
                want.extend_from_slice(&[n; 14]);
            }
            let mut to = Narrow {
                room: 0,
                got: Vec::new(),
            };
            let mut done = 0;
            while !q.is_empty() {
                to.room = step;
                done += q.write_to(&mut to).unwrap();
            }
            assert_eq!(done, 200);
            assert_eq!(to.got, want, "step {step}");
        }
    }
}
