//! One captured client, an engine, and a wire to a target that is modelled by the test.

use common::flow::{Cause, ClientSegment, Nanos, ResponseHeader, Segment};
use common::packet::{Addr, Endpoint, SackBlocks, SeqNumber, TcpFlags, TcpOptions};
use session::{Engine, EngineConfig, Metric, Outcome, Output, SessionEnd};

pub const CLIENT: Endpoint = Endpoint::new(Addr::v4([192, 0, 2, 7]), 40_000);
const ONLINE: Endpoint = Endpoint::new(Addr::v4([10, 0, 0, 2]), 80);
pub const TARGET: Endpoint = Endpoint::new(Addr::v4([10, 0, 0, 9]), 8080);
/// Near the wrap-around, so that every run crosses it.
pub const ISS: SeqNumber = SeqNumber(u32::MAX - 300);
const PROD: SeqNumber = SeqNumber(5_000);
pub const IRS: SeqNumber = SeqNumber(u32::MAX - 700);

pub const ACK: TcpFlags = TcpFlags::ACK;
pub const PSH_ACK: TcpFlags = TcpFlags::PSH.with(TcpFlags::ACK);
pub const FIN_ACK: TcpFlags = TcpFlags::FIN.with(TcpFlags::ACK);
const SYN_ACK: TcpFlags = TcpFlags::SYN.with(TcpFlags::ACK);

/// A segment on its way to the target.
#[derive(Clone, Debug)]
pub struct Sent {
    pub at: Nanos,
    /// Payload bytes from the first of the stream on (1 is the first).
    pub from: u32,
    pub payload: Vec<u8>,
    pub flags: TcpFlags,
}

impl Sent {
    pub fn len(&self) -> u32 {
        self.payload.len() as u32
    }

    /// Offset behind the payload.
    pub fn end(&self) -> u32 {
        self.from + self.len()
    }
}

#[derive(Default)]
pub struct Wire {
    pub now: Nanos,
    pub sent: Vec<Sent>,
    pub outcome: Option<Outcome>,
}

impl Output for Wire {
    fn transmit(&mut self, s: &Segment<'_>, _: Cause) {
        assert_eq!((s.src, s.dst), (CLIENT, TARGET));
        self.sent.push(Sent {
            at: self.now,
            from: s.seq.since(ISS) as u32,
            payload: s.payload.to_vec(),
            flags: s.flags,
        });
    }

    fn announce(&mut self, _: Endpoint, _: Endpoint) -> bool {
        true
    }

    fn retire(&mut self, _: Endpoint, _: Endpoint) {}

    fn ended(&mut self, end: &SessionEnd) {
        self.outcome = Some(end.outcome);
    }

    fn sample(&mut self, _: Metric, _: Nanos) {}
}

/// Byte of the client's stream at an offset (1 is the first).
pub fn byte(offset: u32) -> u8 {
    (offset.wrapping_mul(0x9e37_79b1) >> 24) as u8
}

pub struct Rig {
    pub engine: Engine,
    pub wire: Wire,
}

impl Rig {
    pub fn new(config: EngineConfig) -> Self {
        Self {
            engine: Engine::new(config),
            wire: Wire {
                now: Nanos::from_secs(100),
                ..Wire::default()
            },
        }
    }

    pub fn now(&self) -> Nanos {
        self.wire.now
    }

    /// The captured client's packet: offset (0 is the SYN), bytes of production's answers it has read.
    pub fn client(&mut self, offset: u32, read: u32, flags: TcpFlags, len: u32) {
        let payload: Vec<u8> = (offset..offset + len).map(byte).collect();
        let syn = flags.has(TcpFlags::SYN);
        let seg = ClientSegment {
            client: CLIENT,
            online: ONLINE,
            target: TARGET,
            lane: 0,
            seq: ISS + offset,
            ack: if syn { SeqNumber(0) } else { PROD + 1 + read },
            flags,
            window: 60_000,
            options: TcpOptions {
                mss: syn.then_some(1460),
                window_scale: syn.then_some(7),
                sack_permitted: syn,
                ..TcpOptions::default()
            },
            payload: &payload,
            payload_len: len,
            gso_size: 0,
            at: self.now(),
        };
        self.engine.captured(self.now(), &seg, &mut self.wire);
    }

    /// A header of the target.
    pub fn header(flags: TcpFlags, offset: u32, ack: u32, window: u16, len: u32) -> ResponseHeader {
        ResponseHeader {
            target: TARGET,
            client: CLIENT,
            seq: IRS + offset,
            ack: ISS + ack,
            flags,
            window,
            payload_len: len,
            options: TcpOptions::default(),
            sack: SackBlocks::default(),
        }
    }

    pub fn respond(&mut self, h: &ResponseHeader) {
        self.engine.response(self.now(), h, &mut self.wire);
    }

    /// Handshake on both sides; the target's takes `rtt`, and it offers `window` unscaled and `mss`.
    pub fn open(&mut self, rtt: Nanos, window: u16, shift: u8, mss: u16) {
        self.client(0, 0, TcpFlags::SYN, 0);
        self.client(1, 0, ACK, 0);
        self.pass_until(self.now() + rtt);
        let mut h = Self::header(SYN_ACK, 0, 1, window, 0);
        h.options.mss = Some(mss);
        h.options.window_scale = Some(shift);
        h.options.sack_permitted = true;
        self.respond(&h);
        self.advance();
    }

    pub fn advance(&mut self) {
        self.engine.advance(self.wire.now, &mut self.wire);
    }

    /// Time goes on to `until`, with every timer in between.
    pub fn pass_until(&mut self, until: Nanos) {
        self.advance();
        while let Some(due) = self.engine.next_deadline().filter(|t| *t < until) {
            self.wire.now = due;
            self.advance();
        }
        self.wire.now = self.wire.now.max(until);
        self.advance();
    }

    pub fn take_sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.wire.sent)
    }
}
