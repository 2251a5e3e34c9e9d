//! The tap by packet sockets, on a live interface: `va` sends, `vb` is production's. What it takes is what the tap by
//! tcx takes, which is attached beside it.

mod ebpf_support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use common::abi::TapCounter;
use common::flow::{Block, CaptureMeta, Shard, Share};
use common::packet::{Addr, Endpoint};
use dataplane::Capture;
use dataplane::bpf::{Direction, Filter, PacketTap, Sessions, Tap, TapConfig, UdpRules};
use ebpf_support::cases::{cases, seeds};
use ebpf_support::frames::*;
use ebpf_support::netns::{Pair, run, tcp_segments};
use ebpf_support::programs::object;
use ebpf_support::wire::Wire;
use ebpf_support::{Rng, hexdump, privileged};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const PRODUCTION: [u8; 4] = [10, 99, 0, 2];
const CLIENT: [u8; 4] = [10, 99, 0, 1];
/// Long enough for any machine, so that a wait that ends is a wake-up.
const PATIENCE: Timespec = Timespec {
    tv_sec: 20,
    tv_nsec: 0,
};

fn config(transfers: &[Endpoint]) -> TapConfig<'_> {
    TapConfig {
        ifname: "vb",
        workers: 1,
        transfers,
        targets: &[],
        sessions: Sessions::default(),
        filter: None,
        udp: UdpRules::default(),
        ring_bytes_total: 64 << 20,
        direction: Direction::In,
        log_packets: false,
    }
}

fn open(config: &TapConfig<'_>) -> PacketTap {
    PacketTap::attach(&object("tcpcopy-ebpf"), config).unwrap()
}

fn wire(pair: &Pair) -> Wire {
    pair.enter_far();
    let wire = Wire::new("va");
    pair.enter_near();
    wire
}

fn count(counters: &[(TapCounter, u64)], counter: TapCounter) -> u64 {
    counters.iter().find(|(c, _)| *c == counter).unwrap().1
}

/// What a frame is beside its time.
type Frame = (Vec<u8>, u32, u16, Option<u16>);

fn frame_of(bytes: &[u8], meta: &CaptureMeta) -> Frame {
    (bytes.to_vec(), meta.frame_len, meta.gso_size, meta.vlan_tci)
}

/// Sleeps as a worker does, until there is something to read. False after [`PATIENCE`].
fn wait(reader: &mut impl Capture) -> bool {
    if !reader.arm() {
        return true;
    }
    let fds = reader.fds();
    let mut polls: Vec<_> = fds
        .iter()
        // SAFETY: the reader keeps its fds open.
        .map(|fd| unsafe { std::os::fd::BorrowedFd::borrow_raw(*fd) })
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    poll(&mut polls, Some(&PATIENCE)).unwrap() > 0
}

/// Receives until `n` frames are there; their times are never before the last one's.
fn receive(reader: &mut impl Capture, n: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut last = common::flow::Nanos(0);
    while frames.len() < n {
        let got = reader.recv(&mut |batch| {
            for captured in batch {
                assert!(captured.meta.at >= last);
                last = captured.meta.at;
                frames.push(frame_of(captured.bytes, &captured.meta));
            }
        });
        if got == 0 && frames.len() < n {
            assert!(wait(reader), "no wake-up, {} of {n} frames", frames.len());
        }
    }
    assert!(last <= dataplane::clock::now());
    frames
}

/// Frames of every shape, right and wrong, from many clients, TCP and UDP.
fn frames() -> Vec<Vec<u8>> {
    let (online, online6) = (v4(PRODUCTION, 80), v6("fd99::2", 80));
    let good = tcp(v4(CLIENT, 40_000), online, &[7; 18]);
    let good6 = tcp(v6("fd99::1", 40_000), online6, &[7; 18]);
    let mut frames: Vec<Vec<u8>> = cases(&good, &good6).into_iter().map(|c| c.1).collect();
    let seeds = seeds(&good, &good6);
    let mut rng = Rng(0x5eed_ac0e_7000_0001);
    frames.extend((0..2000).map(|_| mutated(&mut rng, &seeds)));
    // Longer than an Ethernet header, or the kernel sends it not at all.
    frames.retain(|frame| frame.len() > 14);
    for n in 0..1000u16 {
        let client = v4([10, 98, (n >> 8) as u8, n as u8], 1024 + n);
        frames.push(syn(client, online));
        frames.push(tcp(client, online, &[n as u8; 40]));
        frames.push(tagged(tcp(client, online, b"x"), &[(0x8100, 1 + n % 9)]));
        frames.push(tcp(client, v4(PRODUCTION, 8080), b"to a target"));
        frames.push(tcp(client, v4(PRODUCTION, 81), b"of no transfer"));
        let port = if n % 5 == 0 { 54 } else { 53 };
        frames.push(udp(client, v4(PRODUCTION, port), &n.to_be_bytes()));
    }
    frames
}

