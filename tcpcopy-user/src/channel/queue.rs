//! What waits to be written to one connection.
//!
//! ```text
//!  ClientMessage ─▶ queue (bounded, drop oldest) ─▶ staged whole, in the format of the moment ─▶ write(2)
//! ```
//! What has been staged is written to its end before anything else: a stream out of step freezes a C peer. With a
//! key, what is staged at a time is one sealed record.

use channel_crypto::Sealer;
use common::wire::compat::{self, CLIENT_RECORD_BYTES, ClientRecord};
use common::wire::native::{self, CLIENT_MESSAGE_BYTES, ClientMessage, offer_flags};
use std::collections::VecDeque;
use std::io::{ErrorKind, Write};

/// Records that may wait: a burst of this many new sessions within one stall of the peer. 2.5 MiB per
/// connection; beyond, the peer has been away for so long that the oldest sessions have timed out.
pub const QUEUE_RECORDS: usize = 65_536;
/// Said about this program in every hello.
pub const OFFER_FLAGS: u8 = offer_flags::PINGS;
/// Records gathered for one write.
const WRITE_RECORDS: usize = 128;

/// A bounded queue of whole records; when full it drops the oldest that is not being written.
#[derive(Debug)]
pub struct SendQueue {
    messages: VecDeque<ClientMessage>,
    /// Whole units, written up to `written`, each of `unit_bytes` and with `unit_records`.
    staged: Vec<u8>,
    written: usize,
    unit_bytes: usize,
    unit_records: u64,
    sealer: Option<Sealer>,
    /// What is to be sealed.
    plain: Vec<u8>,
    /// What is staged from now on is in our own format.
    native: bool,
    /// The record behind which that begins is still to be staged.
    switching: bool,
    capacity: usize,
}

impl SendQueue {
    /// An empty queue for `capacity` records (at least 1).
    pub fn new(capacity: usize) -> Self {
        Self {
            messages: VecDeque::new(),
            staged: Vec::with_capacity(WRITE_RECORDS * CLIENT_MESSAGE_BYTES),
            written: 0,
            unit_bytes: CLIENT_RECORD_BYTES,
            unit_records: 1,
            sealer: None,
            plain: Vec::new(),
            native: false,
            switching: false,
            capacity: capacity.max(1),
        }
    }

    /// Forgets everything and begins a connection with the hello, which offers our own format.
    pub fn restart(&mut self) {
        self.clear();
        self.staged.extend_from_slice(&native::hello(OFFER_FLAGS));
    }

    /// Forgets everything and begins behind a handshake: in our own format, sealed.
    pub fn restart_sealed(&mut self, sealer: Sealer) {
        self.clear();
        self.native = true;
        self.sealer = Some(sealer);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.staged.clear();
        self.written = 0;
        (self.unit_bytes, self.unit_records) = (CLIENT_RECORD_BYTES, 1);
        self.sealer = None;
        (self.native, self.switching) = (false, false);
    }

    /// Changes to our own format, behind what is staged already; false if that was done before.
    pub fn switch(&mut self) -> bool {
        let first = !self.native;
        (self.native, self.switching) = (true, self.switching || first);
        first
    }

    /// Messages that are pushed now go out in our own format.
    pub fn is_native(&self) -> bool {
        self.native
    }

    /// Appends a message. True if an older one had to go for it.
    pub fn push(&mut self, message: ClientMessage) -> bool {
        let full = self.messages.len() >= self.capacity;
        if full {
            self.messages.pop_front();
        }
        self.messages.push_back(message);
        full
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.written == self.staged.len() && !self.switching
    }

    /// More than half full: bulk work such as announcing again should pause.
    pub fn crowded(&self) -> bool {
        self.messages.len() > self.capacity / 2
    }

