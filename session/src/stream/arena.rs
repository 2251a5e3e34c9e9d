//! Where captured bytes wait until the target has acknowledged them.
//!
//! Blocks of two sizes, carved from slabs that are allocated as load grows and then reused, so a steady
//! state allocates nothing. The budget bounds all sessions together.

/// Block sizes in bytes: small requests, and one segment of a 1500-byte MTU.
pub(crate) const BLOCK_BYTES: [usize; 2] = [256, 1536];
/// Slab size: large enough that allocation is rare, small enough that an idle engine stays small.
const SLAB_BYTES: usize = 96 * 1024;

/// A block that holds `len` bytes. Not `Clone`: it goes back to its arena by [`Arena::release`].
#[derive(Debug)]
pub(crate) struct Block {
    class: u8,
    index: u32,
    len: u16,
}

impl Block {
    pub(crate) fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// What it costs of the budget.
    pub(crate) fn cost(&self) -> usize {
        BLOCK_BYTES
            .get(usize::from(self.class))
            .copied()
            .unwrap_or(0)
    }
}

#[derive(Default)]
struct Class {
    slabs: Vec<Box<[u8]>>,
    free: Vec<u32>,
}

pub(crate) struct Arena {
    classes: [Class; 2],
    used: usize,
    budget: usize,
}

impl Arena {
    pub(crate) fn new(budget: usize) -> Self {
        Self {
            classes: [Class::default(), Class::default()],
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

    /// Copies `bytes` (at most the largest block) into a block; `None` over budget.
    pub(crate) fn store(&mut self, bytes: &[u8]) -> Option<Block> {
        let class = BLOCK_BYTES.iter().position(|size| bytes.len() <= *size)?;
        let size = *BLOCK_BYTES.get(class)?;
        if self.used + size > self.budget {
            return None;
        }
        let c = self.classes.get_mut(class)?;
        let per_slab = (SLAB_BYTES / size) as u32;
        let index = if let Some(index) = c.free.pop() {
            index
        } else {
            let first = u32::try_from(c.slabs.len()).ok()?.checked_mul(per_slab)?;
            c.slabs.push(vec![0; SLAB_BYTES].into_boxed_slice());
            c.free.extend((first + 1..first + per_slab).rev());
            first
        };
        let at = (index % per_slab) as usize * size;
        let slab = c.slabs.get_mut((index / per_slab) as usize)?;
        slab.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
        self.used += size;
        Some(Block {
            class: class as u8,
            index,
            len: bytes.len() as u16,
        })
    }

    /// The bytes of a block.
    pub(crate) fn bytes(&self, block: &Block) -> &[u8] {
        let class = usize::from(block.class);
        let size = block.cost().max(1);
        let per_slab = (SLAB_BYTES / size) as u32;
        let at = (block.index % per_slab) as usize * size;
        self.classes
            .get(class)
            .and_then(|c| c.slabs.get((block.index / per_slab) as usize))
            .and_then(|slab| slab.get(at..at + block.len()))
            .unwrap_or_default()
    }

    #[expect(clippy::needless_pass_by_value, reason = "the token is used up")]
    pub(crate) fn release(&mut self, block: Block) {
        self.used -= block.cost().min(self.used);
        let Block { class, index, .. } = block;
        if let Some(c) = self.classes.get_mut(usize::from(class)) {
            c.free.push(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_keep_their_bytes_and_come_back() {
        let mut a = Arena::new(1 << 20);
        let mut blocks = Vec::new();
        for n in 0..500usize {
            let data = vec![n as u8; (n * 7) % 1536];
            blocks.push((a.store(&data).unwrap(), data));
        }
        for (b, data) in &blocks {
            assert_eq!(a.bytes(b), data);
        }
        for (b, _) in blocks {
            a.release(b);
        }
        assert_eq!(a.used(), 0);
    }

    #[test]
    fn the_budget_holds() {
        let mut a = Arena::new(3 * 256);
        let held: Vec<_> = (0..3).map(|_| a.store(b"x").unwrap()).collect();
        assert!(a.store(b"x").is_none());
        assert!(!a.has_room_for_sessions());
        for b in held {
            a.release(b);
        }
        assert!(a.store(&[0; 256]).is_some());
        assert!(a.store(&[0; 1537]).is_none());
    }
}
