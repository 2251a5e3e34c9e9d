//! Strangers at the channel's port, over loopback: whatever they do, the responses of a real peer go on, and nothing
//! of theirs is kept.

#[expect(dead_code, reason = "service.rs uses the rest")]
mod support;

use channel_crypto::{Initiator, Key, MESSAGE_BYTES, Sealed};
use common::wire::compat;
use common::wire::native::{
    self, ACK_BYTES, ClientMessage, HEADER_RECORD_BYTES, Pong, ServerRecord, ServerStream,
    ack_flags, offer_flags,
};
use intercept_user::channel::ControlOptions;
use intercept_user::worker::Limits;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{PATIENCE, Peer, TARGET, World, client};

/// Not that of real peers.
const ATTACKER: [u8; 4] = [127, 0, 0, 66];

fn key(n: u8) -> Arc<Key> {
    Arc::new(Key::from_bytes(&[n; 32]))
}

fn keyed_world() -> World {
    let control = ControlOptions {
        key: Some(key(1)),
        ..ControlOptions::default()
    };
    World::with(1, Limits::default(), control)
}

/// A tcpcopy with a key, as far as it gets.
struct Keyed {
    peer: Peer,
    sealed: Sealed,
    stream: ServerStream,
}

/// What was said in the greeting, for those who record it.
struct Recorded {
    hello: [u8; 14],
    one: [u8; MESSAGE_BYTES],
}

fn greet(world: &World, key: &Key) -> Result<(Keyed, Recorded), Vec<u8>> {
    let hello = native::hello(offer_flags::KEYED | offer_flags::PINGS);
    let mut peer = world.connect();
    peer.send(&hello);
    let mut ack = [0; ACK_BYTES];
    peer.take_exact(&mut ack).expect("ACK");
    let flags = native::flags_of_ack(ack).expect("ACK");
    assert_eq!(flags, ack_flags::KEYED | ack_flags::PONGS);
    let prologue = [&hello[..], &ack[..]].concat();
    let (initiator, one) = Initiator::begin(key, &prologue).expect("begin");
    peer.send(&one);
    let mut two = [0; MESSAGE_BYTES];
    if peer.take_exact(&mut two).is_none() {
        return Err(two[..2].to_vec());
    }
    let keyed = Keyed {
        peer,
        sealed: initiator.finish(&two).expect("intercept proves the key"),
        stream: ServerStream::native(flags),
    };
    Ok((keyed, Recorded { hello, one }))
}

impl Keyed {
    fn say(&mut self, messages: &[ClientMessage]) {
        let plain: Vec<u8> = messages.iter().flat_map(|m| m.to_bytes()).collect();
        let mut wire = Vec::new();
        self.sealed.sealer.seal(&plain, &mut wire);
        self.peer.send(&wire);
    }

    /// What comes next, at least one record.
    fn hear(&mut self) -> Vec<ServerRecord> {
        let (mut got, mut bytes) = (Vec::new(), [0; 4096]);
        while got.is_empty() {
            let n = self.peer.stream.read(&mut bytes).expect("records in time");
            assert_ne!(n, 0, "closed");
            let mut rest = &bytes[..n];
            while let Some(plain) = self.sealed.opener.next(&mut rest).expect("sealed") {
                self.stream.feed(plain, |r| got.push(r)).expect("frames");
            }
        }
        got
    }

    fn pong(&mut self, token: u64) -> Pong {
        self.say(&[ClientMessage::ping(token)]);
        loop {
            for record in self.hear() {
                if let ServerRecord::Pong(pong) = record
                    && pong.token == token
                {
                    return pong;
                }
            }
        }
    }
}

/// A peer with a route, whose responses are counted while others misbehave.
struct Watched<'a> {
    world: &'a World,
    peer: Peer,
    sent: u32,
}

impl<'a> Watched<'a> {
    fn new(world: &'a World) -> Self {
        let mut peer = world.tcpcopy();
        world.announce(&mut peer, client(1));
        Self {
            world,
            peer,
            sent: 0,
        }
    }

