//! The mirror's programs for tunnels, run on single packets: they take exactly what the slice decoder takes
//! out of tunnels, of captures of real switches, clouds and kernels, of made frames, and of what fuzzing found.

mod ebpf_support;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::abi::{
    DecapConfig, DecapRule, StreamKey, StreamState, TAP_COUNTERS, TapCounter, decap_flags,
};
use common::packet::{
    Addr, DecapError, DecodeError, Endpoint, MAX_LAYERS, TunnelKind, decapsulate, decode_frame,
};
use dataplane::bpf::{Filter, Mirror, MirrorConfig, Sessions, UdpRules};
use ebpf_support::frames::*;
use ebpf_support::netns::Pair;
use ebpf_support::programs::*;
use ebpf_support::sink::{Sink, sink};
use ebpf_support::wire::Wire;
use ebpf_support::{Rng, hexdump, privileged};
use wrapping::{Layer, wrap};

#[path = "../../lab/src/faults/wrap.rs"]
mod wrapping;

const CLIENT: [u8; 4] = [10, 77, 2, 1];
const ONLINE: [u8; 4] = [10, 77, 0, 20];
const TARGET: [u8; 4] = [10, 77, 0, 30];
/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(10);
const ENDS: [[&str; 2]; 2] = [["192.0.2.1", "192.0.2.2"], ["2001:db8::1", "2001:db8::2"]];

fn ends(v6: bool) -> [IpAddr; 2] {
    ENDS[usize::from(v6)].map(|text| text.parse().unwrap())
}

struct TestRuns {
    program: Loaded,
    transfers: Vec<Endpoint>,
    config: DecapConfig,
    _sink: Sink,
}

impl TestRuns {
    fn load(config: &DecapConfig, transfers: &[Endpoint]) -> Self {
        let mut program = Loaded::new(&Setup {
            object: "tcpcopy-ebpf",
            maps: &[("TRANSFERS", transfers), ("TARGETS", &[v4(TARGET, 8080)])],
            decap: *config,
            ..Setup::default()
        });
        program.xdp("mirror");
        program.tails();
        let sink = sink(&mut program);
        Self {
            program,
            transfers: transfers.to_vec(),
            config: *config,
            _sink: sink,
        }
    }

    /// The program that would be attached.
    fn entry(&self) -> &'static str {
        if self.config.plain() {
            "mirror"
        } else {
            "mirror_tunnel"
        }
    }

    /// What the slice decoder makes of a frame: verdict and the counters that move by one.
    fn expected(&self, frame: &[u8]) -> (u32, Vec<TapCounter>) {
        let error = |e| {
            Vec::from_iter(match e {
                DecodeError::Truncated => Some(TapCounter::Truncated),
                DecodeError::BadIp => Some(TapCounter::BadIp),
                DecodeError::Fragment => Some(TapCounter::Fragment),
                DecodeError::BadTcp => Some(TapCounter::BadTcp),
                DecodeError::NotIp | DecodeError::NotTcp | DecodeError::BadUdp => None,
            })
        };
        let outer = peeled_once(frame, &self.config);
        let (taken, mut moved) = match outer {
            // No tunnel: the first program alone.
            None if self.config.plain() => match decode_frame(frame) {
                Ok(packet) => (Some(packet), Vec::new()),
                Err(e) => (None, error(e)),
            },
            None => match decode_frame(frame) {
                Err(DecodeError::Fragment) => (None, vec![TapCounter::Fragment]),
                _ => (None, Vec::new()),
            },
            Some(()) => match decapsulate(frame, &self.config) {
                Ok(inner) => (Some(inner.packet), vec![TapCounter::Tunnelled]),
                Err(DecapError::NotTaken) => (None, vec![TapCounter::TunnelOther]),
                Err(DecapError::TooDeep) => {
                    (None, vec![TapCounter::Tunnelled, TapCounter::TunnelTooDeep])
                }
                Err(DecapError::Decode(e)) => {
                    (None, [vec![TapCounter::Tunnelled], error(e)].concat())
                }
            },
        };
        let Some(packet) = taken else {
            return (XDP_PASS, moved);
        };
        let dst = Endpoint::new(packet.ip.dst, packet.tcp.dport);
        if !self.transfers.contains(&dst) {
            return (XDP_PASS, moved);
        }
        if dst == v4(TARGET, 8080) {
            moved.push(TapCounter::ToTarget);
            return (XDP_PASS, moved);
        }
        moved.push(TapCounter::Captured);
        (XDP_REDIRECT, moved)
    }

    /// Runs the program and compares; `true` if the frame was taken. `None`: the kernel makes no packet of it.
    fn check(&self, what: &str, frame: &[u8]) -> Option<bool> {
        let before = self.program.counters(TAP_COUNTERS);
        let output = self.program.run(self.entry(), frame)?;
        let after = self.program.counters(TAP_COUNTERS);
        let mut moved = Vec::new();
        for counter in TapCounter::ALL {
            let at = counter.index() as usize;
            for _ in before[at]..after[at] {
                moved.push(*counter);
            }
        }
        let (verdict, mut want) = self.expected(frame);
        want.sort_by_key(|c| c.index());
        assert!(
            (output.verdict, &moved) == (verdict, &want),
            "{what}: expected {verdict} {want:?}, got {} {moved:?} for{}",
            output.verdict,
            hexdump(frame)
        );
        if verdict == XDP_PASS {
            assert!(output.bytes == frame, "{what}: the packet was changed");
        } else {
            assert!(
                output.bytes.ends_with(frame),
                "{what}: the packet was changed"
            );
        }
        Some(verdict == XDP_REDIRECT)
    }
}

