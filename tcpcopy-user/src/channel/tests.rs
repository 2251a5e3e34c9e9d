use super::*;
use common::flow::ResponseHeader;
use common::packet::{Addr, SackBlocks, SeqNumber, TcpFlags, TcpOptions};
use common::wire::compat::{self, ClientRecord, MAX_RECORDS};
use common::wire::native::{self, CLIENT_MESSAGE_BYTES, ClientMessage, HeaderRecord};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Long enough for a loaded machine; waiting ends as soon as what is waited for is there.
const PATIENCE: Duration = Duration::from_secs(30);

fn client(n: u16) -> Endpoint {
    Endpoint::new(Addr::v4([192, 0, 2, 1]), n)
}

fn target() -> Endpoint {
    Endpoint::new(Addr::v4([10, 0, 0, 30]), 8080)
}

fn header(n: u16) -> ResponseHeader {
    ResponseHeader {
        target: target(),
        client: client(n),
        seq: SeqNumber(u32::MAX - u32::from(n)),
        ack: SeqNumber(9),
        flags: TcpFlags::ACK,
        window: n,
        payload_len: u32::from(n),
        options: TcpOptions::default(),
        sack: SackBlocks::default(),
    }
}

fn frame(headers: &[ResponseHeader]) -> Vec<u8> {
    let mut bytes = (headers.len() as u16).to_be_bytes().to_vec();
    for h in headers {
        bytes.extend_from_slice(&compat::encode_record(h).unwrap());
    }
    bytes
}

fn listener() -> (TcpListener, Endpoint) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = listener.local_addr().unwrap().into();
    (listener, peer)
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut hello = [0; 14];
    (&stream).read_exact(&mut hello).unwrap();
    assert_eq!(hello, native::hello(native::offer_flags::PINGS));
    stream
}

fn read_record(stream: &mut TcpStream) -> ClientRecord {
    let mut record = [0; 14];
    stream.read_exact(&mut record).unwrap();
    ClientRecord::decode(&record, false)
}

fn now() -> Nanos {
    dataplane::clock::now()
}

