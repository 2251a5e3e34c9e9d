//! The client's byte stream as captured: put in order by sequence number, kept until acknowledged.
//!
//! ```text
//!                 acked        sent           unsent       │ hole │   ahead
//!  seq ──────────────────┬──────────────┬──────────────────┬──────┬──────────┬──▶
//!                     snd_una        snd_nxt              nxt
//!                        └──────── queue: Chunk… ──────────┘      └ Chunk… ──┘
//!                        head         cursor          tail
//! ```
//! Captured duplicates, overlaps and reordering end here: what is in the queue is each byte once, in
//! order, cut where the client's segments were cut. Nothing behind a hole gets into the queue.

mod arena;

pub(crate) use arena::{Arena, Chunk, ChunkId, Kind};

use crate::rare::{RarePool, RareSlot};
use crate::time::{Brief, Clock, Tick};
use common::flow::Nanos;
use common::packet::SeqNumber;

/// Most chunks kept behind a hole. Real reordering is a few packets; one lost packet of a full-speed
/// 64 MiB window of MSS-sized segments would need more and then ends as capture gap.
const MAX_AHEAD: u32 = 4096;

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
    /// How far the client had read production's answers when it sent this.
    pub(crate) ack: SeqNumber,
    /// Capture time.
    pub(crate) at: Nanos,
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

/// What was captured behind a hole: sorted by sequence number, no overlaps.
#[derive(Default)]
pub(crate) struct Ahead {
    head: ChunkId,
    tail: ChunkId,
    count: u32,
    bytes: u32,
    /// So far the client has sent, as an acknowledgement of it tells: what lies before was missed. And
    /// whether it has read something since its last data: then a request begins there.
    told: Option<(SeqNumber, bool)>,
    since: Option<Tick>,
}

impl Ahead {
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_none() && self.told.is_none()
    }

    /// Payload bytes.
    pub(crate) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Since when bytes are missing in front of captured ones.
    pub(crate) fn since(&self) -> Option<Tick> {
        self.since
    }
}

pub(crate) struct Stream {
    /// Next sequence number in order.
    nxt: SeqNumber,
    head: ChunkId,
    tail: ChunkId,
    /// The chunk that is sent next; none if all of the queue is sent.
    pub(crate) cursor: ChunkId,
    /// Cost of all blocks, in bytes.
    cost: u32,
    /// The FIN is in the queue; the stream ends there.
    finished: bool,
}

impl Stream {
    /// A stream whose first byte has sequence number `first`.
    pub(crate) fn new(first: SeqNumber) -> Self {
        Self {
            nxt: first,
            head: ChunkId::NONE,
            tail: ChunkId::NONE,
            cursor: ChunkId::NONE,
            cost: 0,
            finished: false,
        }
    }

    pub(crate) fn nxt(&self) -> SeqNumber {
        self.nxt
    }

    /// First chunk of the queue: the oldest that is not acknowledged.
    pub(crate) fn head(&self) -> ChunkId {
        self.head
    }

    /// The client's FIN is in order: no more bytes will come.
    pub(crate) fn finished(&self) -> bool {
        self.finished
    }

    /// Payload bytes behind `una` that are kept, in order or not.
    pub(crate) fn pending(&self, una: SeqNumber, rare: &RareSlot) -> u32 {
        let in_order = self.nxt.since(una).max(0) as u32;
        let fin = u32::from(self.finished && in_order > 0);
        in_order - fin + rare.get().map_or(0, |r| r.ahead.bytes)
    }

    /// The client acknowledged `ack`, without payload, from `seq`: what lies before it was sent, too.
    /// `read` is what its last data before the hole had acknowledged.
    #[inline]
    pub(crate) fn told(
        &mut self,
        arena: &Arena,
        (rare, pool): (&mut RareSlot, &mut RarePool),
        limit: u32,
        now: Tick,
        (seq, ack): (SeqNumber, SeqNumber),
        read: SeqNumber,
    ) {
        let distance = seq.since(self.nxt);
        if distance <= 0 || distance > limit as i32 || self.finished {
            return;
        }
        let last = rare.get().and_then(|r| arena.chunk(r.ahead.tail));
        let last = last.or_else(|| arena.chunk(self.tail));
        let reading = ack.after(last.map_or(read, |c| c.ack));
        let ahead = &mut rare.need(pool).ahead;
        let news = ahead
            .told
            .is_none_or(|(told, was)| seq.after(told) || (seq == told && reading && !was));
        if news {
            ahead.told = Some((seq, reading));
            ahead.since.get_or_insert(now);
        }
    }

