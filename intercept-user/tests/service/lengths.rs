//! Whatever a response looks like, the payload length that C reads from its record is right. Records are read byte by
//! byte here, as the C program does (reference 2.3), not with our codec.

use super::balanced;
use super::support::{Peer, World, client};
use common::packet::Endpoint;
use common::wire::native;
use intercept_user::channel::ControlOptions;
use intercept_user::mapping::{Mapping, Mappings};
use intercept_user::worker::Limits;
use std::io::Read;

const ACK: u8 = 0x10;
const PSH_FIN: u8 = 0x09;
/// MSS, SACK permitted, timestamps, window scale, padding, two SACK blocks, padding: all 40 bytes.
const OPTIONS: [u8; 40] = [
    2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 1, 2, 0, 0, 3, 4, 3, 3, 7, 1, 1, 1, 5, 18, 0, 0, 0, 1, 0, 0,
    0, 2, 0, 0, 0, 3, 0, 0, 0, 4,
];

/// Ethernet, IPv4 with `ip_options` bytes of NOPs, TCP with the first `tcp_options` of [`OPTIONS`]; headers only.
/// Total length as given.
fn headers(
    source: [u8; 4],
    session: Endpoint,
    [ip_options, tcp_options]: [usize; 2],
    total_len: u16,
    flags: u8,
) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00, 0x40 | (5 + ip_options / 4) as u8, 0]);
    frame.extend(total_len.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    frame.extend(source);
    frame.extend(session.addr.as_v4().expect("IPv4"));
    frame.extend(std::iter::repeat_n(1, ip_options));
    frame.extend(8080u16.to_be_bytes());
    frame.extend(session.port.to_be_bytes());
    frame.extend(1000u32.to_be_bytes());
    frame.extend(2000u32.to_be_bytes());
    frame.extend([(5 + tcp_options / 4) as u8 * 16, flags, 1, 0, 0, 0, 0, 0]);
    frame.extend(&OPTIONS[..tcp_options]);
    frame
}

const TARGET_IP: [u8; 4] = [10, 77, 0, 30];

/// What C reads from one record.
struct Read64 {
    source: [u8; 4],
    seq: u32,
    flags: u8,
    payload: usize,
    options: Vec<u8>,
}

fn read_records(peer: &mut Peer, count: usize) -> Vec<Read64> {
    let mut records = Vec::new();
    while records.len() < count {
        let mut head = [0; 2];
        peer.stream.read_exact(&mut head).expect("a frame");
        assert!(head[0] == 0 && (1..=16).contains(&head[1]), "{head:?}");
        for _ in 0..head[1] {
            let mut r = [0; 64];
            peer.stream.read_exact(&mut r).expect("a record");
            assert_eq!(
                r[0], 0x45,
                "C takes the TCP header behind ihl words, and it is at 20"
            );
            let header = usize::from(r[32] >> 4) * 4;
            assert!(
                (20..=44).contains(&header),
                "{header} bytes of TCP header in 44"
            );
            let total = usize::from(u16::from_be_bytes([r[2], r[3]]));
            records.push(Read64 {
                source: [r[12], r[13], r[14], r[15]],
                seq: u32::from_be_bytes([r[24], r[25], r[26], r[27]]),
                flags: r[33],
                payload: total
                    .checked_sub(20 + header)
                    .expect("room for both headers"),
                options: r[40..20 + header].to_vec(),
            });
        }
    }
    records
}

#[test]
fn headers_of_every_length_leave_the_payload_length_right() {
    let world = World::new(1);
    let mut peer = world.tcpcopy();
    peer.add(client(1));
    let mut wanted = Vec::new();
    for ip_options in (0..=40).step_by(4) {
        for tcp_options in [0, 4, 20, 24, 28, 40] {
            for payload in [0usize, 1, 1448, 60_000] {
                let lengths = [ip_options, tcp_options];
                let total = 40 + ip_options + tcp_options + payload;
                let frame = headers(TARGET_IP, client(1), lengths, total as u16, ACK);
                // Trimmed to its headers, as the kernel program leaves it.
                world.push(0, &frame, 14 + total as u32);
                wanted.push((lengths, payload));
            }
        }
    }
    for (record, (lengths, payload)) in read_records(&mut peer, wanted.len()).iter().zip(wanted) {
        assert_eq!(record.payload, payload, "{lengths:?}");
        let timestamps = [8, 10, 0, 0, 1, 2, 0, 0, 3, 4];
        let has = record.options.windows(10).any(|w| w == timestamps);
        assert_eq!(has, lengths[1] >= 16, "{lengths:?}: {:?}", record.options);
    }
    balanced(&world.stop());
}

