//! The tap on a live interface: `va` sends, `vb` is production's.

mod ebpf_support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

use aya::programs::{SchedClassifier, TcAttachType};
use common::abi::TapCounter;
use common::flow::{CaptureMeta, flow_hash, owner};
use common::packet::{Endpoint, TcpFlags, decode_frame};
use dataplane::bpf::{BpfError, Direction, Sessions, Tap, TapConfig, TapReader, UdpRules};
use dataplane::iface::Interface;
use dataplane::{BATCH, Capture};
use ebpf_support::foreign::{Foreign, TCX_DROP, TCX_PASS};
use ebpf_support::frames::*;
use ebpf_support::netns::{Pair, tcp_segments};
use ebpf_support::privileged;
use ebpf_support::programs::object;
use ebpf_support::wire::Wire;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const PRODUCTION: [u8; 4] = [10, 99, 0, 2];
const CLIENT: [u8; 4] = [10, 99, 0, 1];
/// Long enough for any machine, so that a wait that ends is a wake-up.
const PATIENCE: Timespec = Timespec {
    tv_sec: 20,
    tv_nsec: 0,
};

/// Attaches to `vb` in the near namespace, which the calling thread must be in.
fn attach(workers: u32, transfers: &[Endpoint]) -> Tap {
    let config = TapConfig {
        ifname: "vb",
        direction: Direction::In,
        workers,
        transfers,
        targets: &[],
        sessions: Sessions::default(),
        filter: None,
        udp: UdpRules::default(),
        ring_bytes_total: 64 << 20,
        log_packets: false,
    };
    Tap::attach(&object("tcpcopy-ebpf"), &config).unwrap()
}

fn count(tap: &Tap, counter: TapCounter) -> u64 {
    tap.counters()
        .iter()
        .find(|(c, _)| *c == counter)
        .unwrap()
        .1
}

/// Sleeps as a worker does until a frame is there. Panics after [`PATIENCE`].
fn wait(reader: &mut TapReader) {
    if !reader.arm() {
        return;
    }
    let fds = reader.fds();
    let mut polls: Vec<_> = fds
        .iter()
        // SAFETY: the reader keeps its fds open.
        .map(|fd| unsafe { std::os::fd::BorrowedFd::borrow_raw(*fd) })
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    let ready = poll(&mut polls, Some(&PATIENCE)).unwrap();
    assert!(ready > 0, "no wake-up");
}

/// Receives until `n` frames are there.
fn receive(reader: &mut TapReader, n: usize) -> Vec<(Vec<u8>, CaptureMeta)> {
    let mut frames = Vec::new();
    while frames.len() < n {
        let got = reader.recv(&mut |batch| {
            assert!(
                !batch.is_empty() && batch.len() <= BATCH,
                "{} in a batch",
                batch.len()
            );
            frames.extend(batch.iter().map(|c| (c.bytes.to_vec(), c.meta)));
        });
        if got == 0 && frames.len() < n {
            wait(reader);
        }
    }
    frames
}

/// A flow whose sender moves between CPUs, so that its packets lie in several rings.
#[test]
fn a_flow_that_changes_cpus_keeps_its_order() {
    privileged();
    let pair = Pair::new(1);
    let wire = wire(&pair);
    let mut tap = attach(1, &[v4(PRODUCTION, 80)]);
    let mut reader = tap.take_reader(0).unwrap();
    let cpus = dataplane::cores::available();
    let frames = 20_000u32;
    let sender = thread::spawn(move || {
        for n in 0..frames {
            if n % 20 == 0 {
                dataplane::cores::pin(cpus[n as usize / 20 % cpus.len()]).unwrap();
            }
            wire.send(&tcp(
                v4(CLIENT, 40_000),
                v4(PRODUCTION, 80),
                &n.to_be_bytes(),
            ));
        }
    });
    let got = receive(&mut reader, frames as usize);
    sender.join().unwrap();
    for (n, (bytes, _)) in (0..frames).zip(&got) {
        let payload = decode_frame(&bytes[..]).unwrap().tcp.payload;
        assert_eq!(bytes[payload..payload + 4], n.to_be_bytes(), "at {n}");
    }
}

