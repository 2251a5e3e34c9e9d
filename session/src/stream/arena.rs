//! Where captured bytes wait until the target has acknowledged them.
//!
//! ```text
//!  Chunk ──next──▶ Chunk ──next──▶ …      a session's queue, linked by number
//!    └ block of 256 or 1536 bytes
//! ```
//! Chunks and blocks lie in pages that are allocated as load grows and then reused, so a steady state
//! allocates nothing. The budget bounds the blocks of all sessions together.

use crate::slab::page;
use crate::time::Brief;
use common::flow::Nanos;
use common::packet::SeqNumber;

/// Block sizes in bytes: small requests, and one segment of a 1500-byte MTU.
pub(crate) const BLOCK_BYTES: [usize; 2] = [256, 1536];
/// Blocks of a page: pages of 64 and 96 KiB, large enough that allocation is rare, small enough that an
/// idle engine stays small.
const PAGE_BLOCKS: [usize; 2] = [256, 64];

/// Number of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ChunkId(u32);

impl ChunkId {
    pub(crate) const NONE: Self = Self(u32::MAX);

    pub(crate) fn is_none(self) -> bool {
        self == Self::NONE
    }

    fn new(class: u32, index: u32) -> Self {
        Self(index << 1 | class)
    }

    fn is_large(self) -> bool {
        self.0 & 1 != 0
    }

    fn index(self) -> u32 {
        self.0 >> 1
    }
}

impl Default for ChunkId {
    fn default() -> Self {
        Self::NONE
    }
}

/// A piece of the stream: part of one captured segment, at most one block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk {
    /// Capture time.
    pub(crate) at: Nanos,
    pub(crate) seq: SeqNumber,
    /// How far the client had read production's answers when it sent this.
    pub(crate) ack: SeqNumber,
    /// When the engine got it.
    pub(crate) arrived: Brief,
    /// When it was sent. Not known if that was more than once: its acknowledgement says nothing about
    /// the round trip then (Karn's rule, RFC 6298 section 3).
    pub(crate) sent_at: Option<Brief>,
    pub(crate) next: ChunkId,
    len: u16,
    /// Last piece of a segment that had PSH.
    pub(crate) psh: bool,
    pub(crate) kind: Kind,
}

/// What is known of a chunk beside its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Data,
    /// The client had just read something: the chunk begins a request.
    Begins,
    /// The FIN: no bytes, one sequence number.
    Fin,
}

const _: () = assert!(size_of::<Chunk>() == 32);

impl Chunk {
    /// What a segment that was captured at `at` and `arrived` says, without bytes yet.
    pub(crate) const fn new(seq: SeqNumber, ack: SeqNumber, at: Nanos, arrived: Brief) -> Self {
        Self {
            at,
            seq,
            ack,
            arrived,
            sent_at: None,
            next: ChunkId::NONE,
            len: 0,
            psh: false,
            kind: Kind::Data,
        }
    }

    pub(crate) fn len(&self) -> u32 {
        u32::from(self.len)
    }

    #[inline(always)]
    pub(crate) fn is_fin(&self) -> bool {
        self.kind == Kind::Fin
    }

    /// Sequence number after it.
    pub(crate) fn end(&self) -> SeqNumber {
        self.seq + self.len() + u32::from(self.is_fin())
    }
}

/// A chunk that was given back.
pub(crate) struct Released {
    pub(crate) next: ChunkId,
    pub(crate) sent_at: Option<Brief>,
    pub(crate) cost: usize,
}

struct Page<const SIZE: usize, const BLOCKS: usize> {
    chunks: Box<[Chunk; BLOCKS]>,
    blocks: Box<[[u8; SIZE]; BLOCKS]>,
}

/// Blocks of one size. `CLASS` is the lowest bit of their numbers.
struct Class<const SIZE: usize, const BLOCKS: usize, const CLASS: u32> {
    pages: Vec<Page<SIZE, BLOCKS>>,
    /// First free chunk; the others follow by `next`.
    free: ChunkId,
}

impl<const SIZE: usize, const BLOCKS: usize, const CLASS: u32> Class<SIZE, BLOCKS, CLASS> {
    const fn new() -> Self {
        Self {
            pages: Vec::new(),
            free: ChunkId::NONE,
        }
    }

