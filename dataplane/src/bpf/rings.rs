//! The rings of a tcx program, of which a worker has one for each CPU: their sizes, and who reads which.

use aya::Ebpf;
use aya::maps::{Array, ArrayOfMaps, MapData};
use common::abi::{ProgramConfig, RING_BLOCK_BYTES};

use super::error::chain;
use super::ring::{self, Ring};
use super::wake::WakeRing;
use super::{BpfError, TapReader, load, online, sleep};

/// Smallest ring: while one block is read the other is filled. Holds six of the largest records, or 4 ms of
/// small packets at 1 Mpps.
const MIN_RING_BYTES: usize = 2 * RING_BLOCK_BYTES as usize;
/// Largest ring, more than any worker keeps up with.
const MAX_RING_BYTES: usize = 512 * 1024 * 1024;

/// Sizes of the maps that are the rings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rings {
    workers: u32,
    cpus: u32,
    number: usize,
    /// Of each.
    blocks: usize,
}

impl Rings {
    /// For a program that uses none.
    pub(super) const NONE: Self = Self {
        workers: 1,
        cpus: 1,
        number: 1,
        blocks: 1,
    };

    /// One for each CPU that runs and each of `workers`, at least 1; together they have `bytes_total`.
    pub(super) fn of(workers: u32, bytes_total: usize) -> Self {
        let number = online::online().len() * workers as usize;
        Self {
            workers,
            cpus: online::possible(),
            number,
            blocks: ring_bytes(bytes_total, number) / RING_BLOCK_BYTES as usize,
        }
    }

    /// Entries of the maps, for the loader.
    pub(super) fn sizes(&self) -> [(&'static str, u32); 6] {
        let blocks = (self.number * self.blocks) as u32;
        [
            ("CPU_RINGS", self.cpus),
            ("HEADS", self.number as u32),
            ("BLOCKS", blocks),
            ("NEXT", blocks),
            ("SLEEP", self.workers),
            ("WAKE", self.workers),
        ]
    }

    /// Tells the program.
    pub(super) fn put_into(&self, program: &mut ProgramConfig) {
        program.cpus = self.cpus;
        program.ring_blocks = self.blocks as u32;
    }

    /// How many there are.
    pub(super) fn number(&self) -> usize {
        self.number
    }

    /// Bytes of each.
    pub(super) fn bytes(&self) -> usize {
        self.blocks * RING_BLOCK_BYTES as usize
    }
}

/// Bytes per ring: an equal share of the cap, as a power of two.
fn ring_bytes(total: usize, rings: usize) -> usize {
    let share = (total / rings.max(1)).clamp(1, MAX_RING_BYTES);
    // The largest power of two that is not above the share.
    let size = 1 << share.ilog2();
    if size < MIN_RING_BYTES {
        tracing::warn!(
            cap_bytes = total,
            rings,
            needed_bytes = rings * MIN_RING_BYTES,
            "ring memory exceeds its cap: each ring has at least 512 KiB; fewer workers need fewer rings"
        );
    }
    size.max(MIN_RING_BYTES)
}

/// Maps the rings and tells the program which are whose: a set of its own for each CPU that runs.
/// Others, should they come up later, share those sets (rings take several producers, one at a time).
pub(super) fn readers(ebpf: &mut Ebpf, rings: Rings) -> Result<Vec<TapReader>, BpfError> {
    let (workers, blocks, online) = (rings.workers, rings.blocks, online::online());
    let mut sets: Array<_, u32> = load::borrow(ebpf, "CPU_RINGS")?;
    for cpu in 0..rings.cpus {
        let running = online.iter().position(|c| *c == cpu);
        let set = running.unwrap_or(cpu as usize % online.len().max(1)) as u32;
        sets.set(cpu, set * workers, 0).map_err(|e| BpfError::Map {
            map: "CPU_RINGS",
            action: "name the rings of a CPU",
            error: chain(&e),
        })?;
    }
    let maps = ring::Maps {
        heads: load::data(ebpf, "HEADS")?,
        next: load::data(ebpf, "NEXT")?,
        blocks: load::data(ebpf, "BLOCKS")?,
    };
    let rings = online.len() * workers as usize;
    let mut by_worker: Vec<Vec<Ring>> = (0..workers).map(|_| Vec::new()).collect();
    for (index, ring) in ring::map(&maps, rings, blocks)?.into_iter().enumerate() {
        if let Some(rings) = by_worker.get_mut(index % workers as usize) {
            rings.push(ring);
        }
    }
    let flags = sleep::flags(load::data(ebpf, "SLEEP")?, workers)?;
    // Borrowed, not taken: the instructions name the array by descriptor until the program is loaded.
    let mut array: ArrayOfMaps<&mut MapData, MapData> = load::borrow(ebpf, "WAKE")?;
    let mut readers = Vec::new();
    for ((worker, rings), flag) in (0..workers).zip(by_worker).zip(flags) {
        let wake = WakeRing::create()?;
        array
            .set(worker, wake.map(), 0)
            .map_err(|e| BpfError::Map {
                map: "WAKE",
                action: "insert a ring buffer",
                error: chain(&e),
            })?;
        readers.push(TapReader::new(rings, flag, wake));
    }
    Ok(readers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_memory_is_shared_out_in_powers_of_two() {
        const MIB: usize = 1 << 20;
        assert_eq!(ring_bytes(64 * MIB, 1), 64 * MIB);
        assert_eq!(ring_bytes(64 * MIB, 2), 32 * MIB);
        assert_eq!(ring_bytes(64 * MIB, 3), 16 * MIB);
        assert_eq!(ring_bytes(64 * MIB, 256), MIN_RING_BYTES);
        assert_eq!(ring_bytes(0, 0), MIN_RING_BYTES);
        assert_eq!(ring_bytes(usize::MAX, 1), MAX_RING_BYTES);
    }
}
