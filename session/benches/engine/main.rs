//! Speed of the engine alone: prepared inputs in, complete frames out into memory, one core.
//!
//! `cargo xtask bench engine` runs all of it and counts instructions;
//! `cargo bench -p session --bench engine -- MIX SESSIONS PACKETS REPEATS [zipf]` one mix: that many packets
//! are measured that many times, on the same sessions. A packet is one input, a captured packet or the
//! header of a response. The mixes:
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
use script::{
    BATCH, Batch, Bench, FRAME_BYTES, FRAMES, Frames, Input, PROD, PSH_ACK, Script, TARGET, batches,
};
use session::{EngineConfig, Outcome};
use std::hint::black_box;
use std::time::Instant;

/// Nanoseconds per packet, by repetition, and how many packets one measures.
struct Measured {
    ns: Vec<f64>,
    packets: usize,
}

/// The measured part of all engine mixes.
#[inline(never)]
fn measured_engine(bench: &mut Bench, batches: &[Batch]) {
    bench.run(batches);
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

/// Measures `repeats` times what `inputs` makes.
fn measure(
    bench: &mut Bench,
    repeats: usize,
    mut inputs: impl FnMut(Nanos) -> Vec<Input>,
) -> Measured {
    let (mut ns, mut packets) = (Vec::new(), 0);
    for _ in 0..repeats {
        let inputs = inputs(bench.now);
        packets = inputs.len();
        let batches = batches(inputs);
        let start = Instant::now();
        measured_engine(bench, &batches);
        ns.push(start.elapsed().as_nanos() as f64 / packets as f64);
    }
    Measured { ns, packets }
}

/// Which session is next: uniform random, or Zipf with exponent 1.1 by inversion of its continuous form.
struct Picks {
    state: u64,
    sessions: usize,
    zipf: bool,
}

impl Picks {
    fn next(&mut self) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        if self.zipf {
            let u = (self.state >> 11) as f64 / (1u64 << 53) as f64;
            // F(x) = (1 - x^-0.1) / (1 - N^-0.1).
            let n = self.sessions as f64;
            let x = (1.0 - u * (1.0 - n.powf(-0.1))).powf(-10.0);
            (x as usize - 1).min(self.sessions - 1)
        } else {
            (self.state % self.sessions as u64) as usize
        }
    }
}

/// What is asked of a benchmark.
struct Task {
    sessions: usize,
    packets: usize,
    repeats: usize,
    zipf: bool,
}

/// Sessions that are open all the time; `answers` tells whether the target says something.
fn established(task: &Task, answers: bool) -> Measured {
    let mut bench = Bench::new(task.sessions, EngineConfig::default());
    let mut scripts: Vec<Script> = (0..task.sessions).map(Script::new).collect();
    bench.open(&mut scripts);
    let mut picks = Picks {
        state: 88_172_645_463_325_252,
        sessions: task.sessions,
        zipf: task.zipf,
    };
    // A batch of requests, then the batch of what the target says to them: as a loaded worker sees it.
    let mut inputs = |at: Nanos, packets: usize| {
        let mut inputs = Vec::with_capacity(packets);
        let mut chosen = [0; BATCH];
        for _ in 0..packets.div_ceil(2 * BATCH) {
            chosen.fill_with(|| picks.next());
            inputs.extend(chosen.map(|n| scripts[n].request(at)));
            for n in chosen {
                let s = &mut scripts[n];
                inputs.push(if answers { s.answer() } else { s.target_ack() });
            }
        }
        inputs
    };
    let warm = inputs(bench.now, task.packets / 8);
    bench.run(&batches(warm));
    let result = measure(&mut bench, task.repeats, |at| inputs(at, task.packets));
    let t = bench.engine.totals();
    assert_eq!(t.segments_retransmitted, 0);
    assert_eq!(t.bytes_delivered, t.bytes_captured);
    result
}

/// What one session sees, in order.
const LIFE: [fn(&mut Script, Nanos) -> Input; 8] = [
    Script::syn,
    |s, _| s.syn_ack(),
    |s, at| s.ack(at),
    Script::request,
    |s, _| s.answer(),
    Script::fin,
    |s, _| s.target_fin(),
    |s, at| s.ack(at),
];

/// Whole lives, `task.sessions` of them side by side: each step of all before the next step.
fn lifecycle(task: &Task) -> Measured {
    let config = EngineConfig {
        // Sessions are forgotten while the next ones run.
        linger: Nanos::from_millis(100),
        ..EngineConfig::default()
    };
    let mut bench = Bench::new(8 * task.sessions, config);
    bench.step = Nanos::from_millis(1);
    let mut begun = 0;
    let mut lives = |at: Nanos, groups: usize| {
        let mut inputs = Vec::new();
        for _ in 0..groups {
            let numbers = begun..begun + task.sessions;
            begun = numbers.end;
            let mut group: Vec<Script> = numbers.map(Script::new).collect();
            for step in LIFE {
                inputs.extend(group.iter_mut().map(|s| step(s, at)));
            }
        }
        inputs
    };
    // First the tables get their size, and sessions begin to be forgotten.
    let warm = lives(bench.now, 4);
    bench.run(&batches(warm));
    let groups = task.packets.div_ceil(8 * task.sessions);
    let result = measure(&mut bench, task.repeats, |at| lives(at, groups));
    let t = bench.engine.totals();
    assert_eq!(t.outcome(Outcome::Completed), begun as u64, "{t:?}");
    result
}

fn null(task: &Task) -> Measured {
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
    let ns = (0..task.repeats).map(|_| {
        let start = Instant::now();
        black_box(measured_null(&mut frames.area, len, task.packets));
        start.elapsed().as_nanos() as f64 / task.packets as f64
    });
    Measured {
        ns: ns.collect(),
        packets: task.packets,
    }
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
    let task = Task {
        sessions: number(1, 10_000),
        packets: number(2, 200_000),
        repeats: number(3, 15),
        zipf: args.get(4).is_some_and(|a| a == "zipf"),
    };
    let mix = args.first().map_or("request-answer", String::as_str);
    let Measured { mut ns, packets } = match mix {
        "data-ack" => established(&task, false),
        "request-answer" => established(&task, true),
        "lifecycle" => lifecycle(&task),
        "null" => null(&task),
        other => panic!("mix '{other}', expected data-ack, request-answer, lifecycle or null"),
    };
    ns.sort_by(f64::total_cmp);
    println!(
        "{{\"mix\":\"{mix}\",\"sessions\":{},\"zipf\":{},\"packets\":{packets},\"repeats\":{},\
         \"ns_min\":{:.1},\"ns_median\":{:.1}}}",
        task.sessions,
        task.zipf,
        ns.len(),
        ns[0],
        ns[ns.len() / 2]
    );
}
