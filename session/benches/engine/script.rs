//! Clients, targets and a transmit area, for the benchmark and for the test that counts allocations.

use common::flow::{Cause, ClientSegment, Nanos, ResponseHeader, Segment};
use common::packet::{
    Addr, Endpoint, FrameAddresses, SackBlocks, SeqNumber, TcpFlags, TcpOptions, Timestamps,
    build_tcp_frame,
};
use session::{Engine, EngineConfig, Metric, Output, Rtt};
use std::hint::black_box;

/// As many inputs as a worker takes from a ring at a time.
pub const BATCH: usize = 64;
const PAYLOAD: [u8; 64] = [0x41; 64];
const ONLINE: Endpoint = Endpoint::new(Addr::v4([10, 0, 0, 2]), 80);
pub const TARGET: Endpoint = Endpoint::new(Addr::v4([10, 0, 0, 9]), 8080);
/// Frames in the transmit area: as many as an AF_XDP port has.
pub const FRAMES: usize = 8192;
pub const FRAME_BYTES: usize = 2048;

const ACK: TcpFlags = TcpFlags::ACK;
pub const PSH_ACK: TcpFlags = TcpFlags::PSH.with(TcpFlags::ACK);
const FIN_ACK: TcpFlags = TcpFlags::FIN.with(TcpFlags::ACK);
const SYN_ACK: TcpFlags = TcpFlags::SYN.with(TcpFlags::ACK);
/// Production's side, and the target's initial sequence number.
pub const PROD: SeqNumber = SeqNumber(5_000);
const IRS: SeqNumber = SeqNumber(9_000);

/// Builds every segment into the next frame, as a worker does.
pub struct Frames {
    pub area: Vec<u8>,
    mac: FrameAddresses,
    next: usize,
    sent: u64,
    bytes: u64,
}

impl Frames {
    pub fn new() -> Self {
        Self {
            area: vec![0; FRAMES * FRAME_BYTES],
            // As a worker, which learns it at run time.
            mac: black_box(FrameAddresses::default()),
            next: 0,
            sent: 0,
            bytes: 0,
        }
    }
}

impl Output for Frames {
    #[inline(always)]
    fn transmit(&mut self, s: &Segment<'_>, cause: Cause) {
        black_box(&cause);
        let at = self.next * FRAME_BYTES;
        self.next = (self.next + 1) % FRAMES;
        let buf = &mut self.area[at..at + FRAME_BYTES];
        if let Ok(n) = build_tcp_frame(buf, self.mac, s) {
            self.sent += 1;
            self.bytes += n as u64;
        }
    }
    fn announce(&mut self, _: Endpoint, _: Endpoint) -> bool {
        true
    }
    fn retire(&mut self, _: Endpoint, _: Endpoint) {}
    fn sample(&mut self, _: Metric, value: Nanos) {
        black_box(value);
    }
}

/// One packet for the engine.
pub enum Input {
    Client(ClientSegment<'static>),
    Target(ResponseHeader),
}

/// As many as a worker takes from a ring at a time.
pub enum Batch {
    Client(Vec<ClientSegment<'static>>),
    Target(Vec<ResponseHeader>),
}

/// Packets in batches of one kind, in order.
pub fn batches(inputs: impl IntoIterator<Item = Input>) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    for input in inputs {
        match (input, batches.last_mut()) {
            (Input::Client(seg), Some(Batch::Client(b))) if b.len() < BATCH => b.push(seg),
            (Input::Target(h), Some(Batch::Target(b))) if b.len() < BATCH => b.push(h),
            (Input::Client(seg), _) => batches.push(Batch::Client(vec![seg])),
            (Input::Target(h), _) => batches.push(Batch::Target(vec![h])),
        }
    }
    batches
}

/// Where one session stands, so that its next packet can be made.
#[derive(Clone, Copy)]
pub struct Script {
    pub client: Endpoint,
    pub seq: SeqNumber,
    /// What of production's answers the client has read, and what the target has said.
    read: u32,
    answered: u32,
}

/// The client of session `n`.
fn client(n: usize) -> Endpoint {
    let [.., a, b, c] = ((n / 60_000) as u32 + 1).to_be_bytes();
    Endpoint::new(Addr::v4([100, a, b, c]), 2_000 + (n % 60_000) as u16)
}

/// Timestamps in every packet, the other options in a SYN, as of a Linux host.
fn options(flags: TcpFlags, val: u32, ecr: u32) -> TcpOptions {
    let syn = flags.has(TcpFlags::SYN);
    TcpOptions {
        mss: syn.then_some(1460),
        window_scale: syn.then_some(7),
        sack_permitted: syn,
        timestamps: Some(Timestamps { val, ecr }),
    }
}

impl Script {
    pub fn new(n: usize) -> Self {
        Self {
            client: client(n),
            seq: SeqNumber(n as u32),
            read: 0,
            answered: 0,
        }
    }

