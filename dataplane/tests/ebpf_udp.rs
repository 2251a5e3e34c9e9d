//! UDP in all programs, run on single packets: tap and mirror capture what transfers of UDP name and
//! nothing of a target's, `responses` drops the answers of announced targets and nothing else.

mod ebpf_support;

use aya::maps::HashMap;
use common::abi::{
    EndpointKey, INTERCEPT_COUNTERS, InterceptCounter, TAP_COUNTERS, TapCounter, config_flags,
    udp_slots,
};
use common::packet::{Addr, DecodeError, Endpoint, decode_frame, decode_udp_frame};
use ebpf_support::frames::*;
use ebpf_support::programs::*;
use ebpf_support::sink::sink;
use ebpf_support::{Rng, hexdump, privileged};

const CLIENT: [u8; 4] = [10, 77, 2, 1];
const ONLINE: [u8; 4] = [10, 77, 0, 20];
const TARGET: [u8; 4] = [10, 77, 0, 30];
const OWN: [u8; 4] = [10, 77, 0, 40];
const ONLINE6: &str = "2001:db8::20";
const TARGET6: &str = "2001:db8::30";

fn put(loaded: &mut Loaded, map: &str, keys: &[EndpointKey]) {
    let map = loaded.ebpf.map_mut(map).unwrap();
    let mut map = HashMap::<_, [u8; size_of::<EndpointKey>()], u32>::try_from(map).unwrap();
    for key in keys {
        map.insert(bytemuck::cast::<_, [u8; 20]>(*key), 0, 0)
            .unwrap();
    }
}

/// TCP port 80 and UDP port 53 of production, of both families, UDP port 5300 of any address, and their
/// targets; port 5300 covers its own target.
struct Rules {
    tcp: Vec<Endpoint>,
    udp: Vec<Endpoint>,
    targets: Vec<Endpoint>,
}

fn rules() -> Rules {
    Rules {
        tcp: vec![v4(ONLINE, 80)],
        udp: vec![
            v4(ONLINE, 53),
            v6(ONLINE6, 53),
            Endpoint::new(Addr::ANY, 5300),
        ],
        targets: vec![v4(TARGET, 5300), v6(TARGET6, 5300)],
    }
}

fn load(rules: &Rules, flags: u32) -> Loaded {
    let mut loaded = Loaded::new(&Setup {
        object: "tcpcopy-ebpf",
        flags,
        maps: &[("TRANSFERS", &rules.tcp)],
        ring_bytes: 4 << 20,
        ..Setup::default()
    });
    let keys = |list: &[Endpoint]| {
        list.iter()
            .map(|e| EndpointKey::udp(*e))
            .collect::<Vec<_>>()
    };
    put(&mut loaded, "TRANSFERS", &keys(&rules.udp));
    put(&mut loaded, "TARGETS", &keys(&rules.targets));
    loaded
}

/// The one counter that a packet moves, by the slice decoder and plain list look-ups.
fn expected(rules: &Rules, frame: &[u8]) -> Option<TapCounter> {
    let hit = |list: &[Endpoint], dst: Addr, port: u16| {
        list.iter()
            .any(|e| e.port == port && (e.addr == dst || e.addr.is_any()))
    };
    let error = match decode_frame(frame) {
        Ok(p) => return hit(&rules.tcp, p.ip.dst, p.tcp.dport).then_some(TapCounter::Captured),
        Err(DecodeError::NotTcp) => match decode_udp_frame(frame) {
            Ok(p) if !hit(&rules.udp, p.ip.dst, p.udp.dport) => return None,
            Ok(p) if hit(&rules.targets, p.ip.dst, p.udp.dport) => {
                return Some(TapCounter::ToTarget);
            }
            Ok(_) => return Some(TapCounter::Captured),
            Err(error) => error,
        },
        Err(error) => error,
    };
    match error {
        DecodeError::Truncated => Some(TapCounter::Truncated),
        DecodeError::BadIp => Some(TapCounter::BadIp),
        DecodeError::Fragment => Some(TapCounter::Fragment),
        DecodeError::BadTcp => Some(TapCounter::BadTcp),
        DecodeError::BadUdp => Some(TapCounter::BadUdp),
        DecodeError::NotIp | DecodeError::NotTcp => None,
    }
}

