//! The program `records`, run on single packets beside `responses`, which is tested by tables of its own: both must take
//! the same packets and leave the others alone; what is taken must be in the ring with its headers.

mod ebpf_support;

use common::abi::{INTERCEPT_COUNTERS, InterceptCounter, config_flags, record_flags};
use common::packet::{Endpoint, decode_frame};
use ebpf_support::cases::{cases, seeds};
use ebpf_support::frames::*;
use ebpf_support::programs::*;
use ebpf_support::{Rng, hexdump, privileged};

const TARGET: [u8; 4] = [10, 77, 0, 30];
const CLIENT: [u8; 4] = [10, 77, 1, 1];
/// What a classifier's TCX_DROP is (linux/bpf.h).
const TCX_DROP: u32 = 2;

fn load() -> Loaded {
    let mut rules = vec![v4(TARGET, 8080), v6("2001:db8::30", 8080)];
    let addresses: Vec<_> = rules.iter().map(|r| Endpoint::new(r.addr, 0)).collect();
    rules.extend(addresses);
    let mut loaded = Loaded::new(&Setup {
        object: "intercept-ebpf",
        flags: config_flags::XDP_META,
        maps: &[("RESPONSES", &rules)],
        ring_bytes: 4 << 20,
        ..Setup::default()
    });
    loaded.xdp("responses");
    loaded.classifier("records");
    loaded
}

/// Counters that moved in a run, and its verdict; `None` if the kernel makes no packet of the bytes.
fn moved(program: &Loaded, name: &str, frame: &[u8]) -> Option<(u32, Vec<InterceptCounter>)> {
    let before = program.counters(INTERCEPT_COUNTERS);
    let output = program.run(name, frame)?;
    let after = program.counters(INTERCEPT_COUNTERS);
    let counters = InterceptCounter::ALL.iter().copied();
    let counters = counters.filter(|c| after[c.index() as usize] != before[c.index() as usize]);
    if output.verdict != XDP_DROP {
        assert_eq!(output.bytes, frame, "{name} changed a packet");
    }
    Some((output.verdict, counters.collect()))
}

/// Runs a frame by both; true if they took it.
fn check(program: &mut Loaded, name: &str, frame: &[u8]) -> bool {
    let Some((verdict, counters)) = moved(program, "records", frame) else {
        return false;
    };
    let records = program.records();
    // Without a socket: dropped, which is counted as a failed redirect.
    let (xdp, mut want) = moved(program, "responses", frame).unwrap();
    let taken = xdp == XDP_DROP;
    for counter in &mut want {
        if *counter == InterceptCounter::RedirectFailed {
            *counter = InterceptCounter::Captured;
        }
    }
    want.sort_by_key(|counter| counter.index());
    let verdicts = if taken { TCX_DROP } else { TCX_NEXT };
    assert!(
        verdict == verdicts && counters == want,
        "{name}: expected verdict {verdicts} and {want:?}, got {verdict} and {counters:?} for{}",
        hexdump(frame)
    );
    if !taken {
        assert!(records.is_empty(), "{name}: a record of{}", hexdump(frame));
        return false;
    }
    let [(header, bytes)] = &records[..] else {
        panic!("{name}: {} records, expected one", records.len());
    };
    let headers = decode_frame(frame).unwrap().tcp.payload.min(frame.len());
    assert!(
        bytes[..] == frame[..headers],
        "{name}: expected{}\ngot{}",
        hexdump(&frame[..headers]),
        hexdump(bytes)
    );
    assert_eq!(header.frame_len as usize, frame.len(), "{name}");
    assert_eq!(header.flags, record_flags::TRIMMED, "{name}");
    assert_eq!((header.offset, header.len as usize), (0, headers), "{name}");
    assert!(header.captured_ns > 0, "{name}");
    true
}

#[test]
fn table() {
    privileged();
    let mut program = load();
    let (client, client6) = (v4(CLIENT, 40000), v6("2001:db8::1", 40000));
    let target6 = v6("2001:db8::30", 8080);
    let text = b"HTTP/1.1 200 OK\r\n\r";
    let good = tcp(v4(TARGET, 8080), client, text);
    let mut taken = 0;
    for (name, frame, _) in cases(&good, &tcp(target6, client6, text)) {
        taken += u32::from(check(&mut program, name, &frame));
    }
    assert!(taken > 10, "{taken} of the table are taken, expected most");
    for (name, frame, expected) in [
        (
            "1400 bytes",
            tcp(v4(TARGET, 8080), client, &[3; 1400]),
            true,
        ),
        (
            "timestamps",
            tcp_timestamps(v4(TARGET, 8080), client, &[3; 1400]),
            true,
        ),
        ("merged", tcp(v4(TARGET, 8080), client, &[3; 3000]), true),
        ("IPv6", tcp(target6, client6, &[3; 3000]), true),
        ("other port", tcp(v4(TARGET, 8081), client, text), false),
        (
            "other address",
            tcp(v4([10, 77, 0, 31], 8080), client, text),
            false,
        ),
        ("to the target", tcp(client, v4(TARGET, 8080), text), false),
        ("source port 0", tcp(v4(TARGET, 0), client, text), false),
    ] {
        assert_eq!(check(&mut program, name, &frame), expected, "{name}");
    }
}

#[test]
fn random_packets_are_taken_as_by_xdp() {
    privileged();
    let mut program = load();
    let client = v4(CLIENT, 40000);
    let mut seeds = seeds(
        &tcp(v4(TARGET, 8080), client, b"HTTP/1.1 200 OK\r\n\r"),
        &tcp(v6("2001:db8::30", 8080), v6("2001:db8::1", 40000), b"hello"),
    );
    seeds.push(tcp_timestamps(v4(TARGET, 8080), client, &[5; 500]));
    let mut rng = Rng(0xfeed_5eed_0000_0013);
    let mut taken = 0;
    for round in 0..40_000 {
        let frame = mutated(&mut rng, &seeds);
        taken += u32::from(check(&mut program, &format!("round {round}"), &frame));
    }
    assert!(taken > 5_000, "{taken} of 40000 were taken");
}

#[test]
fn a_full_ring_is_counted_and_nothing_passes() {
    privileged();
    let mut program = load();
    let frame = tcp(v4(TARGET, 8080), v4(CLIENT, 40000), &[0; 1000]);
    let full = InterceptCounter::RingFull.index();
    let mut sent = 0;
    while program.counter(full) == 0 {
        let output = program.run("records", &frame).unwrap();
        assert_eq!(output.verdict, TCX_DROP);
        sent += 1;
        assert!(sent < 1_000_000, "the ring never filled");
    }
    assert_eq!(
        program.counter(InterceptCounter::Captured.index()),
        sent - 1
    );
    assert_eq!(program.records().len() as u64, sent - 1);
    // Room again.
    assert_eq!(program.run("records", &frame).unwrap().verdict, TCX_DROP);
    assert_eq!(program.records().len(), 1);
}
