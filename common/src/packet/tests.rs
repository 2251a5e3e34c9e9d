//! Decoder, builder and checksums against each other and against hand-written headers.

use super::*;
use core::net::{IpAddr, Ipv6Addr};
use proptest::prelude::*;
use std::vec::Vec;

fn v4(last: u8, port: u16) -> Endpoint {
    Endpoint::new(Addr::v4([10, 0, 0, last]), port)
}

fn v6(last: u16, port: u16) -> Endpoint {
    Endpoint::new(
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)).into(),
        port,
    )
}

fn segment(src: Endpoint, dst: Endpoint, payload: &[u8]) -> TcpFrame<'_> {
    TcpFrame {
        src,
        dst,
        seq: SeqNumber(u32::MAX),
        ack: SeqNumber(7),
        flags: TcpFlags::ACK.with(TcpFlags::PSH),
        window: 501,
        options: TcpOptions {
            timestamps: Some(Timestamps { val: 1, ecr: 2 }),
            ..TcpOptions::default()
        },
        payload,
        ip_id: 9,
    }
}

fn built(seg: &TcpFrame<'_>) -> Vec<u8> {
    let mut buf = [0u8; 2048];
    let n = build_tcp_frame(&mut buf, FrameAddresses::default(), seg).unwrap();
    buf[..n].to_vec()
}

/// Sum over the TCP segment of a frame with its pseudo header: 0xffff if the checksum is right.
fn tcp_sum(frame: &[u8]) -> u16 {
    let p = decode_frame(frame).unwrap();
    let tcp = &frame[p.ip.l4..];
    let pseudo = checksum::pseudo_header(p.ip.src, p.ip.dst, protocol::TCP, tcp.len() as u32);
    checksum::add(pseudo, checksum::sum(tcp))
}

#[test]
fn what_is_built_is_decoded_again_in_both_families() {
    for (src, dst, l4) in [
        (v4(1, 40_000), v4(2, 80), 34),
        (v6(1, 40_000), v6(2, 80), 54),
    ] {
        let seg = segment(src, dst, b"GET / HTTP/1.1\r\n\r\n");
        let frame = built(&seg);
        let p = decode_frame(&frame[..]).unwrap();
        assert_eq!((p.ip.src, p.tcp.sport), (src.addr, src.port));
        assert_eq!((p.ip.dst, p.tcp.dport), (dst.addr, dst.port));
        assert_eq!((p.ip.l4, p.tcp.payload), (l4, l4 + 32));
        assert_eq!(
            (p.tcp.seq, p.tcp.ack, p.tcp.window),
            (seg.seq, seg.ack, seg.window)
        );
        assert_eq!(p.tcp.flags, seg.flags);
        assert_eq!(&frame[p.tcp.payload..], seg.payload);
        assert_eq!(p.payload_len(frame.len()), seg.payload.len());
        assert_eq!(
            TcpOptions::parse(&frame[l4 + 20..p.tcp.payload]),
            seg.options
        );
        assert_eq!(tcp_sum(&frame), 0xffff);
        if src.addr.is_v4() {
            assert_eq!(checksum::sum(&frame[14..34]), 0xffff);
        }
    }
}

#[test]
fn frames_that_cannot_be_built_say_why() {
    let seg = segment(v4(1, 1), v6(1, 1), b"");
    let mut buf = [0; 256];
    let mac = FrameAddresses::default();
    assert_eq!(
        build_tcp_frame(&mut buf, mac, &seg),
        Err(BuildError::MixedFamilies)
    );
    let big = [0; 300];
    let seg = segment(v4(1, 1), v4(2, 1), &big);
    assert_eq!(
        build_tcp_frame(&mut buf, mac, &seg),
        Err(BuildError::TooLong {
            need: 366,
            have: 256
        })
    );
    let huge = std::vec![0; 65_600];
    let mut buf = std::vec![0; 70_000];
    let seg = segment(v4(1, 1), v4(2, 1), &huge);
    assert!(build_tcp_frame(&mut buf, mac, &seg).is_err());
}

#[test]
fn vlan_tags_are_looked_behind_up_to_two() {
    let frame = built(&segment(v4(1, 1000), v4(2, 80), b"x"));
    let mut tagged = frame.clone();
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    assert_eq!(decode_frame(&tagged[..]).unwrap().tcp.dport, 80);
    tagged.splice(12..12, [0x88, 0xa8, 0, 6]);
    let ether = decode_ethernet(&tagged[..]).unwrap();
    assert_eq!((ether.vlan_tags, ether.l3), (2, 22));
    assert_eq!(decode_frame(&tagged[..]).unwrap().tcp.dport, 80);
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    assert_eq!(decode_frame(&tagged[..]), Err(DecodeError::NotIp));
}

#[test]
fn each_defect_has_its_error() {
    let good = built(&segment(v4(1, 1000), v4(2, 80), b"x"));
    let with = |at: usize, byte: u8| {
        let mut f = good.clone();
        f[at] = byte;
        decode_frame(&f[..]).map(|p| p.tcp.dport)
    };
    assert_eq!(with(14, 0x45), Ok(80));
    assert_eq!(with(14, 0x44), Err(DecodeError::BadIp)); // header of 16 bytes
    assert_eq!(with(14, 0x75), Err(DecodeError::NotIp)); // version 7
    assert_eq!(with(17, 19), Err(DecodeError::BadIp)); // total length below the header
    assert_eq!(with(20, 0x20), Err(DecodeError::Fragment)); // more fragments
    assert_eq!(with(21, 1), Err(DecodeError::Fragment)); // offset
    assert_eq!(with(20, 0xc0), Ok(80)); // reserved and DF bits
    assert_eq!(with(23, 17), Err(DecodeError::NotTcp));
    assert_eq!(with(46, 0x40), Err(DecodeError::BadTcp)); // offset 4
    assert_eq!(with(46, 0xf0), Err(DecodeError::BadTcp)); // beyond the packet
    for len in 0..50 {
        assert_eq!(
            decode_frame(&good[..len]),
            Err(DecodeError::Truncated),
            "{len} bytes"
        );
    }
    // The fixed part is there, options are not: decodable, the payload is simply missing.
    assert!(decode_frame(&good[..50]).is_ok());
}

