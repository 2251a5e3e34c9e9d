//! IP fragments in tap and mirror, run on single packets: those that go to an address of a transfer are taken,
//! first, middle and last, whatever is in them, and nothing else.

mod ebpf_support;

use aya::maps::HashMap;
use common::abi::{
    DecapConfig, EndpointKey, TAP_COUNTERS, TapCounter, config_flags, filter_slots, fragment_slots,
    udp_slots,
};
use common::flow::Block;
use common::packet::{Addr, Endpoint, protocol};
use ebpf_support::frames::*;
use ebpf_support::programs::*;
use ebpf_support::sink::sink;
use ebpf_support::{hexdump, privileged};

const CLIENT: [u8; 4] = [10, 77, 2, 1];
const CLIENT6: &str = "2001:db8::1";
const DENIED: [u8; 4] = [10, 77, 9, 9];
const ONLINE: [u8; 4] = [10, 77, 0, 20];
const OTHER: [u8; 4] = [10, 77, 0, 21];
const ONLINE6: &str = "2001:db8::20";
const OTHER6: &str = "2001:db8::21";
/// First, middle and last in a packet, as the field of IPv4; DF may stand beside them.
const PLACES: [(&str, u16); 4] = [
    ("first", 0x2000),
    ("middle", 0x2010),
    ("last", 0x0020),
    ("last, don't fragment", 0x4020),
];

/// What a packet is to move, if anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Taken,
    Passed,
    Counted(TapCounter),
}

/// What the rules are beside those for TCP to production's addresses.
#[derive(Clone, Copy)]
struct Rules {
    udp: bool,
    any: bool,
}

fn load(rules: Rules, flags: u32, decap: &DecapConfig) -> Loaded {
    let denied = Block::new(Addr::v4(DENIED), 32).unwrap();
    let mut loaded = Loaded::new(&Setup {
        object: "tcpcopy-ebpf",
        flags,
        maps: &[("TRANSFERS", &[v4(ONLINE, 80), v6(ONLINE6, 80)])],
        ring_bytes: 4 << 20,
        deny: Some(&[denied]),
        decap: *decap,
        ..Setup::default()
    });
    let map = loaded.ebpf.map_mut("ADDRESSES").unwrap();
    let mut map = HashMap::<_, [u8; size_of::<EndpointKey>()], u32>::try_from(map).unwrap();
    let mut put = |addr, protocol| {
        let key = EndpointKey::address(addr, protocol);
        map.insert(bytemuck::cast::<_, [u8; 20]>(key), 0, 0)
            .unwrap();
    };
    for protocol in [protocol::TCP, protocol::UDP] {
        if protocol == protocol::TCP || rules.udp {
            put(v4(ONLINE, 0).addr, protocol);
            put(v6(ONLINE6, 0).addr, protocol);
            if rules.any {
                put(Addr::ANY, protocol);
            }
        }
    }
    loaded
}

fn piece(src: Endpoint, dst: Endpoint, field: u16, protocol: u8) -> Vec<u8> {
    if src.addr.is_v4() {
        let frame = fragment_v4(tcp(src, dst, &[7; 200]), field);
        return changed(&frame, 23, protocol);
    }
    // The same field as IPv6 has it: offset in the same bits, M at the end.
    let field = (field & 0x1fff) << 3 | field >> 13 & 1;
    let [high, low] = field.to_be_bytes();
    let header = (44, vec![0, high, low, 1, 2, 3, 4]);
    let mut frame = extensions_v6(tcp(src, dst, &[7; 200]), &[header]);
    frame[54] = protocol;
    frame
}

