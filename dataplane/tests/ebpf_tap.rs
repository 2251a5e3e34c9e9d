//! The program `tap`, run on single packets: what it captures, what it counts, that it always passes
//! the packet on.

mod ebpf_support;

use std::sync::atomic::Ordering;

use common::abi::{
    RECORD_LAST_START, RING_BLOCK_BYTES, RING_WARM_BLOCKS, RingHead, TAP_COUNTERS, TapCounter,
    config_flags, record_bytes,
};
use common::packet::{Addr, DecodeError, Endpoint, decode_frame};
use ebpf_support::cases::{cases, seeds};
use ebpf_support::frames::*;
use ebpf_support::programs::*;
use ebpf_support::{Rng, hexdump, privileged};

const CLIENT: [u8; 4] = [10, 77, 2, 1];
const ONLINE: [u8; 4] = [10, 77, 0, 20];
const TARGET: [u8; 4] = [10, 77, 0, 30];

struct Rules {
    transfers: Vec<Endpoint>,
    targets: Vec<Endpoint>,
}

/// An exact transfer, an exact IPv6 transfer, a port on any address, and their target, which the last
/// would cover.
fn rules() -> Rules {
    Rules {
        transfers: vec![
            v4(ONLINE, 80),
            v6("2001:db8::20", 80),
            Endpoint::new(Addr::ANY, 8080),
        ],
        targets: vec![v4(TARGET, 8080)],
    }
}

fn load(rules: &Rules, flags: u32) -> Loaded {
    load_with(rules, flags, true)
}

/// With or without the IPv4 transfers as constants.
fn load_with(rules: &Rules, flags: u32, few: bool) -> Loaded {
    let mut loaded = Loaded::new(&Setup {
        object: "tcpcopy-ebpf",
        flags,
        few,
        maps: &[("TRANSFERS", &rules.transfers), ("TARGETS", &rules.targets)],
        ring_bytes: 4 << 20,
        ..Setup::default()
    });
    loaded.classifier("tap");
    loaded
}

/// The one counter that a packet moves, by the slice decoder and plain list look-ups.
fn expected(rules: &Rules, frame: &[u8]) -> Option<TapCounter> {
    match decode_frame(frame) {
        Ok(packet) => {
            let hit = |list: &[Endpoint]| {
                list.iter().any(|e| {
                    e.port == packet.tcp.dport && (e.addr == packet.ip.dst || e.addr.is_any())
                })
            };
            hit(&rules.transfers).then(|| {
                if hit(&rules.targets) {
                    TapCounter::ToTarget
                } else {
                    TapCounter::Captured
                }
            })
        }
        Err(error) => counter_of(error),
    }
}

fn counter_of(error: DecodeError) -> Option<TapCounter> {
    match error {
        DecodeError::Truncated => Some(TapCounter::Truncated),
        DecodeError::BadIp => Some(TapCounter::BadIp),
        DecodeError::Fragment => Some(TapCounter::Fragment),
        DecodeError::BadTcp => Some(TapCounter::BadTcp),
        DecodeError::BadUdp => Some(TapCounter::BadUdp),
        DecodeError::NotIp | DecodeError::NotTcp => None,
    }
}