/// Counters that moved during a run, and its verdict; `None` if the kernel makes no packet of it.
fn run(loaded: &Loaded, program: &str, frame: &[u8], n: u32) -> Option<(Output, Vec<(u32, u64)>)> {
    let before = loaded.counters(n);
    let output = loaded.run(program, frame)?;
    let after = loaded.counters(n);
    let moved = (0..n)
        .map(|i| (i, after[i as usize] - before[i as usize]))
        .filter(|(_, by)| *by != 0)
        .collect();
    Some((output, moved))
}

fn check_tap(tap: &mut Loaded, name: &str, frame: &[u8], expect: Option<TapCounter>) -> bool {
    let Some((output, moved)) = run(tap, "tap", frame, TAP_COUNTERS) else {
        return false;
    };
    let want: Vec<_> = expect.iter().map(|c| (c.index(), 1)).collect();
    assert!(
        output.verdict == TCX_NEXT && output.bytes == frame && moved == want,
        "{name}: expected {want:?}, got {moved:?} and verdict {:#x} for{}",
        output.verdict,
        hexdump(frame)
    );
    let record: Vec<u8> = tap.records().into_iter().flat_map(|(_, b)| b).collect();
    let copied = expect == Some(TapCounter::Captured);
    assert_eq!(record, if copied { frame } else { &[] }, "{name}");
    true
}

fn check_mirror(mirror: &Loaded, name: &str, frame: &[u8], expect: Option<TapCounter>) {
    let (output, moved) = run(mirror, "mirror", frame, TAP_COUNTERS)
        .unwrap_or_else(|| panic!("{name}: the kernel refused{}", hexdump(frame)));
    let want: Vec<_> = expect.iter().map(|c| (c.index(), 1)).collect();
    let verdict = if expect == Some(TapCounter::Captured) {
        XDP_REDIRECT
    } else {
        XDP_PASS
    };
    assert!(
        output.verdict == verdict && output.bytes == frame && moved == want,
        "{name}: expected verdict {verdict} and {want:?}, got {} and {moved:?} for{}",
        output.verdict,
        hexdump(frame)
    );
}

/// IPv6 with hop-by-hop options in front of UDP.
fn hop_by_hop(frame: Vec<u8>) -> Vec<u8> {
    let mut frame = extensions_v6(frame, &[(0, vec![0, 5, 2, 0, 0, 1, 0])]);
    frame[54] = 17;
    frame
}