#[test]
fn what_16_bits_cannot_say_becomes_several_records() {
    let world = World::new(1);
    let mut peer = world.tcpcopy();
    peer.add(client(1));
    // BIG TCP: a total length of 0, and the length of the frame beside (kernel, net/ipv4/af_inet.c: iph_set_totlen).
    for payload in [65_455u32, 65_456, 180_000, 524_000] {
        let frame = headers(TARGET_IP, client(1), [0, 12], 0, ACK | PSH_FIN);
        world.push(0, &frame, 14 + 20 + 32 + payload);
        let count = payload.div_ceil(65_455) as usize;
        let mut at = 1000u32;
        for (n, record) in (1..).zip(read_records(&mut peer, count)) {
            assert_eq!(record.seq, at);
            at += record.payload as u32;
            let flags = if n == count { ACK | PSH_FIN } else { ACK };
            assert_eq!(record.flags, flags, "{payload}: {n} of {count}");
        }
        assert_eq!(at, 1000 + payload);
    }
    let report = world.stop();
    assert_eq!(
        (report.packets.received, report.packets.split),
        (4, 1 + 2 + 8)
    );
    balanced(&report);
}

#[test]
fn big_tcp_of_ipv6_over_the_native_format() {
    let world = World::new(1);
    let mut peer = world.connect();
    let end = |n| Endpoint::new(common::packet::Addr([n; 16]), 8080);
    peer.send(&native::hello(0));
    peer.send(&native::switch());
    peer.send(&native::ClientMessage::add(end(0x21), end(0x22)).to_bytes());
    let mut frame = vec![0; 12];
    // A payload length of 0 (RFC 2675, and the kernel's form without the jumbo option).
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, 6, 64]);
    frame.extend([0x22; 16]);
    frame.extend([0x21; 16]);
    frame.extend(&headers(TARGET_IP, client(1), [0, 0], 0, ACK)[34..]);
    let at = frame.len() - 18;
    frame[at..at + 2].copy_from_slice(&8080u16.to_be_bytes());
    world.push(0, &frame, 14 + 40 + 20 + 150_000);
    let mut ack = [0; native::ACK_BYTES];
    peer.take_exact(&mut ack).expect("an answer");
    let mut total = 0;
    while total < 150_000 {
        let mut head = [0; native::FRAME_HEAD_BYTES];
        peer.take_exact(&mut head).expect("a frame");
        for _ in 0..head[3] {
            let mut record = [0; native::HEADER_RECORD_BYTES];
            peer.take_exact(&mut record).expect("a record");
            let header = native::HeaderRecord::decode(record);
            assert_eq!(header.seq.0, 1000 + total);
            total += header.payload_len;
        }
    }
    assert_eq!(total, 150_000);
    balanced(&world.stop());
}

/// A container answers from its own address and port; the session was announced with those of its host.
#[test]
fn mapped_responses_find_the_route_that_was_announced() {
    let list = [
        "172.17.0.0/16-10.77.0.0/16",
        "172.18.0.2-10.77.0.30",
        "172.19.0.2:8080-10.77.0.30:8080",
    ];
    let list: Vec<Mapping> = list.iter().map(|m| m.parse().expect(m)).collect();
    let mappings = Mappings::new(&list).expect("no doubles");
    // Workers by the client as it was announced, whatever queue or worker the packet came to.
    let world = World::mapped(
        3,
        Limits::default(),
        ControlOptions::default(),
        None,
        mappings,
    );
    let mut peer = world.tcpcopy();
    let sources = [
        TARGET_IP,
        [172, 17, 0, 30],
        [172, 18, 0, 2],
        [172, 19, 0, 2],
    ];
    for n in 0..32 {
        peer.add(client(n));
        // As in C: the destination too, such as that of a masqueraded client.
        let mut masked = client(n);
        masked.addr = common::packet::Addr::v4([172, 17, 2, 1]);
        for source in sources {
            for to in [client(n), masked] {
                world.push(
                    usize::from(n) % 3,
                    &headers(source, to, [0, 0], 40, ACK),
                    54,
                );
            }
        }
    }
    for record in read_records(&mut peer, 32 * 8) {
        assert_eq!(record.source, TARGET_IP);
    }
    let report = world.stop();
    assert_eq!(
        (
            report.packets.routed + report.parked.delivered,
            report.packets.mapped
        ),
        (256, 224)
    );
    balanced(&report);
}
