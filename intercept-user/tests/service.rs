//! Routes, channel and workers together, over memory queues and real loopback connections.

#[path = "service/lengths.rs"]
mod lengths;
#[path = "service/peers.rs"]
mod peers;
mod support;

use common::flow::Nanos;
use common::packet::{Endpoint, TcpFlags};
use common::wire::compat;
use common::wire::native;
use intercept_user::channel::{Announced, ControlOptions, QUEUE_RECORDS};
use intercept_user::report::{Report, to_json, to_text};
use intercept_user::routes::{KernelRoutes, RouteKey};
use intercept_user::worker::Limits;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{PATIENCE, Peer, TARGET, World, client, response_frame};

fn balanced(report: &Report) {
    assert_eq!(report.unaccounted(), (0, 0), "{}", to_text(report));
}

#[test]
fn responses_reach_the_connection_that_announced_the_session() {
    let world = World::new(1);
    let mut a = world.tcpcopy();
    let mut b = world.tcpcopy();
    world.announce(&mut a, client(1));
    world.announce(&mut b, client(2));
    for seq in 0..100 {
        world.respond(0, client(1), seq);
        world.respond(0, client(2), 1000 + seq);
    }
    assert_eq!(a.sequence(100), (0..100).collect::<Vec<_>>());
    assert_eq!(b.sequence(100), (1000..1100).collect::<Vec<_>>());
    let report = world.stop();
    assert_eq!(report.records.outputs.sent, 202);
    assert_eq!(report.turnaround.len(), 202);
    balanced(&report);
}

#[test]
fn bytes_on_the_wire_are_those_of_the_c_program() {
    // The frame of reference 2.3, a SYN-ACK captured from the C programs, behind an Ethernet header.
    let record = [
        0x45, 0x00, 0x00, 0x3c, 0x00, 0x00, 0x40, 0x00, 0x40, 0x06, 0x1d, 0xa8, 0x0a, 0x09, 0x00,
        0x02, 0x0a, 0x09, 0x09, 0x01, 0x1f, 0x41, 0xa1, 0xdf, 0x74, 0x67, 0xf1, 0x48, 0x74, 0xa9,
        0x9a, 0x77, 0xa0, 0x12, 0xfe, 0x88, 0x65, 0xd3, 0x00, 0x00, 0x02, 0x04, 0x05, 0xb4, 0x04,
        0x02, 0x08, 0x0a, 0x23, 0xa2, 0x79, 0xc0, 0xdf, 0x82, 0x13, 0xa5, 0x01, 0x03, 0x03, 0x0a,
        0x00, 0x00, 0x00, 0x00,
    ];
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00]);
    frame.extend(&record[..60]);

    let world = World::new(1);
    let mut peer = world.connect();
    // Both records as the C tcpcopy sends them (reference 2.2).
    peer.send(&[0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0]);
    peer.send(&[0x0a, 9, 9, 1, 0xa1, 0xdf, 0, 1, 0x0a, 9, 0, 2, 0x1f, 0x41]);
    world.push(0, &frame, 0);
    let mut got = [0; 2 + 64];
    peer.stream.read_exact(&mut got).expect("one frame");
    let mut expected = vec![0, 1];
    expected.extend(record);
    // Checksums are zero: the headers are normalised, and no tcpcopy reads them (reference 2.3).
    expected[2 + 10..2 + 12].fill(0);
    expected[2 + 36..2 + 38].fill(0);
    assert_eq!(got[..], expected[..]);
    balanced(&world.stop());
}

#[test]
fn payload_lengths_survive_trimming() {
    let world = World::new(1);
    let mut peer = world.tcpcopy();
    world.announce(&mut peer, client(1));
    let frame = response_frame(
        client(1),
        TARGET,
        5,
        TcpFlags::ACK.with(TcpFlags::PSH),
        &[7; 1400],
    );
    // What the kernel program leaves: headers, with the length before trimming beside.
    world.push(0, &frame[..54], frame.len() as u32);
    let header = peer.next();
    assert_eq!((header.payload_len, header.target), (1400, TARGET));
    balanced(&world.stop());
}