/// Runs one frame and checks verdict, bytes, counters and record. False if the kernel refused to make
/// a packet of it.
fn check(tap: &mut Loaded, name: &str, frame: &[u8], expect: Option<TapCounter>) -> bool {
    let before = tap.counters(TAP_COUNTERS);
    let Some(output) = tap.run("tap", frame) else {
        return false;
    };
    let after = tap.counters(TAP_COUNTERS);
    let moved: Vec<_> = TapCounter::ALL
        .iter()
        .filter(|c| after[c.index() as usize] != before[c.index() as usize])
        .map(|c| (*c, after[c.index() as usize] - before[c.index() as usize]))
        .collect();
    let want: Vec<_> = expect.map(|c| (c, 1)).into_iter().collect();
    assert!(
        output.verdict == TCX_NEXT && moved == want,
        "{name}: expected verdict {TCX_NEXT:#x} and counters {want:?}, got {:#x} and {moved:?} for{}",
        output.verdict,
        hexdump(frame)
    );
    assert!(
        output.bytes == frame,
        "{name}: the packet was changed, expected{}\ngot{}",
        hexdump(frame),
        hexdump(&output.bytes)
    );
    let records = tap.records();
    if expect == Some(TapCounter::Captured) {
        let whole: Vec<u8> = records
            .iter()
            .flat_map(|(_, bytes)| bytes.clone())
            .collect();
        assert!(
            whole == frame,
            "{name}: expected a record with{}\ngot{}",
            hexdump(frame),
            hexdump(&whole)
        );
        let mut offset = 0;
        for (header, bytes) in records {
            assert_eq!(header.offset, offset, "{name}");
            assert_eq!(header.frame_len as usize, frame.len(), "{name}");
            assert!(header.captured_ns > 0, "{name}");
            assert_eq!(
                (header.gso_size, header.flags, header.reserved),
                (0, 0, 0),
                "{name}"
            );
            offset += bytes.len() as u32;
        }
    } else {
        assert!(
            records.is_empty(),
            "{name}: {} records, expected none",
            records.len()
        );
    }
    true
}

#[test]
fn table() {
    privileged();
    let (client, online) = (v4(CLIENT, 40000), v4(ONLINE, 80));
    let client6 = v6("2001:db8::1", 40000);
    let online6 = v6("2001:db8::20", 80);
    let good = tcp(client, online, b"GET / HTTP/1.1\r\n\r\n");
    let good6 = tcp(client6, online6, b"GET / HTTP/1.1\r\n\r\n");
    let any = |dst| tcp(client, dst, b"x");
    let mut table: Vec<_> = cases(&good, &good6)
        .into_iter()
        .map(|(name, frame, decoded)| {
            (
                name,
                frame,
                decoded.map_or_else(counter_of, |()| Some(TapCounter::Captured)),
            )
        })
        .collect();
    table.extend([
        (
            "timestamps",
            tcp_timestamps(client, online, b"x"),
            Some(TapCounter::Captured),
        ),
        (
            "port on any address",
            any(v4([192, 0, 2, 7], 8080)),
            Some(TapCounter::Captured),
        ),
        (
            "port on any address, IPv6",
            tcp(client6, v6("2001:db8::9", 8080), b"x"),
            Some(TapCounter::Captured),
        ),
        ("other port", any(v4(ONLINE, 81)), None),
        ("other address", any(v4([10, 77, 0, 21], 80)), None),
        (
            "other address, IPv6",
            tcp(client6, v6("2001:db8::21", 80), b"x"),
            None,
        ),
        ("response of production", tcp(online, client, b"x"), None),
        (
            "to the target",
            any(v4(TARGET, 8080)),
            Some(TapCounter::ToTarget),
        ),
        ("to another port of the target", any(v4(TARGET, 80)), None),
    ]);
    let rules = rules();
    for flags in [0, config_flags::LOG_PACKETS] {
        let mut tap = load(&rules, flags);
        let mut refused = Vec::new();
        for (name, frame, expect) in &table {
            assert_eq!(
                expected(&rules, frame),
                *expect,
                "{name}: the slice decoder disagrees"
            );
            if !check(&mut tap, name, frame, *expect) {
                refused.push(*name);
            }
        }
        // net/bpf/test_run.c makes no skb without a whole IP header; ebpf_tap_reader.rs sends such
        // frames over an interface.
        assert_eq!(
            refused,
            ["cut in the IPv4 header", "cut in the IPv6 header"]
        );
    }
}

#[test]
fn without_wildcards_only_exact_endpoints_match() {
    privileged();
    let rules = Rules {
        transfers: vec![v4(ONLINE, 80)],
        targets: vec![v4(TARGET, 80)],
    };
    let mut tap = load(&rules, 0);
    let client = v4(CLIENT, 40000);
    for (name, dst, expect) in [
        ("exact", v4(ONLINE, 80), Some(TapCounter::Captured)),
        ("other", v4([10, 77, 0, 21], 80), None),
        ("target, of no transfer", v4(TARGET, 80), None),
    ] {
        assert!(check(&mut tap, name, &tcp(client, dst, b"x"), expect));
    }
}