#[test]
fn ipv6_extension_headers_are_skipped_and_fragments_recognised() {
    let plain = built(&segment(v6(1, 1000), v6(2, 80), b"x"));
    let insert = |kind: u8, ext: &[u8]| {
        let mut f = plain.clone();
        let mut ext = ext.to_vec();
        ext[0] = f[20];
        f[20] = kind;
        let len = u16::from_be_bytes([f[18], f[19]]) + ext.len() as u16;
        f[18..20].copy_from_slice(&len.to_be_bytes());
        f.splice(54..54, ext);
        decode_frame(&f[..]).map(|p| p.tcp.payload)
    };
    for kind in [0, 43, 60, 135] {
        assert_eq!(insert(kind, &[0, 0, 1, 4, 0, 0, 0, 0]), Ok(94));
        assert_eq!(
            insert(kind, &[[0, 1].as_slice(), &[0; 14]].concat()),
            Ok(102)
        );
    }
    assert_eq!(
        insert(44, &[0, 0, 0, 0, 0, 0, 0, 1]),
        Ok(94),
        "atomic fragment (RFC 6946)"
    );
    assert_eq!(
        insert(44, &[0, 0, 0, 1, 0, 0, 0, 1]),
        Err(DecodeError::Fragment)
    );
    assert_eq!(
        insert(44, &[0, 0, 0, 8, 0, 0, 0, 1]),
        Err(DecodeError::Fragment)
    );
    assert_eq!(
        insert(59, &[0; 8]),
        Err(DecodeError::NotTcp),
        "no next header"
    );
}

#[test]
fn big_tcp_takes_the_length_of_the_frame() {
    let mut f = built(&segment(v4(1, 1000), v4(2, 80), b"hello"));
    f[16..18].copy_from_slice(&[0, 0]);
    let p = decode_frame(&f[..]).unwrap();
    assert_eq!(p.payload_len(f.len()), 5);
    assert_eq!(p.payload_len(200_000), 200_000 - p.tcp.payload);
}

#[test]
fn options_of_a_linux_syn_and_malformed_areas() {
    let syn = [
        2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7,
    ];
    let o = TcpOptions::parse(&syn);
    assert_eq!(
        (o.mss, o.window_scale, o.sack_permitted),
        (Some(1460), Some(7), true)
    );
    let mut area = [0; 40];
    assert_eq!(o.emit(&mut area), 20);
    assert_eq!(area[..20], syn);
    // Kind 3 or 8 with length 0 makes the C program loop for ever.
    assert_eq!(TcpOptions::parse(&[8, 0, 8, 0]), TcpOptions::default());
    assert_eq!(TcpOptions::parse(&[3, 0]), TcpOptions::default());
    assert_eq!(TcpOptions::parse(&[3]), TcpOptions::default());
    assert_eq!(TcpOptions::parse(&[30, 200, 1]), TcpOptions::default());
    assert_eq!(
        TcpOptions::parse(&[3, 3, 200]).window_scale,
        Some(14),
        "RFC 7323 section 2.3"
    );
    let sack = [1, 1, 5, 18, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 9];
    let (_, sack) = TcpOptions::parse_with_sack(&sack);
    assert_eq!(sack.as_slice().len(), 2);
    assert_eq!(
        sack.as_slice()[1],
        SackBlock {
            left: SeqNumber(5),
            right: SeqNumber(9)
        }
    );
}

/// RFC 1071 section 4.1, word by word.
fn sum_by_words(bytes: &[u8]) -> u16 {
    let mut s = 0u32;
    for pair in bytes.chunks(2) {
        s += u32::from(u16::from_be_bytes([
            pair[0],
            pair.get(1).copied().unwrap_or(0),
        ]));
        s = (s & 0xffff) + (s >> 16);
    }
    s as u16
}

proptest! {
    #[test]
    fn checksum_agrees_with_the_rfc(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(checksum::sum(&bytes), sum_by_words(&bytes));
    }

    #[test]
    fn checksum_of_all_ones_does_not_lose_carries(len in 0usize..4000) {
        let bytes = std::vec![0xff; len];
        prop_assert_eq!(checksum::sum(&bytes), sum_by_words(&bytes));
    }

    #[test]
    fn decoding_never_panics_and_offsets_stay_in_order(
        mut bytes in prop::collection::vec(any::<u8>(), 0..120),
        plausible in any::<bool>(),
    ) {
        if plausible && bytes.len() > 24 {
            bytes[12..15].copy_from_slice(&[8, 0, 0x45]);
            bytes[23] = 6;
        }
        if let Ok(p) = decode_frame(&bytes[..]) {
            prop_assert!(p.ip.l3 < p.ip.l4 && p.ip.l4 + 20 <= p.tcp.payload);
            let _ = p.payload_len(bytes.len());
        }
        let _ = TcpOptions::parse(&bytes);
    }

    #[test]
    fn sequence_numbers_compare_modulo_2_32(a in any::<u32>(), d in 1u32..0x7fff_ffff) {
        let (x, y) = (SeqNumber(a), SeqNumber(a) + d);
        prop_assert!(x.before(y) && y.after(x) && x.max(y) == y);
        prop_assert_eq!(y.since(x), d as i32);
        prop_assert_eq!(y - d, x);
    }
}
