//! A worker's side of the tap: all rings of that worker, one per CPU.
//!
//! ```text
//!   the oldest head of all rings ──▶ Captured ──▶ batch of up to 64      (borrowed, nothing copied)
//!   act(batch)
//!   for each ring that moved: one store of its position           (the program may overwrite)
//! ```
//! Rings are merged by capture time, because packets of one flow come by several CPUs wherever the
//! sender's thread decides which (veth, loopback) or interrupts move: read ring by ring, a connection's
//! FIN would come before its SYN. Only what was captured before the batch began is delivered; the
//! program takes the time after it has reserved its record, so nothing older can appear later.
//!
//! A packet larger than the largest record is put together in a buffer of its own and delivered alone.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::RawFd;

use common::abi::{MAX_CONTINUATIONS, RECORD_CLASSES_BYTES, RecordHeader, record_flags};
use common::flow::{CaptureMeta, Captured, Nanos};

use super::ring::{Peek, Ring};
use super::sleep::SleepFlag;
use crate::clock;
use crate::port::{BATCH, Capture, CounterSink};

/// Largest packet that continuation records carry.
const MAX_PACKET_BYTES: usize =
    MAX_CONTINUATIONS as usize * RECORD_CLASSES_BYTES[RECORD_CLASSES_BYTES.len() - 1];
/// Calls after which a head without its continuation is given up. The program writes them within
/// microseconds of each other; a worker that sleeps 50 us or more between calls has waited 100 ms then.
const PATIENCE_CALLS: u32 = 2000;

/// How far ahead records are fetched, counted in records as long as the one that is taken: what another
/// core has just written takes some 100 ns to come, and a record is taken in a tenth of that.
const LOOK_AHEAD_RECORDS: u64 = 4;

/// Looks at a record that is being written before the batch ends there. A copy of 64 KiB takes some
/// microseconds.
const BUSY_LOOKS: u32 = 256;
/// Calls after which a ring whose record stays busy no longer holds the others up: its CPU was taken
/// away (a virtual machine's). At 50 us of sleep between calls this is 10 ms; longer naps end within 2 ms.
const BUSY_CALLS: u32 = 200;

/// Reads what the tap captured for one worker. Outlives the tap: what is in the rings stays readable.
#[derive(Debug)]
pub struct TapReader {
    rings: Vec<Ring>,
    /// Next unread position of each ring.
    positions: Vec<u64>,
    /// Where each ring's records ended when the batch began.
    ends: Vec<u64>,
    /// What the programs know of the positions.
    released: Vec<u64>,
    /// Capture time of each ring's head, oldest first.
    heads: BinaryHeap<Reverse<(u64, usize)>>,
    sleep: SleepFlag,
    armed: bool,
    /// For packets in several records; allocated with the first.
    large: Vec<u8>,
    /// Ring with a packet in several records at its head; served first in the next call, since this one
    /// had others to deliver.
    pending: Option<usize>,
    waiting_calls: u32,
    busy_calls: u32,
    frames: u64,
    bytes: u64,
    large_packets: u64,
    incomplete: u64,
    malformed: u64,
}

/// What is at the head of a ring.
enum Head<'a> {
    /// Nothing.
    Empty,
    /// A record that is being written.
    Busy,
    /// A packet, or the first part of one, and the next position.
    At(RecordHeader, &'a [u8], u64),
}

impl TapReader {
    pub(super) fn new(rings: Vec<Ring>, sleep: SleepFlag) -> Self {
        let n = rings.len();
        Self {
            rings,
            positions: vec![0; n],
            ends: vec![0; n],
            released: vec![0; n],
            heads: BinaryHeap::with_capacity(n),
            sleep,
            armed: false,
            large: Vec::new(),
            pending: None,
            waiting_calls: 0,
            busy_calls: 0,
            frames: 0,
            bytes: 0,
            large_packets: 0,
            incomplete: 0,
            malformed: 0,
        }
    }