fn table(rules: Rules) -> Vec<(String, Vec<u8>, Expect)> {
    use Expect::{Counted, Passed, Taken};
    let (tcp_, udp, icmp) = (protocol::TCP, protocol::UDP, 1);
    let when = |taken| if taken { Taken } else { Passed };
    let clients = [v4(CLIENT, 4000), v6(CLIENT6, 4000)];
    let online = [v4(ONLINE, 80), v6(ONLINE6, 80)];
    let other = [v4(OTHER, 80), v6(OTHER6, 80)];
    let mut table = Vec::new();
    for (place, field) in PLACES {
        for family in [0, 1] {
            let name = |what: &str| format!("{what}, {place}, family {family}");
            let mut add = |what: &str, src, dst, protocol, expect| {
                table.push((name(what), piece(src, dst, field, protocol), expect));
            };
            let (client, online, other) = (clients[family], online[family], other[family]);
            add("TCP", client, online, tcp_, Taken);
            add("UDP", client, online, udp, when(rules.udp));
            add("neither", client, online, icmp, Passed);
            add("other address", client, other, tcp_, when(rules.any));
            add(
                "UDP, other address",
                client,
                other,
                udp,
                when(rules.udp && rules.any),
            );
            // What the first one says of its port, the others do not: no reason to part them.
            add(
                "other port",
                client,
                Endpoint::new(online.addr, 81),
                tcp_,
                Taken,
            );
            add("answer", online, client, tcp_, when(rules.any));
        }
        let denied = piece(v4(DENIED, 4000), online[0], field, tcp_);
        table.push((format!("denied, {place}"), denied, Passed));
        let good = piece(clients[0], online[0], field, tcp_);
        let tags = tagged(good.clone(), &[(0x88a8, 5), (0x8100, 6)]);
        table.push((format!("two tags, {place}"), tags, Taken));
        let options = ip_options(good.clone(), 3);
        table.push((format!("IPv4 options, {place}"), options, Taken));
        // A capture's end within the payload is not the program's affair.
        table.push((format!("cut, {place}"), good[..60].to_vec(), Taken));
        table.push((
            format!("cut in the header, {place}"),
            good[..30].to_vec(),
            Counted(TapCounter::Truncated),
        ));
        let good6 = piece(clients[1], online[1], field, tcp_);
        table.push((
            format!("IPv6, header cut, {place}"),
            good6[..56].to_vec(),
            Counted(TapCounter::Truncated),
        ));
    }
    let whole = tcp(clients[0], online[0], b"whole");
    table.push((
        "no fragment".to_owned(),
        whole,
        Counted(TapCounter::Captured),
    ));
    let atomic = extensions_v6(
        tcp(clients[1], online[1], b"whole"),
        &[(44, vec![0, 0, 0, 0, 0, 0, 9])],
    );
    table.push((
        "atomic fragment, a whole packet".to_owned(),
        atomic,
        Counted(TapCounter::Captured),
    ));
    table
}

const ALL_RULES: [Rules; 4] = [
    Rules {
        udp: false,
        any: false,
    },
    Rules {
        udp: true,
        any: false,
    },
    Rules {
        udp: false,
        any: true,
    },
    Rules {
        udp: true,
        any: true,
    },
];

fn wanted(expect: Expect) -> Vec<(u32, u64)> {
    let mut all = match expect {
        Expect::Taken => vec![TapCounter::Captured, TapCounter::FragmentTaken],
        Expect::Passed => vec![],
        Expect::Counted(counter) => vec![counter],
    };
    all.sort_unstable_by_key(|c| c.index());
    all.iter().map(|c| (c.index(), 1)).collect()
}

/// Counters that moved during a run, and its verdict; `None` if the kernel makes no packet of it.
fn run(loaded: &Loaded, program: &str, frame: &[u8]) -> Option<(Output, Vec<(u32, u64)>)> {
    let before = loaded.counters(TAP_COUNTERS);
    let output = loaded.run(program, frame)?;
    let moved = (0u32..)
        .zip(loaded.counters(TAP_COUNTERS).iter().zip(before))
        .map(|(i, (after, before))| (i, after - before))
        .filter(|(_, by)| *by != 0)
        .collect();
    Some((output, moved))
}