#[test]
fn every_destination_port() {
    privileged();
    let rules = rules();
    let mut tap = load(&rules, 0);
    for port in 0..=u16::MAX {
        for (addr, name) in [(ONLINE, "online"), (TARGET, "target")] {
            let frame = tcp(v4(CLIENT, 40000), v4(addr, port), b"");
            let expect = match (addr == TARGET, port) {
                (false, 80 | 8080) => Some(TapCounter::Captured),
                (true, 8080) => Some(TapCounter::ToTarget),
                _ => None,
            };
            assert!(check(
                &mut tap,
                &format!("{name} port {port}"),
                &frame,
                expect
            ));
        }
    }
}

#[test]
fn every_ethertype() {
    privileged();
    let rules = rules();
    let mut tap = load(&rules, 0);
    let good = tcp(v4(CLIENT, 40000), v4(ONLINE, 80), b"x");
    for ethertype in 0..=u16::MAX {
        let frame = changed_u16(&good, 12, ethertype);
        // Behind a tag the next two bytes, 0x4500 of the IPv4 header, would be the ethertype.
        let expect = match ethertype {
            0x0800 | 0x86dd => Some(TapCounter::Captured),
            _ => None,
        };
        check(
            &mut tap,
            &format!("ethertype {ethertype:#06x}"),
            &frame,
            expect,
        );
    }
}

#[test]
fn random_packets_as_the_slice_decoder_sees_them() {
    privileged();
    let rules = rules();
    let mut taps = [true, false].map(|few| load_with(&rules, 0, few));
    let (client, online) = (v4(CLIENT, 40000), v4(ONLINE, 80));
    let mut seeds = seeds(
        &tcp(client, online, b"GET / HTTP/1.1\r\n\r\n"),
        &tcp(v6("2001:db8::1", 40000), v6("2001:db8::20", 80), b"hello"),
    );
    seeds.push(tcp(client, v4(TARGET, 8080), b"x"));
    seeds.push(tcp_timestamps(client, online, &[9; 300]));
    let mut rng = Rng(0x1234_5678_9abc_def1);
    let (mut ran, mut captured) = (0, 0);
    for round in 0..40_000 {
        let frame = mutated(&mut rng, &seeds);
        let expect = expected(&rules, &frame);
        let tap = &mut taps[round % 2];
        if check(tap, &format!("round {round}"), &frame, expect) {
            ran += 1;
            captured += usize::from(expect == Some(TapCounter::Captured));
        }
    }
    println!("{ran} of 40000 packets ran, {captured} were captured");
    assert!(
        ran > 30_000 && captured > 5_000,
        "{ran} ran, {captured} captured"
    );
}

#[test]
fn records_of_every_length_around_a_cache_line() {
    privileged();
    let rules = rules();
    let mut tap = load(&rules, 0);
    let shortest = HEADERS_V4 + 1;
    // A test run makes an skb of one page at most; larger ones come over a real interface in
    // ebpf_tap_reader.rs.
    for len in (shortest..shortest + 130).chain([1514, 1537, 3000]) {
        let frame = frame(len);
        assert_eq!(frame.len(), len);
        assert!(check(
            &mut tap,
            &format!("{len} bytes"),
            &frame,
            Some(TapCounter::Captured)
        ));
    }
}

/// A frame of the transfer.
fn frame(len: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..len - HEADERS_V4).map(|i| i as u8).collect();
    tcp(v4(CLIENT, 40000), v4(ONLINE, 80), &payload)
}

/// A tap with a ring of `blocks`.
fn with_ring(blocks: u64) -> Loaded {
    let rules = rules();
    let mut tap = Loaded::new(&Setup {
        object: "tcpcopy-ebpf",
        flags: config_flags::STORES_IN_ORDER,
        maps: &[("TRANSFERS", &rules.transfers), ("TARGETS", &rules.targets)],
        ring_bytes: (blocks * RING_BLOCK_BYTES) as u32,
        ..Setup::default()
    });
    tap.classifier("tap");
    tap
}

