//! The two sides of a session as fuzz operations move them: a captured client, a target.

use super::reader::{Reader, choose};
use super::watch::Connection;
use super::world::{Packet, World};
use common::flow::{Nanos, ResponseHeader};
use common::packet::{SackBlock, SackBlocks, SeqNumber, TcpFlags, TcpOptions, Timestamps};

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const FIN: TcpFlags = TcpFlags::FIN;
const RST: TcpFlags = TcpFlags::RST;
const PSH: TcpFlags = TcpFlags::PSH;

/// Where streams begin: also across the wrap-around of sequence numbers.
const BEGINNINGS: [SeqNumber; 4] = [
    SeqNumber(u32::MAX - 500),
    SeqNumber(0),
    SeqNumber(u32::MAX),
    SeqNumber(1 << 31),
];
/// The target's first sequence number, near the wrap-around too.
const IRS: SeqNumber = SeqNumber(u32::MAX - 2_000);
/// Answers that a full target acknowledges at once in one operation: more would only take time.
const MAX_ANSWERED: usize = 32;

/// A captured client: where its stream stands.
#[derive(Clone, Copy)]
pub struct Client {
    stream: usize,
    iss: SeqNumber,
    /// Behind the last byte it sent in order.
    nxt: SeqNumber,
    /// What it has read of production's answers.
    read: SeqNumber,
    options: TcpOptions,
}

impl Client {
    pub fn new(stream: usize) -> Self {
        let iss = BEGINNINGS[stream % BEGINNINGS.len()];
        Self {
            stream,
            iss,
            nxt: iss + 1,
            read: SeqNumber(5_001),
            options: TcpOptions::default(),
        }
    }

    fn packet(&self, at: Nanos, seq: SeqNumber, flags: TcpFlags) -> Packet {
        Packet {
            stream: self.stream,
            seq,
            ack: if flags.has(ACK) {
                self.read
            } else {
                SeqNumber(0)
            },
            flags,
            window: 501,
            options: TcpOptions {
                timestamps: self.options.timestamps,
                ..TcpOptions::default()
            },
            len: 0,
            kept: 0,
            gso_size: 0,
            at,
        }
    }

    /// A new connection on the same ports; `bits` choose what it offers.
    pub fn opens(&mut self, now: Nanos, bits: u8) -> Packet {
        self.iss = self.nxt + u32::from(bits >> 4) * 1_000;
        self.nxt = self.iss + 1;
        self.options = TcpOptions {
            mss: (bits & 1 == 0).then_some(1460),
            window_scale: (bits & 2 == 0).then_some(7),
            sack_permitted: bits & 4 == 0,
            timestamps: (bits & 8 == 0).then_some(Timestamps { val: 90, ecr: 0 }),
        };
        Packet {
            options: self.options,
            ..self.packet(now, self.iss, SYN)
        }
    }

    /// Data; where, how much and with which flags is read from `r`.
    pub fn says(&mut self, now: Nanos, r: &mut Reader<'_>) -> Packet {
        let (place, shape) = (r.u8(), r.u8());
        let len = choose(
            shape,
            &[
                7, 1, 100, 256, 257, 1_448, 1_449, 1_536, 3_000, 9_000, 64_000, 0,
            ],
        );
        if place & 1 != 0 {
            // It has read an answer of that many bytes.
            self.read += choose(place >> 1, &[100, 1, 5_000]);
        }
        let mut flags = ACK;
        if place & 2 == 0 {
            flags = flags.with(PSH);
        }
        if shape >= 224 {
            flags = flags.with(FIN);
        }
        let seq = match place >> 3 & 7 {
            0..=3 => self.nxt,
            4 => self.nxt + u32::from(r.u8()) * 64,
            5 => self.nxt - u32::from(r.u8()) * 16,
            6 => self.nxt - 1,
            _ => SeqNumber(r.u32()),
        };
        if seq == self.nxt {
            self.nxt += len + u32::from(flags.has(FIN));
        }
        let cut = place >> 6 == 3;
        Packet {
            len,
            kept: if cut { len as usize / 2 } else { len as usize },
            gso_size: if place & 4 != 0 { 536 } else { 0 },
            ..self.packet(now, seq, flags)
        }
    }

