//! Filters in front of the attached programs, on live interfaces: `va` sends, `vb` captures.

mod ebpf_support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::abi::{InterceptCounter, TapCounter};
use dataplane::bpf::responses::Sources;
use dataplane::bpf::{
    BpfError, Direction, Filter, Mirror, MirrorConfig, Responses, ResponsesConfig, Tap, TapConfig,
};
use ebpf_support::frames::*;
use ebpf_support::netns::{Pair, tcp_segments};
use ebpf_support::privileged;
use ebpf_support::programs::object;
use ebpf_support::wire::Wire;

const HERE: [u8; 4] = [10, 99, 0, 2];
const THERE: [u8; 4] = [10, 99, 0, 1];
/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn filter(expression: &str) -> Filter {
    Filter::compile(expression).unwrap()
}

fn tap(filter: Option<&Filter>) -> Tap {
    let config = TapConfig {
        ifname: "vb",
        direction: Direction::In,
        workers: 1,
        transfers: &[v4(HERE, 80)],
        targets: &[v4(HERE, 8080)],
        sessions: dataplane::bpf::Sessions::default(),
        udp: dataplane::bpf::UdpRules::default(),
        filter,
        ring_bytes_total: 64 << 20,
        log_packets: false,
    };
    Tap::attach(&object("tcpcopy-ebpf"), &config).unwrap()
}

fn mirror(ifname: &str, online: [u8; 4], filter: &Filter) -> Mirror {
    let config = MirrorConfig {
        ifname,
        workers: 1,
        transfers: &[v4(online, 80)],
        targets: &[],
        sessions: dataplane::bpf::Sessions::default(),
        udp: dataplane::bpf::UdpRules::default(),
        filter: Some(filter),
        decap: &common::abi::DecapConfig::NONE,
        also_tx: false,
        log_packets: false,
    };
    Mirror::attach(&object("tcpcopy-ebpf"), &config).unwrap()
}

fn wire(pair: &Pair) -> Wire {
    pair.enter_far();
    let wire = Wire::new("va");
    pair.enter_near();
    wire
}

/// Captured and filtered.
type Verdicts = (u64, u64);

fn of_tap(counters: &[(TapCounter, u64)]) -> Verdicts {
    let count = |counter| counters.iter().find(|(c, _)| *c == counter).unwrap().1;
    (count(TapCounter::Captured), count(TapCounter::Filtered))
}