    /// All that is missed is one sequence number behind everything that was captured.
    pub(crate) fn misses_one(&self, rare: &RareSlot) -> bool {
        let ahead = rare.get().map(|r| &r.ahead);
        ahead.is_some_and(|a| {
            a.head.is_none() && a.told.is_some_and(|(told, _)| told == self.nxt + 1)
        })
    }

    /// Takes a captured segment. `limit` is the most bytes of blocks that this session may have.
    pub(crate) fn insert(
        &mut self,
        arena: &mut Arena,
        rare: &mut RareSlot,
        pool: &mut RarePool,
        limit: u32,
        now: Clock,
        seg: &Incoming<'_>,
    ) -> Inserted {
        let distance = seg.seq.since(self.nxt);
        // A jump beyond what the session may buffer cannot be reordering; the other way round, older
        // than a whole window, it is a packet of an earlier connection on this tuple.
        if distance > limit.min(i32::MAX as u32) as i32 || distance < -(1 << 30) {
            return Inserted::Foreign;
        }
        if self.finished {
            return Inserted::Taken {
                bytes: 0,
                new: false,
            };
        }
        if distance <= 0 && rare.get().is_none_or(|r| r.ahead.is_empty()) {
            return self.append(arena, limit, now, seg);
        }
        self.insert_ahead(arena, rare, pool, limit, now, seg)
    }

    /// The usual case: in order, nothing waits behind a hole.
    fn append(
        &mut self,
        arena: &mut Arena,
        limit: u32,
        now: Clock,
        seg: &Incoming<'_>,
    ) -> Inserted {
        let known = self.nxt.since(seg.seq) as u32 as usize;
        let end = seg.seq + seg.payload.len() as u32;
        let mut rest = seg.payload.get(known..).unwrap_or_default();
        let mut taken = 0;
        while !rest.is_empty() {
            let len = rest.len().min(seg.piece.max(1));
            let (bytes, later) = rest.split_at(len);
            let mut chunk = Chunk::new(self.nxt, seg.ack, seg.at, now.brief);
            chunk.psh = seg.psh && later.is_empty();
            if self.cost >= limit || !self.store(arena, chunk, bytes) {
                return Inserted::Full { bytes: taken };
            }
            taken += len as u32;
            rest = later;
        }
        let new_fin = seg.fin && end == self.nxt;
        if new_fin {
            let mut chunk = Chunk::new(end, seg.ack, seg.at, now.brief);
            chunk.kind = Kind::Fin;
            if !self.store(arena, chunk, &[]) {
                return Inserted::Full { bytes: taken };
            }
            self.finished = true;
        }
        Inserted::Taken {
            bytes: taken,
            new: taken > 0 || new_fin,
        }
    }

    /// A segment that begins at `seq` is next in order, nothing lies behind a hole, and there is room.
    /// The caller knows that the rare part, where holes are, is absent.
    #[inline(always)]
    pub(crate) fn expects(&self, seq: SeqNumber, limit: u32) -> bool {
        seq == self.nxt && !self.finished && self.cost < limit
    }

    /// Keeps a segment that is next and sent already; false if there is no memory.
    #[inline(always)]
    pub(crate) fn append_sent(&mut self, arena: &mut Arena, chunk: Chunk, bytes: &[u8]) -> bool {
        let Some((id, cost)) = arena.store(chunk, bytes) else {
            return false;
        };
        self.cost += cost as u32;
        self.nxt += bytes.len() as u32 + u32::from(chunk.is_fin());
        self.link(arena, id);
        true
    }

    /// Keeps a chunk that is next, to be sent; false if there is no memory.
    #[inline]
    fn store(&mut self, arena: &mut Arena, chunk: Chunk, bytes: &[u8]) -> bool {
        let stored = self.append_sent(arena, chunk, bytes);
        if stored && self.cursor.is_none() {
            self.cursor = self.tail;
        }
        stored
    }

    /// The client's FIN came next, although it was not captured.
    pub(crate) fn infer_fin(&mut self, arena: &mut Arena, rare: &mut RareSlot, mut fin: Chunk) {
        if let Some(rare) = rare.get_mut() {
            rare.ahead = Ahead::default();
        }
        fin.kind = Kind::Fin;
        self.finished = self.store(arena, fin, &[]);
    }

    #[inline]
    fn push(&mut self, arena: &mut Arena, id: ChunkId) {
        self.link(arena, id);
        if self.cursor.is_none() {
            self.cursor = id;
        }
    }

    #[inline(always)]
    fn link(&mut self, arena: &mut Arena, id: ChunkId) {
        if self.head.is_none() {
            self.head = id;
        } else if let Some(tail) = arena.chunk_mut(self.tail) {
            tail.next = id;
        }
        self.tail = id;
    }