/// Records of frames of `len` bytes that a block holds.
fn room(len: usize) -> u64 {
    RECORD_LAST_START / record_bytes(len as u64) + 1
}

#[test]
fn a_full_ring_is_counted_and_passes() {
    privileged();
    let mut tap = with_ring(2);
    let frame = frame(1500);
    let both = 2 * room(frame.len());
    let lost = 5;
    for _ in 0..both + lost {
        assert_eq!(tap.run("tap", &frame).unwrap().verdict, TCX_NEXT);
    }
    let counted =
        |tap: &Loaded| [TapCounter::Captured, TapCounter::RingFull].map(|c| tap.counter(c.index()));
    assert_eq!(counted(&tap), [both, lost]);
    // A block is free again when the reader has left it, and not before.
    tap.ring().take_some(room(frame.len()) as usize);
    tap.run("tap", &frame);
    assert_eq!(counted(&tap), [both, lost + 1]);
    tap.ring().take_some(1);
    for _ in 0..room(frame.len()) + lost {
        tap.run("tap", &frame);
    }
    assert_eq!(
        counted(&tap),
        [both + room(frame.len()), lost + 1 + lost],
        "one block was given back"
    );
    let records = tap.records();
    assert_eq!(records.len() as u64, 2 * room(frame.len()) - 1);
    assert!(records.iter().all(|(_, bytes)| *bytes == frame));
}

#[test]
fn a_ring_that_is_being_written_to_is_left_alone() {
    privileged();
    let mut tap = with_ring(2);
    let frame = frame(100);
    tap.run("tap", &frame);
    let marked = tap
        .ring()
        .written()
        .fetch_or(RingHead::WRITING, Ordering::SeqCst);
    tap.run("tap", &frame);
    assert_eq!(
        tap.ring().written().load(Ordering::SeqCst),
        marked | RingHead::WRITING
    );
    assert_eq!(tap.counter(TapCounter::RingFull.index()), 1);
    tap.ring().written().store(marked, Ordering::SeqCst);
    tap.run("tap", &frame);
    assert_eq!(tap.records().len(), 2);
}

/// All CPUs share the ring here, which CPUs that come up late do, and a preempted program of PREEMPT_RT.
#[test]
fn several_writers_keep_out_of_each_others_way() {
    const RUNS: u64 = 20_000;
    privileged();
    let tap = with_ring(256);
    let frames = [frame(200), frame(1400)];
    std::thread::scope(|scope| {
        for frame in &frames {
            let tap = &tap;
            scope.spawn(move || {
                for _ in 0..RUNS / 500 {
                    tap.nanoseconds("tap", frame, 500);
                }
            });
        }
    });
    let mut tap = tap;
    let captured = tap.counter(TapCounter::Captured.index());
    let lost = tap.counter(TapCounter::RingFull.index());
    println!("{captured} captured, {lost} left out by the one who came second");
    assert_eq!(captured + lost, 2 * RUNS);
    let records = tap.records();
    assert_eq!(records.len() as u64, captured);
    let mut last = 0;
    for (header, bytes) in records {
        assert!(frames.contains(&bytes), "{} bytes", bytes.len());
        assert!(
            header.captured_ns >= last,
            "captured before its predecessor"
        );
        last = header.captured_ns;
    }
}