    /// Responses go through now.
    fn check(&mut self) {
        for _ in 0..10 {
            self.sent += 1;
            self.world.respond(0, client(1), self.sent);
            assert_eq!(self.peer.next().seq.0, self.sent);
        }
    }
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "not reached");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn ten_thousand_connections_take_nobodys_place() {
    let world = World::new(1);
    let mut watched = Watched::new(&world);
    let wave = 200;
    for n in 0..50 {
        let mut open: Vec<TcpStream> = Vec::with_capacity(wave);
        for at in 0..wave {
            let Ok(mut stream) = world.stream_from(ATTACKER) else {
                continue;
            };
            // A port scan says nothing; others talk.
            let words: &[u8] = match at % 4 {
                0 => b"",
                1 => b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                2 => &[0; 13],
                _ => &[0xff; 600],
            };
            let _ = stream.write_all(words);
            open.push(stream);
        }
        watched.check();
        if n % 10 == 9 {
            // A real peer that comes in the middle finds a place, and is closed by nobody.
            let mut late = world.tcpcopy();
            world.announce(&mut late, client(2));
        }
    }
    watched.check();
    drop(watched);
    let report = world.stop();
    let channel = &report.channel;
    assert!(channel.accepted > 10_000, "{channel:?}");
    assert_eq!(
        (channel.greeted, channel.refused_full),
        (6, 0),
        "{channel:?}"
    );
    assert!(
        channel.not_hello > 0 && channel.displaced > 0,
        "{channel:?}"
    );
    assert_eq!(report.unaccounted(), (0, 0));
}

#[test]
fn a_slow_loris_is_closed_when_its_time_is_over() {
    let control = ControlOptions {
        hello_timeout: Duration::from_millis(300),
        ..ControlOptions::default()
    };
    let world = World::with(1, Limits::default(), control);
    let mut watched = Watched::new(&world);
    let mut lorises: Vec<Peer> = (0..8).map(|_| world.connect_from(ATTACKER)).collect();
    // Each byte would begin the time anew if silence were what counts. The last of a hello never comes.
    for byte in [0; 13] {
        for loris in &mut lorises {
            let _ = loris.stream.write_all(&[byte]);
        }
        watched.check();
        std::thread::sleep(Duration::from_millis(50));
    }
    for loris in &mut lorises {
        loris.expect_closed();
    }
    drop(watched);
    assert_eq!(world.stop().channel.hello_timeouts, 8);
}

#[test]
fn with_a_key_peers_are_served_and_others_learn_nothing() {
    let world = keyed_world();
    let (mut peer, recorded) = greet(&world, &key(1)).expect("our key");
    peer.say(&[ClientMessage::add(client(1), TARGET)]);
    peer.pong(1);
    world.respond(0, client(1), 7);
    let got = peer.hear();
    assert!(
        matches!(got[..], [ServerRecord::Header(h)] if h.seq.0 == 7 && h.client == client(1)),
        "{got:?}"
    );
    // What C and keyless programs say, hello and a route: they are closed and told no response.
    let add = compat::add(client(1), TARGET).expect("IPv4");
    let mut c = world.connect_from(ATTACKER);
    let _ = c.stream.write_all(&[&compat::hello()[..], &add].concat());
    c.expect_closed();
    let mut keyless = world.connect_from(ATTACKER);
    keyless.send(&native::hello(0));
    let mut ack = [0; ACK_BYTES];
    keyless.take_exact(&mut ack).expect("last words");
    assert_eq!(ack, native::ack(ack_flags::PONGS | ack_flags::KEYED));
    keyless.expect_closed();
    // Another key.
    let refusal = greet(&world, &key(2)).err();
    assert_eq!(refusal, Some(channel_crypto::REFUSAL.to_vec()));
    // A recording of the real peer's greeting.
    let mut replayed = world.connect_from(ATTACKER);
    replayed.send(&recorded.hello);
    replayed.take_exact(&mut ack).expect("another challenge");
    replayed.send(&recorded.one);
    let mut refusal = [0xff; 2];
    replayed.take_exact(&mut refusal).expect("refusal");
    assert_eq!(refusal, channel_crypto::REFUSAL);
    replayed.expect_closed();
    // The real peer's route is still its own.
    world.respond(0, client(1), 8);
    assert!(matches!(peer.hear()[..], [ServerRecord::Header(h)] if h.seq.0 == 8));
    let report = world.stop();
    assert_eq!((report.channel.greeted, report.channel.key_refused), (1, 4));
    assert_eq!(report.records.outputs.sent, 2);
}