/// Services the channel until `done` holds.
fn until(
    channel: &mut Channel,
    out: &mut Received,
    done: impl Fn(&Channel, &[ResponseHeader]) -> bool,
) {
    let start = Instant::now();
    while !done(channel, &out.headers) {
        assert!(start.elapsed() < PATIENCE, "not reached, got {out:?}");
        channel.service(now(), out);
        channel.flush(now());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn counter(channel: &Channel, wanted: &str) -> u64 {
    let mut sum = 0;
    channel.counters(&mut |name, value| sum += if name == wanted { value } else { 0 });
    sum
}

#[test]
fn frames_may_be_cut_anywhere() {
    let (listener, peer) = listener();
    let mut channel = Channel::connect(&[peer], 1, false, now()).unwrap();
    let mut stream = accept(&listener);
    let headers: Vec<_> = (0..=MAX_RECORDS as u16).map(header).collect();
    // Counts 0, 1, 16: the format's limits.
    let mut bytes = frame(&[]);
    bytes.extend(frame(&headers[..1]));
    bytes.extend(frame(&headers[1..]));
    let mut out = Received::default();
    // One byte a write at every offset is all cuts at once.
    for byte in &bytes {
        stream.write_all(std::slice::from_ref(byte)).unwrap();
        channel.service(now(), &mut out);
    }
    until(&mut channel, &mut out, |_, out| out.len() >= headers.len());
    assert_eq!(out.headers, headers);
    assert_eq!(counter(&channel, "responses"), headers.len() as u64);
    assert_eq!(counter(&channel, "losses"), 0);
}

#[test]
fn a_count_of_17_ends_the_connection() {
    let (listener, peer) = listener();
    let mut channel = Channel::connect(&[peer], 1, false, now()).unwrap();
    let mut stream = accept(&listener);
    let mut bytes = frame(&[header(1)]);
    bytes.extend_from_slice(&17u16.to_be_bytes());
    stream.write_all(&bytes).unwrap();
    let mut out = Received::default();
    until(&mut channel, &mut out, |c, _| counter(c, "losses") == 1);
    assert_eq!(out.headers, [header(1)], "what came before is good");
    // It comes back by itself.
    let again = std::thread::scope(|s| {
        let accepted = s.spawn(|| accept(&listener));
        until(&mut channel, &mut out, |c, _| counter(c, "connects") == 2);
        accepted.join().unwrap()
    });
    drop(again);
}

#[test]
fn records_that_are_no_header_are_counted() {
    let (listener, peer) = listener();
    let mut channel = Channel::connect(&[peer], 1, false, now()).unwrap();
    let mut stream = accept(&listener);
    let mut bytes = frame(&[header(1), header(2)]);
    bytes[2] = 0x65;
    stream.write_all(&bytes).unwrap();
    let mut out = Received::default();
    until(&mut channel, &mut out, |_, out| !out.is_empty());
    assert_eq!(out.headers, [header(2)]);
    assert_eq!(counter(&channel, "responses_bad"), 1);
}

#[test]
fn every_intercept_hears_each_route_on_connections_in_turn() {
    let (a, peer_a) = listener();
    let (b, peer_b) = listener();
    let mut channel = Channel::connect(&[peer_a, peer_b], 2, false, now()).unwrap();
    let mut of_a = [accept(&a), accept(&a)];
    let mut of_b = [accept(&b), accept(&b)];
    for n in 1..=4 {
        assert!(channel.announce(client(n), target()));
    }
    channel.flush(now());
    for streams in [&mut of_a, &mut of_b] {
        let mut got: Vec<u16> = Vec::new();
        for stream in streams {
            for _ in 0..2 {
                let ClientRecord::Add { client, target: t } = read_record(stream) else {
                    panic!("no CLIENT_ADD")
                };
                assert_eq!(t, target());
                got.push(client.port);
            }
        }
        got.sort_unstable();
        assert_eq!(got, [1, 2, 3, 4]);
    }
}

#[test]
fn live_routes_are_announced_again_after_a_reconnect() {
    let (listener, peer) = listener();
    let mut channel = Channel::connect(&[peer], 1, false, now()).unwrap();
    let mut first = accept(&listener);
    for n in 1..=3 {
        assert!(channel.announce(client(n), target()));
    }
    channel.retire(client(2), target());
    channel.flush(now());
    for _ in 0..3 {
        read_record(&mut first);
    }
    drop(first);
    let mut out = Received::default();
    until(&mut channel, &mut out, |c, _| !c.is_up());
    assert!(!channel.announce(client(4), target()), "nobody to tell");
    let mut second = std::thread::scope(|s| {
        let accepted = s.spawn(|| accept(&listener));
        until(&mut channel, &mut out, |c, _| {
            counter(c, "routes_announced_again") == 3
        });
        accepted.join().unwrap()
    });
    let mut got: Vec<_> = (0..3)
        .map(|_| match read_record(&mut second) {
            ClientRecord::Add { client, .. } => client.port,
            other => panic!("{other:?}"),
        })
        .collect();
    got.sort_unstable();
    assert_eq!(got, [1, 3, 4]);
    assert_eq!(counter(&channel, "routes_live"), 3);
}

#[test]
fn routes_of_a_lost_connection_move_to_another_at_once() {
    let (listener, peer) = listener();
    let mut channel = Channel::connect(&[peer], 2, false, now()).unwrap();
    let mut streams = vec![accept(&listener), accept(&listener)];
    drop(listener);
    assert!(channel.announce(client(1), target()));
    assert!(channel.announce(client(2), target()));
    channel.flush(now());
    let mut lost = streams.remove(0);
    let ClientRecord::Add { client: moved, .. } = read_record(&mut lost) else {
        panic!("no add")
    };
    drop(lost);
    let mut left = streams.remove(0);
    read_record(&mut left);
    let mut out = Received::default();
    until(&mut channel, &mut out, |c, _| {
        counter(c, "routes_announced_again") == 1
    });
    assert_eq!(
        read_record(&mut left),
        ClientRecord::Add {
            client: moved,
            target: target()
        }
    );
    assert!(
        channel.announce(moved, target()),
        "announcing again stays possible"
    );
}

#[test]
fn start_up_names_the_intercept_that_is_not_there() {
    let (listener, peer) = listener();
    drop(listener);
    let error = Channel::connect(&[peer], 2, false, now())
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with(&format!("intercept {peer} cannot be reached: ")),
        "{error}"
    );
    assert!(
        error.contains("--lonely") && !error.contains('\n'),
        "{error}"
    );

    let mut lonely = Channel::connect(&[peer], 2, true, now()).unwrap();
    assert!(!lonely.is_up());
    assert_eq!(lonely.unreachable().collect::<Vec<_>>(), [peer]);
    assert!(!lonely.announce(client(1), target()));
    assert!(lonely.deadline().is_some(), "it must be tried again");
    // An intercept that appears later is found.
    let late = TcpListener::bind(peer.to_socket()).unwrap();
    let mut out = Received::default();
    std::thread::scope(|s| {
        let accepted = s.spawn(|| (accept(&late), accept(&late)));
        until(&mut lonely, &mut out, |c, _| {
            counter(c, "routes_announced_again") == 1
        });
        accepted.join().unwrap();
    });
}

#[test]
fn a_peer_that_does_not_read_blocks_nobody() {
    let (listener, peer) = listener();
    let mut channel = Channel::connect(&[peer], 1, false, now()).unwrap();
    let mut stream = accept(&listener);
    // More than socket buffers and the queue hold together.
    let wanted = 1_500_000u32;
    let mut sent = 0u32;
    while sent < wanted {
        for _ in 0..1000 {
            channel.announce(client(sent as u16), target());
            sent += 1;
        }
        channel.flush(now());
    }
    let dropped = counter(&channel, "records_dropped");
    assert!(dropped > 0, "the queue must be bounded");
    // What arrives is whole records, in step, and nothing is missing but what was counted.
    let mut got = 0u64;
    let mut out = Received::default();
    let mut buffer = vec![0u8; 1 << 16];
    let mut pending = Vec::new();
    while got + dropped < u64::from(wanted) {
        channel.service(now(), &mut out);
        channel.flush(now());
        let n = stream.read(&mut buffer).unwrap();
        assert!(n > 0);
        pending.extend_from_slice(&buffer[..n]);
        let (records, rest) = pending.as_chunks::<14>();
        for r in records {
            assert!(
                matches!(ClientRecord::decode(r, false), ClientRecord::Add { .. }),
                "{r:?}"
            );
        }
        got += records.len() as u64;
        pending = rest.to_vec();
    }
    assert!(pending.is_empty());
    assert_eq!(counter(&channel, "records_dropped"), dropped);
}

#[test]
fn ipv6_is_refused_by_the_format_and_counted() {
    let (listener, peer) = listener();
    let mut channel = Channel::connect(&[peer], 1, false, now()).unwrap();
    let _stream = accept(&listener);
    let v6: Endpoint = "[2001:db8::1]:80"
        .parse::<std::net::SocketAddr>()
        .unwrap()
        .into();
    assert!(!channel.announce(client(1), v6));
    assert!(!channel.announce(v6, target()));
    assert_eq!(counter(&channel, "family_not_carried"), 2);
    assert_eq!(counter(&channel, "routes_live"), 0);
}

#[test]
fn a_native_intercept_carries_ipv6_and_hears_of_ends() {
    let (listener, peer) = listener();
    let mut channel = Channel::connect(&[peer], 1, false, now()).unwrap();
    let mut stream = accept(&listener);
    // Before the answer: the C format.
    assert!(channel.announce(client(1), target()));
    channel.flush(now());
    assert!(matches!(read_record(&mut stream), ClientRecord::Add { .. }));
    let v6 = Endpoint::new(Addr([0x20; 16]), 443);
    assert!(!channel.announce(v6, v6));
    stream.write_all(&native::ack(0)).unwrap();
    let mut out = Received::default();
    until(&mut channel, &mut out, |c, _| c.intercepts[0].is_native());
    assert!(channel.announce(v6, v6));
    channel.flush(now());
    channel.retire(client(1), target());
    channel.flush(now());
    let kind = native::SWITCH;
    assert_eq!(read_record(&mut stream), ClientRecord::Unknown { kind });
    let mut message = [0; CLIENT_MESSAGE_BYTES];
    stream.read_exact(&mut message).unwrap();
    let (client_1, target_1) = (client(1), target());
    let add = ClientRecord::Add {
        client: v6,
        target: v6,
    };
    assert_eq!(ClientMessage::decode(message), add);
    stream.read_exact(&mut message).unwrap();
    let del = ClientRecord::Del {
        client: client_1,
        target: target_1,
    };
    assert_eq!(ClientMessage::decode(message), del);
    let mut response = header(3);
    (response.client, response.target) = (v6, v6);
    stream.write_all(&native::frame_head(1)).unwrap();
    stream
        .write_all(&HeaderRecord::new(&response).to_bytes())
        .unwrap();
    until(&mut channel, &mut out, |_, out| !out.is_empty());
    assert_eq!(out.headers, [response]);
}

#[test]
fn a_route_is_ready_when_all_have_confirmed_it_that_do() {
    let confirming = native::ack_flags::CONFIRMS;
    let (listeners, peers): (Vec<_>, Vec<_>) = (0..3).map(|_| listener()).unzip();
    let mut channel = Channel::connect(&peers, 1, false, now()).unwrap();
    let mut streams: Vec<_> = listeners.iter().map(accept).collect();
    for (stream, flags) in streams.iter_mut().zip([confirming, 0, confirming]) {
        stream.write_all(&native::ack(flags)).unwrap();
    }
    let mut out = Received::default();
    until(&mut channel, &mut out, |c, _| {
        c.intercepts.iter().all(Intercept::is_native)
    });
    for n in [1, 2] {
        assert!(channel.announce(client(n), target()));
        assert!(channel.awaits(client(n), target()));
    }
    assert!(!channel.awaits(client(2), target()), "it has waited");
    let mut confirm = |channel: &mut Channel, at: usize, n: u16| {
        let record = HeaderRecord::confirmed(client(n), target()).to_bytes();
        let mut frame = native::confirmed_head(1).to_vec();
        frame.extend(record);
        // With a response behind it, by which it is known to have come.
        frame.extend(native::frame_head(1));
        frame.extend(HeaderRecord::new(&header(n)).to_bytes());
        streams[at].write_all(&frame).unwrap();
        let mut out = Received::default();
        until(channel, &mut out, |_, headers| !headers.is_empty());
        assert_eq!(out.headers, [header(n)]);
        out.confirmed
    };
    assert_eq!(confirm(&mut channel, 0, 1), []);
    assert_eq!(confirm(&mut channel, 2, 2), [], "too late");
    assert_eq!(confirm(&mut channel, 2, 1), [(client(1), target())]);
    assert_eq!(counter(&channel, "confirmations_awaited"), 2);
    assert_eq!(counter(&channel, "confirmations_come"), 1);
}

#[test]
fn udp_targets_are_told_on_every_native_connection_also_those_made_later() {
    let (listener, peer) = listener();
    let mut channel = Channel::connect(&[peer], 2, false, now()).unwrap();
    let mut streams = [accept(&listener), accept(&listener)];
    let dns = Endpoint::new(Addr::v4([10, 0, 0, 31]), 53);
    let v6 = Endpoint::new(Addr([0x20; 16]), 53);
    let assert_told = |stream: &mut TcpStream| {
        let kind = native::SWITCH;
        assert_eq!(read_record(stream), ClientRecord::Unknown { kind });
        for target in [dns, v6] {
            let mut message = [0; CLIENT_MESSAGE_BYTES];
            stream.read_exact(&mut message).unwrap();
            let told = ClientRecord::UdpTarget { target };
            assert_eq!(ClientMessage::decode(message), told);
        }
    };
    channel.set_udp_targets(&[dns, v6]);
    let mut out = Received::default();
    let mut go_native = |channel: &mut Channel, streams: &mut [TcpStream; 2]| {
        for stream in streams.iter_mut() {
            stream.write_all(&native::ack(0)).unwrap();
        }
        until(channel, &mut out, |c, _| {
            c.intercepts[0]
                .links()
                .iter()
                .all(super::link::Link::is_native)
        });
        channel.flush(now());
        streams.iter_mut().for_each(assert_told);
    };
    go_native(&mut channel, &mut streams);
    drop(streams);
    until(&mut channel, &mut Received::default(), |c, _| {
        counter(c, "connects") == 4
    });
    channel.flush(now());
    let mut again = [accept(&listener), accept(&listener)];
    go_native(&mut channel, &mut again);
}

#[test]
fn ipv6_targets_need_a_native_intercept_which_is_waited_for() {
    let (listener, peer) = listener();
    let mut channel = Channel::connect(&[peer], 1, false, now()).unwrap();
    let mut stream = accept(&listener);
    let v6 = Endpoint::new(Addr([0x20; 16]), 443);
    let error = channel.await_native(v6, Duration::ZERO).unwrap_err();
    let error = error.to_string();
    for part in [&peer.to_string(), &v6.to_string(), "run intercept-user"] {
        assert!(error.contains(part), "{error}");
    }
    stream.write_all(&native::ack(0)).unwrap();
    channel.await_native(v6, super::NATIVE_TIMEOUT).unwrap();
    assert!(channel.announce(v6, v6));
}

/// intercept's side of a greeting with `key`, on a connection that was just accepted.
fn greet(stream: &mut TcpStream, key: &Key) -> Option<channel_crypto::Sealed> {
    let mut hello = [0; 14];
    stream.read_exact(&mut hello).unwrap();
    let ack = native::keyed_ack(native::ack_flags::PONGS, [7; 12]);
    stream.write_all(&ack).unwrap();
    let mut one = [0; channel_crypto::MESSAGE_BYTES];
    stream.read_exact(&mut one).unwrap();
    let prologue = [&hello[..], &ack[..]].concat();
    if let Ok((two, sealed)) = channel_crypto::respond(key, &prologue, &one) {
        stream.write_all(&two).unwrap();
        Some(sealed)
    } else {
        stream.write_all(&channel_crypto::REFUSAL).unwrap();
        None
    }
}

fn messages(stream: &mut TcpStream, sealed: &mut channel_crypto::Sealed) -> Vec<ClientRecord> {
    let (mut bytes, mut got) = ([0; 4096], Vec::new());
    while got.is_empty() {
        let n = stream.read(&mut bytes).unwrap();
        assert!(n > 0, "closed");
        let mut rest = &bytes[..n];
        while let Some(plain) = sealed.opener.next(&mut rest).unwrap() {
            let (all, rest) = plain.as_chunks::<CLIENT_MESSAGE_BYTES>();
            assert!(rest.is_empty());
            got.extend(all.iter().map(|&m| ClientMessage::decode(m)));
        }
    }
    got
}

#[test]
fn with_a_key_routes_are_announced_sealed_and_again_when_intercept_falls_silent() {
    let key = Arc::new(Key::from_bytes(&[1; 32]));
    let (listener, peer) = listener();
    let accept = || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let sealed = greet(&mut stream, &key).expect("the same key");
        (stream, sealed)
    };
    let (mut channel, (mut stream, mut sealed)) = std::thread::scope(|s| {
        let accepted = s.spawn(accept);
        let channel = Channel::connect_with(&[peer], 1, false, Some(&key), now()).unwrap();
        (channel, accepted.join().unwrap())
    });
    assert!(channel.announce(client(1), target()));
    channel.flush(now());
    let add = ClientRecord::Add {
        client: client(1),
        target: target(),
    };
    assert_eq!(messages(&mut stream, &mut sealed), [add]);
    // A ping without an answer, on a clock that runs ahead: lost, and made again with its route.
    let (mut out, start) = (Received::default(), now());
    let mut later = start;
    while counter(&channel, "losses") == 0 {
        channel.service(later, &mut out);
        channel.flush(later);
        later += Nanos::from_secs(1);
        assert!(later.since(start) < Nanos::from_secs(22), "never lost");
    }
    let pinged = messages(&mut stream, &mut sealed);
    assert!(
        matches!(pinged[..], [ClientRecord::Ping { .. }, ..]),
        "{pinged:?}"
    );
    let (mut stream, mut sealed) = std::thread::scope(|s| {
        let accepted = s.spawn(accept);
        let begun = Instant::now();
        while counter(&channel, "routes_announced_again") == 0 {
            assert!(begun.elapsed() < PATIENCE);
            let passed = Nanos(begun.elapsed().as_nanos() as u64);
            channel.service(later + passed, &mut out);
            channel.flush(later);
            std::thread::sleep(Duration::from_millis(1));
        }
        accepted.join().unwrap()
    });
    channel.flush(later);
    let said = messages(&mut stream, &mut sealed);
    assert!(said.contains(&add), "{said:?}");
}

