//! Which sessions are replayed, where no kernel program has chosen them: the twin of the programs'
//! choice, by the same functions of `common::flow`.
//!
//! ```text
//!  live capture     kernel: deny ─▶ shard ─▶ share              worker: nothing
//!  files            reader: deny ─▶ shard ─▶ engine: share
//! ```
//! The share is the engine's part, since it also grows it (`-g`).

use common::flow::{Block, Shard, flow_hash};
use common::packet::{Addr, Endpoint};
use hashbrown::HashSet;

/// The choice.
#[derive(Clone, Debug)]
pub struct Selection {
    shard: Shard,
    blocks: HashSet<Block>,
    /// Prefix lengths that occur: few.
    bits: Vec<u8>,
}

/// Why a session is not replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unselected {
    /// Its client is denied.
    Denied,
    /// Another instance replays it.
    OtherShard,
}

impl Selection {
    /// Sessions of `shard` whose clients are in none of `deny`.
    pub fn new(shard: Shard, deny: &[Block]) -> Self {
        let mut bits: Vec<u8> = deny.iter().map(|b| b.bits()).collect();
        bits.sort_unstable();
        bits.dedup();
        Self {
            shard,
            blocks: deny.iter().copied().collect(),
            bits,
        }
    }

    /// Why the sessions of this client are not replayed, if they are not.
    pub fn refuses(&self, client: Endpoint) -> Option<Unselected> {
        if self.denied(client.addr) {
            Some(Unselected::Denied)
        } else if !self.shard.holds(flow_hash(client)) {
            Some(Unselected::OtherShard)
        } else {
            None
        }
    }

    fn denied(&self, addr: Addr) -> bool {
        self.bits
            .iter()
            .any(|bits| self.blocks.contains(&Block::of(addr, *bits)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denied_before_sharded_and_blocks_as_they_say() {
        let block = |a, prefix| Block::new(Addr::v4(a), prefix).unwrap();
        let deny = [
            block([10, 1, 0, 0], 16),
            block([10, 2, 3, 4], 32),
            block([11, 0, 0, 0], 8),
        ];
        let selections = [0, 1].map(|k| Selection::new(Shard::new(k, 2).unwrap(), &deny));
        let mut taken = [0; 2];
        for host in 0..=255u8 {
            for (net, port) in [(1, 1000), (2, 2000), (3, 3000)] {
                let client = Endpoint::new(Addr::v4([10, net, 3, host]), port);
                let denied = deny.iter().any(|b| b.contains(client.addr));
                let verdicts = selections.each_ref().map(|s| s.refuses(client));
                if denied {
                    assert_eq!(verdicts, [Some(Unselected::Denied); 2], "{client}");
                    continue;
                }
                let own = verdicts.iter().position(Option::is_none).unwrap();
                assert_eq!(verdicts[1 - own], Some(Unselected::OtherShard), "{client}");
                taken[own] += 1;
            }
        }
        assert_eq!(taken[0] + taken[1], 256 + 255);
        assert!(taken.iter().all(|n| (200..310).contains(n)), "{taken:?}");
    }
}