#[test]
fn the_tap_takes_fragments_of_transfers() {
    privileged();
    // With a filter one kind of rules is enough: it is the same program.
    let filtered = [(ALL_RULES[1], "tap_filtered")];
    for (rules, entry) in ALL_RULES
        .map(|rules| (rules, "tap"))
        .into_iter()
        .chain(filtered)
    {
        let flags = if rules.udp {
            config_flags::UDP_RULES
        } else {
            0
        };
        let mut tap = load(rules, flags, &DecapConfig::NONE);
        tap.classifier(entry);
        if entry == "tap_filtered" {
            // A filter that lets everything through: fragments do not come to it.
            tap.put_program("FILTERS", filter_slots::FILTER, "tap");
        }
        tap.put_program("UDP", udp_slots::CAPTURE, "tap_udp");
        tap.put_program("FRAGMENTS", fragment_slots::CAPTURE, "tap_fragments");
        let mut taken = 0;
        for (name, frame, expect) in table(rules) {
            let Some((output, moved)) = run(&tap, entry, &frame) else {
                assert!(frame.len() < 60, "{name}: refused{}", hexdump(&frame));
                continue;
            };
            let want = wanted(expect);
            assert!(
                output.verdict == TCX_NEXT && output.bytes == frame && moved == want,
                "{entry}, {name}: expected {want:?}, got {moved:?} for{}",
                hexdump(&frame)
            );
            let copied: Vec<u8> = tap.records().into_iter().flat_map(|(_, b)| b).collect();
            let captured = want.iter().any(|(i, _)| *i == TapCounter::Captured.index());
            assert_eq!(copied, if captured { frame } else { vec![] }, "{name}");
            taken += u32::from(expect == Expect::Taken);
        }
        assert!(taken >= 20, "{taken}");
    }
}

fn check_mirror(rules: Rules, entry: &str, decap: &DecapConfig) {
    let flags = if rules.udp {
        config_flags::UDP_RULES
    } else {
        0
    };
    let mut mirror = load(rules, flags, decap);
    mirror.xdp(entry);
    if entry == "mirror_filtered" {
        mirror.put_program("FILTERS", filter_slots::FILTER, "mirror");
    }
    mirror.put_program("UDP", udp_slots::CAPTURE, "mirror_udp");
    mirror.put_program("FRAGMENTS", fragment_slots::CAPTURE, "mirror_fragments");
    if decap.tunnels() {
        mirror.tails();
    }
    let _sink = sink(&mut mirror);
    for (name, frame, expect) in table(rules) {
        let (output, moved) = run(&mirror, entry, &frame)
            .unwrap_or_else(|| panic!("{name}: refused{}", hexdump(&frame)));
        // A fragment that no rule covers may be one of a tunnel.
        let expect = match expect {
            Expect::Passed if decap.tunnels() => Expect::Counted(TapCounter::Fragment),
            other => other,
        };
        let want = wanted(expect);
        let captured = want.iter().any(|(i, _)| *i == TapCounter::Captured.index());
        let verdict = if captured { XDP_REDIRECT } else { XDP_PASS };
        assert!(
            output.verdict == verdict && output.bytes == frame && moved == want,
            "{entry}, {name}: expected verdict {verdict} and {want:?}, got {} and {moved:?} for{}",
            output.verdict,
            hexdump(&frame)
        );
    }
}

#[test]
fn the_mirror_takes_fragments_of_transfers() {
    privileged();
    for rules in [ALL_RULES[0], ALL_RULES[3]] {
        check_mirror(rules, "mirror", &DecapConfig::NONE);
    }
    check_mirror(ALL_RULES[1], "mirror_filtered", &DecapConfig::NONE);
    check_mirror(ALL_RULES[1], "mirror", &DecapConfig::AUTO);
}

#[test]
fn without_a_socket_fragments_pass() {
    privileged();
    let mut mirror = load(ALL_RULES[0], 0, &DecapConfig::NONE);
    mirror.xdp("mirror");
    mirror.put_program("FRAGMENTS", fragment_slots::CAPTURE, "mirror_fragments");
    let frame = piece(v4(CLIENT, 4000), v4(ONLINE, 80), 0x2000, protocol::TCP);
    let (output, moved) = run(&mirror, "mirror", &frame).unwrap();
    assert_eq!(output.verdict, XDP_PASS);
    let lost = [TapCounter::RedirectFailed, TapCounter::FragmentTaken];
    assert_eq!(moved, lost.map(|c| (c.index(), 1)));
}