fn table() -> Vec<(&'static str, Vec<u8>, Option<TapCounter>)> {
    use TapCounter::{BadUdp, Captured, Fragment, ToTarget, Truncated};
    let (client, client6) = (v4(CLIENT, 40000), v6("2001:db8::1", 40000));
    let good = udp(client, v4(ONLINE, 53), b"a query of some length");
    let good6 = udp(client6, v6(ONLINE6, 53), b"a query of some length");
    let to = |dst| udp(client, dst, b"x");
    vec![
        ("IPv4", good.clone(), Some(Captured)),
        ("IPv6", good6.clone(), Some(Captured)),
        ("empty", udp(client, v4(ONLINE, 53), b""), Some(Captured)),
        (
            "from port 0",
            udp(v4(CLIENT, 0), v4(ONLINE, 53), b"x"),
            Some(Captured),
        ),
        ("no checksum", changed_u16(&good, 40, 0), Some(Captured)),
        ("wrong checksum", changed_u16(&good, 40, 1), Some(Captured)),
        ("IPv4 options", ip_options(good.clone(), 3), Some(Captured)),
        (
            "extension header",
            hop_by_hop(good6.clone()),
            Some(Captured),
        ),
        (
            "two tags",
            tagged(good.clone(), &[(0x88a8, 5), (0x8100, 6)]),
            Some(Captured),
        ),
        (
            "1400 bytes",
            udp(client, v4(ONLINE, 53), &[7; 1400]),
            Some(Captured),
        ),
        (
            "port on any address",
            to(v4([192, 0, 2, 7], 5300)),
            Some(Captured),
        ),
        (
            "port on any address, IPv6",
            udp(client6, v6("2001:db8::9", 5300), b"x"),
            Some(Captured),
        ),
        (
            "TCP beside it",
            tcp(client, v4(ONLINE, 80), b"x"),
            Some(Captured),
        ),
        ("to the target", to(v4(TARGET, 5300)), Some(ToTarget)),
        (
            "to the target, IPv6",
            udp(client6, v6(TARGET6, 5300), b"x"),
            Some(ToTarget),
        ),
        // A rule of one protocol is none of the other.
        ("UDP to the port of TCP", to(v4(ONLINE, 80)), None),
        (
            "TCP to the port of UDP",
            tcp(client, v4(ONLINE, 53), b"x"),
            None,
        ),
        (
            "TCP to the target's port of UDP",
            tcp(client, v4(TARGET, 5300), b"x"),
            None,
        ),
        ("other port", to(v4(ONLINE, 54)), None),
        ("other address", to(v4([10, 77, 0, 21], 53)), None),
        (
            "answer of production",
            udp(v4(ONLINE, 53), client, b"x"),
            None,
        ),
        (
            "first fragment",
            fragment_v4(good.clone(), 0x2000),
            Some(Fragment),
        ),
        (
            "length below the header",
            changed_u16(&good, 38, 7),
            Some(BadUdp),
        ),
        (
            "length beyond the packet",
            changed_u16(&good, 38, 400),
            Some(BadUdp),
        ),
        (
            "length below the packet's",
            changed_u16(&good, 38, 12),
            Some(Captured),
        ),
        ("cut in the header", good[..39].to_vec(), Some(Truncated)),
        ("cut in the payload", good[..45].to_vec(), Some(Captured)),
        ("ICMP", changed(&good, 23, 1), None),
    ]
}

/// Valid frames to mutate.
fn seeds() -> Vec<Vec<u8>> {
    let all = table().into_iter();
    all.filter(|(_, _, expect)| matches!(expect, Some(TapCounter::Captured | TapCounter::ToTarget)))
        .map(|(_, frame, _)| frame)
        .collect()
}

#[test]
fn tap_table() {
    privileged();
    let rules = rules();
    for flags in [0, config_flags::LOG_PACKETS] {
        let mut tap = load(&rules, flags | config_flags::UDP_RULES);
        tap.classifier("tap");
        tap.put_program("UDP", udp_slots::CAPTURE, "tap_udp");
        for (name, frame, expect) in table() {
            assert_eq!(
                expected(&rules, &frame),
                expect,
                "{name}: the slice decoder"
            );
            assert!(check_tap(&mut tap, name, &frame, expect), "{name}: refused");
        }
    }
}

#[test]
fn mirror_table() {
    privileged();
    let mut mirror = load(&rules(), config_flags::UDP_RULES);
    mirror.xdp("mirror");
    mirror.put_program("UDP", udp_slots::CAPTURE, "mirror_udp");
    let _sink = sink(&mut mirror);
    for (name, frame, expect) in table() {
        check_mirror(&mirror, name, &frame, expect);
    }
}

#[test]
fn without_udp_transfers_udp_is_not_looked_at() {
    privileged();
    let mut tap = load(&rules(), 0);
    tap.classifier("tap");
    tap.put_program("UDP", udp_slots::CAPTURE, "tap_udp");
    for (name, frame, _) in table() {
        let expect = match decode_frame(&frame[..]) {
            Err(DecodeError::NotTcp) => None,
            _ => expected(&rules(), &frame),
        };
        assert!(check_tap(&mut tap, name, &frame, expect), "{name}");
    }
}

#[test]
fn random_packets_as_the_slice_decoder_sees_them() {
    privileged();
    let rules = rules();
    let mut tap = load(&rules, config_flags::UDP_RULES);
    tap.classifier("tap");
    tap.put_program("UDP", udp_slots::CAPTURE, "tap_udp");
    let mut mirror = load(&rules, config_flags::UDP_RULES);
    mirror.xdp("mirror");
    mirror.put_program("UDP", udp_slots::CAPTURE, "mirror_udp");
    let _sink = sink(&mut mirror);
    let seeds = seeds();
    let mut rng = Rng(0x0dd0_5eed_1234_0017);
    let mut captured = 0;
    for round in 0..20_000 {
        let frame = mutated(&mut rng, &seeds);
        let expect = expected(&rules, &frame);
        let name = format!("round {round}");
        check_mirror(&mirror, &name, &frame, expect);
        if check_tap(&mut tap, &name, &frame, expect) {
            captured += u32::from(expect == Some(TapCounter::Captured));
        }
    }
    assert!(captured > 5_000, "{captured} of 20000 matched");
}