    #[inline(always)]
    fn get(&self, id: ChunkId) -> Option<(&Chunk, &[u8; SIZE])> {
        let page = self.pages.get(id.index() as usize / BLOCKS)?;
        let at = id.index() as usize % BLOCKS;
        Some((page.chunks.get(at)?, page.blocks.get(at)?))
    }

    #[inline(always)]
    fn get_mut(&mut self, id: ChunkId) -> Option<(&mut Chunk, &mut [u8; SIZE])> {
        let page = self.pages.get_mut(id.index() as usize / BLOCKS)?;
        let at = id.index() as usize % BLOCKS;
        Some((page.chunks.get_mut(at)?, page.blocks.get_mut(at)?))
    }

    #[inline(always)]
    fn store(&mut self, mut chunk: Chunk, bytes: &[u8]) -> Option<ChunkId> {
        if self.free.is_none() {
            self.grow()?;
        }
        let id = self.free;
        let (slot, block) = self.get_mut(id)?;
        block.get_mut(..bytes.len())?.copy_from_slice(bytes);
        let free = slot.next;
        chunk.len = bytes.len() as u16;
        *slot = chunk;
        self.free = free;
        Some(id)
    }

    #[cold]
    fn grow(&mut self) -> Option<()> {
        let first = u32::try_from(self.pages.len() * BLOCKS).ok()?;
        // One bit of a number is the class, and the highest number is none.
        if first >= (u32::MAX >> 1) - BLOCKS as u32 {
            return None;
        }
        let id = |n: usize| ChunkId::new(CLASS, first + n as u32);
        let empty = Chunk::new(SeqNumber(0), SeqNumber(0), Nanos(0), Brief::of(Nanos(0)));
        let chunks = page(|n| Chunk {
            next: if n + 1 < BLOCKS {
                id(n + 1)
            } else {
                ChunkId::NONE
            },
            ..empty
        })?;
        let blocks = page(|_| [0; SIZE])?;
        self.pages.push(Page { chunks, blocks });
        self.free = id(0);
        Some(())
    }

    /// Releases a chunk if it ends at `una`.
    #[inline(always)]
    fn release_until(&mut self, id: ChunkId, una: SeqNumber) -> Option<Released> {
        let page = self.pages.get_mut(id.index() as usize / BLOCKS)?;
        let chunk = page.chunks.get_mut(id.index() as usize % BLOCKS)?;
        if chunk.end() != una {
            return None;
        }
        let next = std::mem::replace(&mut chunk.next, self.free);
        self.free = id;
        Some(Released {
            next,
            sent_at: chunk.sent_at,
            // A block costs its size.
            cost: if chunk.len == 0 { 0 } else { SIZE },
        })
    }

    /// Returns how many bytes it had.
    #[inline(always)]
    fn release(&mut self, id: ChunkId) -> u16 {
        let free = self.free;
        let Some((chunk, _)) = self.get_mut(id) else {
            return 0;
        };
        chunk.next = free;
        let len = chunk.len;
        self.free = id;
        len
    }
}

/// All chunks of one engine. Each belongs to one list of one session, which gives it back by
/// [`Arena::release`].
pub(crate) struct Arena {
    small: Class<{ BLOCK_BYTES[0] }, { PAGE_BLOCKS[0] }, 0>,
    large: Class<{ BLOCK_BYTES[1] }, { PAGE_BLOCKS[1] }, 1>,
    used: usize,
    budget: usize,
}

impl Arena {
    pub(crate) fn new(budget: usize) -> Self {
        Self {
            small: Class::new(),
            large: Class::new(),
            used: 0,
            budget,
        }
    }

    /// Bytes of blocks in use.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// True while new sessions may begin: a quarter is kept for those that run.
    pub(crate) fn has_room_for_sessions(&self) -> bool {
        self.used < self.budget / 4 * 3
    }

    /// What storing so many bytes costs of the budget. A FIN costs nothing: a session is not shed for
    /// its last word.
    #[inline(always)]
    pub(crate) fn cost(len: usize) -> usize {
        match len {
            0 => 0,
            n if n <= BLOCK_BYTES[0] => BLOCK_BYTES[0],
            _ => BLOCK_BYTES[1],
        }
    }