#[test]
fn a_ring_goes_round_in_few_blocks_unless_the_reader_is_late() {
    privileged();
    let blocks = 2 * RING_WARM_BLOCKS;
    let mut tap = with_ring(blocks);
    let frame = frame(3000);
    let a_block = room(frame.len());
    let mut sent = 0;
    let mut send = |tap: &Loaded, n: u64| {
        for _ in 0..n {
            tap.run("tap", &frame);
        }
        sent += n;
        assert_eq!(tap.counter(TapCounter::Captured.index()), sent);
    };
    let in_time = |tap: &mut Loaded, send: &mut dyn FnMut(&Loaded, u64)| {
        let mut used = std::collections::BTreeSet::new();
        for _ in 0..2 * RING_WARM_BLOCKS {
            send(tap, a_block);
            assert_eq!(tap.records().len() as u64, a_block);
            used.insert(tap.ring().block());
        }
        used.len() as u64
    };
    assert_eq!(in_time(&mut tap, &mut send), RING_WARM_BLOCKS);
    // Late: everything fits but the block that the reader has not left.
    for _ in 0..3 {
        send(&tap, (blocks - 1) * a_block);
        let records = tap.records();
        assert_eq!(records.len() as u64, (blocks - 1) * a_block);
        assert!(records.iter().all(|(_, bytes)| *bytes == frame));
        assert!(records.is_sorted_by_key(|(header, _)| header.captured_ns));
    }
    // The chain becomes shorter again.
    in_time(&mut tap, &mut send);
    assert_eq!(in_time(&mut tap, &mut send), RING_WARM_BLOCKS);
    assert_eq!(tap.counter(TapCounter::RingFull.index()), 0);
}

#[test]
fn the_sleep_flag_is_taken_once() {
    privileged();
    let mut tap = load(&rules(), 0);
    let frame = tcp(v4(CLIENT, 40000), v4(ONLINE, 80), b"x");
    tap.sleep_flag()
        .set(0, [1, 0, 0, 0, 0, 0, 0, 0], 0)
        .unwrap();
    assert!(
        tap.run("tap", &tcp(v4(CLIENT, 1), v4(ONLINE, 81), b""))
            .is_some()
    );
    assert_eq!(
        tap.sleep_flag().get(&0, 0).unwrap()[0],
        1,
        "taken by a packet that does not match"
    );
    assert!(tap.run("tap", &frame).is_some());
    assert_eq!(
        tap.sleep_flag().get(&0, 0).unwrap()[0],
        0,
        "not taken by a captured packet"
    );
}

#[test]
fn cost() {
    privileged();
    let rules = Rules {
        transfers: vec![v4(ONLINE, 80)],
        targets: vec![v4(TARGET, 8080)],
    };
    let mut tap = load(&rules, 0);
    let miss = tcp(v4(CLIENT, 40000), v4(ONLINE, 81), b"");
    let neighbour = tcp(v4(CLIENT, 40000), v4([10, 77, 0, 21], 80), b"");
    let udp = changed(&miss, 23, 17);
    let hit = tcp(v4(CLIENT, 40000), v4(ONLINE, 80), &[7; 1400]);
    // Rounds that fit the ring, emptied in between: a full ring would measure the loss, a fresh one
    // the cache misses of memory that was never touched.
    let best = |tap: &mut Loaded, frame: &[u8]| {
        (0..50)
            .map(|_| {
                let nanoseconds = tap.nanoseconds("tap", frame, 500);
                assert_eq!(tap.records().len(), 500);
                nanoseconds
            })
            .min()
            .unwrap()
    };
    let ack = tcp(v4(CLIENT, 40000), v4(ONLINE, 80), b"");
    let mut any = load(
        &Rules {
            transfers: vec![Endpoint::new(Addr::ANY, 80)],
            ..rules
        },
        0,
    );
    println!(
        "tap: any address, match of 54 bytes {} ns",
        best(&mut any, &ack)
    );
    let (ack, large) = (best(&mut tap, &ack), best(&mut tap, &hit));
    println!(
        "tap: not TCP {} ns, other port {} ns, other address {} ns, match of 54 bytes {ack} ns, of 1454 bytes {large} ns",
        tap.nanoseconds("tap", &udp, 1_000_000),
        tap.nanoseconds("tap", &miss, 1_000_000),
        tap.nanoseconds("tap", &neighbour, 1_000_000),
    );
    assert_eq!(
        tap.counter(TapCounter::RingFull.index()),
        0,
        "measured a full ring"
    );
}
