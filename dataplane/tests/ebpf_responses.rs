//! The program `responses`, run on single packets: what is taken and how it is trimmed, that what is
//! taken never passes, and that everything else does.

mod ebpf_support;

use common::abi::{INTERCEPT_COUNTERS, InterceptCounter, XdpMeta, config_flags};
use common::packet::{Addr, DecodeError, Endpoint, decode_ethernet, decode_frame, decode_ip};
use ebpf_support::cases::{cases, seeds};
use ebpf_support::frames::*;
use ebpf_support::programs::*;
use ebpf_support::sink::sink;
use ebpf_support::{Rng, hexdump, privileged};

const TARGET: [u8; 4] = [10, 77, 0, 30];
const CLIENT: [u8; 4] = [10, 77, 1, 1];

/// Rules, as the loader puts them with their bare addresses for fragments.
fn rules() -> Vec<Endpoint> {
    let mut rules = vec![v4(TARGET, 8080), v6("2001:db8::30", 8080)];
    let addresses: Vec<_> = rules.iter().map(|r| Endpoint::new(r.addr, 0)).collect();
    rules.extend(addresses);
    rules
}

fn load(rules: &[Endpoint], flags: u32) -> Loaded {
    let mut loaded = Loaded::new(&Setup {
        object: "intercept-ebpf",
        flags,
        maps: &[("RESPONSES", rules)],
        ..Setup::default()
    });
    loaded.xdp("responses");
    loaded
}

struct Expect {
    verdict: u32,
    counters: Vec<InterceptCounter>,
    /// Bytes that remain.
    len: usize,
}

/// By the slice decoder and a plain list look-up.
fn expected(rules: &[Endpoint], frame: &[u8], socket: bool) -> Expect {
    use InterceptCounter::{BadIp, BadTcp, Captured, Fragment, RedirectFailed, Trimmed, Truncated};
    let hit = |addr: Addr, port| rules.iter().any(|r| r.addr == addr && r.port == port);
    let pass = |counters| Expect {
        verdict: XDP_PASS,
        counters,
        len: frame.len(),
    };
    match decode_frame(frame) {
        Ok(p) if p.tcp.sport != 0 && hit(p.ip.src, p.tcp.sport) => {
            let mut counters = vec![if socket { Captured } else { RedirectFailed }];
            if frame.len() > p.tcp.payload {
                counters.push(Trimmed);
            }
            Expect {
                verdict: if socket { XDP_REDIRECT } else { XDP_DROP },
                counters,
                len: frame.len().min(p.tcp.payload),
            }
        }
        Ok(_) | Err(DecodeError::NotIp | DecodeError::NotTcp | DecodeError::BadUdp) => pass(vec![]),
        Err(DecodeError::Fragment) => {
            let l3 = decode_ethernet(frame).unwrap().l3;
            let ours = hit(decode_ip(frame, l3).unwrap().src, 0);
            pass(if ours { vec![Fragment] } else { vec![] })
        }
        Err(DecodeError::Truncated) => pass(vec![Truncated]),
        Err(DecodeError::BadIp) => pass(vec![BadIp]),
        Err(DecodeError::BadTcp) => pass(vec![BadTcp]),
    }
}

fn check(program: &Loaded, name: &str, frame: &[u8], expect: &Expect, meta: bool) {
    let before = program.counters(INTERCEPT_COUNTERS);
    let output = program
        .run("responses", frame)
        .unwrap_or_else(|| panic!("{name}: the kernel refused{}", hexdump(frame)));
    let after = program.counters(INTERCEPT_COUNTERS);
    let moved: Vec<_> = InterceptCounter::ALL
        .iter()
        .filter(|c| after[c.index() as usize] != before[c.index() as usize])
        .map(|c| (*c, after[c.index() as usize] - before[c.index() as usize]))
        .collect();
    let mut want: Vec<_> = expect.counters.iter().map(|c| (*c, 1)).collect();
    want.sort_by_key(|(c, _)| c.index());
    assert!(
        output.verdict == expect.verdict && moved == want,
        "{name}: expected verdict {} and counters {want:?}, got {} and {moved:?} for{}",
        expect.verdict,
        output.verdict,
        hexdump(frame)
    );
    let mut bytes = output.bytes.as_slice();
    if expect.verdict != XDP_PASS && meta {
        let (head, rest) = bytes.split_at(size_of::<XdpMeta>());
        let head: XdpMeta = bytemuck::pod_read_unaligned(head);
        assert_eq!(
            (head.cookie, head.frame_len as usize),
            (COOKIE, frame.len()),
            "{name}"
        );
        assert!(head.captured_ns > 0, "{name}");
        bytes = rest;
    }
    assert!(
        bytes == &frame[..expect.len],
        "{name}: expected{}\ngot{}",
        hexdump(&frame[..expect.len]),
        hexdump(bytes)
    );
}

