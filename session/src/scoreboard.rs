//! What the target has received out of order (RFC 2018), and so what it lacks.

use common::packet::{SackBlock, SeqNumber};

/// Ranges that are kept. A target reports at most four per acknowledgement; more distinct ranges than
/// this are forgotten, which costs a needless retransmission at worst.
const RANGES: usize = 8;

/// Received ranges above `snd_una`, sorted, disjoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scoreboard {
    ranges: [SackBlock; RANGES],
    count: u8,
}

impl Scoreboard {
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn known(&self) -> &[SackBlock] {
        self.ranges
            .get(..usize::from(self.count))
            .unwrap_or_default()
    }

    /// Takes the blocks of an acknowledgement; those outside of `una..nxt` are not believed.
    pub(crate) fn update(&mut self, una: SeqNumber, nxt: SeqNumber, blocks: &[SackBlock]) {
        let old = self.clone();
        self.count = 0;
        for b in old.known().iter().chain(blocks) {
            let left = b.left.max(una);
            if left.before(b.right) && !b.right.after(nxt) {
                self.add(SackBlock {
                    left,
                    right: b.right,
                });
            }
        }
    }

    fn add(&mut self, mut new: SackBlock) {
        let mut kept = [SackBlock::default(); RANGES + 1];
        let mut n = 0;
        let mut placed = false;
        for &r in self.known() {
            if r.right.before(new.left) {
                put(&mut kept, &mut n, r);
            } else if new.right.before(r.left) {
                if !placed {
                    put(&mut kept, &mut n, new);
                    placed = true;
                }
                put(&mut kept, &mut n, r);
            } else {
                new.right = new.right.max(r.right);
                if r.left.before(new.left) {
                    new.left = r.left;
                }
            }
        }
        if !placed {
            put(&mut kept, &mut n, new);
        }
        let n = n.min(RANGES);
        for (to, from) in self.ranges.iter_mut().zip(kept).take(n) {
            *to = from;
        }
        self.count = n as u8;
    }

    /// The first stretch at or behind `from` that the target lacks although it has something behind
    /// it.
    pub(crate) fn hole(&self, from: SeqNumber) -> Option<(SeqNumber, SeqNumber)> {
        let mut start = from;
        for r in self.known() {
            if start.before(r.left) {
                return Some((start, r.left));
            }
            start = start.max(r.right);
        }
        None
    }
}

fn put(to: &mut [SackBlock; RANGES + 1], n: &mut usize, range: SackBlock) {
    if let Some(slot) = to.get_mut(*n) {
        *slot = range;
        *n += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UNA: SeqNumber = SeqNumber(u32::MAX - 40);

    fn block(left: u32, right: u32) -> SackBlock {
        SackBlock {
            left: UNA + left,
            right: UNA + right,
        }
    }

    #[test]
    fn holes_lie_between_what_was_received() {
        let mut s = Scoreboard::default();
        s.update(UNA, UNA + 100, &[block(60, 80), block(20, 40)]);
        assert_eq!(s.hole(UNA), Some((UNA, UNA + 20)));
        assert_eq!(s.hole(UNA + 20), Some((UNA + 40, UNA + 60)));
        assert_eq!(s.hole(UNA + 60), None);
        s.update(UNA + 40, UNA + 100, &[block(40, 60)]);
        assert_eq!(s.hole(UNA + 40), None);
        assert!(!s.is_empty());
    }

    #[test]
    fn impossible_blocks_are_not_believed() {
        let mut s = Scoreboard::default();
        s.update(
            UNA,
            UNA + 100,
            &[block(90, 101), block(30, 20), block(u32::MAX - 5, 0)],
        );
        assert!(s.is_empty());
    }

    proptest! {
        #[test]
        fn agrees_with_a_bitmap(blocks in prop::collection::vec((0u32..120, 1u32..30), 1..8)) {
            let mut s = Scoreboard::default();
            let mut map = [false; 160];
            for (left, len) in blocks {
                s.update(UNA, UNA + 160, &[block(left, left + len)]);
                map[left as usize..(left + len) as usize].fill(true);
            }
            let last = map.iter().rposition(|b| *b).unwrap();
            let mut from = 0usize;
            while let Some((a, b)) = s.hole(UNA + from as u32) {
                let (a, b) = (a.since(UNA) as usize, b.since(UNA) as usize);
                prop_assert!(map[from..a].iter().all(|x| *x));
                prop_assert!(map[a..b].iter().all(|x| !*x));
                from = b;
            }
            prop_assert!(map[from..=last].iter().all(|x| *x));
        }
    }
}