    /// Fills the gaps between what is there already from the segment.
    fn insert_ahead(
        &mut self,
        arena: &mut Arena,
        rare: &mut RareSlot,
        pool: &mut RarePool,
        limit: u32,
        now: Clock,
        seg: &Incoming<'_>,
    ) -> Inserted {
        let ahead = &mut rare.need(pool).ahead;
        let mut end = seg.seq + seg.payload.len() as u32;
        let last = arena.chunk(ahead.tail).copied();
        if let Some(fin) = last.filter(|c| c.is_fin() && end.after(c.seq)) {
            // Bytes behind the FIN cannot exist; a client that sends them is broken.
            end = fin.seq;
        }
        let mut cursor = seg.seq.max(self.nxt);
        let (mut prev, mut next) = match last {
            // The usual case: behind everything.
            Some(c) if !cursor.before(c.end()) => (ahead.tail, ChunkId::NONE),
            _ => (ChunkId::NONE, ahead.head),
        };
        let (mut taken, mut full) = (0, false);
        while cursor.before(end) {
            let mut gap_end = end;
            if let Some(c) = arena.chunk(next) {
                if !c.seq.after(cursor) {
                    cursor = cursor.max(c.end());
                    (prev, next) = (next, c.next);
                    continue;
                }
                if c.seq.before(end) {
                    gap_end = c.seq;
                }
            }
            let from = cursor.since(seg.seq) as usize;
            let len = (gap_end.since(cursor) as usize).min(seg.piece.max(1));
            let bytes = seg.payload.get(from..from + len).unwrap_or_default();
            let mut chunk = Chunk::new(cursor, seg.ack, seg.at, now.brief);
            chunk.psh = seg.psh && cursor + len as u32 == end;
            if ahead.told == Some((cursor, true)) {
                chunk.kind = Kind::Begins;
            }
            let room = ahead.count < MAX_AHEAD && self.cost < limit && !bytes.is_empty();
            let Some((id, cost)) = room.then(|| arena.store(chunk, bytes)).flatten() else {
                full = true;
                break;
            };
            self.cost += cost as u32;
            ahead.link(arena, prev, id, next);
            ahead.bytes += len as u32;
            taken += len as u32;
            cursor += len as u32;
            prev = id;
        }
        // A FIN in front of bytes that the client has sent is forged: kept, it would block the stream.
        let last = arena.chunk(ahead.tail);
        let is_last = !end.before(self.nxt) && last.is_none_or(|c| !c.end().after(end));
        let mut new_fin = false;
        if seg.fin && !full && is_last {
            let mut chunk = Chunk::new(end, seg.ack, seg.at, now.brief);
            chunk.kind = Kind::Fin;
            if let Some((id, cost)) = arena.store(chunk, &[]) {
                self.cost += cost as u32;
                ahead.link(arena, ahead.tail, id, ChunkId::NONE);
                new_fin = true;
            } else {
                full = true;
            }
        }
        self.advance(arena, rare, now);
        if full {
            return Inserted::Full { bytes: taken };
        }
        Inserted::Taken {
            bytes: taken,
            new: taken > 0 || new_fin,
        }
    }

    /// Moves what is in order from `ahead` to the queue.
    fn advance(&mut self, arena: &mut Arena, rare: &mut RareSlot, now: Clock) {
        let Some(ahead) = rare.get_mut().map(|r| &mut r.ahead) else {
            return;
        };
        let before = self.nxt;
        while let Some(c) = arena.chunk_mut(ahead.head).filter(|c| c.seq == self.nxt) {
            let (id, len, fin) = (ahead.head, c.len(), c.is_fin());
            ahead.head = std::mem::take(&mut c.next);
            ahead.count -= 1;
            ahead.bytes -= len;
            self.nxt += len + u32::from(fin);
            self.finished = fin;
            self.push(arena, id);
        }
        if ahead.head.is_none() {
            ahead.tail = ChunkId::NONE;
        }
        if ahead.told.is_some_and(|(told, _)| !told.after(self.nxt)) {
            ahead.told = None;
        }
        if ahead.is_empty() {
            *ahead = Ahead::default();
        } else if ahead.since.is_none() || self.nxt != before {
            // It is as old as what was captured behind it, whatever other hole lay before.
            let behind = arena.chunk(ahead.head);
            ahead.since = Some(behind.map_or(now.from, |c| now.ago(c.arrived)));
        }
    }

