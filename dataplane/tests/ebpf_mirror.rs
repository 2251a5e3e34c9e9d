//! The program `mirror`, run on single packets: what goes to AF_XDP, with which metadata, and that
//! everything else is passed untouched.

mod ebpf_support;

use common::abi::{STAMP_EVERY, STAMPED_PER_TICK, TAP_COUNTERS, TapCounter, XdpMeta, config_flags};
use common::packet::{Addr, DecodeError, Endpoint, decode_frame};
use ebpf_support::cases::{cases, seeds};
use ebpf_support::frames::*;
use ebpf_support::programs::*;
use ebpf_support::sink::sink;
use ebpf_support::{Rng, hexdump, privileged};

const CLIENT: [u8; 4] = [10, 77, 2, 1];
const ONLINE: [u8; 4] = [10, 77, 0, 20];
const TARGET: [u8; 4] = [10, 77, 0, 30];

fn transfers() -> Vec<Endpoint> {
    vec![
        v4(ONLINE, 80),
        v6("2001:db8::20", 80),
        Endpoint::new(Addr::ANY, 8080),
    ]
}

fn load(flags: u32) -> Loaded {
    load_with(flags, true)
}

/// With or without the IPv4 transfers as constants.
fn load_with(flags: u32, few: bool) -> Loaded {
    let mut loaded = Loaded::new(&Setup {
        object: "tcpcopy-ebpf",
        flags,
        few,
        maps: &[
            ("TRANSFERS", &transfers()),
            ("TARGETS", &[v4(TARGET, 8080)]),
        ],
        ..Setup::default()
    });
    loaded.xdp("mirror");
    loaded
}

/// Verdict and counter of a packet, given that queue 0 has a socket or not.
fn expected(frame: &[u8], socket: bool) -> (u32, Option<TapCounter>) {
    let counter = match decode_frame(frame) {
        Ok(packet) => {
            let dst = Endpoint::new(packet.ip.dst, packet.tcp.dport);
            if dst == v4(TARGET, 8080) {
                Some(TapCounter::ToTarget)
            } else if transfers().contains(&dst) || dst.port == 8080 {
                if socket {
                    return (XDP_REDIRECT, Some(TapCounter::Captured));
                }
                Some(TapCounter::RedirectFailed)
            } else {
                None
            }
        }
        Err(DecodeError::Truncated) => Some(TapCounter::Truncated),
        Err(DecodeError::BadIp) => Some(TapCounter::BadIp),
        Err(DecodeError::Fragment) => Some(TapCounter::Fragment),
        Err(DecodeError::BadTcp) => Some(TapCounter::BadTcp),
        Err(DecodeError::BadUdp) => Some(TapCounter::BadUdp),
        Err(DecodeError::NotIp | DecodeError::NotTcp) => None,
    };
    (XDP_PASS, counter)
}

/// True if the packet carries the time, which of many in a short time not each does.
fn check(
    mirror: &Loaded,
    name: &str,
    frame: &[u8],
    expect: (u32, Option<TapCounter>),
    meta: bool,
) -> bool {
    let before = mirror.counters(TAP_COUNTERS);
    let output = mirror
        .run("mirror", frame)
        .unwrap_or_else(|| panic!("{name}: the kernel refused{}", hexdump(frame)));
    let after = mirror.counters(TAP_COUNTERS);
    let moved: Vec<_> = TapCounter::ALL
        .iter()
        .filter(|c| after[c.index() as usize] != before[c.index() as usize])
        .map(|c| (*c, after[c.index() as usize] - before[c.index() as usize]))
        .collect();
    let (verdict, counter) = expect;
    let want: Vec<_> = counter.map(|c| (c, 1)).into_iter().collect();
    assert!(
        output.verdict == verdict && moved == want,
        "{name}: expected verdict {verdict} and counters {want:?}, got {} and {moved:?} for{}",
        output.verdict,
        hexdump(frame)
    );
    let mut bytes = output.bytes.as_slice();
    let stamped = verdict == XDP_REDIRECT && meta && bytes.len() != frame.len();
    if stamped {
        let (head, rest) = bytes.split_at(size_of::<XdpMeta>());
        let head: XdpMeta = bytemuck::pod_read_unaligned(head);
        assert_eq!(
            (head.cookie, head.frame_len as usize),
            // Nothing is trimmed.
            (COOKIE, 0),
            "{name}"
        );
        assert!(head.captured_ns > 0, "{name}");
        bytes = rest;
    }
    assert!(
        bytes == frame,
        "{name}: the packet was changed, expected{}\ngot{}",
        hexdump(frame),
        hexdump(bytes)
    );
    stamped
}

