//! What the engine was given of a script.

use crate::client::{Packet, Script};
use common::flow::Nanos;
use common::packet::{Endpoint, SeqNumber, TcpFlags};

#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts of a capture"
)]
pub struct Given {
    /// One flag per byte of the stream.
    bytes: Vec<bool>,
    pub syn: bool,
    first_at: Nanos,
    pub fin: bool,
    pub rst: bool,
    /// How far the client has sent, bytes and FIN, by its bare acknowledgements.
    told: i32,
    /// Another connection on the same tuple came later.
    pub superseded: bool,
    /// Any packet was given.
    pub seen: bool,
    /// Its SYN was captured after other packets.
    pub late_syn: bool,
    pub last_at: Nanos,
    /// The engine gave up on its turns.
    pub released: bool,
}

impl Given {
    pub fn new(script: &Script) -> Self {
        Self {
            bytes: vec![false; script.stream.len()],
            syn: false,
            first_at: Nanos(0),
            fin: false,
            rst: false,
            told: 0,
            superseded: false,
            seen: false,
            late_syn: false,
            last_at: Nanos(0),
            released: false,
        }
    }

    pub fn take(&mut self, now: Nanos, p: &Packet, len: usize, iss: SeqNumber) {
        if !self.seen {
            self.first_at = now;
        }
        self.seen = true;
        self.last_at = now;
        if p.flags.has(TcpFlags::SYN) {
            self.syn = true;
        }
        self.fin |= p.flags.has(TcpFlags::FIN);
        self.rst |= p.flags.has(TcpFlags::RST);
        let at = p.seq.since(iss + 1);
        if p.payload.is_empty() && p.flags == TcpFlags::ACK {
            self.told = self.told.max(at);
        }
        for n in 0..len as i32 {
            if let Ok(i) = usize::try_from(at + n)
                && let Some(byte) = self.bytes.get_mut(i)
            {
                *byte = true;
            }
        }
    }

    /// True if bytes `from..to` were all given.
    pub fn has(&self, from: usize, to: usize) -> bool {
        self.bytes
            .get(from..to)
            .is_some_and(|b| b.iter().all(|given| *given))
    }

    /// The client has sent something behind the first `end` bytes: its FIN, if that is all.
    pub fn went_on_behind(&self, end: usize) -> bool {
        usize::try_from(self.told).is_ok_and(|told| told > end)
    }

    pub fn began_at(&self, at: usize) -> bool {
        self.bytes.get(at).copied().unwrap_or(false)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.iter().filter(|b| **b).count() as u64
    }
}

/// The script of this client that had begun last at a time.
pub fn newest(scripts: &[Script], given: &[Given], client: Endpoint, at: Nanos) -> Option<usize> {
    (0..scripts.len())
        .filter(|i| scripts[*i].client == client && given[*i].seen && given[*i].first_at <= at)
        .max_by_key(|i| given[*i].first_at)
}