fn wire(pair: &Pair) -> Wire {
    pair.enter_far();
    let wire = Wire::new("va");
    pair.enter_near();
    wire
}

#[test]
fn frames_arrive_whole_in_order_and_go_on_to_the_stack() {
    privileged();
    let pair = Pair::new(1);
    let wire = wire(&pair);
    let mut tap = attach(1, &[v4(PRODUCTION, 80)]);
    let mut reader = tap.take_reader(0).unwrap();
    assert!(tap.take_reader(0).is_none() && tap.take_reader(1).is_none());
    let frames: Vec<_> = (0..1000u32)
        .map(|i| {
            let payload: Vec<u8> = (0..i % 1400).map(|b| (b + i) as u8).collect();
            tcp(v4(CLIENT, 40000), v4(PRODUCTION, 80), &payload)
        })
        .collect();
    let other = tcp(v4(CLIENT, 40000), v4(PRODUCTION, 81), b"not captured");
    let before = dataplane::clock::now();
    for frame in &frames {
        wire.send(frame);
        wire.send(&other);
    }
    let got = receive(&mut reader, frames.len());
    let after = dataplane::clock::now();
    let mut last = before;
    for (frame, (bytes, meta)) in frames.iter().zip(&got) {
        assert!(
            bytes == frame,
            "expected {} bytes, got {}",
            frame.len(),
            bytes.len()
        );
        assert_eq!(meta.frame_len as usize, frame.len());
        assert_eq!((meta.gso_size, meta.vlan_tci), (0, None));
        assert!(
            meta.at >= last && meta.at <= after,
            "{:?} of {last:?}..{after:?}",
            meta.at
        );
        last = meta.at;
    }
    assert_eq!(reader.recv(&mut |_| panic!("more than was sent")), 0);
    assert_eq!(count(&tap, TapCounter::Captured), 1000);
    assert_eq!(count(&tap, TapCounter::RingFull), 0);
    let mut totals = BTreeMap::new();
    reader.counters(&mut |name, value| {
        totals.insert(name, value);
    });
    assert_eq!((totals["tap_frames"], totals["tap_malformed"]), (1000, 0));
}

#[test]
fn truncated_frames_are_counted() {
    privileged();
    let pair = Pair::new(1);
    let wire = wire(&pair);
    let mut tap = attach(1, &[v4(PRODUCTION, 80)]);
    let mut reader = tap.take_reader(0).unwrap();
    let good = tcp(v4(CLIENT, 40000), v4(PRODUCTION, 80), b"x");
    for cut in [20, 30, 34, 49] {
        wire.send(&good[..cut]);
    }
    wire.send(&good);
    assert_eq!(receive(&mut reader, 1)[0].0, good);
    assert_eq!(count(&tap, TapCounter::Truncated), 4);
}

#[test]
fn workers_get_the_flows_that_they_own() {
    privileged();
    let pair = Pair::new(1);
    let wire = wire(&pair);
    let workers = 3;
    let mut tap = attach(workers, &[v4(PRODUCTION, 80)]);
    let mut readers: Vec<_> = (0..workers).map(|w| tap.take_reader(w).unwrap()).collect();
    let mut expected = vec![Vec::new(); workers as usize];
    for port in 20_000..20_300 {
        let client = v4(CLIENT, port);
        wire.send(&tcp(client, v4(PRODUCTION, 80), b"x"));
        expected[owner(flow_hash(client), workers) as usize].push(port);
    }
    for (reader, ports) in readers.iter_mut().zip(expected) {
        assert!(!ports.is_empty());
        let got: Vec<_> = receive(reader, ports.len())
            .iter()
            .map(|(bytes, _)| decode_frame(&bytes[..]).unwrap().tcp.sport)
            .collect();
        assert_eq!(got, ports);
    }
}