#[test]
fn a_key_that_does_not_fit_is_named_at_start() {
    let [ours, other] = [1, 2].map(|n| Arc::new(Key::from_bytes(&[n; 32])));
    let refused = |serve: &(dyn Fn(&mut TcpStream) + Sync)| {
        let (listener, peer) = listener();
        std::thread::scope(|s| {
            s.spawn(|| serve(&mut listener.accept().unwrap().0));
            let refused = Channel::connect_with(&[peer], 1, false, Some(&ours), now());
            refused.unwrap_err().to_string()
        })
    };
    let text = refused(&|stream| assert!(greet(stream, &other).is_none()));
    assert!(text.contains("does not accept our key"), "{text}");
    let text = refused(&|stream| stream.write_all(&native::ack(0)).unwrap());
    assert!(text.contains("has no key"), "{text}");
    let text = refused(&|stream| stream.write_all(&frame(&[])).unwrap());
    assert!(text.contains("a C intercept knows none"), "{text}");
    // An impostor that accepts whatever it is told.
    let text = refused(&|stream| {
        let ack = native::keyed_ack(0, [7; 12]);
        stream.write_all(&ack).unwrap();
        let mut said = [0; 14 + channel_crypto::MESSAGE_BYTES];
        stream.read_exact(&mut said).unwrap();
        stream.write_all(&said[14..]).unwrap();
    });
    assert!(text.contains("does not prove"), "{text}");
}

#[test]
fn without_a_key_an_intercept_that_wants_one_is_named() {
    let (listener, peer) = listener();
    let mut channel = Channel::connect(&[peer], 1, false, now()).unwrap();
    let mut stream = accept(&listener);
    let flags = native::ack_flags::KEYED | native::ack_flags::PONGS;
    stream.write_all(&native::ack(flags)).unwrap();
    drop(stream);
    let mut out = Received::default();
    until(&mut channel, &mut out, |c, _| {
        counter(c, "key_refused") == 1
    });
    assert_eq!(channel.intercepts[0].refusal(), Some(&KeyRefusal::Required));
}