#[test]
fn a_batch_goes_out_in_full_frames() {
    let world = World::new(1);
    let mut peer = world.connect();
    // Early, so that they are all there when the ADD releases them at once.
    for seq in 0..40 {
        world.respond(0, client(1), seq);
    }
    world.settle();
    peer.send(&compat::hello());
    peer.add(client(1));
    let mut bytes = vec![0; 3 * 2 + 40 * 64];
    peer.stream.read_exact(&mut bytes).expect("frames");
    let counts: Vec<&[u8]> = [0, 1026, 2052]
        .iter()
        .map(|&at| &bytes[at..at + 2])
        .collect();
    assert_eq!(counts, [[0, 16], [0, 16], [0, 8]]);
    let report = world.stop();
    assert_eq!(report.records.outputs.frames, 3);
}

#[test]
fn early_responses_of_all_kinds_are_delivered_in_order() {
    let world = World::new(1);
    let flags = [
        TcpFlags::SYN.with(TcpFlags::ACK),
        TcpFlags::ACK,
        TcpFlags::PSH.with(TcpFlags::ACK),
        TcpFlags::FIN.with(TcpFlags::ACK),
        TcpFlags::RST,
    ];
    for (seq, flags) in flags.iter().enumerate() {
        world.push(
            0,
            &response_frame(client(1), TARGET, seq as u32, *flags, b"x"),
            0,
        );
        world.respond(0, client(2), 100);
    }
    world.settle();
    let mut peer = world.tcpcopy();
    peer.add(client(1));
    for (seq, flags) in flags.iter().enumerate() {
        let header = peer.next();
        assert_eq!(
            (header.seq.0, header.flags, header.client),
            (seq as u32, *flags, client(1))
        );
    }
    let report = world.stop();
    assert_eq!((report.parked.delivered, report.parked_live), (5, 5));
    assert_eq!(report.unrouted(), 5);
    balanced(&report);
}

#[test]
fn early_responses_are_bounded_in_bytes() {
    let limits = Limits {
        parked_bytes: 10_000,
        ..Limits::default()
    };
    let world = World::with(1, limits, ControlOptions::default());
    for n in 0..1000 {
        world.respond(0, client(n), u32::from(n));
    }
    world.settle();
    let mut peer = world.tcpcopy();
    // The newest are there, the oldest are not: this ADD releases nothing, the next one does.
    peer.add(client(0));
    peer.add(client(999));
    assert_eq!(peer.sequence(1), [999]);
    let report = world.stop();
    assert!(report.parked_live < 100 && report.parked.displaced > 900);
    balanced(&report);
}

#[test]
fn the_newest_add_wins() {
    let world = World::new(1);
    let mut a = world.tcpcopy();
    let mut b = world.tcpcopy();
    world.announce(&mut a, client(1));
    world.announce(&mut b, client(1));
    world.respond(0, client(1), 7);
    assert_eq!(b.sequence(1), [7]);
    world.announce(&mut a, client(1));
    let report = world.stop();
    assert_eq!(
        (
            report.routes.added,
            report.routes.replaced,
            report.routes_live
        ),
        (1, 2, 1)
    );
    balanced(&report);
}

#[test]
fn a_new_connection_does_not_inherit_routes_of_a_closed_one() {
    let world = World::new(1);
    let mut old = world.tcpcopy();
    world.announce(&mut old, client(1));
    drop(old);
    // The next one gets the place of the old. When its own route works, the close has been seen.
    let mut new = world.tcpcopy();
    world.announce(&mut new, client(2));
    world.respond(0, client(1), 1);
    world.respond(0, client(2), 2);
    let header = new.next();
    assert_eq!((header.client, header.seq.0), (client(2), 2));
    // What came for the old session waits for somebody to announce it.
    new.add(client(1));
    let released = new.next();
    assert_eq!((released.client, released.seq.0), (client(1), 1));
    let report = world.stop();
    assert_eq!(report.routes.closed, 1);
    balanced(&report);
}

#[test]
fn routes_expire_when_idle() {
    let limits = Limits {
        route_idle: Nanos::from_millis(100),
        ..Limits::default()
    };
    let world = World::with(1, limits, ControlOptions::default());
    let mut peer = world.tcpcopy();
    world.respond(0, client(1), 4);
    world.settle();
    peer.add(client(1));
    // Delivered because the ADD has come.
    assert_eq!(peer.sequence(1), [4]);
    std::thread::sleep(Duration::from_secs(1));
    world.respond(0, client(1), 5);
    world.settle();
    let report = world.stop();
    assert_eq!(
        (
            report.routes.expired,
            report.routes_live,
            report.parked_live
        ),
        (1, 0, 1)
    );
    balanced(&report);
}

