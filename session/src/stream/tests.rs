//! Reassembly against an oracle: a map from sequence offset to byte.

use super::arena::BLOCK_BYTES;
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

    /// Packets that were cut, FINs at any place (also where they cannot be), little memory.
    #[test]
    fn whatever_comes_the_queue_is_a_prefix_and_memory_is_bounded(
        len in 1usize..2000,
        packets in prop::collection::vec(
            (0usize..2000, 0usize..600, 0usize..600, prop::option::weighted(0.2, 0usize..2100)),
            1..80,
        ),
        blocks in 1usize..40,
        limit in 200usize..12_000,
    ) {
        let data: Vec<u8> = (0..len).map(byte).collect();
        let budget = blocks * BLOCK_BYTES[0];
        let (mut a, mut s) = (Arena::new(budget), Stream::new(FIRST, limit));
        let mut seen = vec![false; len];
        let (mut total, mut wrong_fin) = (0u32, false);
        for (from, size, kept, fin) in packets {
            let from = from.min(len);
            let to = (from + size.min(kept)).min(len);
            // A FIN follows the bytes of its packet; alone it may claim any place.
            let (from, payload) = match fin {
                Some(at) => (at, &[][..]),
                None => (from, &data[from..to]),
            };
            let is_fin = fin.is_some() || (to == len && kept > size);
            wrong_fin |= fin.is_some_and(|at| at != len);
            let before = (in_order(&s, &a), s.finished());
            let got = s.insert(&mut a, &incoming(payload, from as i64, is_fin));
            let new = seen.iter().skip(from).take(payload.len()).filter(|b| !**b).count();
            let full = matches!(got, Inserted::Full { .. });
            match got {
                Inserted::Taken { bytes, .. } if before.1 => prop_assert_eq!(bytes, 0),
                Inserted::Taken { bytes, .. } => {
                    prop_assert!(bytes as usize == new || wrong_fin, "{} of {}", bytes, new);
                    seen.iter_mut().skip(from).take(payload.len()).for_each(|b| *b = true);
                    total += bytes;
                }
                Inserted::Full { bytes } => {
                    prop_assert!((bytes as usize) < new);
                    total += bytes;
                    let spent = a.used() + BLOCK_BYTES[0] > budget || s.cost >= limit;
                    prop_assert!(spent, "{} of {}, limit {}", a.used(), budget, limit);
                }
                Inserted::Foreign => prop_assert!(from > limit),
            }
            let queue = in_order(&s, &a);
            prop_assert!(queue.starts_with(&before.0) && data.starts_with(&queue));
            prop_assert!(a.used() <= budget);
            let ahead: u32 = s.ahead.iter().map(Chunk::len).sum();
            prop_assert_eq!(total, queue.len() as u32 + ahead, "taken and thrown away");
            prop_assert!(s.ahead.front().is_none_or(|c| c.seq.after(s.nxt())), "stuck");
            prop_assert_eq!(s.hole_since().is_some(), !s.ahead.is_empty());
            let sent = queue.len() as u32 + u32::from(s.finished());
            prop_assert_eq!(s.nxt(), FIRST + sent);
            if full {
                // The session ends with that.
                break;
            }
            let prefix = seen.iter().take_while(|b| **b).count();
            prop_assert!(queue.len() == prefix || wrong_fin);
            prop_assert!(s.finished() <= (prefix == len || wrong_fin));
        }
        prop_assert!(total as usize <= len);
        s.clear(&mut a);
        prop_assert_eq!(a.used(), 0);
    }
}
