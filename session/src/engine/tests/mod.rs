//! The engine step by step: what goes in, what must come out, and with which outcome it ends.

mod admission;
mod closing;
mod early;
mod gaps;
mod opening;
mod sending;
mod targets;

use super::*;
use crate::{Metric, Rtt};
use common::flow::{Cause, Segment};
use common::packet::{Addr, Endpoint, SackBlocks, SeqNumber, TcpFlags, TcpOptions, Timestamps};

const CLIENT: Endpoint = Endpoint::new(Addr::v4([192, 0, 2, 7]), 40_000);
const ONLINE: Endpoint = Endpoint::new(Addr::v4([10, 0, 0, 2]), 80);
const TARGET: Endpoint = Endpoint::new(Addr::v4([10, 0, 0, 9]), 8080);
/// Near the wrap-around, so that every test crosses it.
const ISS: SeqNumber = SeqNumber(u32::MAX - 20);
/// Production's side of the captured connection, and the target's own.
const PROD: SeqNumber = SeqNumber(5_000);
const IRS: SeqNumber = SeqNumber(u32::MAX - 300);

/// The default wait of unknown connections for their SYN.
const SYN_WAIT_MS: u64 = 100;

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const RST: TcpFlags = TcpFlags::RST;
const PSH_ACK: TcpFlags = TcpFlags::PSH.with(TcpFlags::ACK);
const FIN_ACK: TcpFlags = TcpFlags::FIN.with(TcpFlags::ACK);
const SYN_ACK: TcpFlags = TcpFlags::SYN.with(TcpFlags::ACK);

#[derive(Clone, Debug, PartialEq)]
struct Sent {
    src: Endpoint,
    flags: TcpFlags,
    seq: SeqNumber,
    ack: SeqNumber,
    len: usize,
    window: u16,
    options: TcpOptions,
    payload: Vec<u8>,
    cause: Cause,
}

#[derive(Default)]
struct Wire {
    sent: Vec<Sent>,
    announced: usize,
    retired: usize,
    samples: Vec<(Metric, Nanos)>,
    no_channel: bool,
    /// Routes whose SYN waits; asked once each.
    awaits: bool,
}

impl Output for Wire {
    fn transmit(&mut self, s: &Segment<'_>, cause: Cause) {
        assert_eq!(s.dst, TARGET);
        self.sent.push(Sent {
            src: s.src,
            flags: s.flags,
            seq: s.seq,
            ack: s.ack,
            len: s.payload.len(),
            window: s.window,
            options: s.options,
            payload: s.payload.to_vec(),
            cause,
        });
    }
    fn announce(&mut self, _: Endpoint, target: Endpoint) -> bool {
        assert_eq!(target, TARGET);
        self.announced += 1;
        !self.no_channel
    }
    fn awaits(&mut self, _: Endpoint, _: Endpoint) -> bool {
        std::mem::take(&mut self.awaits)
    }
    fn retire(&mut self, _: Endpoint, _: Endpoint) {
        self.retired += 1;
    }
    fn sample(&mut self, metric: Metric, value: Nanos) {
        self.samples.push((metric, value));
    }
}

/// An engine, its surroundings and a clock in milliseconds.
struct Rig {
    engine: Engine,
    wire: Wire,
    now: u64,
    offered: TcpOptions,
}

impl Rig {
    fn new() -> Self {
        Self::with(EngineConfig::default())
    }

    fn with(config: EngineConfig) -> Self {
        let offered = TcpOptions {
            mss: Some(1460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamps: Some(Timestamps { val: 90, ecr: 0 }),
        };
        Self {
            engine: Engine::new(config),
            wire: Wire::default(),
            now: 1_000,
            offered,
        }
    }

    fn at(&self) -> Nanos {
        Nanos::from_millis(self.now)
    }

    /// The client's packet: relative sequence number (1 is the first byte), bytes of production's
    /// answers that it has read.
    fn client(&mut self, seq: u32, read: u32, flags: TcpFlags, payload: &[u8]) {
        let seg = ClientSegment {
            client: CLIENT,
            online: ONLINE,
            target: TARGET,
            lane: 0,
            seq: ISS + seq,
            ack: if flags.has(ACK) {
                PROD + 1 + read
            } else {
                SeqNumber(0)
            },
            flags,
            window: 501,
            options: if flags.has(SYN) {
                self.offered
            } else {
                TcpOptions::default()
            },
            payload,
            payload_len: payload.len() as u32,
            gso_size: 0,
            at: self.at(),
        };
        self.captured(&seg);
    }

    fn captured(&mut self, seg: &ClientSegment<'_>) {
        let now = self.at();
        self.engine.captured(now, seg, &mut self.wire);
    }

    /// The target's packet: relative sequence number, relative acknowledgement.
    fn target(&mut self, seq: u32, ack: u32, flags: TcpFlags, len: u32) {
        self.target_window(seq, ack, flags, len, 60_000);
    }

    fn target_window(&mut self, seq: u32, ack: u32, flags: TcpFlags, len: u32, window: u16) {
        let h = ResponseHeader {
            target: TARGET,
            client: CLIENT,
            seq: IRS + seq,
            ack: ISS + ack,
            flags,
            window,
            payload_len: len,
            options: TcpOptions {
                mss: flags.has(SYN).then_some(1460),
                ..TcpOptions::default()
            },
            sack: SackBlocks::default(),
        };
        self.header(&h);
    }

    fn header(&mut self, h: &ResponseHeader) {
        let now = self.at();
        self.engine.response(now, h, &mut self.wire);
    }

    /// Time passes; what was sent by the end of it, acknowledgements included.
    fn after(&mut self, ms: u64) -> Vec<Sent> {
        let until = self.now + ms;
        loop {
            let now = self.at();
            self.engine.advance(now, &mut self.wire);
            let next = self
                .engine
                .next_deadline()
                .map_or(until, |d| d.0.div_ceil(1_000_000));
            if self.now >= until {
                return self.sent();
            }
            self.now = next.clamp(self.now + 1, until);
        }
    }

    fn sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.wire.sent)
    }

    /// Relative (flags, seq, len) of what was sent.
    fn brief(sent: &[Sent]) -> Vec<(TcpFlags, u32, usize)> {
        sent.iter()
            .map(|s| (s.flags, s.seq.since(ISS) as u32, s.len))
            .collect()
    }

    /// Handshake on both sides; everything sent so far is forgotten.
    fn open() -> Self {
        Self::opened(Self::new())
    }

    fn opened(mut self) -> Self {
        self.client(0, 0, SYN, b"");
        self.client(1, 0, ACK, b"");
        self.target(0, 1, SYN_ACK, 0);
        self.after(0);
        self
    }

    fn outcome(&self) -> Option<Outcome> {
        let t = self.engine.totals();
        assert!(t.sessions <= 1, "{t:?}");
        Outcome::ALL.into_iter().find(|o| t.outcome(*o) > 0)
    }

    /// After everything: balanced books, no memory, no timers.
    fn settle(&mut self) {
        self.after(3_600_000);
        assert_eq!(self.engine.open_sessions(), 0);
        assert_eq!(self.engine.buffered_bytes(), 0);
        assert_eq!(self.engine.next_deadline(), None);
        assert!(
            self.engine.totals().balanced(),
            "{:?}",
            self.engine.totals()
        );
        assert!(self.engine.index.is_empty() && self.engine.all.paths.is_empty());
    }
}