#[test]
fn records_may_be_cut_anywhere() {
    let world = World::new(1);
    let mut peer = world.connect();
    let mut bytes = compat::hello().to_vec();
    bytes.extend(compat::add(client(1), TARGET).expect("IPv4"));
    for byte in bytes {
        peer.send(&[byte]);
        // A segment of its own: the control thread reads between.
        std::thread::sleep(Duration::from_millis(1));
    }
    world.respond(0, client(1), 3);
    assert_eq!(peer.sequence(1), [3]);
    balanced(&world.stop());
}

#[test]
fn peers_that_stall_in_a_record_delay_nobody() {
    let world = World::new(1);
    // Five bytes freeze the C program (reference 2.7).
    let mut before = world.connect();
    before.send(&[0; 5]);
    let mut within = world.tcpcopy();
    within.send(&compat::add(client(9), TARGET).expect("IPv4")[..5]);
    let mut peer = world.tcpcopy();
    world.announce(&mut peer, client(1));
    world.respond(0, client(1), 4);
    assert_eq!(peer.sequence(1), [4]);
    // And the stalled one goes on where it was.
    within.send(&compat::add(client(9), TARGET).expect("IPv4")[5..]);
    world.respond(0, client(9), 6);
    assert_eq!(within.sequence(1), [6]);
    balanced(&world.stop());
}

#[test]
fn a_peer_that_never_reads_loses_its_oldest_and_delays_nobody() {
    let world = World::new(1);
    let mut deaf = world.tcpcopy();
    let mut peer = world.tcpcopy();
    world.announce(&mut deaf, client(1));
    world.announce(&mut peer, client(2));
    let mut sent = 0;
    // More than socket buffers and queue hold; tcp_rmem and tcp_wmem allow about 10 MiB here.
    let total = 400_000u32 + QUEUE_RECORDS as u32;
    while sent < total {
        for _ in 0..4096 {
            world.respond(0, client(1), sent);
            sent += 1;
        }
        world.respond(0, client(2), sent);
        assert_eq!(peer.sequence(1), [sent]);
    }
    let report = world.stop();
    let outputs = report.records.outputs;
    assert!(outputs.dropped_full > 0, "{}", to_text(&report));
    let losers = report
        .peers
        .iter()
        .filter(|(_, t)| t.dropped_full > 0)
        .count();
    assert_eq!(losers, 1);
    // What it does get is whole and in order.
    let mut last = None;
    let mut got = 0;
    while let Some(header) = try_next(&mut deaf) {
        assert!(last.is_none_or(|l| l < header), "{last:?} then {header}");
        last = Some(header);
        got += 1;
    }
    assert!(got > 0);
    balanced(&report);
}

/// The next sequence number, or `None` at the end of the stream.
fn try_next(peer: &mut Peer) -> Option<u32> {
    let mut head = [0; 2];
    // A frame may be cut at the end, by the shutdown of the service: it ends the stream too.
    peer.take_exact(&mut head)?;
    let count = usize::from(u16::from_be_bytes(head));
    assert!((1..=16).contains(&count));
    let mut last = None;
    for _ in 0..count {
        let mut record = [0; 64];
        peer.take_exact(&mut record)?;
        let header = compat::decode_record(&record).expect("record");
        assert!(last.is_none_or(|l| l < header.seq.0));
        last = Some(header.seq.0);
    }
    last
}

#[test]
fn garbage_closes_its_own_connection_only() {
    let world = World::new(1);
    let mut peer = world.tcpcopy();
    world.announce(&mut peer, client(1));
    let mut http = world.connect();
    http.send(b"GET / HTTP/1.1\r\n\r\n");
    http.expect_closed();
    let mut no_hello = world.connect();
    no_hello.add(client(1));
    no_hello.expect_closed();
    world.respond(0, client(1), 8);
    assert_eq!(peer.sequence(1), [8]);
    let report = world.stop();
    assert_eq!((report.channel.not_hello, report.channel.greeted), (2, 1));
    balanced(&report);
}