/// Whether the frame begins with a tunnel that decodes.
fn peeled_once(frame: &[u8], config: &DecapConfig) -> Option<()> {
    use common::packet::{Peeled, Position, peel};
    match peel(frame, Position::FRAME, config) {
        Ok(Peeled::Tunnel(..)) => Some(()),
        _ => None,
    }
}

fn layers() -> Vec<Layer> {
    let gre = |checksum, key, sequence, ip| Layer::Gre {
        checksum,
        key,
        sequence,
        ip,
    };
    let erspan = |version, platform| Layer::Erspan {
        version,
        session: 7,
        sequence: 1000,
        platform,
    };
    let geneve = |options, ip| Layer::Geneve {
        vni: 9,
        options,
        ip,
    };
    vec![
        Layer::Vxlan {
            port: 4789,
            vni: 100,
        },
        Layer::Vxlan { port: 8472, vni: 1 },
        geneve(0, false),
        geneve(63, true),
        gre(false, None, None, true),
        gre(true, Some(5), Some(6), false),
        gre(false, Some(5), None, true),
        erspan(1, false),
        erspan(2, false),
        erspan(3, false),
        erspan(3, true),
        Layer::Ipip,
        Layer::Gtpu {
            teid: 1,
            extensions: 0,
            sequence: false,
        },
        Layer::Gtpu {
            teid: 1,
            extensions: 2,
            sequence: true,
        },
        Layer::Mpls {
            labels: 3,
            pseudowire: true,
        },
    ]
}