    /// Looks at the heads of all rings. False if one of them is being written and must be waited for:
    /// it may be older than everything else.
    fn find_heads(&mut self) -> bool {
        self.heads.clear();
        let mut busy = false;
        for (index, ((ring, position), end)) in self
            .rings
            .iter()
            .zip(&mut self.positions)
            .zip(&mut self.ends)
            .enumerate()
        {
            // One load of the producer's cache line per batch.
            *end = ring.produced();
            match head(ring, position, *end, &mut self.malformed) {
                Head::Empty => {}
                Head::Busy => busy = true,
                Head::At(header, ..) => self.heads.push(Reverse((header.captured_ns, index))),
            }
        }
        self.busy_calls = if busy { self.busy_calls + 1 } else { 0 };
        !busy || self.busy_calls > BUSY_CALLS
    }

    /// Gives back what was read; one store per ring.
    fn release(&mut self) {
        for ((ring, at), released) in self
            .rings
            .iter_mut()
            .zip(&self.positions)
            .zip(&mut self.released)
        {
            if *at != *released {
                ring.release(*at);
                *released = *at;
            }
        }
    }

    /// Delivers the packet in several records at the head of ring `index`. Returns the number of
    /// packets delivered, 0 or 1.
    fn recv_large(&mut self, index: usize, act: &mut dyn FnMut(&[Captured<'_>])) -> usize {
        let (Some(ring), Some(position)) = (self.rings.get(index), self.positions.get_mut(index))
        else {
            return 0;
        };
        let end = ring.produced();
        self.large.clear();
        self.large.reserve(MAX_PACKET_BYTES);
        let mut at = *position;
        let mut meta = CaptureMeta::default();
        loop {
            match ring.peek(at, end) {
                Peek::Empty | Peek::Busy => {
                    self.waiting_calls += 1;
                    if self.waiting_calls < PATIENCE_CALLS {
                        return 0;
                    }
                    break;
                }
                Peek::Discarded(next) => at = next,
                Peek::Record(record, next) => {
                    let Some((header, bytes)) = split(record) else {
                        break;
                    };
                    // Something else follows: the rest was lost.
                    if header.offset as usize != self.large.len() {
                        break;
                    }
                    if header.offset == 0 {
                        meta = meta_of(&header);
                    }
                    self.large.extend_from_slice(bytes);
                    at = next;
                    if self.large.len() >= meta.frame_len as usize
                        || self.large.len() >= MAX_PACKET_BYTES
                    {
                        break;
                    }
                }
            }
        }
        self.waiting_calls = 0;
        // Progress in every case: past the records that were taken, or past a head that is malformed.
        *position = if at == *position { end } else { at };
        let delivered = self.large.len() == meta.frame_len as usize && !self.large.is_empty();
        if delivered {
            act(&[Captured {
                bytes: &self.large,
                meta,
            }]);
            self.frames += 1;
            self.bytes += self.large.len() as u64;
            self.large_packets += 1;
        } else {
            self.incomplete += 1;
        }
        self.release();
        usize::from(delivered)
    }
}

impl Capture for TapReader {
    fn recv(&mut self, act: &mut dyn FnMut(&[Captured<'_>])) -> usize {
        if self.armed {
            self.armed = false;
            self.sleep.clear();
        }
        if let Some(index) = self.pending.take()
            && self.recv_large(index, act) > 0
        {
            return 1;
        }
        // Read before the rings are looked at. With one ring there is nothing to put in order.
        let newest = if self.rings.len() > 1 {
            clock::now().0
        } else {
            u64::MAX
        };
        let mut blocked = !self.find_heads();
        let mut batch = [Captured {
            bytes: &[],
            meta: CaptureMeta::default(),
        }; BATCH];
        let mut n = 0;
        let mut large = None;
        'batch: while !blocked && n < BATCH {
            let Some(Reverse((oldest, index))) = self.heads.pop() else {
                break;
            };
            let (Some(ring), Some(position), Some(&end)) = (
                self.rings.get(index),
                self.positions.get_mut(index),
                self.ends.get(index),
            ) else {
                break;
            };
            if oldest > newest {
                break;
            }
            // As long as no other ring has something older, this one goes on.
            let until = self
                .heads
                .peek()
                .map_or(newest, |other| other.0.0.min(newest));
            loop {
                let (header, bytes, next) = match head(ring, position, end, &mut self.malformed) {
                    Head::Empty => break,
                    Head::Busy => {
                        blocked = true;
                        break;
                    }
                    Head::At(header, bytes, next) => (header, bytes, next),
                };
                let Some(slot) = batch.get_mut(n).filter(|_| header.captured_ns <= until) else {
                    self.heads.push(Reverse((header.captured_ns, index)));
                    break;
                };
                if header.frame_len > header.len {
                    large = Some(index);
                    break 'batch;
                }
                ring.prefetch(next + LOOK_AHEAD_RECORDS * (next - *position));
                *position = next;
                *slot = Captured {
                    bytes,
                    meta: meta_of(&header),
                };
                n += 1;
            }
        }
        if n == 0 {
            self.release();
            return large.map_or(0, |index| self.recv_large(index, act));
        }
        self.pending = large;
        let batch = batch.get(..n).unwrap_or_default();
        act(batch);
        self.frames += n as u64;
        self.bytes += batch.iter().map(|c| c.bytes.len() as u64).sum::<u64>();
        self.release();
        n
    }

    fn arm(&mut self) -> bool {
        self.sleep.set();
        self.armed = true;
        let waiting = self
            .rings
            .iter()
            .zip(&self.positions)
            .any(|(ring, at)| ring.produced() > *at);
        if waiting {
            self.armed = false;
            self.sleep.clear();
        }
        !waiting
    }

    fn fds(&self) -> Vec<RawFd> {
        self.rings.iter().map(Ring::fd).collect()
    }

    fn counters(&mut self, sink: CounterSink<'_>) {
        sink("tap_frames", self.frames);
        sink("tap_bytes", self.bytes);
        sink("tap_large_packets", self.large_packets);
        sink("tap_incomplete", self.incomplete);
        sink("tap_malformed", self.malformed);
    }
}

/// The first packet of a ring from `position` on, which moves over what is none.
#[inline]
fn head<'a>(ring: &'a Ring, position: &mut u64, end: u64, malformed: &mut u64) -> Head<'a> {
    let mut looks = 0;
    loop {
        match ring.peek(*position, end) {
            Peek::Empty => return Head::Empty,
            Peek::Busy if looks == BUSY_LOOKS => return Head::Busy,
            Peek::Busy => {
                looks += 1;
                std::hint::spin_loop();
            }
            Peek::Discarded(next) => *position = next,
            Peek::Record(record, next) => match split(record) {
                Some((header, bytes)) if header.offset == 0 => {
                    return Head::At(header, bytes, next);
                }
                // A continuation whose head was given up, or not a record of ours.
                _ => {
                    *malformed += 1;
                    *position = next;
                }
            },
        }
    }
}

/// Header and valid bytes of a record; `None` if it contradicts itself.
#[inline]
fn split(record: &[u8]) -> Option<(RecordHeader, &[u8])> {
    let (header, bytes) = record.split_at_checked(size_of::<RecordHeader>())?;
    let header: RecordHeader = bytemuck::pod_read_unaligned(header);
    Some((header, bytes.get(..header.len as usize)?))
}

#[inline]
fn meta_of(header: &RecordHeader) -> CaptureMeta {
    CaptureMeta {
        at: Nanos(header.captured_ns),
        frame_len: header.frame_len,
        gso_size: header.gso_size,
        vlan_tci: (header.flags & record_flags::VLAN != 0).then_some(header.vlan_tci),
    }
}