#[test]
fn unknown_records_are_ignored() {
    let world = World::new(1);
    let mut peer = world.tcpcopy();
    for kind in [0u8, 3, 99] {
        let mut record = compat::add(client(1), TARGET).expect("IPv4");
        record[7] = kind;
        peer.send(&record);
    }
    world.announce(&mut peer, client(1));
    let report = world.stop();
    assert_eq!((report.channel.unknown, report.channel.adds), (3, 1));
    balanced(&report);
}

#[test]
fn who_says_no_hello_is_closed() {
    let control = ControlOptions {
        hello_timeout: Duration::from_millis(50),
        ..ControlOptions::default()
    };
    let world = World::with(1, Limits::default(), control);
    let mut silent = world.connect();
    silent.expect_closed();
    let mut partial = world.connect();
    partial.send(&[0; 13]);
    partial.expect_closed();
    assert_eq!(world.stop().channel.hello_timeouts, 2);
}

#[test]
fn connections_are_bounded_and_places_are_reused() {
    let world = World::new(1);
    // One address may take 192 of the 256 places.
    let mut peers: Vec<Peer> = (0..192).map(|_| world.tcpcopy()).collect();
    world.announce(&mut peers[191], client(1));
    let mut refused = world.tcpcopy();
    refused.expect_closed();
    peers.extend((0..64).map(|_| world.tcpcopy_from([127, 0, 0, 2])));
    world.announce(&mut peers[255], client(3));
    let mut refused = world.tcpcopy_from([127, 0, 0, 3]);
    refused.expect_closed();
    // All of the others still work, and a place that is given back is taken again.
    world.announce(&mut peers[255], client(1));
    peers.truncate(255);
    let mut attempt = 0;
    let mut again = loop {
        let mut peer = world.connect_from([127, 0, 0, 3]);
        // May be refused until the control thread has seen that the place is free: then these fail.
        let mut hello = compat::hello().to_vec();
        hello.extend(compat::add(client(2), TARGET).expect("IPv4"));
        let _ = peer.stream.write_all(&hello);
        world.respond(0, client(2), attempt);
        attempt += 1;
        if try_next(&mut peer).is_some() {
            break peer;
        }
    };
    world.respond(0, client(2), 1_000_000);
    while again.next().seq.0 != 1_000_000 {}
    let report = world.stop();
    assert!(report.channel.refused_full >= 1);
    balanced(&report);
}

#[test]
fn many_peers_over_several_workers_whatever_the_queue() {
    const WORKERS: usize = 3;
    let world = World::new(WORKERS);
    let mut peers: Vec<Peer> = (0..40).map(|_| world.tcpcopy()).collect();
    let sessions: Vec<(usize, Endpoint)> = (0..400u16)
        .map(|n| (usize::from(n) % 40, client(n)))
        .collect();
    for (peer, session) in &sessions {
        peers[*peer].add(*session);
    }
    // Ten responses of each session, each session on one queue, as RSS would have it.
    for seq in 0..10 {
        for (n, (_, session)) in sessions.iter().enumerate() {
            world.respond(n % WORKERS, *session, seq);
        }
    }
    for (index, peer) in peers.iter_mut().enumerate() {
        let mut next = std::collections::HashMap::new();
        for _ in 0..100 {
            let header = peer.next();
            assert!(
                sessions.contains(&(index, header.client)),
                "{header:?} at peer {index}"
            );
            let expected: &mut u32 = next.entry(header.client).or_default();
            assert_eq!(header.seq.0, *expected, "{header:?}");
            *expected += 1;
        }
    }
    let report = world.stop();
    assert_eq!(report.records.outputs.sent, 4000);
    assert!(report.packets.handed_over > 0);
    assert_eq!(report.routes.added, 400);
    assert_eq!(report.peers.len(), 40);
    assert!(report.peers.iter().all(|(_, t)| t.sent == 100));
    balanced(&report);
}