/// Both taps with the same configuration: each worker's frames in order, and the counters.
fn compare(pair: &Pair, what: &str, config: &TapConfig<'_>) -> Vec<(TapCounter, u64)> {
    let wire = wire(pair);
    let mut tcx = Tap::attach(&object("tcpcopy-ebpf"), config).unwrap();
    let mut packet = open(config);
    for frame in frames() {
        wire.send(&frame);
    }
    tcx.detach();
    packet.detach();
    let counters = tcx.counters();
    for (left, right) in counters.iter().zip(packet.counters()) {
        assert_eq!(*left, right, "{what}");
    }
    let mut total = 0;
    for worker in 0..config.workers {
        let mut expected = Vec::new();
        let mut reader = tcx.take_reader(worker).unwrap();
        while reader.recv(&mut |batch| {
            expected.extend(batch.iter().map(|c| frame_of(c.bytes, &c.meta)));
        }) > 0
        {}
        let mut reader = packet.take_reader(worker).unwrap();
        let got = receive(&mut reader, expected.len());
        for (n, (want, got)) in expected.iter().zip(&got).enumerate() {
            assert!(
                want == got,
                "{what}, worker {worker}, frame {n}: tcx {:?}{}\npacket socket {:?}{}",
                (want.1, want.2, want.3),
                hexdump(&want.0),
                (got.1, got.2, got.3),
                hexdump(&got.0)
            );
        }
        assert!(!expected.is_empty(), "{what}, worker {worker}: nothing");
        total += expected.len() as u64;
        reader.counters(&mut |name, value| match name {
            "packet_frames" => assert_eq!(value, expected.len() as u64),
            "packet_malformed" | "packet_cut" => assert_eq!(value, 0, "{name}"),
            _ => {}
        });
    }
    assert_eq!(total, count(&counters, TapCounter::Captured), "{what}");
    println!("{what}: {total} frames, the same {counters:?}");
    counters
}

#[test]
fn packet_sockets_take_what_the_tap_takes() {
    privileged();
    let pair = Pair::new(1);
    pair.enter_near();
    let transfers = [
        v4(PRODUCTION, 80),
        v6("fd99::2", 80),
        Endpoint::new(Addr::ANY, 8080),
    ];
    let targets = [v4(PRODUCTION, 8080)];
    let udp = [v4(PRODUCTION, 53)];
    let plain = TapConfig {
        targets: &targets,
        udp: UdpRules {
            transfers: &udp,
            targets: &[],
        },
        ..config(&transfers)
    };
    compare(&pair, "one worker", &plain);
    let three = TapConfig {
        workers: 3,
        ..plain
    };
    let counters = compare(&pair, "three workers", &three);
    for counter in [
        TapCounter::ToTarget,
        TapCounter::Truncated,
        TapCounter::BadIp,
    ] {
        assert!(count(&counters, counter) > 0, "{counter:?}");
    }
    let filter = Filter::compile("(vlan 3 or tcp or udp) and not src net 10.98.1.0/24").unwrap();
    let counters = compare(
        &pair,
        "a filter",
        &TapConfig {
            filter: Some(&filter),
            ..three
        },
    );
    assert!(count(&counters, TapCounter::Filtered) > 0);
    let deny = [Block::new(Addr::v4([10, 98, 2, 0]), 24).unwrap()];
    let counters = compare(
        &pair,
        "a shard, a share, denied clients",
        &TapConfig {
            sessions: Sessions {
                shard: Shard::new(1, 3).unwrap(),
                share: Share::thousandths(60_000),
                deny: Some(&deny),
            },
            ..three
        },
    );
    for counter in [
        TapCounter::Denied,
        TapCounter::OtherShard,
        TapCounter::NotSampled,
    ] {
        assert!(count(&counters, counter) > 0, "{counter:?}");
    }
}