    fn captured(&self, flags: TcpFlags, payload: &'static [u8], at: Nanos) -> Input {
        Input::Client(ClientSegment {
            client: self.client,
            online: ONLINE,
            target: TARGET,
            lane: 0,
            seq: self.seq,
            ack: PROD + self.read,
            flags,
            window: 501,
            options: options(flags, 1, 2),
            payload,
            payload_len: payload.len() as u32,
            gso_size: 0,
            at,
        })
    }

    fn response(&self, flags: TcpFlags, payload_len: u32) -> Input {
        Input::Target(ResponseHeader {
            target: TARGET,
            client: self.client,
            seq: IRS + self.answered,
            ack: self.seq,
            flags,
            window: 60_000,
            payload_len,
            options: options(flags, 3, 1),
            sack: SackBlocks::default(),
        })
    }

    pub fn syn(&mut self, at: Nanos) -> Input {
        let input = self.captured(TcpFlags::SYN, b"", at);
        self.seq += 1;
        self.read += 1;
        input
    }

    pub fn syn_ack(&mut self) -> Input {
        let input = self.response(SYN_ACK, 0);
        self.answered += 1;
        input
    }

    /// The client's acknowledgement of what it has read.
    pub fn ack(&self, at: Nanos) -> Input {
        self.captured(ACK, b"", at)
    }

    pub fn request(&mut self, at: Nanos) -> Input {
        let input = self.captured(PSH_ACK, &PAYLOAD, at);
        self.seq += PAYLOAD.len() as u32;
        input
    }

    /// The target's answer of 64 bytes, which acknowledges the request; production's was the same.
    pub fn answer(&mut self) -> Input {
        let input = self.response(PSH_ACK, 64);
        self.answered += 64;
        self.read += 64;
        input
    }

    /// The target's acknowledgement alone.
    pub fn target_ack(&self) -> Input {
        self.response(ACK, 0)
    }

    pub fn fin(&mut self, at: Nanos) -> Input {
        let input = self.captured(FIN_ACK, b"", at);
        self.seq += 1;
        input
    }

    pub fn target_fin(&mut self) -> Input {
        let input = self.response(FIN_ACK, 0);
        self.answered += 1;
        self.read += 1;
        input
    }
}

/// An engine, its output and its time.
pub struct Bench {
    pub engine: Engine,
    frames: Frames,
    pub now: Nanos,
    /// How long a batch takes.
    pub step: Nanos,
}

impl Bench {
    /// Room for `sessions` sessions; without round trips of clients, so that every answer causes its
    /// acknowledgement at once.
    pub fn new(sessions: usize, config: EngineConfig) -> Self {
        let config = EngineConfig {
            rtt: Rtt::None,
            max_sessions: sessions,
            buffer_bytes: 8 << 30,
            ..config
        };
        Self {
            engine: Engine::new(config),
            frames: Frames::new(),
            now: Nanos::from_secs(1),
            step: Nanos::from_micros(10),
        }
    }

    /// The end of a batch.
    pub fn end_batch(&mut self) {
        self.now += self.step;
        self.engine.advance(self.now, &mut self.frames);
    }

    /// One batch after another.
    pub fn run(&mut self, batches: &[Batch]) {
        for batch in batches {
            let (now, out) = (self.now, &mut self.frames);
            match batch {
                Batch::Client(segments) => self.engine.captured_batch(now, segments, out),
                Batch::Target(headers) => self.engine.response_batch(now, headers, out),
            }
            self.end_batch();
        }
    }

    /// Established sessions, in batches.
    pub fn open(&mut self, scripts: &mut [Script]) {
        for group in scripts.chunks_mut(BATCH) {
            let at = self.now;
            let mut inputs: Vec<Input> = group.iter_mut().map(|s| s.syn(at)).collect();
            inputs.extend(group.iter_mut().map(|s| s.ack(at)));
            inputs.extend(group.iter_mut().map(Script::syn_ack));
            self.run(&batches(inputs));
        }
    }
}
