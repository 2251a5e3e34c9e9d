//! The map `SLEEP`: which workers want to be woken.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use aya::maps::MapData;

use super::BpfError;
use crate::mmap::Mapping;

/// A worker's slot is a cache line.
pub(super) const SLOT_BYTES: usize = 64;

/// The slot of one worker.
#[derive(Debug)]
pub(super) struct SleepFlag {
    slots: Arc<Mapping>,
    offset: usize,
}

/// Maps the array and hands out one flag per worker.
pub(super) fn flags(map: &MapData, workers: u32) -> Result<Vec<SleepFlag>, BpfError> {
    let page = rustix::param::page_size();
    let len = (workers as usize * SLOT_BYTES).next_multiple_of(page);
    let slots = Mapping::new(map.fd().as_fd(), 0, len, true).map_err(|e| BpfError::Map {
        map: "SLEEP",
        action: "map it into memory",
        error: e.to_string(),
    })?;
    let slots = Arc::new(slots);
    Ok((0..workers as usize)
        .map(|w| SleepFlag {
            slots: Arc::clone(&slots),
            offset: w * SLOT_BYTES,
        })
        .collect())
}

impl SleepFlag {
    /// Asks for a wake-up. What the caller reads from the rings afterwards is at least as new as what
    /// a program has written that did not see the flag.
    pub(super) fn set(&self) {
        self.store(1);
        // Store, then load, of two locations: only a full barrier orders that. The program's side is
        // its atomic exchange.
        fence(Ordering::SeqCst);
    }

    /// Takes the wish back.
    pub(super) fn clear(&self) {
        self.store(0);
    }

    fn store(&self, value: u64) {
        if let Some(slot) = self.slots.word(self.offset) {
            slot.store(value, Ordering::SeqCst);
        }
    }
}
