//! Speed of the engine alone: prepared inputs in, complete frames out into memory, one core.
//!
//! `cargo bench -p session --bench engine -- MIX SESSIONS PACKETS [zipf]`, or all of it, with instruction
//! counts, by `cargo xtask bench engine`. Mixes:
//!
//! * `established`: captured requests of 64 bytes and the target's acknowledging answers, alternating;
//! * `lifecycle`: SYN, SYN-ACK, request, answer, FIN both ways, for ever new clients;
//! * `null`: decode and MAC swap of the same frames on the same buffers, what no engine can undercut.
//!
//! The measured loop is `measured_*`, for callgrind's `--toggle-collect`. A packet is one input.

use common::flow::{ClientSegment, Nanos, ResponseHeader, Segment};
use common::packet::{
    Addr, Endpoint, FrameAddresses, SackBlocks, SeqNumber, TcpFlags, TcpFrame, TcpOptions,
    Timestamps, build_tcp_frame, decode_frame,
};
use session::{Engine, EngineConfig, Metric, Output, Rtt};
use std::hint::black_box;
use std::time::Instant;

const BATCH: usize = 64;
const PAYLOAD: [u8; 64] = [0x41; 64];
const ONLINE: Endpoint = Endpoint::new(Addr::v4([10, 0, 0, 2]), 80);
const TARGET: Endpoint = Endpoint::new(Addr::v4([10, 0, 0, 9]), 8080);
/// Frames in the transmit area: as many as an AF_XDP port has.
const FRAMES: usize = 8192;
const FRAME_BYTES: usize = 2048;
const ACK: TcpFlags = TcpFlags::ACK;
const PSH_ACK: TcpFlags = TcpFlags::PSH.with(TcpFlags::ACK);
const FIN_ACK: TcpFlags = TcpFlags::FIN.with(TcpFlags::ACK);
const SYN_ACK: TcpFlags = TcpFlags::SYN.with(TcpFlags::ACK);

/// Builds every segment into the next frame, as a worker does.
struct Frames {
    area: Vec<u8>,
    next: usize,
    sent: u64,
    bytes: u64,
}

impl Frames {
    fn new() -> Self {
        Self {
            area: vec![0; FRAMES * FRAME_BYTES],
            next: 0,
            sent: 0,
            bytes: 0,
        }
    }
}

