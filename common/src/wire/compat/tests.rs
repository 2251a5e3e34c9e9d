//! Bytes seen on the wire between the C programs, and what hostile peers may send.

use super::*;
use crate::packet::{SackBlock, Timestamps};
use proptest::prelude::*;
use std::vec::Vec;

fn e(ip: [u8; 4], port: u16) -> Endpoint {
    Endpoint::new(Addr::v4(ip), port)
}

/// The live frame of the reference: one SYN-ACK.
const LIVE: [u8; 66] = [
    0x00, 0x01, // count
    0x45, 0x00, 0x00, 0x3c, 0x00, 0x00, 0x40, 0x00, 0x40, 0x06, 0x1d, 0xa8, 0x0a, 0x09, 0x00, 0x02,
    0x0a, 0x09, 0x09, 0x01, 0x1f, 0x41, 0xa1, 0xdf, 0x74, 0x67, 0xf1, 0x48, 0x74, 0xa9, 0x9a, 0x77,
    0xa0, 0x12, 0xfe, 0x88, 0x65, 0xd3, 0x00, 0x00, 0x02, 0x04, 0x05, 0xb4, 0x04, 0x02, 0x08, 0x0a,
    0x23, 0xa2, 0x79, 0xc0, 0xdf, 0x82, 0x13, 0xa5, 0x01, 0x03, 0x03, 0x0a, 0, 0, 0, 0,
];

#[test]
fn client_records_as_the_c_program_writes_them() {
    assert_eq!(hello(), [0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0]);
    let (c, t) = (e([10, 9, 9, 1], 41439), e([10, 9, 0, 2], 8001));
    let bytes = [0x0a, 9, 9, 1, 0xa1, 0xdf, 0, 1, 0x0a, 9, 0, 2, 0x1f, 0x41];
    assert_eq!(add(c, t), Some(bytes));
    assert_eq!(
        ClientRecord::decode(&bytes, false),
        ClientRecord::Add {
            client: c,
            target: t
        }
    );
    assert_eq!(
        ClientRecord::decode(&hello(), true),
        ClientRecord::Hello {
            version: 6,
            extension: [0; 6]
        }
    );
    assert_eq!(
        ClientRecord::decode(&hello(), false),
        ClientRecord::Unknown { kind: 6 }
    );
    assert_eq!(
        add(Endpoint::new(Addr([1; 16]), 1), t),
        None,
        "the format is IPv4 only"
    );
}

#[test]
fn the_live_syn_ack_is_understood_and_written_alike() {
    let mut got = Vec::new();
    FrameDecoder::default()
        .feed(&LIVE, |r| got.push(decode_record(r).unwrap()))
        .unwrap();
    let h = got[0];
    assert_eq!(
        (h.target, h.client),
        (e([10, 9, 0, 2], 8001), e([10, 9, 9, 1], 41439))
    );
    assert_eq!(
        (h.flags, h.payload_len),
        (TcpFlags::SYN.with(TcpFlags::ACK), 0)
    );
    assert_eq!(
        (h.options.mss, h.options.window_scale),
        (Some(1460), Some(10))
    );
    let mut again = encode_record(&h).unwrap();
    assert_eq!(decode_record(&again), Some(h));
    // Checksums are not carried; C never looks at them.
    again[10..12].copy_from_slice(&LIVE[12..14]);
    again[36..38].copy_from_slice(&LIVE[38..40]);
    assert_eq!(again, LIVE[2..]);
}

#[test]
fn payload_length_survives_options_that_do_not_fit() {
    let mut h = decode_record(LIVE[2..].first_chunk().unwrap()).unwrap();
    h.flags = TcpFlags::ACK;
    h.payload_len = 1400;
    h.options = TcpOptions {
        timestamps: Some(Timestamps { val: 1, ecr: 2 }),
        ..TcpOptions::default()
    };
    let block = SackBlock {
        left: SeqNumber(1),
        right: SeqNumber(2),
    };
    h.sack = SackBlocks::new(&[block; 3]);
    let r = encode_record(&h).unwrap();
    let back = decode_record(&r).unwrap();
    assert_eq!(back.payload_len, 1400);
    assert_eq!(back.options.timestamps, h.options.timestamps);
    assert!(r[32] >> 4 <= 11);
}

#[test]
fn a_count_beyond_the_format_is_an_error_and_zero_is_not() {
    let mut d = FrameDecoder::default();
    assert_eq!(d.feed(&[0, 0, 0, 0], |_| unreachable!()), Ok(()));
    assert_eq!(d.feed(&[0], |_| unreachable!()), Ok(()));
    assert_eq!(d.feed(&[17], |_| unreachable!()), Err(BadCount(17)));
}

proptest! {
    #[test]
    fn frames_cut_anywhere_give_the_same_records(
        counts in prop::collection::vec(0u16..=16, 1..5),
        cuts in prop::collection::vec(1usize..200, 1..60),
    ) {
        let mut stream = Vec::new();
        let mut sent = Vec::new();
        for (i, n) in counts.iter().enumerate() {
            stream.extend(n.to_be_bytes());
            for j in 0..*n {
                let mut r = [i as u8; RECORD_BYTES];
                r[1] = j as u8;
                stream.extend(r);
                sent.push(r);
            }
        }
        let (mut d, mut got, mut at) = (FrameDecoder::default(), Vec::new(), 0);
        for cut in cuts.iter().cycle() {
            let to = (at + cut).min(stream.len());
            d.feed(&stream[at..to], |r| got.push(*r)).unwrap();
            at = to;
            if at == stream.len() {
                break;
            }
        }
        prop_assert_eq!(got, sent);
    }

    #[test]
    fn records_of_any_content_decode_without_panic(
        a in any::<[u8; 32]>(),
        b in any::<[u8; 32]>(),
    ) {
        let mut r = [0; RECORD_BYTES];
        r[..32].copy_from_slice(&a);
        r[32..].copy_from_slice(&b);
        r[0] = 0x40 | (r[0] & 15);
        r[9] = 6;
        if let Some(h) = decode_record(&r) {
            let again = encode_record(&h).unwrap();
            let back = decode_record(&again).unwrap();
            prop_assert_eq!((back.seq, back.ack, back.flags), (h.seq, h.ack, h.flags));
        }
    }
}

#[test]
fn udp_targets_are_told_by_a_record_of_their_own() {
    let target = Endpoint::new(Addr::v4([10, 9, 0, 2]), 5353);
    let (record, more) = udp_target(target);
    assert_eq!(more, None);
    assert_eq!(
        record,
        [0, 0, 0, 0, 0, 0, 0, 17, 10, 9, 0, 2, 0x14, 0xe9],
        "a type that C intercepts ignore"
    );
    assert_eq!(
        ClientRecord::decode(&record, false),
        ClientRecord::UdpTarget { target }
    );

    let mut address = [7; 16];
    address[15] = 9;
    let target = Endpoint::new(Addr(address), 5353);
    let (head, tail) = udp_target(target);
    let ClientRecord::UdpTarget6Head { bytes: head } = ClientRecord::decode(&head, false) else {
        panic!("{head:?}")
    };
    let ClientRecord::UdpTarget6Tail { bytes, port } = ClientRecord::decode(&tail.unwrap(), false)
    else {
        panic!("{tail:?}")
    };
    assert_eq!(udp_target6(head, bytes, port), target);
}