#[test]
fn vlan_tags_come_as_metadata() {
    privileged();
    let pair = Pair::new(1);
    let wire = wire(&pair);
    let mut tap = attach(1, &[v4(PRODUCTION, 80)]);
    let mut reader = tap.take_reader(0).unwrap();
    let plain = tcp(v4(CLIENT, 40000), v4(PRODUCTION, 80), b"tagged");
    wire.send(&tagged(plain.clone(), &[(0x8100, 0x6123)]));
    wire.send(&tagged(
        plain.clone(),
        &[(0x88a8, 0x0005), (0x8100, 0x0006)],
    ));
    wire.send(&plain);
    let got = receive(&mut reader, 3);
    // The stack takes the outer tag out of the bytes before tcx (skb_vlan_untag).
    assert_eq!((&got[0].0, got[0].1.vlan_tci), (&plain, Some(0x6123)));
    assert_eq!(got[1].0, tagged(plain.clone(), &[(0x8100, 0x0006)]));
    assert_eq!(got[1].1.vlan_tci, Some(5));
    assert_eq!((&got[2].0, got[2].1.vlan_tci), (&plain, None));
}

#[test]
fn a_sleeping_reader_is_woken_once() {
    privileged();
    let pair = Pair::new(1);
    let wire = wire(&pair);
    let mut tap = attach(1, &[v4(PRODUCTION, 80)]);
    let mut reader = tap.take_reader(0).unwrap();
    let frame = tcp(v4(CLIENT, 40000), v4(PRODUCTION, 80), b"x");
    for _ in 0..200 {
        assert!(reader.arm(), "nothing was sent yet");
        let sender = thread::scope(|scope| {
            let sender = scope.spawn(|| wire.send(&frame));
            wait(&mut reader);
            sender.join()
        });
        sender.unwrap();
        assert_eq!(receive(&mut reader, 1).len(), 1);
    }
    wire.send(&frame);
    assert!(!reader.arm(), "a frame was waiting");
    assert_eq!(receive(&mut reader, 1).len(), 1);
}

/// Sends `len` bytes over a real TCP connection to `address` and returns what the tap saw.
fn bulk(pair: &Pair, address: &'static str, online: Endpoint, len: usize) -> Bulk {
    let mut tap = attach(1, &[online]);
    let mut reader = tap.take_reader(0).unwrap();
    let listener = TcpListener::bind(address).unwrap();
    let server = thread::spawn(move || {
        let mut received = Vec::new();
        listener
            .accept()
            .unwrap()
            .0
            .read_to_end(&mut received)
            .unwrap();
        received
    });
    let sent: Vec<u8> = (0..len).map(|i| (i ^ (i >> 9)) as u8).collect();
    pair.enter_far();
    let data = sent.clone();
    let client = thread::spawn(move || {
        TcpStream::connect(address)
            .unwrap()
            .write_all(&data)
            .unwrap();
    });
    pair.enter_near();

    let mut seen = Bulk::default();
    let mut first = None;
    let mut stream = vec![0; len];
    let mut have = 0;
    while have < len {
        let got = reader.recv(&mut |batch| {
            for captured in batch {
                let p = decode_frame(captured.bytes).unwrap();
                if p.tcp.flags.has(TcpFlags::SYN) {
                    first = Some(p.tcp.seq + 1);
                    continue;
                }
                let payload = &captured.bytes[p.tcp.payload..];
                assert_eq!(
                    p.payload_len(captured.meta.frame_len as usize),
                    payload.len(),
                    "frame of {} bytes",
                    captured.meta.frame_len
                );
                seen.largest = seen.largest.max(captured.bytes.len());
                if captured.bytes.len() > 1514 {
                    assert!(captured.meta.gso_size > 0, "merged without gso_size");
                }
                let at = p.tcp.seq.since(first.expect("SYN before data"));
                if at >= 0 && !payload.is_empty() {
                    let at = at as usize;
                    stream[at..at + payload.len()].copy_from_slice(payload);
                    // The connection loses nothing here, so data comes in order.
                    have = have.max(at + payload.len());
                }
            }
        });
        if got == 0 {
            wait(&mut reader);
        }
    }
    client.join().unwrap();
    assert!(
        server.join().unwrap() == sent,
        "production received something else"
    );
    assert!(stream == sent, "the tap saw something else");
    assert_eq!(count(&tap, TapCounter::RingFull), 0);
    assert_eq!(count(&tap, TapCounter::TooLarge), 0);
    reader.counters(&mut |name, value| match name {
        "tap_large_packets" => seen.large_packets = value,
        "tap_incomplete" | "tap_malformed" => assert_eq!(value, 0, "{name}"),
        _ => {}
    });
    seen
}