#[test]
fn merged_packets_are_the_same_by_both_ways() {
    privileged();
    let pair = Pair::new(1);
    pair.enter_near();
    let transfers = [v4(PRODUCTION, 80)];
    let config = config(&transfers);
    let mut tcx = Tap::attach(&object("tcpcopy-ebpf"), &config).unwrap();
    let mut packet = open(&config);
    let sent: Vec<u8> = (0..8usize << 20).map(|i| (i ^ (i >> 9)) as u8).collect();
    let listener = TcpListener::bind("10.99.0.2:80").unwrap();
    pair.enter_far();
    let data = sent.clone();
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect("10.99.0.2:80").unwrap();
        stream.write_all(&data).unwrap();
    });
    pair.enter_near();
    let mut received = Vec::new();
    let mut server = listener.accept().unwrap().0;
    server.read_to_end(&mut received).unwrap();
    client.join().unwrap();
    assert!(received == sent, "production received something else");
    tcx.detach();
    packet.detach();
    let captured = count(&tcx.counters(), TapCounter::Captured) as usize;
    let by_tcx = receive(&mut tcx.take_reader(0).unwrap(), captured);
    let by_socket = receive(&mut packet.take_reader(0).unwrap(), captured);
    // The ends of the sender's last packets may come in any order, but here nothing is lost.
    assert!(by_tcx == by_socket, "{captured} packets differ");
    let largest = by_socket.iter().max_by_key(|frame| frame.0.len()).unwrap();
    assert!(
        largest.0.len() > 16_384 && largest.2 > 0,
        "largest {} bytes, segments of {}",
        largest.0.len(),
        largest.2
    );
    assert_eq!(count(&packet.counters(), TapCounter::RingFull), 0);
}

#[test]
fn a_stopped_reader_costs_captures_but_no_production_packet() {
    privileged();
    let pair = Pair::new(1);
    let wire = wire(&pair);
    let transfers = [v4(PRODUCTION, 80)];
    let mut tap = open(&TapConfig {
        ring_bytes_total: 0,
        ..config(&transfers)
    });
    let frame = tcp(v4(CLIENT, 40_000), v4(PRODUCTION, 80), &[7; 1000]);
    let stack = tcp_segments();
    let sent = 20_000;
    for _ in 0..sent {
        wire.send(&frame);
    }
    assert_eq!(tcp_segments() - stack, sent, "production lost packets");
    let counters = tap.counters();
    let (captured, lost) = (
        count(&counters, TapCounter::Captured),
        count(&counters, TapCounter::RingFull),
    );
    assert_eq!(captured + lost, sent);
    assert!(lost > 0, "the ring held everything, the test shows nothing");
    // What is in the ring is what was not lost, and when it is read there is room again.
    let mut reader = tap.take_reader(0).unwrap();
    assert_eq!(
        receive(&mut reader, captured as usize).len() as u64,
        captured
    );
    for _ in 0..10 {
        wire.send(&frame);
    }
    assert_eq!(receive(&mut reader, 10).len(), 10);
    // Nothing comes after the end.
    tap.detach();
    wire.send(&frame);
    assert_eq!(count(&tap.counters(), TapCounter::Captured), captured + 10);
}

#[test]
fn a_sleeping_reader_is_woken_also_after_the_interface_was_down() {
    privileged();
    let pair = Pair::new(1);
    let wire_in = wire(&pair);
    let out = Wire::new("vb");
    let transfers = [v4(PRODUCTION, 80)];
    let mut tap = open(&config(&transfers));
    let mut reader = tap.take_reader(0).unwrap();
    let frame = tcp(v4(CLIENT, 40_000), v4(PRODUCTION, 80), b"x");
    for _ in 0..50 {
        assert!(reader.arm(), "nothing was sent yet");
        thread::scope(|scope| {
            scope.spawn(|| wire_in.send(&frame));
            assert!(wait(&mut reader));
        });
        assert_eq!(receive(&mut reader, 1).len(), 1);
    }
    for state in ["down", "up"] {
        run("ip", &["-n", &pair.near, "link", "set", "vb", state]);
    }
    // The error that it leaves ends no sleep but the first.
    assert!(reader.arm());
    wire_in.send(&frame);
    assert_eq!(receive(&mut reader, 1)[0].0, frame);
    // What this host sends is not captured.
    out.send(&frame);
    wire_in.send(&frame);
    assert_eq!(receive(&mut reader, 1).len(), 1);
    assert_eq!(count(&tap.counters(), TapCounter::Captured), 52);
}

#[test]
fn an_error_is_one_clear_line() {
    privileged();
    let pair = Pair::new(1);
    pair.enter_near();
    let object = object("tcpcopy-ebpf");
    let transfers = [v4(PRODUCTION, 80)];
    let line = |config: TapConfig<'_>| {
        let error = PacketTap::attach(&object, &config)
            .err()
            .unwrap()
            .to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    let unknown = line(TapConfig {
        ifname: "nope0",
        ..config(&transfers)
    });
    assert!(unknown.contains("nope0"), "{unknown}");
    // 16 TiB.
    let much = line(TapConfig {
        ring_bytes_total: 1 << 44,
        ..config(&transfers)
    });
    assert!(
        much.contains("vb") && much.contains("packet socket"),
        "{much}"
    );
}
