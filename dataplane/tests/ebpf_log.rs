//! Log records of the programs arrive at the `log` crate's logger, if they were asked for.

mod ebpf_support;

use std::sync::Mutex;

use dataplane::bpf::{Direction, Mirror, MirrorConfig, Sessions, Tap, TapConfig, UdpRules};
use ebpf_support::frames::*;
use ebpf_support::netns::Pair;
use ebpf_support::privileged;
use ebpf_support::programs::object;
use ebpf_support::wire::Wire;

/// Keeps what the programs say.
struct Collector(Mutex<Vec<String>>);

impl log::Log for Collector {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

static COLLECTOR: Collector = Collector(Mutex::new(Vec::new()));

/// What was said since the last call.
fn said(program: &str) -> Vec<String> {
    let mut all = std::mem::take(&mut *COLLECTOR.0.lock().unwrap());
    all.retain(|line| line.starts_with(program));
    all
}

#[test]
fn packets_are_logged_when_asked_for_and_only_then() {
    privileged();
    log::set_logger(&COLLECTOR).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let pair = Pair::new(1);
    pair.enter_far();
    let wire = Wire::new("va");
    pair.enter_near();
    let frame = tcp(v4([10, 99, 0, 1], 40000), v4([10, 99, 0, 2], 80), b"x");
    let transfers = [v4([10, 99, 0, 2], 80)];
    for log_packets in [true, false] {
        let tap = Tap::attach(
            &object("tcpcopy-ebpf"),
            &TapConfig {
                ifname: "vb",
                direction: Direction::In,
                workers: 1,
                transfers: &transfers,
                targets: &[],
                sessions: Sessions::default(),
                filter: None,
                udp: UdpRules::default(),
                ring_bytes_total: 1 << 20,
                log_packets,
            },
        )
        .unwrap();
        wire.send(&frame);
        // Waits for the thread, which empties the log ring.
        drop(tap);
        let expected: &[&str] = if log_packets {
            &["tap: [::ffff:10.99.0.1]:40000 > [::ffff:10.99.0.2]:80 worker 0"]
        } else {
            &[]
        };
        assert_eq!(said("tap:"), expected, "log_packets: {log_packets}");

        let mirror = Mirror::attach(
            &object("tcpcopy-ebpf"),
            &MirrorConfig {
                ifname: "vb",
                workers: 1,
                transfers: &transfers,
                decap: &common::abi::DecapConfig::AUTO,
                targets: &[],
                sessions: Sessions::default(),
                filter: None,
                udp: UdpRules::default(),
                also_tx: false,
                log_packets,
            },
        )
        .unwrap();
        wire.send(&frame);
        drop(mirror);
        assert_eq!(
            said("mirror:").len(),
            usize::from(log_packets),
            "log_packets: {log_packets}"
        );
    }
}