    /// Stores `bytes` (at most the largest block) as `chunk`; returns it and its cost in bytes, `None`
    /// over budget.
    #[inline(always)]
    pub(crate) fn store(&mut self, chunk: Chunk, bytes: &[u8]) -> Option<(ChunkId, usize)> {
        let is_small = bytes.len() <= BLOCK_BYTES[0];
        if !is_small || bytes.is_empty() {
            // Of a copy: the usual chunk then lives in registers, as nothing takes its address.
            let other = chunk;
            return self.store_other(&other, bytes);
        }
        let cost = BLOCK_BYTES[0];
        if self.used + cost > self.budget {
            return None;
        }
        let id = self.small.store(chunk, bytes)?;
        self.used += cost;
        Some((id, cost))
    }

    /// A large block, or a FIN.
    #[cold]
    #[inline(never)]
    fn store_other(&mut self, chunk: &Chunk, bytes: &[u8]) -> Option<(ChunkId, usize)> {
        let cost = Self::cost(bytes.len());
        if self.used + cost > self.budget {
            return None;
        }
        let id = if bytes.is_empty() {
            self.small.store(*chunk, bytes)
        } else {
            self.large.store(*chunk, bytes)
        }?;
        self.used += cost;
        Some((id, cost))
    }

    #[inline(always)]
    pub(crate) fn chunk(&self, id: ChunkId) -> Option<&Chunk> {
        if id.is_large() {
            self.large.get(id).map(|(c, _)| c)
        } else {
            self.small.get(id).map(|(c, _)| c)
        }
    }

    #[inline(always)]
    pub(crate) fn chunk_mut(&mut self, id: ChunkId) -> Option<&mut Chunk> {
        if id.is_large() {
            self.large.get_mut(id).map(|(c, _)| c)
        } else {
            self.small.get_mut(id).map(|(c, _)| c)
        }
    }

    /// The bytes of a chunk.
    #[inline]
    pub(crate) fn bytes(&self, id: ChunkId) -> &[u8] {
        if id.is_large() {
            let found = self.large.get(id);
            found.map_or(&[], |(c, b)| {
                b.get(..usize::from(c.len)).unwrap_or_default()
            })
        } else {
            let found = self.small.get(id);
            found.map_or(&[], |(c, b)| {
                b.get(..usize::from(c.len)).unwrap_or_default()
            })
        }
    }

    /// Takes a chunk back if it ends at `una`.
    #[inline(always)]
    pub(crate) fn release_until(&mut self, id: ChunkId, una: SeqNumber) -> Option<Released> {
        let released = if id.is_large() {
            self.large.release_until(id, una)
        } else {
            self.small.release_until(id, una)
        }?;
        self.used -= released.cost.min(self.used);
        Some(released)
    }

    /// Takes a chunk back; returns its cost in bytes.
    #[inline(always)]
    pub(crate) fn release(&mut self, id: ChunkId) -> usize {
        let len = if id.is_large() {
            self.large.release(id)
        } else {
            self.small.release(id)
        };
        let cost = Self::cost(usize::from(len));
        self.used -= cost.min(self.used);
        cost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk() -> Chunk {
        Chunk::new(SeqNumber(0), SeqNumber(0), Nanos(0), Brief::of(Nanos(1)))
    }

    #[test]
    fn blocks_keep_their_bytes_and_come_back() {
        let mut a = Arena::new(1 << 20);
        for _ in 0..2 {
            let mut kept = Vec::new();
            for n in 0..500usize {
                let data = vec![n as u8; (n * 7) % 1536];
                kept.push((a.store(chunk(), &data).unwrap().0, data));
            }
            for (id, data) in &kept {
                assert_eq!(a.bytes(*id), data);
                assert_eq!(a.chunk(*id).unwrap().len() as usize, data.len());
            }
            for (id, _) in kept {
                a.release(id);
            }
            assert_eq!(a.used(), 0);
        }
        assert!(a.chunk(ChunkId::NONE).is_none() && a.bytes(ChunkId::NONE).is_empty());
    }

    #[test]
    fn the_budget_holds() {
        let mut a = Arena::new(3 * 256);
        let held: Vec<_> = (0..3).map(|_| a.store(chunk(), b"x").unwrap().0).collect();
        assert!(a.store(chunk(), b"x").is_none());
        assert!(!a.has_room_for_sessions());
        for id in held {
            assert_eq!(a.release(id), 256);
        }
        assert!(a.store(chunk(), &[0; 256]).is_some());
        assert!(a.store(chunk(), &[0; 1537]).is_none());
    }
}