#[test]
fn a_native_peer_gets_ipv6_and_gives_routes_back() {
    let world = World::new(2);
    let v6 = |n| Endpoint::new(common::packet::Addr([n; 16]), 8000 + u16::from(n));
    let (client, target) = (v6(0x21), v6(0x22));
    let mut peer = world.connect();
    peer.send(&native::hello(0));
    let mut ack = [0; native::ACK_BYTES];
    peer.take_exact(&mut ack).expect("an answer");
    assert_eq!(ack, native::ack(native::ack_flags::PONGS));
    peer.send(&native::switch());
    peer.send(&native::ClientMessage::add(client, target).to_bytes());
    let frame = response_frame(client, target, 7, TcpFlags::ACK, b"answer");
    // Before or after its route: an early one is kept.
    world.push(0, &frame, 0);
    let mut got = [0; native::FRAME_HEAD_BYTES + native::HEADER_RECORD_BYTES];
    peer.take_exact(&mut got).expect("a frame");
    assert_eq!(got[..native::FRAME_HEAD_BYTES], native::frame_head(1));
    let record = *got.last_chunk().expect("a record");
    let header = native::HeaderRecord::decode(record);
    assert_eq!((header.client, header.target), (client, target));
    assert_eq!((header.seq.0, header.payload_len), (7, 6));
    peer.send(&native::ClientMessage::del(client, target).to_bytes());
    // A second route that answers shows that the first one's end was read.
    peer.send(&native::ClientMessage::add(v6(0x23), target).to_bytes());
    world.push(
        0,
        &response_frame(v6(0x23), target, 8, TcpFlags::ACK, b""),
        0,
    );
    peer.take_exact(&mut got).expect("a frame");
    let report = world.stop();
    assert_eq!((report.channel.adds, report.channel.dels), (2, 1));
    balanced(&report);
}

/// The kernel's side of the routes: for all workers, those that were ever put into it, and those that were taken out.
#[derive(Clone, Default)]
struct Kernel(Arc<Mutex<[Vec<RouteKey>; 2]>>);

impl KernelRoutes for Kernel {
    fn insert(&mut self, key: &RouteKey) -> bool {
        self.0.lock().expect("kernel")[0].push(*key);
        true
    }

    fn remove(&mut self, key: &RouteKey) {
        self.0.lock().expect("kernel")[1].push(*key);
    }
}

#[test]
fn on_the_target_routes_are_confirmed_once_the_kernel_knows_them() {
    let kernel = Kernel::default();
    let limits = Limits {
        // So long do routes linger that have lost their connection.
        route_idle: Nanos::from_millis(300),
        ..Limits::default()
    };
    let boxed = || Box::new(kernel.clone()) as Box<dyn KernelRoutes>;
    let world = World::on_target(2, limits, boxed);
    let mut peer = world.connect();
    peer.send(&native::hello(0));
    let mut ack = [0; native::ACK_BYTES];
    peer.take_exact(&mut ack).expect("an answer");
    let flags = native::ack_flags::CONFIRMS | native::ack_flags::PONGS;
    assert_eq!(ack, native::ack(flags));
    peer.send(&native::switch());
    // Some of either worker.
    let mut awaited: Vec<_> = (1..=20u16)
        .map(|n| RouteKey {
            client: Endpoint::new(common::packet::Addr::v4([10, 1, 1, 1]), n),
            target: TARGET,
        })
        .collect();
    for key in &awaited {
        peer.send(&native::ClientMessage::add(key.client, key.target).to_bytes());
    }
    let mut stream = native::ServerStream::default();
    stream.feed(&ack, |_| ()).expect("an answer");
    while !awaited.is_empty() {
        let mut byte = [0];
        peer.take_exact(&mut byte).expect("confirmations");
        let known = kernel.0.lock().expect("kernel")[0].clone();
        stream
            .feed(&byte, |record| {
                let native::ServerRecord::Confirmed { client, target } = record else {
                    panic!("{record:?}");
                };
                let key = RouteKey { client, target };
                assert!(known.contains(&key), "{key:?} is not in the kernel");
                let at = awaited.iter().position(|k| *k == key).expect("once each");
                awaited.swap_remove(at);
            })
            .expect("frames");
    }
    drop(peer);
    let end = Instant::now() + PATIENCE;
    while kernel.0.lock().expect("kernel")[1].len() < 20 {
        assert!(Instant::now() < end, "routes stay");
        std::thread::sleep(Duration::from_millis(5));
    }
    // A C tcpcopy understands no confirmation.
    assert!(
        world.tcpcopy().take_exact(&mut [0]).is_none(),
        "it is closed"
    );
    let report = world.stop();
    let channel = report.channel;
    assert_eq!((channel.not_native, channel.key_refused), (1, 0));
    assert_eq!((report.routes.added, report.routes.closed), (20, 0));
    assert_eq!(report.routes.expired, 20);
    balanced(&report);
}