    /// Writes as much as `to` takes; returns the number of records that are complete now. An error is
    /// one that ends the connection.
    pub fn write_to(&mut self, to: &mut impl Write) -> std::io::Result<u64> {
        let mut done = 0;
        loop {
            if self.written == self.staged.len() {
                self.stage()?;
                if self.staged.is_empty() {
                    return Ok(done);
                }
            }
            match to.write(self.staged.get(self.written..).unwrap_or_default()) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => {
                    let before = self.written / self.unit_bytes;
                    self.written = (self.written + n).min(self.staged.len());
                    let units = self.written / self.unit_bytes - before;
                    done += units as u64 * self.unit_records;
                    if self.written < self.staged.len() {
                        return Ok(done);
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(done),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn stage(&mut self) -> std::io::Result<()> {
        self.staged.clear();
        self.written = 0;
        if std::mem::take(&mut self.switching) {
            self.unit_bytes = CLIENT_RECORD_BYTES;
            self.staged.extend_from_slice(&native::switch());
            return Ok(());
        }
        let count = self.messages.len().min(WRITE_RECORDS);
        if let Some(sealer) = &mut self.sealer {
            self.plain.clear();
            for message in self.messages.drain(..count) {
                self.plain.extend_from_slice(&message.to_bytes());
            }
            if count > 0 && !sealer.seal(&self.plain, &mut self.staged) {
                return Err(std::io::Error::other(
                    "all numbers of sealed records are used",
                ));
            }
            (self.unit_bytes, self.unit_records) = (self.staged.len().max(1), count as u64);
        } else if self.native {
            self.unit_bytes = CLIENT_MESSAGE_BYTES;
            for message in self.messages.drain(..count) {
                self.staged.extend_from_slice(&message.to_bytes());
            }
        } else {
            self.unit_bytes = CLIENT_RECORD_BYTES;
            for message in self.messages.drain(..count) {
                // `Link::carries` lets nothing else in before the switch.
                if let ClientRecord::Add { client, target } =
                    ClientMessage::decode(message.to_bytes())
                    && let Some(record) = compat::add(client, target)
                {
                    self.staged.extend_from_slice(&record);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::packet::{Addr, Endpoint};
    use common::wire::compat::ClientRecord;

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

    fn add(n: u16) -> (Endpoint, Endpoint) {
        (
            Endpoint::new(Addr::v4([10, 0, 0, 1]), n),
            Endpoint::new(Addr::v4([10, 0, 0, 2]), 80),
        )
    }

    fn message(n: u16) -> ClientMessage {
        let (client, target) = add(n);
        ClientMessage::add(client, target)
    }

    fn bytes(n: u16) -> Vec<u8> {
        let (client, target) = add(n);
        compat::add(client, target).unwrap().to_vec()
    }

    #[test]
    fn a_half_written_record_is_completed_whatever_is_dropped() {
        let mut q = SendQueue::new(4);
        q.restart();
        let mut to = Narrow {
            room: 14 + 5,
            got: Vec::new(),
        };
        q.push(message(1));
        assert_eq!(q.write_to(&mut to).unwrap(), 1);
        for n in 2..=9 {
            let dropped = q.push(message(n));
            assert_eq!(dropped, n > 5, "record {n}");
        }
        to.room = 1000;
        assert_eq!(q.write_to(&mut to).unwrap(), 5);
        let want = [
            native::hello(OFFER_FLAGS).to_vec(),
            bytes(1),
            bytes(6),
            bytes(7),
            bytes(8),
            bytes(9),
        ];
        assert_eq!(to.got, want.concat());
        assert!(q.is_empty());
    }

    #[test]
    fn every_split_of_the_stream_gives_the_same_bytes() {
        for step in 1..60 {
            let mut q = SendQueue::new(300);
            q.restart();
            let mut want = native::hello(OFFER_FLAGS).to_vec();
            let mut to = Narrow {
                room: step,
                got: Vec::new(),
            };
            let mut done = q.write_to(&mut to).unwrap();
            want.extend(native::switch());
            assert!(q.switch() && !q.switch());
            for n in 0..200 {
                q.push(message(n));
                let (client, target) = add(n);
                want.extend(ClientMessage::add(client, target).to_bytes());
            }
            while !q.is_empty() {
                to.room = step;
                done += q.write_to(&mut to).unwrap();
            }
            assert_eq!(done, 202);
            assert_eq!(to.got, want, "step {step}");
            let last = ClientMessage::decode(*to.got.last_chunk().unwrap());
            let (client, target) = add(199);
            assert_eq!(last, ClientRecord::Add { client, target });
        }
    }
}
