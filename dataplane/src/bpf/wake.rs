//! Where a worker waits for the tap: a BPF ring buffer of the smallest size, since that is what a program can make
//! readable. Nothing goes through it but wake-ups, whose contents nobody looks at.
//!
//! Layout: kernel/bpf/ringbuf.c. A page with the consumer's position, a page with the producer's.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::Ordering;

use aya::maps::MapData;
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_RINGBUF;

use super::BpfError;
use super::error::{chain, is_permission};
use crate::mmap::Mapping;

const NAME: &str = "WAKE";

/// Readable after a wake-up.
#[derive(Debug)]
pub(super) struct WakeRing {
    map: MapData,
    consumer: Mapping,
    producer: Mapping,
}

impl WakeRing {
    /// Makes one.
    pub(super) fn create() -> Result<Self, BpfError> {
        let page = rustix::param::page_size();
        let definition =
            aya_obj::Map::new_from_params(BPF_MAP_TYPE_RINGBUF as u32, 0, 0, page as u32, 0);
        let map = MapData::create(definition, "tap_wake", None).map_err(|e| {
            if is_permission(&e) {
                BpfError::Permission {
                    action: "create a BPF ring buffer".into(),
                }
            } else {
                BpfError::Map {
                    map: NAME,
                    action: "create a ring buffer",
                    error: chain(&e),
                }
            }
        })?;
        let mapped = |offset, writable| {
            Mapping::new(map.fd().as_fd(), offset, page, writable).map_err(|e| BpfError::Map {
                map: NAME,
                action: "map a ring buffer into memory",
                error: e.to_string(),
            })
        };
        let (consumer, producer) = (mapped(0, true)?, mapped(page, false)?);
        Ok(Self {
            map,
            consumer,
            producer,
        })
    }

    /// For the array of the program.
    pub(super) fn map(&self) -> &MapData {
        &self.map
    }

    /// Stays the same.
    pub(super) fn fd(&self) -> RawFd {
        self.map.fd().as_fd().as_raw_fd()
    }

    /// Takes all wake-ups as seen.
    pub(super) fn clear(&self) {
        if let (Some(read), Some(written)) = (self.consumer.word(0), self.producer.word(0)) {
            read.store(written.load(Ordering::Acquire), Ordering::Release);
        }
    }
}