fn table_frames() -> Vec<(&'static str, Vec<u8>)> {
    let (client, client6) = (v4(CLIENT, 40000), v6("2001:db8::1", 40000));
    let text = b"GET / HTTP/1.1\r\n\r\n";
    let good = tcp(client, v4(ONLINE, 80), text);
    let good6 = tcp(client6, v6("2001:db8::20", 80), text);
    let mut frames = Vec::new();
    for (name, frame, decoded) in cases(&good, &good6) {
        assert_eq!(
            decode_frame(&frame[..]).map(|_| ()),
            decoded,
            "{name}: the slice decoder"
        );
        frames.push((name, frame));
    }
    frames.extend([
        ("timestamps", tcp_timestamps(client, v4(ONLINE, 80), b"x")),
        (
            "port on any address",
            tcp(client, v4([192, 0, 2, 7], 8080), b"x"),
        ),
        (
            "port on any address, IPv6",
            tcp(client6, v6("2001:db8::9", 8080), b"x"),
        ),
        ("other port", tcp(client, v4(ONLINE, 81), b"x")),
        ("other address", tcp(client, v4([10, 77, 0, 21], 80), b"x")),
        ("response of production", tcp(v4(ONLINE, 80), client, b"x")),
        ("to the target", tcp(client, v4(TARGET, 8080), b"x")),
        (
            "to another port of the target",
            tcp(client, v4(TARGET, 80), b"x"),
        ),
    ]);
    frames
}

#[test]
fn table_without_a_socket() {
    privileged();
    for flags in [0, config_flags::XDP_META, config_flags::LOG_PACKETS] {
        let mirror = load(flags);
        for (name, frame) in table_frames() {
            check(&mirror, name, &frame, expected(&frame, false), false);
        }
    }
}

#[test]
fn table_with_a_socket() {
    privileged();
    for (flags, few) in [
        (0, true),
        (config_flags::XDP_META, true),
        (config_flags::XDP_META, false),
        (config_flags::XDP_META | config_flags::LOG_PACKETS, true),
    ] {
        let mut mirror = load_with(flags, few);
        let _sink = sink(&mut mirror);
        let meta = flags & config_flags::XDP_META != 0;
        let mut captured = 0;
        for (name, frame) in table_frames() {
            let expect = expected(&frame, true);
            captured += u32::from(expect.0 == XDP_REDIRECT);
            let stamped = check(&mirror, name, &frame, expect, meta);
            // So few carry the time, each of them.
            assert_eq!(stamped, meta && expect.0 == XDP_REDIRECT, "{name}");
        }
        assert!(captured <= STAMPED_PER_TICK, "{captured}");
        assert!(
            captured > 15,
            "{captured} of the table match, expected most"
        );
    }
}

#[test]
fn every_destination_port() {
    privileged();
    let mut mirror = load(config_flags::XDP_META);
    let _sink = sink(&mut mirror);
    for port in 0..=u16::MAX {
        for addr in [ONLINE, TARGET] {
            let frame = tcp(v4(CLIENT, 40000), v4(addr, port), b"");
            let expect = match (addr == TARGET, port) {
                (false, 80 | 8080) => (XDP_REDIRECT, Some(TapCounter::Captured)),
                (true, 8080) => (XDP_PASS, Some(TapCounter::ToTarget)),
                _ => (XDP_PASS, None),
            };
            check(
                &mirror,
                &format!("{addr:?} port {port}"),
                &frame,
                expect,
                true,
            );
        }
    }
}