    /// As [`Stream::acknowledge`], while all of the queue is sent.
    #[inline(always)]
    pub(crate) fn acknowledge_sent(&mut self, arena: &mut Arena, una: SeqNumber) -> Option<Brief> {
        // Usually it is the oldest chunk, all of it and nothing else.
        let Some(released) = arena.release_until(self.head, una) else {
            return self.acknowledge(arena, una);
        };
        self.cost -= released.cost as u32;
        self.head = released.next;
        if released.next.is_none() {
            self.tail = ChunkId::NONE;
        }
        released.sent_at
    }

    /// Drops what lies wholly before `una`. Returns when the newest of it was sent, if nothing of it was
    /// sent twice.
    #[cold]
    #[inline(never)]
    pub(crate) fn acknowledge(&mut self, arena: &mut Arena, una: SeqNumber) -> Option<Brief> {
        let (mut newest, mut twice) = (None, false);
        while let Some(&Chunk { sent_at, next, .. }) =
            arena.chunk(self.head).filter(|c| !c.end().after(una))
        {
            twice |= sent_at.is_none();
            newest = sent_at;
            if self.cursor == self.head {
                self.cursor = next;
            }
            self.cost -= arena.release(self.head) as u32;
            self.head = next;
            if next.is_none() {
                self.tail = next;
                break;
            }
        }
        newest.filter(|_| !twice)
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

    /// Begins with what another stream had behind its hole.
    pub(crate) fn begin_with(
        &mut self,
        arena: &mut Arena,
        rare: &mut RareSlot,
        pool: &mut RarePool,
        now: Clock,
        all: Ahead,
    ) {
        let mut id = all.head;
        while let Some(c) = arena.chunk(id) {
            self.cost += Arena::cost(c.len() as usize) as u32;
            id = c.next;
        }
        rare.need(pool).ahead = all;
        self.advance(arena, rare, now);
    }

    /// Gives all memory back. What was captured stays known to [`Stream::skip`].
    pub(crate) fn clear(&mut self, arena: &mut Arena, rare: &mut RareSlot) {
        let ahead = rare.get_mut().map(|r| std::mem::take(&mut r.ahead));
        let ahead = ahead.unwrap_or_default();
        if let Some(last) = arena.chunk(ahead.tail) {
            self.nxt = self.nxt.max(last.end());
        }
        ahead.release(arena);
        let queue = Ahead {
            head: self.head,
            ..Ahead::default()
        };
        queue.release(arena);
        (self.head, self.tail, self.cursor) = Default::default();
        self.cost = 0;
    }
}

impl Ahead {
    /// Takes out of what lies behind the hole all that a new connection can begin with: from the first
    /// chunk on before which the client had read something, be it that a bare acknowledgement told so or
    /// that the chunk follows another one that had read less.
    pub(crate) fn cut_at_request(&mut self, arena: &mut Arena) -> Option<Self> {
        let (mut id, mut kept) = (self.head, Self::default());
        if arena.chunk(id)?.kind == Kind::Begins {
            return Some(std::mem::take(self));
        }
        loop {
            let c = *arena.chunk(id)?;
            kept.count += 1;
            kept.bytes += c.len();
            let next = arena.chunk(c.next)?;
            let read = next.seq == c.end() && next.ack.after(c.ack) && !c.is_fin();
            if next.kind == Kind::Begins || (read && !next.is_fin()) {
                break;
            }
            id = c.next;
        }
        let last = arena.chunk_mut(id)?;
        let head = std::mem::take(&mut last.next);
        let rest = Self {
            head,
            tail: std::mem::replace(&mut self.tail, id),
            count: self.count - kept.count,
            bytes: self.bytes - kept.bytes,
            told: self.told.take(),
            since: None,
        };
        (self.count, self.bytes) = (kept.count, kept.bytes);
        Some(rest)
    }

    /// Its first chunk.
    pub(crate) fn first<'a>(&self, arena: &'a Arena) -> Option<&'a Chunk> {
        arena.chunk(self.head)
    }

    /// Gives its memory back.
    pub(crate) fn release(self, arena: &mut Arena) {
        let mut id = self.head;
        while let Some(next) = arena.chunk(id).map(|c| c.next) {
            arena.release(id);
            id = next;
        }
    }

    /// Puts `id` between two neighbours.
    fn link(&mut self, arena: &mut Arena, prev: ChunkId, id: ChunkId, next: ChunkId) {
        if let Some(c) = arena.chunk_mut(id) {
            c.next = next;
        }
        if let Some(c) = arena.chunk_mut(prev) {
            c.next = id;
        } else {
            self.head = id;
        }
        if next.is_none() {
            self.tail = id;
        }
        self.count += 1;
    }
}

#[cfg(test)]
mod tests;
