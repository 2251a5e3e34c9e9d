//! The client's byte stream as captured: put in order by sequence number, kept until acknowledged.
//!
//! ```text
//!                 acked        sent           unsent       │ hole │   ahead
//!  seq ──────────────────┬──────────────┬──────────────────┬──────┬──────────┬──▶
//!                     snd_una        snd_nxt              nxt
//!                        └──────── queue: Chunk… ──────────┘      └ Chunk… ──┘
//! ```
//! Captured duplicates, overlaps and reordering end here: what is in `queue` is each byte once, in order,
//! cut where the client's segments were cut. Nothing behind a hole gets into the queue.

mod arena;

pub(crate) use arena::{Arena, Block};

use common::flow::Nanos;
use common::packet::SeqNumber;
use std::collections::VecDeque;

/// Most chunks kept behind a hole. Real reordering is a few packets; one lost packet of a full-speed
/// 64 MiB window of MSS-sized segments would need more and then ends as capture gap.
const MAX_AHEAD: usize = 4096;

/// What a captured segment says beside its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    /// How far the client had read production's answers when it sent this.
    pub(crate) ack: SeqNumber,
    /// Capture time.
    pub(crate) at: Nanos,
    /// When the engine got it.
    pub(crate) arrived: Nanos,
}

/// A piece of the stream: part of one captured segment, at most one block.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) seq: SeqNumber,
    /// `None` in the chunk that is only the client's FIN.
    block: Option<Block>,
    /// Last piece of a segment that had PSH.
    pub(crate) psh: bool,
    /// The FIN: no bytes, one sequence number.
    pub(crate) fin: bool,
    pub(crate) stamp: Stamp,
}

impl Chunk {
    pub(crate) fn len(&self) -> u32 {
        self.block.as_ref().map_or(0, |b| b.len() as u32)
    }

    /// Sequence number after it.
    pub(crate) fn end(&self) -> SeqNumber {
        self.seq + self.len() + u32::from(self.fin)
    }

    pub(crate) fn bytes<'a>(&self, arena: &'a Arena) -> &'a [u8] {
        self.block.as_ref().map_or(&[], |b| arena.bytes(b))
    }
}

/// A captured segment on its way into the stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incoming<'a> {
    pub(crate) seq: SeqNumber,
    pub(crate) payload: &'a [u8],
    pub(crate) psh: bool,
    pub(crate) fin: bool,
    /// Cut at this many bytes: the size of the client's segments if the kernel had merged them, at
    /// most a block.
    pub(crate) piece: usize,
    pub(crate) stamp: Stamp,
}

/// What became of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inserted {
    /// So many new bytes (or a new FIN) were taken, perhaps none.
    Taken {
        /// New payload bytes.
        bytes: u32,
        /// Whether anything (FIN included) was new.
        new: bool,
    },
    /// Too far from the stream to belong to it.
    Foreign,
    /// No memory: over the session's or the engine's budget, or too much behind a hole. `bytes` of it
    /// had been taken.
    Full {
        /// New payload bytes taken before.
        bytes: u32,
    },
}

pub(crate) struct Stream {
    /// Next sequence number in order.
    nxt: SeqNumber,
    queue: VecDeque<Chunk>,
    /// Sorted by sequence number, no overlaps.
    ahead: VecDeque<Chunk>,
    /// Cost of all blocks, in bytes.
    cost: usize,
    limit: usize,
    /// The FIN is in the queue; the stream ends there.
    finished: bool,
    /// Since when there is a hole.
    hole_since: Option<Nanos>,
}

impl Stream {
    /// A stream whose first byte has sequence number `first`.
    pub(crate) fn new(first: SeqNumber, limit: usize) -> Self {
        Self {
            nxt: first,
            queue: VecDeque::new(),
            ahead: VecDeque::new(),
            cost: 0,
            limit,
            finished: false,
            hole_since: None,
        }
    }

    pub(crate) fn nxt(&self) -> SeqNumber {
        self.nxt
    }

    pub(crate) fn queue(&self) -> &VecDeque<Chunk> {
        &self.queue
    }

    /// The client's FIN is in order: no more bytes will come.
    pub(crate) fn finished(&self) -> bool {
        self.finished
    }

    /// Since when bytes are missing in front of captured ones.
    pub(crate) fn hole_since(&self) -> Option<Nanos> {
        self.hole_since
    }

