//! Speed of the engine alone: prepared inputs in, complete frames out into memory, one core.
//!
//! `cargo xtask bench engine` runs all of it and counts instructions;
//! `cargo bench -p session --bench engine -- MIX SESSIONS PACKETS [zipf]` one mix. A packet is one input,
//! a captured packet or the header of a response. The mixes:
//!
//! * `data-ack`: captured data of 64 bytes, and the target's acknowledgement of it;
//! * `request-answer`: the same with answers of 64 bytes, each of which the engine acknowledges;
//! * `lifecycle`: SYN, SYN-ACK, ACK, request, answer, FIN both ways, last ACK, for ever new clients;
//! * `null`: decode and MAC swap of the same frames on the same buffers, what no engine can undercut.
//!
//! The measured loop is `measured_*`, for callgrind's `--toggle-collect`. One line of JSON comes out.

mod script;

use common::flow::Nanos;
use common::packet::{
    FrameAddresses, TcpFrame, TcpOptions, Timestamps, build_tcp_frame, decode_frame,
};
use script::{BATCH, Bench, FRAME_BYTES, FRAMES, Frames, Input, PROD, PSH_ACK, Script, TARGET};
use session::{EngineConfig, Outcome};
use std::hint::black_box;
use std::time::Instant;

/// Nanoseconds per packet, and how many were measured.
type Measured = (f64, usize);

/// The measured part of all engine mixes.
#[inline(never)]
fn measured_engine(bench: &mut Bench, inputs: &[Input]) {
    bench.run(inputs);
}

/// The measured part of what every engine has to do.
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

fn measure(bench: &mut Bench, inputs: &[Input]) -> Measured {
    let start = Instant::now();
    measured_engine(bench, inputs);
    let ns = start.elapsed().as_nanos() as f64 / inputs.len() as f64;
    (ns, inputs.len())
}

/// Which session is next: uniform random, or Zipf with exponent 1.1 by inversion of its continuous form.
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
                // F(x) = (1 - x^-0.1) / (1 - N^-0.1).
                let n = sessions as f64;
                let x = (1.0 - u * (1.0 - n.powf(-0.1))).powf(-10.0);
                (x as usize - 1).min(sessions - 1)
            } else {
                (next() % sessions as u64) as usize
            }
        })
        .collect()
}

/// Sessions that are open all the time; `answers` tells whether the target says something.
fn established(sessions: usize, packets: usize, zipf: bool, answers: bool) -> Measured {
    let mut bench = Bench::new(sessions, EngineConfig::default());
    let mut scripts: Vec<Script> = (0..sessions).map(Script::new).collect();
    bench.open(&mut scripts);
    // A batch of requests, then the batch of what the target says to them: as a loaded worker sees it.
    let mut inputs = Vec::with_capacity(packets);
    for chunk in picks(sessions, packets / 2, zipf).chunks(BATCH) {
        for &n in chunk {
            inputs.push(scripts[n].request(bench.now));
        }
        for &n in chunk {
            let s = &mut scripts[n];
            inputs.push(if answers { s.answer() } else { s.target_ack() });
        }
    }
    // The first eighth warms up.
    let (warm, measured) = inputs.split_at(inputs.len() / 8 / (2 * BATCH) * (2 * BATCH));
    bench.run(warm);
    let result = measure(&mut bench, measured);
    let t = bench.engine.totals();
    assert_eq!(t.segments_retransmitted, 0);
    assert!(t.bytes_delivered as usize >= measured.len() / 2 * 64);
    result
}

/// Whole lives, `alive` of them side by side: each step of all before the next step.
fn lifecycle(alive: usize, packets: usize) -> Measured {
    let config = EngineConfig {
        // Sessions are forgotten while the next ones run.
        linger: Nanos::from_millis(100),
        ..EngineConfig::default()
    };
    let mut bench = Bench::new(8 * alive, config);
    bench.step = Nanos::from_millis(1);
    let mut scripts: Vec<Script> = (0..packets / 8).map(Script::new).collect();
    let mut inputs = Vec::with_capacity(packets);
    let at = bench.now;
    for group in scripts.chunks_mut(alive) {
        type Step = fn(&mut Script, Nanos) -> Input;
        let steps: [Step; 8] = [
            Script::syn,
            |s, _| s.syn_ack(),
            |s, at| s.ack(at),
            Script::request,
            |s, _| s.answer(),
            Script::fin,
            |s, _| s.target_fin(),
            |s, at| s.ack(at),
        ];
        for step in steps {
            inputs.extend(group.iter_mut().map(|s| step(s, at)));
        }
    }
    // The first quarter warms up: tables have their size, and sessions are being forgotten.
    let (warm, measured) = inputs.split_at(inputs.len() / 4 / (8 * alive) * (8 * alive));
    bench.run(warm);
    let result = measure(&mut bench, measured);
    let t = bench.engine.totals();
    assert_eq!(t.outcome(Outcome::Completed), packets as u64 / 8, "{t:?}");
    result
}

fn null(packets: usize) -> Measured {
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
        payload: &[0x41; 64],
        ip_id: 0,
    };
    let mut len = 0;
    for at in (0..FRAMES).map(|n| n * FRAME_BYTES) {
        let buf = &mut frames.area[at..at + FRAME_BYTES];
        len = build_tcp_frame(buf, FrameAddresses::default(), &frame).unwrap_or(0);
    }
    let start = Instant::now();
    black_box(measured_null(&mut frames.area, len, packets));
    (start.elapsed().as_nanos() as f64 / packets as f64, packets)
}

fn main() {
    // cargo passes --bench.
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .collect();
    let number = |at: usize, default: usize| {
        let number = args.get(at).map_or(Ok(default), |a| a.parse());
        number
            .ok()
            .filter(|n| *n > 0)
            .unwrap_or_else(|| panic!("argument {at} is '{}', expected a number above 0", args[at]))
    };
    let (sessions, packets) = (number(1, 10_000), number(2, 1_000_000));
    let zipf = args.get(3).is_some_and(|a| a == "zipf");
    let mix = args.first().map_or("request-answer", String::as_str);
    let (ns, measured) = match mix {
        "data-ack" => established(sessions, packets, zipf, false),
        "request-answer" => established(sessions, packets, zipf, true),
        "lifecycle" => lifecycle(sessions, packets),
        "null" => null(packets),
        other => panic!("mix '{other}', expected data-ack, request-answer, lifecycle or null"),
    };
    println!(
        "{{\"mix\":\"{mix}\",\"sessions\":{sessions},\"packets\":{measured},\"zipf\":{zipf},\"ns_per_packet\":{ns:.1}}}"
    );
}