    /// A packet without data: what, is told by `bits`.
    pub fn signals(&mut self, now: Nanos, bits: u8) -> Packet {
        match bits & 7 {
            0 => self.packet(now, self.iss, SYN),
            1 => self.packet(now, self.nxt, RST),
            2 => self.packet(now, self.nxt, RST.with(ACK)),
            3 => {
                let p = self.packet(now, self.nxt, FIN.with(ACK));
                self.nxt += 1;
                p
            }
            4 => {
                self.read += u32::from(bits >> 3) * 50;
                self.packet(now, self.nxt, ACK)
            }
            5 => self.packet(now, self.nxt - 1, ACK),
            6 => self.packet(now, self.iss, SYN.with(ACK)),
            _ => Packet {
                window: u16::from(bits >> 3),
                ..self.packet(now, self.nxt, ACK)
            },
        }
    }
}

fn header(c: &Connection, seq: SeqNumber, ack: SeqNumber, flags: TcpFlags) -> ResponseHeader {
    ResponseHeader {
        target: c.dst,
        client: c.src,
        seq,
        ack,
        flags,
        window: 60_000,
        payload_len: 0,
        options: TcpOptions {
            // A clock that goes on with each response.
            timestamps: c.timestamps.then_some(Timestamps {
                val: 7 + c.responses,
                ecr: 90,
            }),
            ..TcpOptions::default()
        },
        sack: SackBlocks::default(),
    }
}

fn syn_ack(c: &Connection, bits: u8) -> ResponseHeader {
    ResponseHeader {
        window: choose(bits >> 4, &[60_000, 0, 1, 1_000]),
        options: TcpOptions {
            mss: choose(bits >> 2, &[Some(1460), None, Some(0), Some(100)]),
            window_scale: (bits & 1 == 0).then_some(2),
            sack_permitted: true,
            timestamps: (bits & 2 == 0).then_some(Timestamps { val: 7, ecr: 90 }),
        },
        ..header(c, IRS, c.iss + 1, SYN.with(ACK))
    }
}

/// One response of the target on any connection, right or wrong, as read from `r`.
pub fn responds(w: &mut World, which: u8, r: &mut Reader<'_>) {
    let all = w.watch.connections.len();
    if all == 0 {
        return;
    }
    // The newest first: they are the ones that live.
    let n = all - 1 - usize::from(which) % all;
    let (what, how) = (r.u8(), r.u8());
    let c = &mut w.watch.connections[n];
    let seq = IRS + 1 + c.spoken;
    let ack = match what & 7 {
        0 | 1 => c.nxt,
        2 => c.iss + 1,
        3 => c.nxt - u32::from(r.u8()),
        4 => c.nxt + 1,
        5 => c.iss,
        6 => c.iss + u32::from(r.u16()),
        _ => SeqNumber(r.u32()),
    };
    let len = choose(what >> 3 & 7, &[0, 0, 100, 1, 1_460, 1_448, 5_000, 0]);
    let mut h = match what >> 6 {
        0 => syn_ack(c, how),
        1 => header(c, seq, ack, ACK.with(RST)),
        _ => header(c, seq, ack, ACK.with(PSH)),
    };
    if what >> 6 != 0 {
        h.window = choose(how, &[60_000, 0, 1, 500, u16::MAX]);
        h.payload_len = len;
        match how >> 4 {
            0..=8 => c.spoken += len,
            9 | 10 => {
                h.flags = h.flags.with(FIN);
                c.spoken += len + 1;
            }
            11 => h.seq = seq + 3_000,
            12 => h.seq = seq - 1_000,
            13 => {
                h.sack = SackBlocks::new(&[
                    SackBlock {
                        left: c.nxt - 100,
                        right: c.nxt,
                    },
                    SackBlock {
                        left: h.ack + 10,
                        right: h.ack + 50,
                    },
                ]);
            }
            14 => h.flags = TcpFlags(how & 0x0f),
            _ => h.seq = SeqNumber(r.u32()),
        }
    }
    w.response(&h);
}

/// The target completes handshakes, acknowledges everything, answers with `len` bytes, and closes
/// where the client has.
pub fn answers_all(w: &mut World, len: u32) {
    let all = w.watch.connections.len();
    for n in all.saturating_sub(MAX_ANSWERED)..all {
        let c = &mut w.watch.connections[n];
        if !c.live {
            continue;
        }
        let h = if c.edge.is_none() {
            syn_ack(c, 0)
        } else {
            let fin = if c.fin { FIN } else { TcpFlags(0) };
            let seq = IRS + 1 + c.spoken;
            c.spoken += len;
            ResponseHeader {
                payload_len: len,
                ..header(c, seq, c.nxt, ACK.with(PSH).with(fin))
            }
        };
        w.response(&h);
    }
}
