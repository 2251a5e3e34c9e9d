//! Speed of capture and transmit beside what they could be replaced by; `cargo xtask bench capture` runs it.
//!
//! ```text
//!   scenario ─▶ lanes: a veth pair for each way of doing it, attached once (lane.rs)
//!                │
//!     round 0, 1, 2 …  ─▶ slot of way A, slot of way B, …  ─▶ one JSON line each
//!                │
//!   source.rs ──▶ va ══ vb ──▶ the way ──▶ reader ──▶ packets, bytes, CPU time   (cpu.rs)
//!   core S       far   near                core R
//! ```
//! A slot lasts some 100 ms and ways take turns, so that a neighbour on the machine disturbs both of a
//! pair; the first round warms up and is not printed. Interfaces live in namespaces without a name, which
//! end with the process.
//!
//! * The ways of the product are its own types, loaded and attached as the programs do it.
//! * The other ways: `packet_ring.rs` (AF_PACKET), `bare_xsk.rs` (AF_XDP), `programs.rs` (BPF of a few
//!   instructions), each as small as it gets.
//!
//! Usage: `capture SCENARIO BYTES ROUNDS MILLISECONDS`, scenarios as in [`main`].

mod bare_xsk;
mod bulk;
mod cpu;
#[path = "../../tests/ebpf_support/mod.rs"]
mod ebpf_support;
mod lane;
mod mirror;
mod packet_ring;
mod programs;
mod reader;
mod single;
mod slots;
mod source;
mod tap;
mod transmit;

use slots::Plan;
use std::time::Duration;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Cargo's own test and bench runs start every target with flags of theirs.
    let [scenario, bytes, rounds, millis] = arguments.as_slice() else {
        println!(
            "usage: capture tap|mirror|transmit|forward|bulk|single BYTES ROUNDS MILLISECONDS"
        );
        return;
    };
    ebpf_support::privileged();
    let number = |text: &String| -> usize {
        text.parse()
            .unwrap_or_else(|_| panic!("got '{text}', expected a number"))
    };
    let plan = Plan {
        bytes: number(bytes),
        rounds: number(rounds),
        slot: Duration::from_millis(number(millis) as u64),
        foreign_max: if scenario == "bulk" {
            bulk::FOREIGN_MAX
        } else {
            slots::FOREIGN_MAX
        },
    };
    match scenario.as_str() {
        "tap" => tap::run(&plan),
        "mirror" => mirror::run(&plan),
        "transmit" => transmit::run(&plan),
        "forward" => transmit::run_forward(&plan),
        "bulk" => bulk::run(&plan),
        "single" => single::run(&plan),
        other => panic!("got scenario '{other}', expected one of those that no argument lists"),
    }
}
