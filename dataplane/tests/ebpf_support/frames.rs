//! Test packets.

use std::net::Ipv6Addr;

use common::packet::{
    Addr, Endpoint, FrameAddresses, MacAddr, SeqNumber, TcpFlags, TcpFrame, TcpOptions, Timestamps,
    UdpFrame, build_tcp_frame, build_udp_frame,
};

use super::Rng;

/// Ethernet, IPv4, TCP without options.
pub const HEADERS_V4: usize = 54;

pub fn v4(addr: [u8; 4], port: u16) -> Endpoint {
    Endpoint::new(Addr::v4(addr), port)
}

pub fn v6(addr: &str, port: u16) -> Endpoint {
    Endpoint::new(Addr(addr.parse::<Ipv6Addr>().unwrap().octets()), port)
}

/// A data segment without TCP options.
pub fn tcp(src: Endpoint, dst: Endpoint, payload: &[u8]) -> Vec<u8> {
    tcp_with(src, dst, TcpOptions::default(), payload)
}

/// A data segment with timestamps: 12 bytes of options.
pub fn tcp_timestamps(src: Endpoint, dst: Endpoint, payload: &[u8]) -> Vec<u8> {
    let options = TcpOptions {
        timestamps: Some(Timestamps { val: 7, ecr: 9 }),
        ..TcpOptions::default()
    };
    tcp_with(src, dst, options, payload)
}

/// The first segment of a connection.
pub fn syn(src: Endpoint, dst: Endpoint) -> Vec<u8> {
    let mut frame = tcp(src, dst, b"");
    // The flags, in the byte behind the data offset; sums are not looked at.
    let at = if src.addr.is_v4() { 47 } else { 67 };
    frame[at] = 2;
    frame
}

fn tcp_with(src: Endpoint, dst: Endpoint, options: TcpOptions, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 200 + payload.len()];
    let mac = FrameAddresses {
        src: MacAddr([2, 0, 0, 0, 0, 1]),
        dst: MacAddr([2, 0, 0, 0, 0, 2]),
    };
    let segment = TcpFrame {
        src,
        dst,
        // Wraps within the payload.
        seq: SeqNumber(u32::MAX - 3),
        ack: SeqNumber(1),
        flags: TcpFlags::ACK.with(TcpFlags::PSH),
        window: 1000,
        options,
        payload,
        ip_id: 1,
    };
    let len = build_tcp_frame(&mut frame, mac, &segment).unwrap();
    frame.truncate(len);
    frame
}

/// A datagram.
pub fn udp(src: Endpoint, dst: Endpoint, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 100 + payload.len()];
    let datagram = UdpFrame {
        src,
        dst,
        payload,
        ip_id: 1,
    };
    let len = build_udp_frame(&mut frame, FrameAddresses::default(), &datagram).unwrap();
    frame.truncate(len);
    frame
}

/// Tags in front of the ethertype, outermost first.
pub fn tagged(mut frame: Vec<u8>, tags: &[(u16, u16)]) -> Vec<u8> {
    for (tpid, tci) in tags.iter().rev() {
        let mut tag = tpid.to_be_bytes().to_vec();
        tag.extend(tci.to_be_bytes());
        frame.splice(12..12, tag);
    }
    frame
}

/// IPv4 options behind the fixed header, NOPs.
pub fn ip_options(mut frame: Vec<u8>, words: usize) -> Vec<u8> {
    frame.splice(34..34, vec![1; words * 4]);
    frame[14] += words as u8;
    let total = u16::from_be_bytes([frame[16], frame[17]]) + words as u16 * 4;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame
}

/// IPv4 flags and fragment offset field.
pub fn fragment_v4(mut frame: Vec<u8>, field: u16) -> Vec<u8> {
    frame[20..22].copy_from_slice(&field.to_be_bytes());
    frame
}

/// IPv6 extension headers between the fixed header and TCP: (type, content from its second byte on).
pub fn extensions_v6(mut frame: Vec<u8>, headers: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut inserted = Vec::new();
    for (i, (_, body)) in headers.iter().enumerate() {
        inserted.push(headers.get(i + 1).map_or(6, |next| next.0));
        inserted.extend(body);
    }
    if let Some((first, _)) = headers.first() {
        frame[20] = *first;
    }
    let len = u16::from_be_bytes([frame[18], frame[19]]) + inserted.len() as u16;
    frame[18..20].copy_from_slice(&len.to_be_bytes());
    frame.splice(54..54, inserted);
    frame
}

/// TCP data offset of an IPv4 frame without IP options, in words.
pub fn data_offset(mut frame: Vec<u8>, words: u8) -> Vec<u8> {
    frame[46] = words << 4;
    frame
}

pub fn changed(frame: &[u8], at: usize, value: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at] = value;
    frame
}

/// A big-endian field.
pub fn changed_u16(frame: &[u8], at: usize, value: u16) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
    frame
}

/// A valid frame with a few bytes changed, cut or stretched, most of them near the headers.
pub fn mutated(rng: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut frame = seeds[rng.below(seeds.len())].clone();
    for _ in 0..rng.below(4) {
        let span = frame
            .len()
            .min(if rng.below(4) == 0 { usize::MAX } else { 80 });
        let at = rng.below(span);
        frame[at] = match rng.below(4) {
            0 => 0,
            1 => 0xff,
            2 => frame[at] ^ (1 << rng.below(8)),
            _ => rng.next() as u8,
        };
    }
    match rng.below(6) {
        0 => {
            let keep = 14 + rng.below(frame.len().saturating_sub(13));
            frame.truncate(keep);
        }
        1 => frame.extend(std::iter::repeat_n(0xaa, rng.below(64))),
        _ => {}
    }
    frame
}
