//! Connections that are seen in the capture but not replayed: begun before the capture, or shed.
//!
//! They are in the books like all others: one outcome each, and their bytes as undelivered. So each is
//! remembered while it lasts, in a bounded table, which also tells where one that began before the
//! capture may be joined: at the first byte of a request, never in the middle of one.

use crate::table::{CaptureKey, PairHasherBuilder};
use crate::{Outcome, Totals};
use common::flow::ClientSegment;
use common::packet::{SeqNumber, TcpFlags};
use std::collections::{HashMap, VecDeque};

/// Beyond this many connections, further ones are counted by their bytes alone: 16 MiB of table.
const LIMIT: usize = 1 << 18;
/// Connections that are over are remembered until so many others are: captured packets that come late
/// or twice are theirs, and counted.
const CLOSED: usize = 4096;
/// A SYN so far in front of what its tuple has sent is of that connection. Later connections begin with
/// higher numbers (RFC 6528).
const LATE_BYTES: i32 = 1 << 20;

/// A connection that began with `syn` may have come as far as `seq`.
pub(crate) fn begins_before(syn: SeqNumber, seq: SeqNumber) -> bool {
    (1..LATE_BYTES).contains(&seq.since(syn))
}

#[derive(Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts about a connection"
)]
struct Stranger {
    outcome: Outcome,
    /// It is in the books; bare acknowledgements alone are not.
    booked: bool,
    /// It was a session that failed, which is in the books by itself.
    failed: bool,
    /// Where the client's next byte belongs: bytes before are counted.
    nxt: SeqNumber,
    /// Acknowledgement number of the last data, if any was seen.
    data_ack: Option<SeqNumber>,
    /// The last packet was a bare acknowledgement: the client was reading, not writing.
    reading: bool,
    /// FIN or RST was seen.
    closed: bool,
}

#[derive(Default)]
pub(crate) struct Strangers {
    known: HashMap<CaptureKey, Stranger, PairHasherBuilder>,
    /// Those that are over, oldest first.
    closed: VecDeque<CaptureKey>,
}

impl Strangers {
    /// True if `seg` begins a request of a connection whose beginning was not seen: it continues the
    /// stream exactly, and the client had just read something. Then the connection leaves the books
    /// here, to be replayed from now on.
    pub(crate) fn adopt(
        &mut self,
        totals: &mut Totals,
        key: &CaptureKey,
        seg: &ClientSegment<'_>,
    ) -> bool {
        let Some(s) = self.known.get(key).copied() else {
            return false;
        };
        let begins = !seg.payload.is_empty()
            && seg.seq == s.nxt
            && seg.flags.has(TcpFlags::ACK)
            && s.data_ack.map_or(s.reading, |ack| seg.ack.after(ack));
        if !begins || s.closed || !(s.failed || s.outcome == Outcome::SkippedNoSyn) {
            return false;
        }
        if s.booked && !s.failed {
            totals.unbook(seg.target, s.outcome);
        }
        self.known.remove(key);
        true
    }

    /// A packet of a connection that is not replayed; `outcome` is why, if it is new.
    pub(crate) fn see(
        &mut self,
        totals: &mut Totals,
        key: CaptureKey,
        seg: &ClientSegment<'_>,
        outcome: Outcome,
    ) {
        let ends = seg.flags.has(TcpFlags::FIN.with(TcpFlags::RST));
        let opens = seg.flags.has(TcpFlags::SYN);
        let known = self.known.get(&key).copied();
        if ends && known.is_none() && seg.payload_len == 0 {
            // The last words of a connection that is over for us.
            return;
        }
        let seq = seg.seq + u32::from(opens);
        let mut s = known.unwrap_or(Stranger {
            outcome,
            booked: false,
            failed: false,
            nxt: seq,
            data_ack: None,
            reading: false,
            closed: false,
        });
        let says_something = seg.payload_len > 0 || opens;
        if says_something && !s.booked {
            totals.begin(seg.target);
            totals.end(seg.target, s.outcome, 0, 0);
            s.booked = true;
        }
        let end = seq + seg.payload_len;
        // A capture file may claim any length.
        let new = u64::from((end.since(s.nxt).max(0) as u32).min(seg.payload_len));
        totals.bytes_captured += new;
        totals.lose(seg.target, s.outcome, new);
        s.nxt = s.nxt.max(end);
        if seg.payload_len > 0 {
            // The highest: what comes late had less read.
            s.data_ack = Some(s.data_ack.map_or(seg.ack, |ack| ack.max(seg.ack)));
        }
        s.reading = !says_something;
        let closes = ends && !s.closed;
        s.closed |= ends;
        if known.is_some() || self.known.len() < LIMIT {
            self.known.insert(key, s);
            if closes {
                self.close(key);
            }
        }
    }

    fn close(&mut self, key: CaptureKey) {
        self.closed.push_back(key);
        if self.closed.len() > CLOSED
            && let Some(oldest) = self.closed.pop_front()
            && self.known.get(&oldest).is_some_and(|s| s.closed)
        {
            self.known.remove(&oldest);
        }
    }

    /// A session failed in the middle, its client goes on: it may join again at a request, as another
    /// session. `nxt` is where the captured stream stands.
    pub(crate) fn take_over(&mut self, key: CaptureKey, outcome: Outcome, nxt: SeqNumber) {
        if self.known.len() < LIMIT {
            let s = Stranger {
                outcome,
                booked: true,
                failed: true,
                nxt,
                data_ack: None,
                reading: false,
                closed: false,
            };
            self.known.insert(key, s);
        }
    }

    /// The SYN began a connection of which data was seen already, and is lost: it comes late, or twice.
    #[inline]
    pub(crate) fn has_data_of(&self, key: &CaptureKey, syn: SeqNumber) -> bool {
        if self.known.is_empty() {
            return false;
        }
        let known = self.known.get(key);
        known.is_some_and(|s| s.booked && begins_before(syn, s.nxt - 1))
    }

    /// The connection has been seen.
    pub(crate) fn knows(&self, key: &CaptureKey) -> bool {
        self.known.contains_key(key)
    }

    /// The connection has been seen, and a packet at `seq` may be of it and of no later one.
    pub(crate) fn expects(&self, key: &CaptureKey, seq: SeqNumber) -> bool {
        let known = self.known.get(key);
        known.is_some_and(|s| {
            let ahead = seq.since(s.nxt);
            ahead < LATE_BYTES && !(s.closed && ahead > 1)
        })
    }

    /// A SYN: from now on the key is that of a new connection, unless the same SYN was seen before; it
    /// may have better luck now, and leaves the books to enter them once.
    #[inline]
    pub(crate) fn forget(
        &mut self,
        totals: &mut Totals,
        key: &CaptureKey,
        syn: &ClientSegment<'_>,
    ) {
        if self.known.is_empty() {
            return;
        }
        if let Some(s) = self.known.remove(key)
            && s.booked
            && !s.failed
            && s.nxt == syn.seq + 1
        {
            totals.unbook(syn.target, s.outcome);
        }
    }
}