#[test]
fn packets_that_are_no_responses_are_counted_by_cause() {
    let world = World::new(1);
    world.push(0, &[0; 60], 0);
    world.push(0, &[], 0);
    let v6 = |n| {
        Endpoint::new(
            common::packet::Addr([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n]),
            80,
        )
    };
    world.push(0, &response_frame(v6(1), v6(2), 1, TcpFlags::ACK, b""), 0);
    let mut fragment = response_frame(client(1), TARGET, 1, TcpFlags::ACK, b"");
    fragment[14 + 6] = 0x20;
    world.push(0, &fragment, 0);
    world.settle();
    let report = world.stop();
    assert_eq!(report.packets.received, 4);
    // The IPv6 packet is a response that nobody has announced.
    assert_eq!((report.undecodable(), report.unrouted()), (3, 1));
    let json: serde_json::Value =
        serde_json::from_str(&to_json(&report).expect("json")).expect("json");
    assert_eq!(json["packets"]["undecodable"]["fragment"], 1);
    balanced(&report);
}

#[test]
fn the_report_as_json() {
    let world = World::new(2);
    let mut peer = world.tcpcopy();
    world.announce(&mut peer, client(1));
    let address = peer.stream.local_addr().expect("address").to_string();
    let report = world.stop();
    let json: serde_json::Value =
        serde_json::from_str(&to_json(&report).expect("json")).expect("json");
    for (path, value) in [
        ("/version", 1.into()),
        ("/program", "intercept-user".into()),
        ("/iface", "memory".into()),
        ("/mode", "native".into()),
        ("/workers", 2.into()),
        ("/packets/received", 1.into()),
        ("/routes/live", 1.into()),
        ("/routes/added", 1.into()),
        ("/records/sent", 1.into()),
        ("/records/dropped/peer_slow", 0.into()),
        ("/peers/0/address", address.into()),
        ("/peers/0/sent", 1.into()),
        ("/channel/greeted", 1.into()),
        ("/latency_us/turnaround/count", 1.into()),
        ("/kernel/captured", 0.into()),
        ("/unaccounted/packets", 0.into()),
    ] {
        let found: Option<&serde_json::Value> = json.pointer(path);
        assert_eq!(found, Some(&value), "{path} in {json:#}");
    }
    let t = &json["latency_us"]["turnaround"];
    assert!(t["p50"].as_f64() > Some(0.0) && t["p99"].is_number() && t["p99_9"].is_number());
    assert!(
        json["clock"]["source"]
            .as_str()
            .is_some_and(|s| s.contains("CLOCK_MONOTONIC"))
    );
    let text = to_text(&report);
    assert!(
        text.contains("turnaround  us: p50 ") && !text.contains("unaccounted"),
        "{text}"
    );
}

#[test]
fn each_announced_target_is_told_once() {
    let (tell, told) = std::sync::mpsc::channel();
    let sink = Box::new(move |target| tell.send(target).expect("open"));
    let world = World::learning(1, Limits::default(), ControlOptions::default(), Some(sink));
    let other = Endpoint::new(TARGET.addr, TARGET.port + 1);
    let mut peer = world.connect();
    peer.send(&native::hello(0));
    for target in [TARGET, TARGET, other, TARGET] {
        peer.send(&compat::add(client(1), target).expect("IPv4"));
    }
    // The same endpoint as a target of datagrams is another target.
    let v6 = Endpoint::new(common::packet::Addr([0x20; 16]), 53);
    peer.send(&native::switch());
    for target in [TARGET, v6, TARGET, v6] {
        peer.send(&native::ClientMessage::udp_target(target).to_bytes());
    }
    for target in [
        Announced::Tcp(TARGET),
        Announced::Tcp(other),
        Announced::Udp(TARGET),
        Announced::Udp(v6),
    ] {
        assert_eq!(told.recv_timeout(PATIENCE), Ok(target));
    }
    drop(peer);
    world.stop();
    assert!(told.recv().is_err(), "nothing twice");
}