    /// Takes a captured segment.
    pub(crate) fn insert(&mut self, arena: &mut Arena, seg: &Incoming<'_>) -> Inserted {
        let distance = seg.seq.since(self.nxt);
        // A jump beyond what the session may buffer cannot be reordering; the other way round, older
        // than a whole window, it is a packet of an earlier connection on this tuple.
        if distance > self.limit as i32 || distance < -(1 << 30) {
            return Inserted::Foreign;
        }
        if self.finished {
            return Inserted::Taken {
                bytes: 0,
                new: false,
            };
        }
        if distance == 0
            && self.ahead.is_empty()
            && !seg.fin
            && seg.payload.len() <= seg.piece
            && self.cost < self.limit
        {
            return self.append(arena, seg);
        }
        let mut taken = 0;
        let mut new_fin = false;
        let mut full = false;
        let mut end = seg.seq + seg.payload.len() as u32;
        if let Some(fin) = self.ahead.back().filter(|c| c.fin && end.after(c.seq)) {
            // Bytes behind the FIN cannot exist; a client that sends them is broken.
            end = fin.seq;
        }
        let mut cursor = seg.seq.max(self.nxt);
        // Walk the gaps between what is there already and fill each from the segment.
        let mut i = 0;
        while cursor.before(end) && !full {
            let (gap_end, skip_to) = match self.ahead.get(i) {
                Some(c) if !c.seq.after(cursor) => {
                    cursor = cursor.max(c.end());
                    i += 1;
                    continue;
                }
                Some(c) if c.seq.before(end) => (c.seq, c.end()),
                _ => (end, end),
            };
            while cursor.before(gap_end) {
                let from = cursor.since(seg.seq) as usize;
                let len = (gap_end.since(cursor) as usize).min(seg.piece.max(1));
                let bytes = seg.payload.get(from..from + len).unwrap_or_default();
                if bytes.is_empty() || !self.put(arena, i, cursor, bytes, seg, end) {
                    full = true;
                    break;
                }
                taken += len as u32;
                cursor += len as u32;
                i += 1;
            }
            cursor = cursor.max(skip_to);
            i += 1;
        }
        // A FIN in front of bytes that the client has sent is forged: kept, it would block the stream.
        let last = !end.before(self.nxt) && self.ahead.back().is_none_or(|c| !c.end().after(end));
        if seg.fin && !full && last {
            let chunk = Chunk {
                seq: end,
                block: None,
                psh: false,
                fin: true,
                stamp: seg.stamp,
            };
            self.ahead.push_back(chunk);
            new_fin = true;
        }
        self.advance(seg.stamp.arrived);
        if full {
            return Inserted::Full { bytes: taken };
        }
        Inserted::Taken {
            bytes: taken,
            new: taken > 0 || new_fin,
        }
    }

    /// The usual case: one segment, in order, nothing waiting behind a hole.
    fn append(&mut self, arena: &mut Arena, seg: &Incoming<'_>) -> Inserted {
        let Some(block) = arena.store(seg.payload) else {
            return Inserted::Full { bytes: 0 };
        };
        self.cost += block.cost();
        let bytes = block.len() as u32;
        self.queue.push_back(Chunk {
            seq: seg.seq,
            block: Some(block),
            psh: seg.psh,
            fin: false,
            stamp: seg.stamp,
        });
        self.nxt += bytes;
        Inserted::Taken {
            bytes,
            new: bytes > 0,
        }
    }

    fn put(
        &mut self,
        arena: &mut Arena,
        at: usize,
        seq: SeqNumber,
        bytes: &[u8],
        seg: &Incoming<'_>,
        end: SeqNumber,
    ) -> bool {
        if self.ahead.len() >= MAX_AHEAD || self.cost >= self.limit {
            return false;
        }
        let Some(block) = arena.store(bytes) else {
            return false;
        };
        self.cost += block.cost();
        let psh = seg.psh && seq + bytes.len() as u32 == end;
        let chunk = Chunk {
            seq,
            block: Some(block),
            psh,
            fin: false,
            stamp: seg.stamp,
        };
        self.ahead.insert(at.min(self.ahead.len()), chunk);
        true
    }

    /// Moves what is in order from `ahead` to `queue`.
    fn advance(&mut self, now: Nanos) {
        let before = self.nxt;
        while let Some(c) = self.ahead.front() {
            if c.seq != self.nxt {
                break;
            }
            let Some(c) = self.ahead.pop_front() else {
                break;
            };
            self.nxt = c.end();
            self.finished = c.fin;
            self.queue.push_back(c);
        }
        if self.ahead.is_empty() {
            self.hole_since = None;
        } else if self.hole_since.is_none() || self.nxt != before {
            self.hole_since = Some(now);
        }
    }

    /// Drops what lies wholly before `una`; returns how many chunks went.
    pub(crate) fn acknowledge(&mut self, arena: &mut Arena, una: SeqNumber) -> usize {
        let mut gone = 0;
        while self.queue.front().is_some_and(|c| !c.end().after(una)) {
            let Some(c) = self.queue.pop_front() else {
                break;
            };
            self.discard(arena, c);
            gone += 1;
        }
        gone
    }

    /// Counts bytes that will never be sent, without keeping them: how many of `[seq, seq + len)` are
    /// new.
    pub(crate) fn skip(&mut self, seq: SeqNumber, len: u32) -> u32 {
        let end = seq + len;
        // A capture file may claim any length.
        let new = (end.since(self.nxt).max(0) as u32).min(len);
        self.nxt = self.nxt.max(end);
        new
    }

    /// Gives all memory back. What was captured stays known to [`Stream::skip`].
    pub(crate) fn clear(&mut self, arena: &mut Arena) {
        if let Some(last) = self.ahead.back() {
            self.nxt = self.nxt.max(last.end());
        }
        while let Some(c) = self.queue.pop_front().or_else(|| self.ahead.pop_front()) {
            self.discard(arena, c);
        }
        self.queue = VecDeque::new();
        self.ahead = VecDeque::new();
        self.hole_since = None;
    }

    fn discard(&mut self, arena: &mut Arena, chunk: Chunk) {
        if let Some(block) = chunk.block {
            self.cost -= block.cost().min(self.cost);
            arena.release(block);
        }
    }
}

#[cfg(test)]
mod tests;