#[test]
fn every_ethertype() {
    privileged();
    let mut mirror = load(config_flags::XDP_META);
    let _sink = sink(&mut mirror);
    let good = tcp(v4(CLIENT, 40000), v4(ONLINE, 80), b"x");
    for ethertype in 0..=u16::MAX {
        let frame = changed_u16(&good, 12, ethertype);
        let expect = match ethertype {
            0x0800 | 0x86dd => (XDP_REDIRECT, Some(TapCounter::Captured)),
            _ => (XDP_PASS, None),
        };
        check(
            &mirror,
            &format!("ethertype {ethertype:#06x}"),
            &frame,
            expect,
            true,
        );
    }
}

#[test]
fn random_packets_as_the_slice_decoder_sees_them() {
    privileged();
    for few in [true, false] {
        random_packets(few);
    }
}

fn random_packets(few: bool) {
    let mut mirror = load_with(config_flags::XDP_META, few);
    let _sink = sink(&mut mirror);
    let client = v4(CLIENT, 40000);
    let mut seeds = seeds(
        &tcp(client, v4(ONLINE, 80), b"GET / HTTP/1.1\r\n\r\n"),
        &tcp(v6("2001:db8::1", 40000), v6("2001:db8::20", 80), b"hello"),
    );
    seeds.push(tcp(client, v4(TARGET, 8080), b"x"));
    let mut rng = Rng(0x0dd0_5eed_1234_0001);
    let (mut captured, mut stamped) = (0, 0);
    for round in 0..40_000 {
        let frame = mutated(&mut rng, &seeds);
        let expect = expected(&frame, true);
        captured += u32::from(expect.0 == XDP_REDIRECT);
        let name = format!("few {few} round {round}");
        stamped += u32::from(check(&mirror, &name, &frame, expect, true));
    }
    assert!(captured > 5_000, "{captured} of 40000 matched");
    // The thread may have changed CPUs: one packet of each begins a row.
    assert!(
        stamped >= captured / STAMP_EVERY - 1,
        "{stamped} of {captured} carry the time"
    );
}

#[test]
fn a_frame_of_several_buffers_is_redirected_whole() {
    privileged();
    let mut mirror = load(config_flags::XDP_META);
    let _sink = sink(&mut mirror);
    let payload: Vec<u8> = (0..8000).map(|i| (i / 7) as u8).collect();
    let frame = tcp(v4(CLIENT, 40000), v4(ONLINE, 80), &payload);
    check(
        &mirror,
        "jumbo",
        &frame,
        (XDP_REDIRECT, Some(TapCounter::Captured)),
        true,
    );
}

#[test]
fn cost() {
    privileged();
    let mut mirror = Loaded::new(&Setup {
        object: "tcpcopy-ebpf",
        maps: &[
            ("TRANSFERS", &[v4(ONLINE, 80)]),
            ("TARGETS", &[v4(TARGET, 8080)]),
        ],
        ..Setup::default()
    });
    mirror.xdp("mirror");
    let _sink = sink(&mut mirror);
    let miss = tcp(v4(CLIENT, 40000), v4(ONLINE, 81), b"");
    let neighbour = tcp(v4(CLIENT, 40000), v4([10, 77, 0, 21], 80), b"");
    let hit = tcp(v4(CLIENT, 40000), v4(ONLINE, 80), b"");
    println!(
        "mirror: not TCP {} ns, other port {} ns, other address {} ns, match {} ns",
        mirror.nanoseconds("mirror", &changed(&miss, 23, 17), 1_000_000),
        mirror.nanoseconds("mirror", &miss, 1_000_000),
        mirror.nanoseconds("mirror", &neighbour, 1_000_000),
        mirror.nanoseconds("mirror", &hit, 1_000_000),
    );
    assert_eq!(
        mirror.counter(TapCounter::RedirectFailed.index()),
        0,
        "measured failures"
    );
}
