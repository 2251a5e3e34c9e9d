//! Reassembly against an oracle: a map from sequence offset to byte.

use super::arena::BLOCK_BYTES;
use super::*;
use proptest::prelude::*;

/// Start near the wrap-around so that every test crosses it.
const FIRST: SeqNumber = SeqNumber(u32::MAX - 200);

/// A stream with what a session lends it.
struct Rig {
    a: Arena,
    s: Stream,
    rare: RareSlot,
    pool: RarePool,
    limit: u32,
}

impl Rig {
    fn new(budget: usize, limit: u32) -> Self {
        Self {
            a: Arena::new(budget),
            s: Stream::new(FIRST),
            rare: RareSlot::default(),
            pool: RarePool::default(),
            limit,
        }
    }

    fn insert(&mut self, seg: &Incoming<'_>) -> Inserted {
        let now = Clock::at(Nanos(1));
        let got = self.s.insert(
            &mut self.a,
            &mut self.rare,
            &mut self.pool,
            self.limit,
            now,
            seg,
        );
        self.rare.tidy(&mut self.pool);
        got
    }

    fn chunks(&self, head: ChunkId) -> Vec<(ChunkId, Chunk)> {
        let first = self.a.chunk(head).map(|c| (head, *c));
        std::iter::successors(first, |(_, c)| self.a.chunk(c.next).map(|n| (c.next, *n))).collect()
    }

    fn queue(&self) -> Vec<(ChunkId, Chunk)> {
        self.chunks(self.s.head)
    }

    fn ahead(&self) -> Vec<(ChunkId, Chunk)> {
        self.rare
            .get()
            .map_or(Vec::new(), |r| self.chunks(r.ahead.head))
    }

    fn in_order(&self) -> Vec<u8> {
        self.queue()
            .iter()
            .flat_map(|(id, _)| self.a.bytes(*id).to_vec())
            .collect()
    }

    fn hole(&self) -> bool {
        self.rare.get().is_some_and(|r| r.ahead.since().is_some())
    }

    fn clear(&mut self) -> usize {
        self.s.clear(&mut self.a, &mut self.rare);
        self.a.used()
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
        ack: SeqNumber(1),
        at: Nanos(1),
    }
}

#[test]
fn a_hole_holds_back_what_follows() {
    let mut r = Rig::new(1 << 20, 1 << 20);
    let data: Vec<u8> = (0..300).map(byte).collect();
    assert_eq!(
        r.insert(&incoming(&data[200..], 200, true)),
        Inserted::Taken {
            bytes: 100,
            new: true
        }
    );
    assert!(r.queue().is_empty() && r.hole() && !r.s.finished());
    assert_eq!(
        r.insert(&incoming(&data[..200], 0, false)),
        Inserted::Taken {
            bytes: 200,
            new: true
        }
    );
    assert_eq!(r.in_order(), data);
    assert!(r.s.finished() && !r.hole());
    assert_eq!(r.s.nxt(), FIRST + 301);
    assert_eq!(r.clear(), 0);
}

#[test]
fn merged_segments_are_cut_where_the_client_cut_them_and_psh_is_on_the_last() {
    let mut r = Rig::new(1 << 20, 1 << 20);
    let data: Vec<u8> = (0..250).map(byte).collect();
    r.insert(&incoming(&data, 0, false));
    let cut: Vec<_> = r.queue().iter().map(|(_, c)| (c.len(), c.psh)).collect();
    assert_eq!(cut, [(100, false), (100, false), (50, true)]);
    r.s.acknowledge(&mut r.a, FIRST + 150);
    assert_eq!(r.queue()[0].1.seq, FIRST + 100);
}