/// Sends `frames`, all of which match, and compares what became of them with libpcap's verdicts.
fn compare(
    wire: &Wire,
    filter: &Filter,
    frames: &[Vec<u8>],
    verdicts: &dyn Fn() -> Verdicts,
) -> Verdicts {
    let before = verdicts();
    for frame in frames {
        wire.send(frame);
    }
    let want = frames.iter().filter(|f| filter.matches(f)).count() as u64;
    let want = (want, frames.len() as u64 - want);
    let end = Instant::now() + PATIENCE;
    loop {
        let now = verdicts();
        let got = (now.0 - before.0, now.1 - before.1);
        if got.0 + got.1 == want.0 + want.1 {
            assert_eq!(got, want, "{filter:?}");
            return got;
        }
        assert!(
            Instant::now() < end,
            "{filter:?}: expected {want:?}, got {got:?}"
        );
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn tap_with_tags_in_metadata_and_bytes_in_fragments() {
    privileged();
    let pair = Pair::new(1);
    pair.far(&["ip", "link", "set", "va", "mtu", "9000"]);
    pair.near(&["ip", "link", "set", "vb", "mtu", "9000"]);
    let wire = wire(&pair);
    let mut frames = Vec::new();
    // The kernel puts frames of more than a page into fragments, but for their Ethernet header.
    for len in [0, 100, 1400, 5000, 8000] {
        for host in 1..4 {
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let frame = tcp(v4([10, 99, 0, host], 40_000), v4(HERE, 80), &payload);
            let options = ip_options(frame.clone(), 3);
            frames.push(tagged(frame.clone(), &[(0x8100, 5)]));
            frames.push(tagged(options.clone(), &[(0x8100, 0xe006)]));
            frames.push(tagged(frame.clone(), &[(0x88a8, 5), (0x8100, 6)]));
            frames.extend([frame, options]);
        }
    }
    let first = filter("src host 10.99.0.1");
    let tap = tap(Some(&first));
    let verdicts = || of_tap(&tap.counters());
    let (mut captured, mut filtered) = compare(&wire, &first, &frames, &verdicts);
    assert!(captured > 0 && filtered > 0);
    for expression in [
        "vlan",
        "not vlan",
        "vlan 5",
        "vlan 6",
        "vlan and vlan 6",
        "vlan and src host 10.99.0.2",
        "src net 10.99.0.2/31 or (vlan and src net 10.99.0.2/31)",
        "tcp dst port 80 and len > 1000",
        "len = 5054 or len = 5058",
        "tcp[((tcp[12] & 0xf0) >> 2) + 4990:2] = 0x7e7f",
        "vlan and tcp[((tcp[12] & 0xf0) >> 2) + 4990:2] = 0x7e7f",
        "ether[len - 4:4] = 0x3c3d3e3f",
        "ether[10:4] & 0xffff = 0x8100",
        "ether[ether[0] + 13:4] & 0xff = 0x45",
        "ether[4096:2] = 0xcacb",
    ] {
        let filter = filter(expression);
        tap.replace_filter(&filter).unwrap();
        let (yes, no) = compare(&wire, &filter, &frames, &verdicts);
        println!("{yes:>4} captured {no:>4} filtered  {expression}");
        captured += yes;
        filtered += no;
    }
    assert!(captured > 200 && filtered > 200, "{captured} {filtered}");
    // Neither asked nor counted: other ports, and our own output.
    let before = verdicts();
    wire.send(&tcp(v4(THERE, 40_000), v4(HERE, 81), b""));
    wire.send(&tcp(v4(THERE, 40_000), v4(HERE, 8080), b""));
    compare(&wire, &first, &[], &verdicts);
    assert_eq!(verdicts(), before);
}

#[test]
fn mirror_native_and_generic() {
    privileged();
    let pair = Pair::new(1);
    let far = wire(&pair);
    let near = Wire::new("lo");
    for (ifname, online, wire) in [("vb", HERE, &far), ("lo", [127, 0, 0, 1], &near)] {
        let mut frames = Vec::new();
        for host in 1..5 {
            let frame = tcp(v4([10, 99, 0, host], 40_000), v4(online, 80), b"x");
            frames.push(tagged(frame.clone(), &[(0x8100, 5)]));
            frames.push(tagged(frame.clone(), &[(0x88a8, 5), (0x8100, 6)]));
            frames.extend([ip_options(frame.clone(), 2), frame]);
        }
        let first = filter("src net 10.99.0.2/31");
        let mut mirror = mirror(ifname, online, &first);
        assert_eq!(mirror.native(), ifname == "vb");
        let ports = mirror.take_ports(0);
        let verdicts = || of_tap(&mirror.counters());
        compare(wire, &first, &frames, &verdicts);
        for expression in ["vlan 5", "vlan and vlan 6", "tcp dst port 80", "not vlan"] {
            let filter = filter(expression);
            mirror.replace_filter(&filter).unwrap();
            let (yes, no) = compare(wire, &filter, &frames, &verdicts);
            assert!(yes > 0 && no > 0, "{ifname}, {expression}: {yes} {no}");
        }
        drop(ports);
        mirror.detach();
    }
}

#[test]
fn responses_are_what_the_filter_says() {
    privileged();
    let pair = Pair::new(1);
    let wire = wire(&pair);
    let first = filter("tcp and src port 8080 and dst net 10.88.0.0/16");
    let config = ResponsesConfig {
        ifname: "vb",
        workers: 1,
        sources: Sources::Filtered(&first),
        log_packets: false,
    };
    let mut responses = Responses::attach(&object("intercept-ebpf"), &config).unwrap();
    // For UDP's targets, which no filter decides.
    assert!(responses.take_rules().is_some());
    assert!(responses.take_rules().is_none());
    let ports = responses.take_ports(0);
    let verdicts = || {
        let counters = responses.counters();
        let count = |counter| counters.iter().find(|(c, _)| *c == counter).unwrap().1;
        (
            count(InterceptCounter::Captured),
            count(InterceptCounter::Filtered),
        )
    };
    let frames: Vec<_> = (0..8u8)
        .map(|i| {
            tcp(
                v4(THERE, 8080 + u16::from(i % 2)),
                v4([10, 88 + i / 4, 0, i], 4000),
                b"answer",
            )
        })
        .collect();
    assert_eq!(compare(&wire, &first, &frames, &verdicts), (2, 6));
    let second = filter("tcp src port 8081");
    responses.replace_filter(&second).unwrap();
    assert_eq!(compare(&wire, &second, &frames, &verdicts), (4, 4));
    // What does not pass reaches the stack; what passes but is no TCP does too.
    let stack = tcp_segments();
    wire.send(&tcp(v4(THERE, 8080), v4(HERE, 4000), b"x"));
    assert_eq!(tcp_segments(), stack + 1);
    let third = filter("ip");
    responses.replace_filter(&third).unwrap();
    let udp = changed(&frames[0], 23, 17);
    let before = verdicts();
    wire.send(&udp);
    wire.send(&frames[0]);
    assert_eq!(verdicts(), (before.0 + 1, before.1));
    drop(ports);
}

/// No packet finds the place of the filter empty.
#[test]
fn swapped_under_traffic_every_packet_gets_a_verdict() {
    privileged();
    let pair = Pair::new(1);
    let wire = wire(&pair);
    let filters = [filter("tcp src port 40000"), filter("tcp src port 40001")];
    let tap = tap(Some(&filters[0]));
    let sent = 40_000u64;
    let done = AtomicBool::new(false);
    let swaps = thread::scope(|scope| {
        scope.spawn(|| {
            for i in 0..sent {
                wire.send(&tcp(v4(THERE, 40_000 + (i % 2) as u16), v4(HERE, 80), b""));
            }
            done.store(true, Ordering::Release);
        });
        let mut swaps = 0;
        while !done.load(Ordering::Acquire) {
            swaps += 1;
            tap.replace_filter(&filters[swaps % 2]).unwrap();
        }
        swaps
    });
    let end = Instant::now() + PATIENCE;
    let (captured, filtered) = loop {
        let verdicts = of_tap(&tap.counters());
        if verdicts.0 + verdicts.1 == sent || Instant::now() > end {
            break verdicts;
        }
        thread::sleep(Duration::from_millis(1));
    };
    println!("{swaps} swaps while {captured} packets were captured and {filtered} filtered");
    assert_eq!(captured + filtered, sent);
    assert!(swaps > 10 && captured > 0 && filtered > 0);
}

#[test]
fn there_is_nothing_to_replace_without_a_filter() {
    privileged();
    let pair = Pair::new(1);
    pair.enter_near();
    let tap = tap(None);
    let error = tap.replace_filter(&filter("tcp")).unwrap_err();
    assert!(matches!(error, BpfError::NoFilter), "{error}");
    assert!(!error.to_string().contains('\n'));
}
