//! Connections that are seen in the capture but not replayed: begun before the capture, or shed.
//!
//! They are in the books like all others: one outcome each, and their bytes as undelivered. So each is
//! remembered while it lasts, in a bounded table.

use crate::table::{Pair, PairHasherBuilder};
use crate::{Outcome, Totals};
use common::flow::ClientSegment;
use common::packet::{SeqNumber, TcpFlags};
use std::collections::HashMap;

/// Beyond this many connections, further ones are counted by their bytes alone: 16 MiB of table.
const LIMIT: usize = 1 << 18;

#[derive(Clone, Copy)]
struct Stranger {
    outcome: Outcome,
    /// Bytes before this are counted.
    nxt: SeqNumber,
}

#[derive(Default)]
pub(crate) struct Strangers {
    known: HashMap<Pair, Stranger, PairHasherBuilder>,
}

impl Strangers {
    /// A packet of a connection that is not replayed; `outcome` is why, if it is new.
    pub(crate) fn see(
        &mut self,
        totals: &mut Totals,
        key: Pair,
        seg: &ClientSegment<'_>,
        outcome: Outcome,
    ) {
        let ends = seg.flags.has(TcpFlags::FIN.with(TcpFlags::RST));
        let opens = seg.flags.has(TcpFlags::SYN);
        let known = self.known.get(&key).copied();
        if known.is_none() && seg.payload_len == 0 && !opens {
            // Bare acknowledgements are no session: the last ones of a connection that is over.
            return;
        }
        let seq = seg.seq + u32::from(opens);
        let mut stranger = known.unwrap_or(Stranger { outcome, nxt: seq });
        if known.is_none() {
            totals.sessions += 1;
            totals.end(outcome, 0);
        }
        let end = seq + seg.payload_len;
        let new = u64::from(end.since(stranger.nxt).clamp(0, seg.payload_len as i32) as u32);
        totals.bytes_captured += new;
        totals.lose(stranger.outcome, new);
        stranger.nxt = stranger.nxt.max(end);
        if ends {
            self.known.remove(&key);
        } else if known.is_some() || self.known.len() < LIMIT {
            self.known.insert(key, stranger);
        }
    }

    /// The connection is replayed from now on.
    pub(crate) fn forget(&mut self, key: &Pair) {
        self.known.remove(key);
    }
}