#[test]
fn rfc6298_karn_an_acknowledgement_of_something_sent_twice_gives_no_round_trip() {
    let mut r = Rig::new(1 << 20, 1 << 20);
    r.insert(&incoming(&[7; 300], 0, true));
    let sent = |ms| Some(Clock::at(Nanos::from_millis(ms)).brief);
    let ids: Vec<ChunkId> = r.queue().iter().map(|(id, _)| *id).collect();
    for (id, at) in ids.iter().zip([sent(1), None, sent(3), sent(4)]) {
        r.a.chunk_mut(*id).unwrap().sent_at = at;
    }
    assert_eq!(r.s.acknowledge(&mut r.a, FIRST + 100), sent(1));
    assert_eq!(r.s.acknowledge(&mut r.a, FIRST + 300), None);
    assert_eq!(r.s.acknowledge(&mut r.a, FIRST + 301), sent(4));
    assert!(r.queue().is_empty() && r.s.head.is_none() && r.s.tail.is_none());
    assert_eq!(r.s.pending(FIRST + 301, &r.rare), 0);
}

#[test]
fn foreign_sequence_space_and_limits() {
    let mut r = Rig::new(1 << 20, 4096);
    assert_eq!(r.insert(&incoming(b"x", 1 << 29, false)), Inserted::Foreign);
    assert_eq!(
        r.insert(&incoming(b"x", -(1 << 30) - 1, false)),
        Inserted::Foreign
    );
    // Keep-alive probes repeat an old byte.
    assert_eq!(
        r.insert(&incoming(b"x", -1, false)),
        Inserted::Taken {
            bytes: 0,
            new: false
        }
    );
    let data = vec![0; 3200];
    let got = r.insert(&incoming(&data, 0, false));
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
        let mut r = Rig::new(1 << 22, 1 << 22);
        let mut seen = vec![false; len];
        let mut total = 0u32;
        if fin_early {
            r.insert(&incoming(&[], len as i64, true));
        }
        for (from, size) in cuts {
            let from = from.min(len - 1);
            let to = (from + size).min(len);
            match r.insert(&incoming(&data[from..to], from as i64, to == len)) {
                Inserted::Taken { bytes, .. } => {
                    let new = seen[from..to].iter().filter(|b| !**b).count();
                    prop_assert_eq!(bytes as usize, new);
                    total += bytes;
                }
                other => prop_assert!(false, "{:?}", other),
            }
            seen[from..to].fill(true);
            let prefix = seen.iter().take_while(|b| **b).count();
            prop_assert_eq!(r.in_order(), &data[..prefix]);
            let ahead_sorted = r.ahead().windows(2).all(|w| !w[0].1.end().after(w[1].1.seq));
            prop_assert!(ahead_sorted);
        }
        prop_assert_eq!(total as usize, seen.iter().filter(|b| **b).count());
        prop_assert_eq!(r.clear(), 0);
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
        let mut r = Rig::new(budget, limit as u32);
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
            let before = (r.in_order(), r.s.finished());
            let got = r.insert(&incoming(payload, from as i64, is_fin));
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
                    let spent = r.a.used() + BLOCK_BYTES[0] > budget || r.s.cost as usize >= limit;
                    prop_assert!(spent, "{} of {}, limit {}", r.a.used(), budget, limit);
                }
                Inserted::Foreign => prop_assert!(from > limit),
            }
            let queue = r.in_order();
            prop_assert!(queue.starts_with(&before.0) && data.starts_with(&queue));
            prop_assert!(r.a.used() <= budget);
            let ahead: u32 = r.ahead().iter().map(|(_, c)| c.len()).sum();
            prop_assert_eq!(total, queue.len() as u32 + ahead, "taken and thrown away");
            prop_assert!(r.ahead().first().is_none_or(|(_, c)| c.seq.after(r.s.nxt())), "stuck");
            prop_assert_eq!(r.hole(), !r.ahead().is_empty());
            let sent = queue.len() as u32 + u32::from(r.s.finished());
            prop_assert_eq!(r.s.nxt(), FIRST + sent);
            if full {
                // The session ends with that.
                break;
            }
            let prefix = seen.iter().take_while(|b| **b).count();
            prop_assert!(queue.len() == prefix || wrong_fin);
            prop_assert!(r.s.finished() <= (prefix == len || wrong_fin));
        }
        prop_assert!(total as usize <= len);
        let una = FIRST;
        prop_assert_eq!(r.s.pending(una, &r.rare), total);
        prop_assert_eq!(r.clear(), 0);
    }
}
