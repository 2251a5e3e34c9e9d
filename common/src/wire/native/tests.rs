//! Both directions cut anywhere, and what hostile peers may send.

use super::*;
use crate::packet::{SackBlocks, Timestamps};
use proptest::prelude::*;
use std::vec::Vec;

fn endpoint() -> impl Strategy<Value = Endpoint> {
    (any::<[u8; 16]>(), any::<u16>()).prop_map(|(a, port)| Endpoint::new(Addr(a), port))
}

fn header() -> impl Strategy<Value = ResponseHeader> {
    (
        endpoint(),
        endpoint(),
        any::<[u32; 5]>(),
        any::<u16>(),
        0u8..64,
    )
        .prop_map(
            |(client, target, [seq, ack, payload_len, val, ecr], window, flags)| ResponseHeader {
                target,
                client,
                seq: SeqNumber(seq),
                ack: SeqNumber(ack),
                flags: TcpFlags(flags),
                window,
                payload_len,
                options: TcpOptions {
                    timestamps: Some(Timestamps { val, ecr }),
                    ..TcpOptions::default()
                },
                sack: SackBlocks::default(),
            },
        )
}

fn record() -> impl Strategy<Value = ServerRecord> {
    prop_oneof![
        header().prop_map(ServerRecord::Header),
        (endpoint(), endpoint())
            .prop_map(|(client, target)| ServerRecord::Confirmed { client, target }),
    ]
}

fn is_confirmed(record: &ServerRecord) -> bool {
    matches!(record, ServerRecord::Confirmed { .. })
}

#[test]
fn an_offer_is_a_c_hello_and_an_ack_is_no_c_frame() {
    assert_eq!(hello(0)[..8], compat::hello()[..8]);
    let ClientRecord::Hello { version, extension } = ClientRecord::decode(&hello(0), true) else {
        panic!("no hello");
    };
    assert_eq!(version, compat::VERSION);
    assert!(offered(extension) && !offered([0; 6]));
    assert!(offered([b'T', b'c', b'p', 1, 0xff, 0xff]), "unknown flags");
    assert!(!offered([b'T', b'c', b'p', 2, 0, 0]), "another version");
    assert!(
        compat::FrameDecoder::default()
            .feed(&ack(0), |_| ())
            .is_err()
    );
    assert_eq!(
        ClientRecord::decode(&switch(), false),
        ClientRecord::Unknown { kind: SWITCH }
    );
}

#[test]
fn flags_come_back_beside_the_challenge() {
    let ClientRecord::Hello { extension, .. } = ClientRecord::decode(&hello(6), true) else {
        panic!("no hello");
    };
    assert!(offered(extension));
    assert_eq!(flags_of_offer(extension), 6);
    let ack = keyed_ack(ack_flags::PONGS, [9; CHALLENGE_BYTES]);
    assert_eq!(flags_of_ack(ack), Ok(ack_flags::PONGS | ack_flags::KEYED));
    assert_eq!(ack[..3], super::ack(0)[..3]);
    assert_eq!(ack[3..15], [9; CHALLENGE_BYTES]);
}

fn pong([token, sent, dropped_full, waiting, lag_max_ns]: [u64; 5]) -> Pong {
    Pong {
        token,
        sent,
        dropped_full,
        waiting,
        lag_max_ns,
    }
}

#[test]
fn bad_streams_say_what_was_expected() {
    let mut s = ServerStream::default();
    s.feed(&ack(0), |_| ()).unwrap();
    let error = s.feed(&[0, 1, 0, 17], |_| ()).unwrap_err();
    assert_eq!(error, BadStream::Frame { kind: 1, count: 17 });
    let mut other = ack(0);
    other[2] = 9;
    let error = ServerStream::default().feed(&other, |_| ()).unwrap_err();
    assert_eq!(error, BadStream::Ack([0xac, 0x4e, 9, 0]));
}

proptest! {
    #[test]
    fn messages_come_back(client in endpoint(), target in endpoint()) {
        let add = ClientMessage::add(client, target).to_bytes();
        prop_assert_eq!(ClientMessage::decode(add), ClientRecord::Add { client, target });
        let del = ClientMessage::del(client, target).to_bytes();
        prop_assert_eq!(ClientMessage::decode(del), ClientRecord::Del { client, target });
        let token = u64::from(client.port) << 48 | u64::from(target.port);
        let ping = ClientMessage::ping(token).to_bytes();
        prop_assert_eq!(ClientMessage::decode(ping), ClientRecord::Ping { token });
    }

    #[test]
    fn frames_cut_anywhere_give_the_same_headers(
        frames in prop::collection::vec(prop::collection::vec(record(), 0..=MAX_RECORDS), 1..4),
        pong in any::<[u64; 5]>().prop_map(pong),
        flags in any::<u8>(),
        cuts in prop::collection::vec(1usize..200, 1..60),
    ) {
        let mut stream = ack(flags).to_vec();
        for frame in &frames {
            // In frames of their own, beside those of headers.
            for confirmed in [false, true] {
                let records = || frame.iter().filter(|r| is_confirmed(r) == confirmed);
                let count = records().count() as u16;
                stream.extend(if confirmed { confirmed_head(count) } else { frame_head(count) });
                for record in records() {
                    stream.extend(match record {
                        ServerRecord::Confirmed { client, target } => {
                            HeaderRecord::confirmed(*client, *target).to_bytes()
                        }
                        ServerRecord::Header(h) => HeaderRecord::new(h).to_bytes(),
                        ServerRecord::NoHeader | ServerRecord::Pong(_) => unreachable!("none made"),
                    });
                }
            }
        }
        stream.extend(pong.to_frame());
        let mut sent: Vec<_> = frames
            .into_iter()
            .flat_map(|mut frame| {
                frame.sort_by_key(is_confirmed);
                frame
            })
            .collect();
        sent.push(ServerRecord::Pong(pong));
        let (mut s, mut got, mut at) = (ServerStream::default(), Vec::new(), 0);
        for cut in cuts.iter().cycle() {
            let to = (at + cut).min(stream.len());
            s.feed(&stream[at..to], |h| got.push(h)).unwrap();
            at = to;
            prop_assert_eq!(s.is_native(), at >= ACK_BYTES);
            prop_assert_eq!(s.confirms(), at >= ACK_BYTES && flags & ack_flags::CONFIRMS != 0);
            prop_assert_eq!(s.flags(), if at >= ACK_BYTES { flags } else { 0 });
            if at == stream.len() {
                break;
            }
        }
        prop_assert_eq!(got, sent);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(
        native in any::<bool>(),
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let mut s = ServerStream::default();
        if native {
            s.feed(&ack(0), |_| ()).unwrap();
            s.feed(&frame_head(MAX_RECORDS as u16), |_| ()).unwrap();
        }
        let _ = s.feed(&bytes, |_| ());
    }
}