/// Datagrams in every tunnel, through the attached programs: with and without a filter for what is inside, and where
/// only some tunnels are opened.
#[test]
fn datagrams_come_out_of_tunnels() {
    privileged();
    let object = object("tcpcopy-ebpf");
    let (online, online6) = (v4(ONLINE, 53), v6("2001:db8::20", 53));
    let udp_transfers = [online, online6];
    let inside = Filter::compile("udp and src host 10.77.2.1 and dst port 53").unwrap();
    let vxlan = DecapConfig {
        rules: {
            let mut rules = DecapConfig::NONE.rules;
            rules[0].kind = TunnelKind::Vxlan as u8;
            rules
        },
        ..DecapConfig::with_flags(decap_flags::TUNNELS)
    };
    for (what, decap, filter) in [
        ("all tunnels", DecapConfig::AUTO, None),
        (
            "a filter",
            DecapConfig::AUTO,
            Some(inside.clone().of_inner_packets()),
        ),
        ("VXLAN alone", vxlan, None),
    ] {
        let pair = Pair::new(1);
        pair.enter_far();
        let wire = Wire::new("va");
        pair.enter_near();
        let mirror = Mirror::attach(
            &object,
            &MirrorConfig {
                ifname: "vb",
                workers: 1,
                transfers: &[v4(ONLINE, 80)],
                targets: &[],
                sessions: Sessions::default(),
                filter: filter.as_ref(),
                udp: UdpRules {
                    transfers: &udp_transfers,
                    targets: &[],
                },
                decap: &decap,
                also_tx: false,
                log_packets: false,
            },
        )
        .unwrap();
        let other = v4([10, 77, 3, 1], 4000);
        let (mut captured, mut filtered) = (0, 0);
        let mut send =
            |layer: Option<Layer>, v6_outside: bool, frame: &[u8], hit: bool, passes: bool| {
                wire.send(&layer.map_or_else(
                    || frame.to_vec(),
                    |layer| wrap(layer, ends(v6_outside), frame),
                ));
                let opened = match layer {
                    None => decap.plain(),
                    Some(layer) => decap.plain() || matches!(layer, Layer::Vxlan { .. }),
                };
                captured += u64::from(opened && hit && passes);
                filtered += u64::from(opened && hit && !passes);
            };
        for layer in layers().into_iter().map(Some).chain([None]) {
            for outside in [false, true] {
                let filters = filter.is_some();
                send(
                    layer,
                    outside,
                    &udp(v4(CLIENT, 4000), online, b"q"),
                    true,
                    true,
                );
                send(layer, outside, &udp(other, online, b"q"), true, !filters);
                let six = udp(v6("2001:db8::1", 4000), online6, b"q");
                send(layer, outside, &six, true, !filters);
                send(
                    layer,
                    outside,
                    &udp(other, v4(ONLINE, 54), b"q"),
                    false,
                    true,
                );
            }
        }
        let deadline = Instant::now() + PATIENCE;
        let counts = || {
            let counters = mirror.counters();
            let of = |counter| counters.iter().find(|(c, _)| *c == counter).unwrap().1;
            (of(TapCounter::Captured), of(TapCounter::Filtered))
        };
        while counts() != (captured, filtered) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(counts(), (captured, filtered), "{what}: captured, filtered");
        assert!(captured > 10, "{what}");
    }
}

fn hits() -> [Vec<u8>; 2] {
    [
        tcp(v4(CLIENT, 40000), v4(ONLINE, 80), b"GET / HTTP/1.1\r\n\r\n"),
        tcp(v6("2001:db8::1", 40000), v6("2001:db8::20", 80), b"hello"),
    ]
}

fn transfers() -> Vec<Endpoint> {
    vec![v4(ONLINE, 80), v6("2001:db8::20", 80)]
}

#[test]
fn every_kind_one_in_another() {
    privileged();
    let mirror = TestRuns::load(&DecapConfig::AUTO, &transfers());
    let mut taken = 0;
    for hit in hits() {
        for first in layers() {
            for v6 in [false, true] {
                let once = wrap(first, ends(v6), &hit);
                assert_eq!(mirror.check(&format!("{first:?}"), &once), Some(true));
                if matches!(first, Layer::Mpls { .. }) {
                    continue;
                }
                for second in layers() {
                    let twice = wrap(second, ends(!v6), &once);
                    let twice = wrap(Layer::Vlan(0x9100), ends(v6), &twice);
                    taken += u32::from(
                        mirror.check(&format!("{first:?} in {second:?}"), &twice) == Some(true),
                    );
                }
            }
        }
    }
    assert_eq!(taken, 2 * 14 * 2 * 15);
    let mut deep = hits()[0].clone();
    for depth in 1..=MAX_LAYERS + 1 {
        deep = wrap(layers()[0], ends(false), &deep);
        let expect = depth <= MAX_LAYERS;
        assert_eq!(mirror.check(&format!("depth {depth}"), &deep), Some(expect));
    }
}

