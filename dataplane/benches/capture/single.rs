//! BPF programs alone: BPF_PROG_TEST_RUN, each beside a program of the same type that does nothing.
//!
//! The kernel calls the program over and over on one packet, hot in cache: what is left out is what the
//! rest of a receive path does to the cache. Instructions are those that the verifier went through and
//! those of the program as loaded.

use std::os::fd::AsRawFd;

use common::packet::Endpoint;
use dataplane::afxdp::{OpenOptions, open};
use serde_json::{Value, json};

use crate::ebpf_support::frames::{HEADERS_V4, changed, tcp, v4};
use crate::ebpf_support::programs::{Loaded, Setup};
use crate::lane::Lane;
use crate::programs::{Program, XDP_PASS};
use crate::slots::{ONLINE, ONLINE_PORT, OTHER_PORT, Plan, Printer};

/// Runs at a time of the tap, and how often: the records of all fit the ring, which is emptied in between.
/// A full ring would measure the loss, one that was never written to the first touch of its memory.
const TAP_RUNS: (u32, u32) = (500, 40);
/// The same of XDP programs: the kernel waits some 10 ms in each call (bpf_prog_change_xdp).
const XDP_RUNS: (u32, u32) = (20_000, 1);
const RING_BYTES: u32 = 1 << 20;

struct Candidate {
    name: &'static str,
    program: Loaded,
    empty: fn() -> Program,
    hit: Vec<u8>,
    miss: Vec<u8>,
}

/// Measures; the length of a slot is that of the runs.
pub fn run(plan: &Plan) {
    let lane = Lane::new();
    let socket = lane.near(|| {
        let options = OpenOptions {
            rx: true,
            ..OpenOptions::new("vb", 0)
        };
        open(&options).expect("AF_XDP").rx.expect("RX")
    });
    let capture = [v4(ONLINE, ONLINE_PORT)];
    let target = [v4([10, 99, 0, 30], 8080)];
    let tcpcopy = [("TRANSFERS", &capture[..]), ("TARGETS", &target[..])];
    // Responses are matched by where they come from; the bare address is for fragments.
    let from = [v4(ONLINE, ONLINE_PORT), v4(ONLINE, 0)];
    let intercept = [("RESPONSES", &from[..])];
    let load = |object, maps: &[(&'static str, &[Endpoint])]| {
        Loaded::new(&Setup {
            object,
            maps,
            ring_bytes: RING_BYTES,
            ..Setup::default()
        })
    };
    let answer = |port| {
        let payload = vec![7; plan.bytes.saturating_sub(HEADERS_V4)];
        tcp(v4(ONLINE, port), v4([10, 99, 0, 1], 40_000), &payload)
    };
    let mut candidates = [
        Candidate {
            name: "tap",
            program: load("tcpcopy-ebpf", &tcpcopy),
            empty: Program::classifier,
            hit: plan.frame(ONLINE_PORT),
            miss: plan.frame(OTHER_PORT),
        },
        Candidate {
            name: "mirror",
            program: load("tcpcopy-ebpf", &tcpcopy),
            empty: || Program::xdp(XDP_PASS),
            hit: plan.frame(ONLINE_PORT),
            miss: plan.frame(OTHER_PORT),
        },
        Candidate {
            name: "responses",
            program: load("intercept-ebpf", &intercept),
            empty: || Program::xdp(XDP_PASS),
            hit: answer(ONLINE_PORT),
            miss: answer(OTHER_PORT),
        },
    ];
    for candidate in &mut candidates {
        let Candidate { name, program, .. } = candidate;
        let info = if *name == "tap" {
            program.classifier(name).info()
        } else {
            program.xdp(name).info()
        };
        if *name != "tap" {
            program.put_socket(0, socket.as_raw_fd());
        }
        let info = info.expect("program info");
        println!(
            "{}",
            json!({
                "scenario": "single",
                "bytes": plan.bytes,
                "program": name,
                // A BPF instruction is 8 bytes.
                "instructions": info.size_translated().map(|bytes| bytes / 8),
                "verified": info.verified_instruction_count(),
                "jited_bytes": info.size_jitted(),
            })
        );
    }
    plan.run("single", |round: &mut Printer<'_>| {
        for candidate in &mut candidates {
            round.line(measure(candidate));
        }
    });
}

/// Nanoseconds of a run: nothing, packets that are no TCP, that do not match, that do. All take turns.
fn measure(candidate: &mut Candidate) -> Value {
    let empty = (candidate.empty)();
    let udp = changed(&candidate.miss, 23, 17);
    let is_tap = candidate.name == "tap";
    let (runs, times) = if is_tap { TAP_RUNS } else { XDP_RUNS };
    let mut sums = [0.0; 4];
    for _ in 0..times {
        sums[0] += f64::from(empty.nanoseconds(&candidate.hit, runs));
        for (sum, frame) in sums[1..]
            .iter_mut()
            .zip([&udp, &candidate.miss, &candidate.hit])
        {
            let program = &mut candidate.program;
            *sum += program.nanoseconds(candidate.name, frame, runs) as f64;
            if is_tap {
                program.records();
            }
        }
    }
    let [empty, other, miss, hit] = sums.map(|sum| sum / f64::from(times));
    json!({
        "program": candidate.name,
        "empty_ns": empty,
        "other_ns": other,
        "miss_ns": miss,
        "hit_ns": hit,
    })
}
