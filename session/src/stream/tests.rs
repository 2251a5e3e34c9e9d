//! Reassembly against an oracle: a map from sequence offset to byte.

use super::*;
use proptest::prelude::*;

/// Start near the wrap-around so that every test crosses it.
const FIRST: SeqNumber = SeqNumber(u32::MAX - 200);

fn stamp() -> Stamp {
    Stamp {
        ack: SeqNumber(1),
        at: Nanos(1),
        arrived: Nanos(1),
    }
}

fn byte(offset: usize) -> u8 {
    (offset % 251) as u8
}

fn incoming(payload: &[u8], offset: i64, fin: bool) -> Incoming<'_> {
    let seq = SeqNumber(FIRST.0.wrapping_add(offset as u32));
    Incoming {
        seq,
        payload,
        psh: true,
        fin,
        piece: 100,
        stamp: stamp(),
    }
}

fn in_order(s: &Stream, a: &Arena) -> Vec<u8> {
    s.queue().iter().flat_map(|c| c.bytes(a).to_vec()).collect()
}

#[test]
fn a_hole_holds_back_what_follows() {
    let (mut a, mut s) = (Arena::new(1 << 20), Stream::new(FIRST, 1 << 20));
    let data: Vec<u8> = (0..300).map(byte).collect();
    assert_eq!(
        s.insert(&mut a, &incoming(&data[200..], 200, true)),
        Inserted::Taken {
            bytes: 100,
            new: true
        }
    );
    assert!(s.queue().is_empty() && s.hole_since().is_some() && !s.finished());
    assert_eq!(
        s.insert(&mut a, &incoming(&data[..200], 0, false)),
        Inserted::Taken {
            bytes: 200,
            new: true
        }
    );
    assert_eq!(in_order(&s, &a), data);
    assert!(s.finished() && s.hole_since().is_none());
    assert_eq!(s.nxt(), FIRST + 301);
    s.clear(&mut a);
    assert_eq!(a.used(), 0);
}

#[test]
fn merged_segments_are_cut_where_the_client_cut_them_and_psh_is_on_the_last() {
    let (mut a, mut s) = (Arena::new(1 << 20), Stream::new(FIRST, 1 << 20));
    let data: Vec<u8> = (0..250).map(byte).collect();
    s.insert(&mut a, &incoming(&data, 0, false));
    let cut: Vec<_> = s.queue().iter().map(|c| (c.len(), c.psh)).collect();
    assert_eq!(cut, [(100, false), (100, false), (50, true)]);
    assert_eq!(s.acknowledge(&mut a, FIRST + 150), 1);
    assert_eq!(s.queue().front().unwrap().seq, FIRST + 100);
}

#[test]
fn foreign_sequence_space_and_limits() {
    let (mut a, mut s) = (Arena::new(1 << 20), Stream::new(FIRST, 4096));
    assert_eq!(
        s.insert(&mut a, &incoming(b"x", 1 << 29, false)),
        Inserted::Foreign
    );
    assert_eq!(
        s.insert(&mut a, &incoming(b"x", -(1 << 30) - 1, false)),
        Inserted::Foreign
    );
    // Keep-alive probes repeat an old byte.
    assert_eq!(
        s.insert(&mut a, &incoming(b"x", -1, false)),
        Inserted::Taken {
            bytes: 0,
            new: false
        }
    );
    let data = vec![0; 3200];
    let got = s.insert(&mut a, &incoming(&data, 0, false));
    assert_eq!(got, Inserted::Full { bytes: 1600 });
}

proptest! {
    #[test]
    fn each_byte_once_in_order(
        len in 1usize..2000,
        cuts in prop::collection::vec((0usize..2000, 1usize..600), 1..80),
        fin_early in any::<bool>(),
    ) {
        let data: Vec<u8> = (0..len).map(byte).collect();
        let (mut a, mut s) = (Arena::new(1 << 22), Stream::new(FIRST, 1 << 22));
        let mut seen = vec![false; len];
        let mut total = 0u32;
        if fin_early {
            s.insert(&mut a, &incoming(&[], len as i64, true));
        }
        for (from, size) in cuts {
            let from = from.min(len - 1);
            let to = (from + size).min(len);
            match s.insert(&mut a, &incoming(&data[from..to], from as i64, to == len)) {
                Inserted::Taken { bytes, .. } => {
                    let new = seen[from..to].iter().filter(|b| !**b).count();
                    prop_assert_eq!(bytes as usize, new);
                    total += bytes;
                }
                other => prop_assert!(false, "{:?}", other),
            }
            seen[from..to].fill(true);
            let prefix = seen.iter().take_while(|b| **b).count();
            prop_assert_eq!(in_order(&s, &a), &data[..prefix]);
            let ahead_sorted = s.ahead.iter().zip(s.ahead.iter().skip(1))
                .all(|(x, y)| !x.end().after(y.seq));
            prop_assert!(ahead_sorted);
        }
        prop_assert_eq!(total as usize, seen.iter().filter(|b| **b).count());
        s.clear(&mut a);
        prop_assert_eq!(a.used(), 0);
    }
}