#[derive(Default)]
struct Bulk {
    largest: usize,
    large_packets: u64,
}

#[test]
fn merged_packets_arrive_whole() {
    privileged();
    let pair = Pair::new(1);
    pair.enter_near();
    let seen = bulk(&pair, "10.99.0.2:80", v4(PRODUCTION, 80), 16 << 20);
    println!("largest frame: {} bytes", seen.largest);
    assert!(
        seen.largest > 16_384,
        "largest frame {}, expected GSO packets",
        seen.largest
    );
}

#[test]
fn packets_in_several_records_arrive_whole() {
    privileged();
    let pair = Pair::new(1);
    for (ns, dev, address) in [
        (&pair.far, "va", "fd99::1/64"),
        (&pair.near, "vb", "fd99::2/64"),
    ] {
        ebpf_support::netns::run(
            "ip",
            &[
                "netns",
                "exec",
                ns,
                "sysctl",
                "-qw",
                "net.ipv6.conf.all.disable_ipv6=0",
            ],
        );
        ebpf_support::netns::run(
            "ip",
            &["-n", ns, "addr", "add", address, "dev", dev, "nodad"],
        );
        // BIG TCP: beyond what a 16-bit length can say.
        ebpf_support::netns::run(
            "ip",
            &[
                "-n",
                ns,
                "link",
                "set",
                dev,
                "gso_max_size",
                "500000",
                "gro_max_size",
                "500000",
            ],
        );
    }
    pair.enter_near();
    let seen = bulk(&pair, "[fd99::2]:80", v6("fd99::2", 80), 64 << 20);
    println!(
        "largest frame: {} bytes, {} in several records",
        seen.largest, seen.large_packets
    );
    assert!(
        seen.large_packets > 0,
        "largest frame {}, expected BIG TCP",
        seen.largest
    );
}

#[test]
fn foreign_tcx_programs_run_behind_ours() {
    privileged();
    let pair = Pair::new(1);
    let wire = wire(&pair);
    let index = Interface::by_name("vb").unwrap().index;
    let frame = tcp(v4(CLIENT, 40000), v4(PRODUCTION, 80), b"x");

    // There first, and it ends the chain: ours still comes before it.
    let passing = Foreign::tcx(index, TCX_PASS);
    let mut tap = attach(1, &[v4(PRODUCTION, 80)]);
    let mut reader = tap.take_reader(0).unwrap();
    let order = || -> Vec<u32> {
        let (_, programs) = SchedClassifier::query_tcx("vb", TcAttachType::Ingress).unwrap();
        programs
            .iter()
            .map(aya::programs::ProgramInfo::id)
            .collect()
    };
    assert_eq!(order().len(), 2);
    assert_eq!(
        order()[1],
        passing.id,
        "the foreign program is not behind ours"
    );
    wire.send(&frame);
    assert_eq!(receive(&mut reader, 1)[0].0, frame);
    let stack = tcp_segments();
    wire.send(&frame);
    assert_eq!(receive(&mut reader, 1).len(), 1);
    assert_eq!(
        tcp_segments(),
        stack + 1,
        "the stack did not get the packet"
    );
    drop(passing);

    // Attached later, at the end: ours sees what it drops, the stack does not.
    let dropping = Foreign::tcx(index, TCX_DROP);
    assert_eq!(order()[1], dropping.id);
    let stack = tcp_segments();
    wire.send(&frame);
    assert_eq!(receive(&mut reader, 1)[0].0, frame);
    assert_eq!(tcp_segments(), stack, "the foreign program did not run");
    drop(dropping);

    // Gone with the value; what was captured stays readable.
    wire.send(&frame);
    drop(tap);
    assert_eq!(order(), [] as [u32; 0]);
    assert_eq!(receive(&mut reader, 1)[0].0, frame);
    wire.send(&frame);
    assert_eq!(
        reader.recv(&mut |_| panic!("captured after the tap was dropped")),
        0
    );
}