#[test]
fn with_none_no_tunnel_is_opened_and_with_a_list_nothing_else() {
    privileged();
    let [hit, _] = hits();
    let none = TestRuns::load(&DecapConfig::NONE, &transfers());
    let frame = wrap(layers()[0], ends(false), &hit);
    let before = none.program.counters(TAP_COUNTERS);
    assert_eq!(
        none.program.run("mirror", &frame).unwrap().verdict,
        XDP_PASS
    );
    assert_eq!(
        none.program.run("mirror", &hit).unwrap().verdict,
        XDP_REDIRECT
    );
    let after = none.program.counters(TAP_COUNTERS);
    let moved: u64 = after.iter().zip(before).map(|(a, b)| a - b).sum();
    assert_eq!(moved, 1, "the plain packet alone");

    let mut config = DecapConfig::with_flags(decap_flags::TUNNELS);
    config.rules[0] = DecapRule {
        peer: Addr::ANY,
        id: 100,
        port: 4789,
        kind: TunnelKind::Vxlan as u8,
        flags: decap_flags::HAS_ID,
    };
    config.rules[1] = DecapRule {
        peer: ends(true)[0].into(),
        id: 0,
        port: 0,
        kind: TunnelKind::Erspan as u8,
        flags: 0,
    };
    let list = TestRuns::load(&config, &transfers());
    let vxlan = |vni| wrap(Layer::Vxlan { port: 4789, vni }, ends(false), &hit);
    assert_eq!(list.check("named", &vxlan(100)), Some(true));
    assert_eq!(list.check("another VNI", &vxlan(101)), Some(false));
    assert_eq!(list.check("plain", &hit), Some(false));
    let erspan = |v6| wrap(layers()[8], ends(v6), &hit);
    assert_eq!(list.check("named sender", &erspan(true)), Some(true));
    assert_eq!(list.check("another sender", &erspan(false)), Some(false));
    assert_eq!(
        list.check("another kind", &wrap(Layer::Ipip, ends(false), &hit)),
        Some(false)
    );
    let mut fragment = vxlan(100);
    fragment[20] = 0x20;
    assert_eq!(list.check("a fragment", &fragment), Some(false));
    assert_eq!(
        list.check(
            "to a target",
            &wrap(
                layers()[0],
                ends(false),
                &tcp(v4(CLIENT, 1), v4(TARGET, 8080), b"x")
            )
        ),
        Some(false)
    );
}

#[test]
fn sequence_numbers_tell_what_a_mirror_lost() {
    privileged();
    let mut mirror = TestRuns::load(&DecapConfig::AUTO, &transfers());
    let [hit, _] = hits();
    let other = tcp(v4(CLIENT, 1), v4(ONLINE, 81), b"not ours");
    for (at, sequence) in [5u32, 6, 9, 8, 10, 10].into_iter().enumerate() {
        let layer = Layer::Erspan {
            version: 2,
            session: 7,
            sequence,
            platform: false,
        };
        let content = if at % 2 == 0 { &hit } else { &other };
        mirror.check("erspan", &wrap(layer, ends(false), content));
    }
    let streams: Vec<(StreamKey, StreamState)> = mirror.program.entries("STREAMS");
    let [src, dst] = ends(false).map(Addr::from);
    let key = StreamKey {
        src,
        dst,
        id: 7,
        kind: TunnelKind::Erspan as u32,
    };
    let state = StreamState {
        received: 6,
        missing: 1,
        late: 1,
        repeated: 1,
        restarts: 0,
        next: 11,
    };
    assert_eq!(streams, [(key, state)]);
}

/// Frames of a classic pcap file.
fn pcap(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap();
    let little = bytes[0] == 0xd4 || bytes[0] == 0x4d;
    let u32_at = |at: usize| {
        let b: [u8; 4] = bytes[at..at + 4].try_into().unwrap();
        if little {
            u32::from_le_bytes(b)
        } else {
            u32::from_be_bytes(b)
        }
    };
    let mut frames = Vec::new();
    let mut at = 24;
    while at + 16 <= bytes.len() {
        let len = u32_at(at + 8) as usize;
        let Some(frame) = bytes.get(at + 16..at + 16 + len) else {
            break;
        };
        frames.push(frame.to_vec());
        at += 16 + len;
    }
    frames
}

