//! One peer never delays another, however it behaves.

use super::support::{PATIENCE, Peer, World, client};
use super::{balanced, to_text};
use common::wire::compat;
use std::io::Write;
use std::time::{Duration, Instant};

/// One that never reads, one half open, one of garbage and a storm of reconnecting ones, while another receives all of
/// its responses in order.
#[test]
fn all_responses_arrive_in_order_beside_peers_of_every_kind() {
    const RESPONSES: u32 = 60_000;
    let world = World::new(2);
    let mut deaf = world.tcpcopy();
    world.announce(&mut deaf, client(1));
    let mut half = world.tcpcopy();
    half.send(&compat::add(client(7), super::TARGET).expect("IPv4")[..9]);
    let mut peer = world.tcpcopy();
    world.announce(&mut peer, client(2));
    world.announce(&mut peer, client(3));

    let address = peer.stream.peer_addr().expect("address");
    let mut storms = 0u64;
    let mut sent = 0;
    while sent < RESPONSES {
        for _ in 0..100 {
            // Ten times as many for the one that does not read.
            for n in 0..10 {
                world.respond(0, client(1), sent * 10 + n);
            }
            world.respond(0, client(2), sent);
            world.respond(1, client(3), sent);
            sent += 1;
        }
        // Connect, say hello and a route, or garbage, and go, with and without a reset of unread data.
        for kind in 0..6 {
            let mut stream = std::net::TcpStream::connect(address).expect("connect");
            let mut bytes = match kind % 3 {
                0 => compat::hello().to_vec(),
                1 => b"GET / HTTP/1.1\r\n\r\n".to_vec(),
                _ => vec![0; 5],
            };
            if kind == 3 {
                bytes.extend(compat::add(client(4), super::TARGET).expect("IPv4"));
            }
            stream.write_all(&bytes).expect("write");
            storms += 1;
        }
        world.respond(0, client(4), sent);
        receive(&mut peer, 200, sent);
    }
    let report = world.stop();
    assert!(report.channel.accepted >= storms, "{}", to_text(&report));
    let slow = report
        .peers
        .iter()
        .filter(|(_, t)| t.dropped_full > 0)
        .count();
    assert!(slow == 1, "{}", to_text(&report));
    balanced(&report);
}

/// The next `count` responses of both sessions are the ones before number `end`, each in order.
fn receive(peer: &mut Peer, count: u32, end: u32) {
    let mut next = [end - count / 2; 2];
    for _ in 0..count {
        let header = peer.next();
        let place = usize::from(header.client == client(3));
        assert_eq!(header.seq.0, next[place], "{header:?}");
        next[place] += 1;
    }
    assert_eq!(next, [end; 2]);
}

/// The same tcpcopy again and again, each time with its route: whoever is there gets the responses, nobody else.
#[test]
fn a_reconnect_storm_leaves_the_last_connection_with_its_routes() {
    let world = World::new(2);
    let mut peer = world.tcpcopy();
    for round in 0..300u32 {
        let next = world.tcpcopy();
        drop(std::mem::replace(&mut peer, next));
        for n in 0..20 {
            peer.add(client(n));
        }
        if round % 30 == 0 {
            world.announce(&mut peer, client(5));
            world.respond(0, client(5), round);
            assert_eq!(peer.sequence(1), [round]);
        }
    }
    let end = Instant::now() + PATIENCE;
    world.announce(&mut peer, client(19));
    while Instant::now() < end {
        world.respond(1, client(19), 77);
        if peer.sequence(1) == [77] {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let report = world.stop();
    assert_eq!(
        (report.channel.accepted, report.channel.not_hello),
        (301, 0)
    );
    // Routes of closed connections go: those of the last one are left, and what the very last ones had is on its way.
    assert!(report.routes_live <= 20, "{}", to_text(&report));
    balanced(&report);
}
