//! Writing a script packet by packet.

use super::{Need, Packet};
use crate::rng::Rng;
use common::flow::Nanos;
use common::packet::{SeqNumber, TcpFlags, TcpOptions};

/// Bytes of a full segment of the client.
const SEGMENT_BYTES: usize = 1448;

pub struct Builder<'a> {
    pub rng: &'a mut Rng,
    pub now: Nanos,
    pub iss: SeqNumber,
    /// Next sequence number, and how far the client has read.
    pub seq: SeqNumber,
    pub ack: SeqNumber,
    /// Options of every packet, and of the SYN.
    pub options: TcpOptions,
    pub syn_options: TcpOptions,
    pub window: u16,
    pub packets: Vec<Packet>,
    pub stream: Vec<u8>,
    pub starts: Vec<usize>,
    pub needs: Vec<Need>,
    /// Retransmissions and overlaps, in permille of the segments.
    pub repeats: u64,
    pub probes_with_byte: bool,
}

impl Builder<'_> {
    pub fn put(
        &mut self,
        at: Nanos,
        seq: SeqNumber,
        flags: TcpFlags,
        payload: &[u8],
        gso_size: u16,
    ) {
        let syn = flags.has(TcpFlags::SYN);
        self.packets.push(Packet {
            at,
            seq,
            ack: if syn { SeqNumber(0) } else { self.ack },
            flags: if syn {
                flags
            } else {
                flags.with(TcpFlags::ACK)
            },
            window: self.window,
            options: if syn { self.syn_options } else { self.options },
            payload: payload.to_vec(),
            gso_size,
        });
    }

    /// A packet without payload at this time.
    pub fn say(&mut self, flags: TcpFlags) {
        self.put(self.now, self.seq, flags, &[], 0);
    }

    /// A request of `len` bytes that wants `answer` bytes, cut into segments, perhaps with a FIN.
    pub fn request(&mut self, len: usize, answer: u32, need: Need, fin: bool) {
        let at = self.stream.len();
        self.starts.push(at);
        self.needs.push(need);
        self.stream.extend((len as u32).to_be_bytes());
        self.stream.extend(answer.to_be_bytes());
        let salt = u64::from(self.iss.0) % 251 + at as u64 * 7;
        let rest = super::REQUEST_HEADER_BYTES..len;
        self.stream
            .extend(rest.map(|i| (i as u64 * 31 + salt) as u8));
        let merged = self.rng.chance(300);
        let size = if merged { 40_000 } else { SEGMENT_BYTES };
        let mut from = at;
        while from < at + len {
            let to = (from + size).min(at + len);
            let mut flags = TcpFlags(0);
            if to == at + len {
                flags = flags.with(TcpFlags::PSH);
                if fin {
                    flags = flags.with(TcpFlags::FIN);
                }
            }
            let gso = if to - from > SEGMENT_BYTES {
                SEGMENT_BYTES as u16
            } else {
                0
            };
            self.segment(self.now, from, to, flags, gso);
            if self.rng.chance(self.repeats) {
                self.repeat(from, to);
            }
            from = to;
            self.now += Nanos::from_micros(5);
        }
        self.seq = self.iss + 1 + self.stream.len() as u32 + u32::from(fin);
    }

    fn segment(&mut self, at: Nanos, from: usize, to: usize, flags: TcpFlags, gso: u16) {
        let payload = self.stream[from..to].to_vec();
        self.put(at, self.iss + 1 + from as u32, flags, &payload, gso);
    }

    /// The client sends it again, cut otherwise: from a little before (within the request: the one
    /// before is answered), to a little less.
    fn repeat(&mut self, from: usize, to: usize) {
        let begin = self.starts.last().copied().unwrap_or(0);
        let from = from - (self.rng.pick(0..900) as usize).min(from - begin);
        let to = to - self.rng.pick(0..(to - from) as u64) as usize;
        let at = self.now + Nanos::from_micros(self.rng.pick(1..40));
        let gso = if to - from > SEGMENT_BYTES {
            SEGMENT_BYTES as u16
        } else {
            0
        };
        self.segment(at, from, to, TcpFlags(0), gso);
    }

    /// An answer arrives and is acknowledged in steps.
    pub fn read(&mut self, answer: u32) {
        let begin = self.ack;
        let mut read = 0;
        while read < answer {
            read = (read + 2896).min(answer);
            self.ack = begin + read;
            self.say(TcpFlags(0));
            self.now += Nanos::from_micros(30);
        }
    }

    /// A keep-alive probe: one byte back, with that byte or without (RFC 9293 section 3.8.4).
    pub fn probe(&mut self) {
        let byte = self.stream.last().copied().unwrap_or(0);
        let payload: &[u8] = if self.probes_with_byte { &[byte] } else { &[] };
        self.put(self.now, self.seq - 1, TcpFlags(0), payload, 0);
    }
}