/// By file: frames, TCP in no tunnel, TCP out of tunnels, not decoded, and what tunnels held (kind, id).
#[test]
fn captures_of_real_tunnels() {
    privileged();
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/tunnels");
    let mut names: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| Path::new(name).extension().is_some_and(|e| e == "pcap"))
        .collect();
    names.sort();
    let mut table = String::new();
    for name in names {
        let frames = pcap(&folder.join(&name));
        // Every destination of the file is a transfer, so that each packet that decodes is taken.
        let mut transfers: Vec<Endpoint> = frames
            .iter()
            .filter_map(|frame| decapsulate(&frame[..], &DecapConfig::AUTO).ok())
            .map(|inner| Endpoint::new(inner.packet.ip.dst, inner.packet.tcp.dport))
            .collect();
        transfers.sort_unstable();
        transfers.dedup();
        let mirror = TestRuns::load(&DecapConfig::AUTO, &transfers);
        let (mut plain, mut tunnelled, mut other, mut refused) = (0, 0, 0, 0);
        let mut ids = std::collections::BTreeSet::new();
        for (at, frame) in frames.iter().enumerate() {
            match decapsulate(&frame[..], &DecapConfig::AUTO) {
                Ok(inner) => match inner.outer {
                    Some(t) => {
                        tunnelled += 1;
                        ids.insert((t.kind.name(), t.id));
                    }
                    None => plain += 1,
                },
                Err(_) => other += 1,
            }
            // A test run takes no more than the largest packet without BIG TCP.
            if frame.len() < 14
                || frame.len() > 60_000
                || mirror.check(&format!("{name} {at}"), frame).is_none()
            {
                refused += 1;
            }
        }
        let _ = writeln!(
            table,
            "{name}: {} frames, {plain} plain, {tunnelled} tunnelled, {other} other, {refused} not run, {ids:?}",
            frames.len()
        );
    }
    assert_eq!(table, include_str!("data/tunnels/expected.txt"), "{table}");
}

#[test]
fn changed_frames_as_the_slice_decoder_sees_them() {
    privileged();
    let mirror = TestRuns::load(&DecapConfig::AUTO, &transfers());
    let mut seeds = Vec::new();
    for hit in hits() {
        for first in layers() {
            let once = wrap(first, ends(seeds.len() % 2 == 0), &hit);
            if !matches!(first, Layer::Mpls { .. }) {
                seeds.push(wrap(layers()[seeds.len() % 14], ends(false), &once));
            }
            seeds.push(once);
        }
    }
    let mut rng = Rng(0x7a11_5eed_0000_0001);
    let mut taken = 0;
    for round in 0..30_000 {
        let frame = mutated(&mut rng, &seeds);
        taken += u32::from(mirror.check(&format!("round {round}"), &frame) == Some(true));
    }
    assert!(taken > 5_000, "{taken} of 30000 were taken");
}

#[test]
fn what_fuzzing_found() {
    privileged();
    let mirror = TestRuns::load(&DecapConfig::AUTO, &transfers());
    let mut run = 0;
    for target in ["decoder", "tunnels"] {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../fuzz/corpus")
            .join(target);
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let frame = std::fs::read(&path).unwrap();
            if frame.len() >= 14 && mirror.check(&path.display().to_string(), &frame).is_some() {
                run += 1;
            }
        }
    }
    assert!(run > 50, "{run} inputs of the corpora ran");
}

#[test]
fn cost() {
    privileged();
    let one = &[v4(ONLINE, 80)];
    let [hit, _] = hits();
    let miss = tcp(v4(CLIENT, 40000), v4(ONLINE, 81), b"");
    let udp = changed(&miss, 23, 17);
    for (name, config) in [("none", DecapConfig::NONE), ("auto", DecapConfig::AUTO)] {
        let mirror = TestRuns::load(&config, one);
        let ns = |frame: &[u8]| mirror.program.nanoseconds("mirror", frame, 1_000_000);
        println!(
            "--decap {name}: UDP {} ns, no match {} ns, match {} ns",
            ns(&udp),
            ns(&miss),
            ns(&hit)
        );
    }
    let mirror = TestRuns::load(&DecapConfig::AUTO, one);
    let once = wrap(layers()[0], ends(false), &hit);
    for (name, frame) in [
        ("vxlan", once.clone()),
        ("erspan II", wrap(layers()[8], ends(false), &hit)),
        ("vxlan in geneve", wrap(layers()[2], ends(false), &once)),
    ] {
        println!(
            "{name}: match {} ns",
            mirror.program.nanoseconds("mirror", &frame, 1_000_000)
        );
    }
    assert_eq!(
        mirror.program.counter(TapCounter::RedirectFailed.index()),
        0
    );
}