fn table_frames() -> Vec<(&'static str, Vec<u8>)> {
    let (client, client6) = (v4(CLIENT, 40000), v6("2001:db8::1", 40000));
    let target6 = v6("2001:db8::30", 8080);
    let text = b"HTTP/1.1 200 OK\r\n\r";
    let mut frames = Vec::new();
    for (name, frame, decoded) in cases(
        &tcp(v4(TARGET, 8080), client, text),
        &tcp(target6, client6, text),
    ) {
        assert_eq!(
            decode_frame(&frame[..]).map(|_| ()),
            decoded,
            "{name}: the slice decoder"
        );
        frames.push((name, frame));
    }
    let foreign = tcp(v4([10, 77, 0, 31], 8080), client, text);
    frames.extend([
        ("1400 bytes", tcp(v4(TARGET, 8080), client, &[3; 1400])),
        (
            "1400 bytes with timestamps",
            tcp_timestamps(v4(TARGET, 8080), client, &[3; 1400]),
        ),
        ("several buffers", tcp(v4(TARGET, 8080), client, &[3; 8000])),
        ("several buffers, IPv6", tcp(target6, client6, &[3; 12_000])),
        ("other port", tcp(v4(TARGET, 8081), client, text)),
        ("other address", foreign.clone()),
        ("fragment of another address", fragment_v4(foreign, 0x2000)),
        ("request to the target", tcp(client, v4(TARGET, 8080), text)),
        ("source port 0", tcp(v4(TARGET, 0), client, text)),
    ]);
    frames
}

#[test]
fn table() {
    privileged();
    let rules = rules();
    for flags in [
        0,
        config_flags::XDP_META,
        config_flags::XDP_META | config_flags::LOG_PACKETS,
    ] {
        let meta = flags & config_flags::XDP_META != 0;
        let mut program = load(&rules, flags);
        for (name, frame) in table_frames() {
            check(
                &program,
                name,
                &frame,
                &expected(&rules, &frame, false),
                meta,
            );
        }
        let _sink = sink(&mut program);
        let mut taken = 0;
        for (name, frame) in table_frames() {
            let expect = expected(&rules, &frame, true);
            taken += u32::from(expect.verdict == XDP_REDIRECT);
            check(&program, name, &frame, &expect, meta);
        }
        assert!(taken > 15, "{taken} of the table match, expected most");
    }
}

#[test]
fn every_source_port() {
    privileged();
    let rules = rules();
    let program = load(&rules, config_flags::XDP_META);
    for port in 0..=u16::MAX {
        let frame = tcp(v4(TARGET, port), v4(CLIENT, 40000), b"x");
        let expect = expected(&rules, &frame, false);
        assert_eq!(expect.verdict == XDP_DROP, port == 8080, "port {port}");
        check(&program, &format!("port {port}"), &frame, &expect, true);
    }
}

#[test]
fn every_destination_port() {
    privileged();
    let rules = rules();
    let program = load(&rules, config_flags::XDP_META);
    for port in 0..=u16::MAX {
        let frame = tcp(v4(TARGET, 8080), v4(CLIENT, port), b"x");
        let expect = expected(&rules, &frame, false);
        assert_eq!(expect.verdict, XDP_DROP, "port {port}");
        check(
            &program,
            &format!("destination port {port}"),
            &frame,
            &expect,
            true,
        );
    }
}

#[test]
fn every_ethertype() {
    privileged();
    let rules = rules();
    let program = load(&rules, config_flags::XDP_META);
    let good = tcp(v4(TARGET, 8080), v4(CLIENT, 40000), b"x");
    for ethertype in 0..=u16::MAX {
        let frame = changed_u16(&good, 12, ethertype);
        let expect = expected(&rules, &frame, false);
        assert_eq!(
            expect.verdict == XDP_DROP,
            matches!(ethertype, 0x0800 | 0x86dd),
            "ethertype {ethertype:#06x}"
        );
        check(
            &program,
            &format!("ethertype {ethertype:#06x}"),
            &frame,
            &expect,
            true,
        );
    }
}

#[test]
fn random_packets_as_the_slice_decoder_sees_them() {
    privileged();
    let rules = rules();
    let mut program = load(&rules, config_flags::XDP_META);
    let _sink = sink(&mut program);
    let client = v4(CLIENT, 40000);
    let mut seeds = seeds(
        &tcp(v4(TARGET, 8080), client, b"HTTP/1.1 200 OK\r\n\r"),
        &tcp(v6("2001:db8::30", 8080), v6("2001:db8::1", 40000), b"hello"),
    );
    seeds.push(tcp_timestamps(v4(TARGET, 8080), client, &[5; 500]));
    let mut rng = Rng(0xfeed_5eed_0000_0003);
    let mut taken = 0;
    for round in 0..40_000 {
        let frame = mutated(&mut rng, &seeds);
        let expect = expected(&rules, &frame, true);
        taken += u32::from(expect.verdict == XDP_REDIRECT);
        check(&program, &format!("round {round}"), &frame, &expect, true);
    }
    assert!(taken > 5_000, "{taken} of 40000 matched");
}

#[test]
fn cost() {
    privileged();
    let mut program = load(&rules(), config_flags::XDP_META);
    let _sink = sink(&mut program);
    let miss = tcp(v4(TARGET, 81), v4(CLIENT, 40000), b"");
    let bare = tcp(v4(TARGET, 8080), v4(CLIENT, 40000), b"");
    println!(
        "responses: not TCP {} ns, no match {} ns, match without payload {} ns",
        program.nanoseconds("responses", &changed(&miss, 23, 17), 1_000_000),
        program.nanoseconds("responses", &miss, 1_000_000),
        program.nanoseconds("responses", &bare, 1_000_000),
    );
    assert_eq!(
        program.counter(InterceptCounter::RedirectFailed.index()),
        0,
        "measured failures"
    );
}