#[test]
fn a_stopped_reader_costs_captures_but_no_production_packet() {
    privileged();
    let pair = Pair::new(1);
    let wire = wire(&pair);
    let config = TapConfig {
        ifname: "vb",
        direction: Direction::In,
        workers: 1,
        transfers: &[v4(PRODUCTION, 80)],
        targets: &[],
        sessions: Sessions::default(),
        filter: None,
        udp: UdpRules::default(),
        ring_bytes_total: 1 << 20,
        log_packets: false,
    };
    let tap = Tap::attach(&object("tcpcopy-ebpf"), &config).unwrap();
    let frame = tcp(v4(CLIENT, 40000), v4(PRODUCTION, 80), b"x");
    let stack = tcp_segments();
    let sent = 20_000;
    for _ in 0..sent {
        wire.send(&frame);
    }
    assert_eq!(tcp_segments() - stack, sent, "production lost packets");
    let (captured, lost) = (
        count(&tap, TapCounter::Captured),
        count(&tap, TapCounter::RingFull),
    );
    assert_eq!(captured + lost, sent);
    assert!(lost > 0, "the ring held everything, the test shows nothing");
}

#[test]
fn errors_are_one_clear_line() {
    privileged();
    let pair = Pair::new(1);
    pair.enter_near();
    let object = object("tcpcopy-ebpf");
    let config = TapConfig {
        ifname: "vb",
        direction: Direction::In,
        workers: 1,
        transfers: &[v4(PRODUCTION, 80)],
        targets: &[],
        sessions: Sessions::default(),
        filter: None,
        udp: UdpRules::default(),
        ring_bytes_total: 1 << 20,
        log_packets: false,
    };
    let line = |result: Result<Tap, BpfError>| {
        let error = result.err().expect("an error").to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    let unknown = line(Tap::attach(
        &object,
        &TapConfig {
            ifname: "nope0",
            ..config
        },
    ));
    assert!(
        unknown.contains("nope0") && unknown.contains("vb"),
        "{unknown}"
    );
    let garbage = line(Tap::attach(b"no object", &config));
    assert!(garbage.contains("build-ebpf"), "{garbage}");
    let many: Vec<_> = (0..70_000u32)
        .map(|i| {
            let [a, b, c, d] = i.to_be_bytes();
            v4([10 + a, b, c, d], 80)
        })
        .collect();
    let many = line(Tap::attach(
        &object,
        &TapConfig {
            transfers: &many,
            ..config
        },
    ));
    assert!(many.contains("70000") && many.contains("65536"), "{many}");

    // Capabilities are a thread's own.
    let (tx, rx) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let none = rustix::thread::CapabilitySets {
                effective: rustix::thread::CapabilitySet::empty(),
                permitted: rustix::thread::CapabilitySet::empty(),
                inheritable: rustix::thread::CapabilitySet::empty(),
            };
            rustix::thread::set_capabilities(None, none).unwrap();
            tx.send(line(Tap::attach(&object, &config))).unwrap();
        });
    });
    let denied = rx.recv().unwrap();
    assert!(
        denied.contains("root") && denied.contains("CAP_BPF"),
        "{denied}"
    );
}