#[test]
fn half_done_and_garbled_greetings_disturb_nobody() {
    let world = keyed_world();
    let (mut peer, _) = greet(&world, &key(1)).expect("our key");
    peer.say(&[ClientMessage::add(client(1), TARGET)]);
    let hello = native::hello(offer_flags::KEYED);
    let mut open = Vec::new();
    for n in 0..1000_u32 {
        let mut half = world.connect_from(ATTACKER);
        let _ = half.stream.write_all(&hello);
        // Part of a message, a whole one of garbage, or nothing more.
        let garbage = [n as u8; MESSAGE_BYTES];
        let _ = half
            .stream
            .write_all(&garbage[..[0, 20, MESSAGE_BYTES][n as usize % 3]]);
        open.push(half);
        if n % 50 == 0 {
            let token = u64::from(n);
            assert_eq!(peer.pong(token).token, token);
            open.truncate(100);
        }
    }
    let (mut late, _) = greet(&world, &key(1)).expect("a place for our key");
    late.pong(5);
    drop(open);
    let report = world.stop();
    assert_eq!(report.channel.greeted, 2);
    assert!(report.channel.key_refused > 0, "{:?}", report.channel);
}

#[test]
fn a_changed_record_ends_the_connection_before_it_is_read() {
    let world = keyed_world();
    let (mut peer, _) = greet(&world, &key(1)).expect("our key");
    let mut wire = Vec::new();
    let add = ClientMessage::add(client(1), TARGET).to_bytes();
    peer.sealed.sealer.seal(&add, &mut wire);
    let last = wire.len() - 1;
    wire[last] ^= 1;
    peer.peer.send(&wire);
    peer.peer.expect_closed();
    let report = world.stop();
    assert_eq!((report.channel.adds, report.channel.greeted), (0, 1));
}

#[test]
fn pongs_tell_what_became_of_responses_and_who_stops_to_ping_is_closed() {
    let control = ControlOptions {
        silence: Duration::from_millis(200),
        ..ControlOptions::default()
    };
    let world = World::with(1, Limits::default(), control);
    let mut c = Watched::new(&world);
    let mut peer = world.connect();
    peer.send(&native::hello(offer_flags::PINGS));
    peer.send(&native::switch());
    peer.send(&ClientMessage::ping(9).to_bytes());
    let mut bytes = [0; ACK_BYTES + native::FRAME_HEAD_BYTES + HEADER_RECORD_BYTES];
    peer.take_exact(&mut bytes).expect("ACK and pong");
    let (mut stream, mut got) = (ServerStream::default(), Vec::new());
    stream.feed(&bytes, |r| got.push(r)).expect("frames");
    let token = Pong {
        token: 9,
        ..Pong::default()
    };
    assert_eq!(got, [ServerRecord::Pong(token)]);
    // Silent from here on. A C peer, which never pings, stays.
    peer.expect_closed();
    c.check();
    drop(c);
    let report = world.stop();
    assert_eq!((report.channel.pings, report.channel.silent), (1, 1));
}

#[test]
fn a_peer_with_a_key_that_never_reads_delays_nobody() {
    let world = keyed_world();
    let (mut stuck, _) = greet(&world, &key(1)).expect("our key");
    let (mut peer, _) = greet(&world, &key(1)).expect("our key");
    stuck.say(&[ClientMessage::add(client(1), TARGET)]);
    peer.say(&[ClientMessage::add(client(2), TARGET)]);
    stuck.pong(1);
    peer.pong(1);
    let mut n = 0;
    // Until its socket and its queue are full.
    let mut lag = 0;
    while n < 100_000 {
        for _ in 0..1000 {
            n += 1;
            world.respond(0, client(1), n);
        }
        world.settle();
        world.respond(0, client(2), n);
        assert!(matches!(peer.hear()[..], [ServerRecord::Header(h)] if h.seq.0 == n));
        lag = lag.max(peer.pong(u64::from(n)).lag_max_ns);
    }
    assert!(lag > 0);
    wait_until(|| peer.pong(1).waiting == 0);
    let report = world.stop();
    assert!(report.records.outputs.dropped_full > 0);
    assert_eq!(report.unaccounted(), (0, 0));
}