/// `responses` with UDP targets announced, its own addresses known; with TCP rules of a filter or learned.
fn responses(flags: u32) -> Loaded {
    let mut loaded = Loaded::new(&Setup {
        object: "intercept-ebpf",
        flags,
        maps: &[("RESPONSES", &[v4(TARGET, 8080)])],
        ..Setup::default()
    });
    // As the loader puts them, with the bare addresses for fragments.
    let targets = [
        v4(TARGET, 5300),
        v4(TARGET, 0),
        v6(TARGET6, 5300),
        v6(TARGET6, 0),
    ];
    put(&mut loaded, "RESPONSES", &targets.map(EndpointKey::udp));
    let map = loaded.ebpf.map_mut("LOCAL").unwrap();
    let mut local = HashMap::<_, [u8; 16], u32>::try_from(map).unwrap();
    local.insert(Addr::v4(OWN).0, 0, 0).unwrap();
    loaded.xdp("responses");
    loaded
}

#[test]
fn answers_of_udp_targets_are_swallowed_and_nothing_else() {
    use InterceptCounter::{Captured, UdpDropped};
    privileged();
    let client = v4(CLIENT, 40000);
    let client6 = v6("2001:db8::1", 40000);
    let answer = udp(v4(TARGET, 5300), client, b"an answer of some length");
    let answer6 = udp(v6(TARGET6, 5300), client6, b"an answer");
    let dropped = (XDP_DROP, Some(UdpDropped));
    let passed = (XDP_PASS, None);
    let mut later = fragment_v4(answer.clone(), 0x2008);
    // What lies where the ports were says nothing in a later fragment.
    later[34..38].copy_from_slice(&[0xff; 4]);
    let table = [
        ("answer", answer.clone(), dropped),
        ("answer, IPv6", answer6, dropped),
        ("tagged", tagged(answer.clone(), &[(0x8100, 5)]), dropped),
        (
            "first fragment",
            fragment_v4(answer.clone(), 0x2000),
            dropped,
        ),
        ("later fragment", later.clone(), dropped),
        ("fragment for this host", udp_to(&later, OWN), passed),
        (
            "answer to this host",
            udp(v4(TARGET, 5300), v4(OWN, 40000), b"x"),
            passed,
        ),
        ("other port", udp(v4(TARGET, 5301), client, b"x"), passed),
        (
            "other source",
            udp(v4([10, 77, 0, 31], 5300), client, b"x"),
            passed,
        ),
        (
            "UDP of the TCP target's port",
            udp(v4(TARGET, 8080), client, b"x"),
            passed,
        ),
        (
            "TCP of the UDP target's port",
            tcp(v4(TARGET, 5300), client, b"x"),
            passed,
        ),
        ("bad length", changed_u16(&answer, 38, 3), passed),
        ("cut in the header", answer[..40].to_vec(), passed),
        ("ICMP", changed(&answer, 23, 1), passed),
        (
            "TCP answer",
            tcp(v4(TARGET, 8080), client, b""),
            (XDP_REDIRECT, Some(Captured)),
        ),
    ];
    for flags in [0, config_flags::LEARNED_RULES] {
        let mut program = responses(flags);
        let _sink = sink(&mut program);
        for (name, frame, (verdict, counter)) in &table {
            let (output, moved) =
                run(&program, "responses", frame, INTERCEPT_COUNTERS).expect(name);
            let want: Vec<_> = counter.iter().map(|c| (c.index(), 1)).collect();
            assert_eq!((output.verdict, moved), (*verdict, want), "{name}");
        }
    }
}

/// Another destination for an IPv4 packet.
fn udp_to(frame: &[u8], dst: [u8; 4]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[30..34].copy_from_slice(&dst);
    frame
}