impl Output for Frames {
    fn transmit(&mut self, s: &Segment<'_>) {
        let at = self.next * FRAME_BYTES;
        self.next = (self.next + 1) % FRAMES;
        let frame = TcpFrame {
            src: s.src,
            dst: s.dst,
            seq: s.seq,
            ack: s.ack,
            flags: s.flags,
            window: s.window,
            options: s.options,
            payload: s.payload,
            ip_id: self.sent as u16,
        };
        let buf = &mut self.area[at..at + FRAME_BYTES];
        if let Ok(n) = build_tcp_frame(buf, FrameAddresses::default(), &frame) {
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

/// Where one benchmark session stands, so that its next packet can be made.
#[derive(Clone, Copy)]
struct Script {
    client: Endpoint,
    seq: SeqNumber,
    read: u32,
    answered: u32,
}

fn client(n: usize) -> Endpoint {
    let [.., a, b, c] = ((n / 60_000) as u32 + 1).to_be_bytes();
    Endpoint::new(Addr::v4([100, a, b, c]), 2_000 + (n % 60_000) as u16)
}

const PROD: SeqNumber = SeqNumber(5_000);
const IRS: SeqNumber = SeqNumber(9_000);

impl Script {
    fn new(n: usize) -> Self {
        Self {
            client: client(n),
            seq: SeqNumber(n as u32),
            read: 0,
            answered: 0,
        }
    }

    fn segment(
        &self,
        flags: TcpFlags,
        payload: &'static [u8],
        at: Nanos,
    ) -> ClientSegment<'static> {
        let timestamps = Some(Timestamps { val: 1, ecr: 2 });
        let mut options = TcpOptions {
            timestamps,
            ..TcpOptions::default()
        };
        if flags.has(TcpFlags::SYN) {
            options.mss = Some(1460);
            options.window_scale = Some(7);
            options.sack_permitted = true;
        }
        ClientSegment {
            client: self.client,
            online: ONLINE,
            target: TARGET,
            seq: self.seq,
            ack: PROD + self.read,
            flags,
            window: 501,
            options,
            payload,
            payload_len: payload.len() as u32,
            gso_size: 0,
            at,
        }
    }

    fn header(&self, flags: TcpFlags, len: u32) -> ResponseHeader {
        let timestamps = Some(Timestamps { val: 3, ecr: 1 });
        let mut options = TcpOptions {
            timestamps,
            ..TcpOptions::default()
        };
        if flags.has(TcpFlags::SYN) {
            options.mss = Some(1460);
            options.window_scale = Some(7);
            options.sack_permitted = true;
        }
        ResponseHeader {
            target: TARGET,
            client: self.client,
            seq: IRS + self.answered,
            ack: self.seq,
            flags,
            window: 60_000,
            payload_len: len,
            options,
            sack: SackBlocks::default(),
        }
    }
}

enum Input {
    Client(ClientSegment<'static>),
    Target(ResponseHeader),
}

struct Bench {
    engine: Engine,
    frames: Frames,
    now: Nanos,
}

impl Bench {
    fn new(sessions: usize) -> Self {
        let config = EngineConfig {
            rtt: Rtt::None,
            max_sessions: sessions + 1024,
            buffer_bytes: 8 << 30,
            linger: Nanos::from_millis(1),
            ..EngineConfig::default()
        };
        Self {
            engine: Engine::new(config),
            frames: Frames::new(),
            now: Nanos::from_secs(1),
        }
    }

    fn input(&mut self, input: &Input) {
        match input {
            Input::Client(seg) => self.engine.captured(self.now, seg, &mut self.frames),
            Input::Target(h) => self.engine.response(self.now, h, &mut self.frames),
        }
    }

    /// The end of a batch; a worker's loop takes some 10 us then.
    fn batch(&mut self) {
        self.now += Nanos::from_micros(10);
        self.engine.advance(self.now, &mut self.frames);
    }

    fn open(&mut self, s: &mut Script) {
        self.input(&Input::Client(s.segment(TcpFlags::SYN, b"", self.now)));
        s.seq += 1;
        s.read += 1;
        self.input(&Input::Client(s.segment(ACK, b"", self.now)));
        self.input(&Input::Target(s.header(SYN_ACK, 0)));
        s.answered += 1;
    }
}

fn run(bench: &mut Bench, inputs: &[Input]) {
    for batch in inputs.chunks(BATCH) {
        for input in batch {
            bench.input(input);
        }
        bench.batch();
    }
}

/// The measured part of both engine mixes.
#[inline(never)]
fn measured_engine(bench: &mut Bench, inputs: &[Input]) {
    run(bench, inputs);
}

#[inline(never)]
fn measured_null(area: &mut [u8], len: usize, packets: usize) -> u64 {
    let mut sum = 0u64;
    for n in 0..packets {
        let at = (n % FRAMES) * FRAME_BYTES;
        let frame = &mut area[at..at + len];
        if let Ok(p) = decode_frame(&*frame) {
            sum += u64::from(p.tcp.seq.0) + p.tcp.payload as u64;
        }
        let (dst, src) = frame.split_at_mut(6);
        dst.swap_with_slice(&mut src[..6]);
    }
    sum
}

/// Uniform random, or Zipf with exponent near 1 by inversion of its continuous form.
fn picks(sessions: usize, count: usize, zipf: bool) -> Vec<usize> {
    let mut state = 88_172_645_463_325_252u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count)
        .map(|_| {
            if zipf {
                let u = (next() >> 11) as f64 / (1u64 << 53) as f64;
                // Exponent 1.1: F(x) = (1 - x^-0.1) / (1 - N^-0.1).
                let n = sessions as f64;
                let x = (1.0 - u * (1.0 - n.powf(-0.1))).powf(-10.0);
                (x as usize - 1).min(sessions - 1)
            } else {
                (next() % sessions as u64) as usize
            }
        })
        .collect()
}

fn established(sessions: usize, packets: usize, zipf: bool) -> (f64, u64) {
    let mut bench = Bench::new(sessions);
    let mut scripts: Vec<Script> = (0..sessions).map(Script::new).collect();
    for (n, s) in scripts.iter_mut().enumerate() {
        bench.open(s);
        if n % BATCH == 0 {
            bench.batch();
        }
    }
    bench.batch();
    // A batch of requests, then the batch of their answers: what a loaded worker sees.
    let mut inputs = Vec::with_capacity(packets);
    for chunk in picks(sessions, packets / 2, zipf).chunks(BATCH) {
        for &n in chunk {
            let s = &mut scripts[n];
            inputs.push(Input::Client(s.segment(PSH_ACK, &PAYLOAD, bench.now)));
            s.seq += 64;
        }
        for &n in chunk {
            let s = &mut scripts[n];
            inputs.push(Input::Target(s.header(PSH_ACK, 64)));
            s.answered += 64;
            s.read += 64;
        }
    }
    // The first eighth warms up.
    let (warm, measured) = inputs.split_at(inputs.len() / 8 / (2 * BATCH) * (2 * BATCH));
    run(&mut bench, warm);
    let start = Instant::now();
    measured_engine(&mut bench, measured);
    let ns = start.elapsed().as_nanos() as f64 / measured.len() as f64;
    let t = bench.engine.totals();
    assert_eq!(t.segments_retransmitted, 0);
    assert!(t.bytes_delivered as usize >= measured.len() / 2 * 64);
    (ns, measured.len() as u64)
}

fn lifecycle(alive: usize, packets: usize) -> (f64, u64) {
    let mut bench = Bench::new(alive);
    let count = packets / 8;
    let mut scripts: Vec<Script> = (0..count).map(Script::new).collect();
    let mut inputs = Vec::with_capacity(count * 8);
    let at = bench.now;
    // Sessions overlap: `alive` of them are open at a time, each step of all before the next step.
    for group in scripts.chunks_mut(alive.max(1)) {
        for step in 0..8 {
            for s in group.iter_mut() {
                inputs.push(match step {
                    0 => {
                        let syn = s.segment(TcpFlags::SYN, b"", at);
                        s.seq += 1;
                        s.read += 1;
                        Input::Client(syn)
                    }
                    1 => {
                        let syn_ack = s.header(SYN_ACK, 0);
                        s.answered += 1;
                        Input::Target(syn_ack)
                    }
                    3 => {
                        let request = s.segment(PSH_ACK, &PAYLOAD, at);
                        s.seq += 64;
                        Input::Client(request)
                    }
                    4 => {
                        let answer = s.header(PSH_ACK, 64);
                        s.answered += 64;
                        s.read += 64;
                        Input::Target(answer)
                    }
                    5 => {
                        let fin = s.segment(FIN_ACK, b"", at);
                        s.seq += 1;
                        Input::Client(fin)
                    }
                    6 => {
                        let fin = s.header(FIN_ACK, 0);
                        s.answered += 1;
                        s.read += 1;
                        Input::Target(fin)
                    }
                    // The client's side of the handshake, and its last word.
                    _ => Input::Client(s.segment(ACK, b"", at)),
                });
            }
        }
    }
    let start = Instant::now();
    measured_engine(&mut bench, &inputs);
    let ns = start.elapsed().as_nanos() as f64 / inputs.len() as f64;
    let t = bench.engine.totals();
    assert_eq!(
        t.outcome(session::Outcome::Completed),
        count as u64,
        "{t:?}"
    );
    (ns, inputs.len() as u64)
}

fn null(packets: usize) -> (f64, u64) {
    let mut frames = Frames::new();
    let s = Script::new(0);
    let frame = TcpFrame {
        src: s.client,
        dst: TARGET,
        seq: s.seq,
        ack: PROD,
        flags: PSH_ACK,
        window: 1,
        options: TcpOptions {
            timestamps: Some(Timestamps { val: 1, ecr: 2 }),
            ..TcpOptions::default()
        },
        payload: &PAYLOAD,
        ip_id: 0,
    };
    let mut len = 0;
    for at in (0..FRAMES).map(|n| n * FRAME_BYTES) {
        let buf = &mut frames.area[at..at + FRAME_BYTES];
        len = build_tcp_frame(buf, FrameAddresses::default(), &frame).unwrap_or(0);
    }
    let start = Instant::now();
    black_box(measured_null(&mut frames.area, len, packets));
    (
        start.elapsed().as_nanos() as f64 / packets as f64,
        packets as u64,
    )
}

fn main() {
    // cargo passes --bench.
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .collect();
    let number = |at: usize, default: usize| {
        args.get(at).map_or(default, |a| {
            a.parse().expect("a number of sessions or packets")
        })
    };
    let (sessions, packets) = (number(1, 10_000), number(2, 1_000_000));
    let zipf = args.get(3).is_some_and(|a| a == "zipf");
    let mix = args.first().map_or("established", String::as_str);
    let (ns, measured) = match mix {
        "established" => established(sessions, packets, zipf),
        "lifecycle" => lifecycle(sessions, packets),
        "null" => null(packets),
        other => panic!("mix '{other}', expected established, lifecycle or null"),
    };
    println!(
        "{{\"mix\":\"{mix}\",\"sessions\":{sessions},\"packets\":{measured},\"zipf\":{zipf},\"ns_per_packet\":{ns:.1}}}"
    );
}
