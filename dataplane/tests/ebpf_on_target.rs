//! The program `on_target`, run on single packets: exactly the packets of announced sessions are swallowed as if they had
//! been sent, with their headers in the ring.

mod ebpf_support;

use aya::maps::HashMap;
use common::abi::{INTERCEPT_COUNTERS, InterceptCounter, PairKey, record_flags};
use common::packet::{Endpoint, decode_frame};
use ebpf_support::cases::{cases, seeds};
use ebpf_support::frames::*;
use ebpf_support::programs::*;
use ebpf_support::{Rng, hexdump, privileged};

const TARGET: [u8; 4] = [10, 77, 0, 30];
const CLIENT: [u8; 4] = [10, 77, 1, 1];
/// What TCX_REDIRECT is (linux/bpf.h): success to the sender, whatever becomes of the packet.
const TCX_REDIRECT: u32 = 7;

/// Client and target, of each family.
fn routes() -> [(Endpoint, Endpoint); 2] {
    [
        (v4(CLIENT, 40000), v4(TARGET, 8080)),
        (v6("2001:db8::1", 40000), v6("2001:db8::30", 8080)),
    ]
}

fn load() -> Loaded {
    let mut loaded = Loaded::new(&Setup {
        object: "intercept-ebpf",
        map_entries: &[("ROUTES", routes().len() as u32)],
        ring_bytes: 4 << 20,
        ..Setup::default()
    });
    let map = loaded.ebpf.map_mut("ROUTES").unwrap();
    let mut map = HashMap::<_, [u8; size_of::<PairKey>()], u32>::try_from(map).unwrap();
    for (client, target) in routes() {
        map.insert(PairKey::new(client, target).to_bytes(), 0, 0)
            .unwrap();
    }
    loaded.classifier("on_target");
    loaded
}

/// Runs a frame; true if it was taken. `None` if the kernel makes no packet of the bytes.
fn check(program: &mut Loaded, name: &str, frame: &[u8]) -> Option<bool> {
    let captured = InterceptCounter::Captured.index();
    let before = program.counter(captured);
    let output = program.run("on_target", frame)?;
    assert_eq!(output.bytes, frame, "{name} changed a packet");
    let records = program.records();
    // By the slice decoder and a plain list.
    let packet = decode_frame(frame).ok();
    let packet = packet.filter(|p| {
        let client = Endpoint::new(p.ip.dst, p.tcp.dport);
        routes().contains(&(client, Endpoint::new(p.ip.src, p.tcp.sport)))
    });
    let taken = program.counter(captured) - before;
    let Some(packet) = packet else {
        assert!(
            output.verdict == TCX_NEXT && records.is_empty() && taken == 0,
            "{name}: taken, verdict {}:{}",
            output.verdict,
            hexdump(frame)
        );
        return Some(false);
    };
    assert!(
        output.verdict == TCX_REDIRECT && taken == 1,
        "{name}: expected verdict {TCX_REDIRECT}, got {} for{}",
        output.verdict,
        hexdump(frame)
    );
    let [(header, bytes)] = &records[..] else {
        panic!("{name}: {} records, expected one", records.len());
    };
    let headers = packet.tcp.payload.min(frame.len());
    assert_eq!(bytes[..], frame[..headers], "{name}");
    assert_eq!(header.frame_len as usize, frame.len(), "{name}");
    assert_eq!(header.flags, record_flags::TRIMMED, "{name}");
    Some(true)
}

#[test]
fn table() {
    privileged();
    let mut program = load();
    let [(client, target), (client6, target6)] = routes();
    let text = b"HTTP/1.1 200 OK\r\n\r";
    let mut taken = 0;
    for (name, frame, _) in cases(&tcp(target, client, text), &tcp(target6, client6, text)) {
        taken += u32::from(check(&mut program, name, &frame) == Some(true));
    }
    assert!(taken > 10, "{taken} of the table are taken, expected most");
    let other = |e: Endpoint, by| Endpoint::new(e.addr, e.port + by);
    for (name, frame, expected) in [
        ("1400 bytes", tcp(target, client, &[3; 1400]), true),
        (
            "timestamps",
            tcp_timestamps(target, client, &[3; 1400]),
            true,
        ),
        ("merged", tcp(target, client, &[3; 3000]), true),
        ("IPv6", tcp(target6, client6, &[3; 3000]), true),
        // A real client of the same service, even on the same host.
        ("another client", tcp(target, other(client, 1), text), false),
        (
            "another client's address",
            tcp(target, v4([10, 77, 1, 2], 40000), text),
            false,
        ),
        (
            "another service",
            tcp(other(target, 1), client, text),
            false,
        ),
        (
            "another address of the host",
            tcp(v4([10, 77, 0, 31], 8080), client, text),
            false,
        ),
        ("to the target", tcp(client, target, text), false),
        ("IPv6 to the target", tcp(client6, target6, text), false),
        (
            "another IPv6 client",
            tcp(target6, other(client6, 1), text),
            false,
        ),
    ] {
        assert_eq!(check(&mut program, name, &frame), Some(expected), "{name}");
    }
}

#[test]
fn of_random_packets_those_of_the_sessions_are_taken() {
    privileged();
    let mut program = load();
    let [(client, target), (client6, target6)] = routes();
    let mut seeds = seeds(
        &tcp(target, client, b"HTTP/1.1 200 OK\r\n\r"),
        &tcp(target6, client6, b"hello"),
    );
    seeds.push(tcp_timestamps(target, client, &[5; 500]));
    let mut rng = Rng(0xfeed_5eed_0000_0017);
    let (mut taken, mut left) = (0, 0);
    for round in 0..40_000 {
        let frame = mutated(&mut rng, &seeds);
        match check(&mut program, &format!("round {round}"), &frame) {
            Some(true) => taken += 1,
            Some(false) => left += 1,
            None => {}
        }
    }
    assert!(taken > 5_000 && left > 5_000, "{taken} taken, {left} left");
}

#[test]
fn without_room_in_the_ring_nothing_passes_either() {
    privileged();
    let program = load();
    let [(client, target), _] = routes();
    let frame = tcp(target, client, &[0; 1000]);
    let full = InterceptCounter::RingFull.index();
    for _ in 0..1_000_000 {
        let output = program.run("on_target", &frame).unwrap();
        assert_eq!(output.verdict, TCX_REDIRECT);
        if program.counter(full) > 0 {
            break;
        }
    }
    let counters = program.counters(INTERCEPT_COUNTERS);
    assert_eq!(counters[full as usize], 1, "{counters:?}");
}
