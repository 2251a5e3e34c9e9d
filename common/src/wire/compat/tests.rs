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

/// Bytes as an intercept sends them that was built that way: the first record, then those of `more`.
fn stream(counted: bool, record_bytes: usize, frames: &[&[[u8; 2]]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for frame in frames {
        if counted {
            bytes.extend((frame.len() as u16).to_be_bytes());
        }
        for [number, payload] in *frame {
            let mut record = [0; PAYLOAD_RECORD_BYTES];
            record[..64].copy_from_slice(&LIVE[2..]);
            record[3] = 60 + payload;
            record[24] = *number;
            // Behind 40 bytes of TCP header; a text that looks like headers.
            record[60..60 + usize::from(*payload)].fill(b'E');
            bytes.extend(&record[..record_bytes]);
        }
    }
    bytes
}

#[test]
fn the_build_shows_in_the_first_bytes_wherever_they_are_cut() {
    for (counted, record_bytes) in [(true, 64), (true, 192), (false, 64), (false, 192)] {
        let most: &[[u8; 2]] = if record_bytes == 64 {
            &[[3, 0]; 16]
        } else {
            &[[3, 0]; 6]
        };
        // One record is the usual first frame; several, with and without payload; the largest.
        let firsts: [&[[u8; 2]]; 5] = [&[[1, 0]], &[[1, 9]], &[[1, 100]], &[[1, 0], [2, 0]], most];
        for first in firsts {
            let bytes = stream(
                counted,
                record_bytes,
                &[first, &[[4, 0]], &[[5, 0], [6, 0]]],
            );
            let total = first.len() + 3;
            let numbers = |cut: usize| {
                let mut decoder = FrameDecoder::default();
                let mut got = Vec::new();
                for piece in [&bytes[..cut], &bytes[cut..]] {
                    decoder.feed(piece, |r| got.push(r[24])).unwrap();
                }
                let variant = decoder.variant();
                assert_eq!(
                    variant,
                    Some(Variant {
                        counted,
                        record_bytes
                    }),
                    "{first:?} at {cut}"
                );
                got
            };
            let want: Vec<u8> = first.iter().map(|r| r[0]).chain([4, 5, 6]).collect();
            for cut in 0..bytes.len() {
                assert_eq!(
                    numbers(cut),
                    want,
                    "{counted} {record_bytes} {first:?} at {cut}"
                );
            }
            let (mut decoder, mut got) = (FrameDecoder::default(), 0);
            for byte in &bytes {
                decoder
                    .feed(core::slice::from_ref(byte), |_| got += 1)
                    .unwrap();
            }
            assert_eq!(got, total);
        }
    }
}

#[test]
fn the_first_record_waits_for_nothing_behind_it() {
    for (counted, record_bytes) in [(true, 64), (true, 192), (false, 64), (false, 192)] {
        let bytes = stream(counted, record_bytes, &[&[[1, 0]]]);
        let (mut decoder, mut got) = (FrameDecoder::default(), 0);
        decoder.feed(&bytes, |_| got += 1).unwrap();
        assert_eq!(got, 1, "{counted} {record_bytes}");
        decoder.feed(&bytes, |_| got += 1).unwrap();
        assert_eq!(got, 2, "{counted} {record_bytes}");
    }
}

#[test]
fn a_stream_out_of_step_ends_in_every_build() {
    for (counted, record_bytes, bad) in [
        (true, 64, [0, 17]),
        (true, 192, [0, 7]),
        (false, 64, [0, 1]),
        (false, 192, [0x60, 0]),
    ] {
        for good in 1..4 {
            let mut bytes = stream(counted, record_bytes, &[&[[1, 0]]]);
            for _ in 1..good {
                bytes.extend(stream(counted, record_bytes, &[&[[1, 0]]]));
            }
            bytes.extend(bad);
            bytes.extend([0xff; 64]);
            let (mut decoder, mut got) = (FrameDecoder::default(), 0);
            let result = decoder.feed(&bytes, |_| got += 1);
            assert!(
                result.is_err() && got == good,
                "{counted} {record_bytes} {good}: {result:?} {got}"
            );
        }
    }
    let text = std::format!("{}", BadCount(17));
    assert!(
        text.contains("0x0011") && text.contains("0 to 16"),
        "{text}"
    );
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
                (r[0], r[1], r[9], r[32]) = (0x45, j as u8, 6, 0x50);
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

    /// What an attacker may send: the same records and the same end whatever the pieces.
    #[test]
    fn any_bytes_in_pieces_are_the_same_bytes(
        words in prop::collection::vec(prop::sample::select(std::vec![0u8, 1, 2, 6, 16, 17, 0x45, 0x50, 0xff]), 0..700),
        cuts in prop::collection::vec(1usize..90, 1..40),
    ) {
        let read = |cuts: &[usize]| {
            let (mut d, mut got, mut rest) = (FrameDecoder::default(), Vec::new(), &words[..]);
            for cut in cuts.iter().cycle() {
                let (piece, behind) = rest.split_at((*cut).min(rest.len()));
                if let Err(bad) = d.feed(piece, |r| got.push(*r)) {
                    return (got, Some(bad));
                }
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            (got, None)
        };
        prop_assert_eq!(read(&[1000]), read(&cuts));
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
