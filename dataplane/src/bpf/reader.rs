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
//! program takes the time after it has marked its ring, so where no mark is seen nothing older can appear later,
//! and where one is the batch ends with that ring.
//!
//! A packet larger than the largest record is put together in a buffer of its own and delivered alone.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::RawFd;

use common::abi::{
    MAX_CONTINUATIONS, RECORD_MAX_DATA_BYTES, RecordHeader, record_bytes, record_flags,
    record_start,
};
use common::flow::{CaptureMeta, Captured, Nanos};

use super::ring::{Peek, Position, Ring, Written};
use super::sleep::SleepFlag;
use super::wake::WakeRing;
use crate::clock;
use crate::port::{BATCH, Capture, CounterSink};

/// Largest packet that continuation records carry.
const MAX_PACKET_BYTES: usize = MAX_CONTINUATIONS as usize * RECORD_MAX_DATA_BYTES as usize;

/// How far ahead records are fetched, counted in records as long as the one that is taken: what another
/// core has just written takes some 100 ns to come, and a record is taken in a tenth of that.
const LOOK_AHEAD_RECORDS: u64 = 4;

/// Looks at a ring that is empty and being written to before the batch ends there. A copy of 64 KiB takes some
/// microseconds.
const BUSY_LOOKS: u32 = 256;
/// Calls after which a ring that stays marked no longer holds the others up: its CPU was taken
/// away (a virtual machine's). At 50 us of sleep between calls this is 10 ms; longer naps end within 2 ms.
const BUSY_CALLS: u32 = 200;
/// By how much the processor may have looked at the rings before it read the clock, and clocks of CPUs may differ.
const CLOCK_SLACK_NS: u64 = 1000;

/// Reads what the tap captured for one worker. Outlives the tap: what is in the rings stays readable.
#[derive(Debug)]
pub struct TapReader {
    rings: Vec<Ring>,
    /// Next unread position of each ring.
    positions: Vec<Position>,
    /// Where each ring's records ended when the batch began.
    ends: Vec<Written>,
    /// What the programs know of the positions.
    released: Vec<u64>,
    /// Capture time of each ring's head, oldest first.
    heads: BinaryHeap<Reverse<(u64, usize)>>,
    sleep: SleepFlag,
    wake: WakeRing,
    armed: bool,
    /// For packets in several records; allocated with the first.
    large: Vec<u8>,
    /// Ring with a packet in several records at its head; served first in the next call, since this one
    /// had others to deliver.
    pending: Option<usize>,
    busy_calls: u32,
    frames: u64,
    bytes: u64,
    large_packets: u64,
    incomplete: u64,
    malformed: u64,
}

impl TapReader {
    pub(super) fn new(rings: Vec<Ring>, sleep: SleepFlag, wake: WakeRing) -> Self {
        let n = rings.len();
        Self {
            rings,
            positions: vec![Position::default(); n],
            ends: vec![Written::default(); n],
            released: vec![0; n],
            heads: BinaryHeap::with_capacity(n),
            sleep,
            wake,
            armed: false,
            large: Vec::new(),
            pending: None,
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
            // One load of the program's cache line per batch, usually.
            let mut looks = 0;
            loop {
                *end = ring.written();
                if end.end != position.at || !end.more || looks == BUSY_LOOKS {
                    break;
                }
                looks += 1;
                std::hint::spin_loop();
            }
            match head(ring, position, end.end, &mut self.malformed) {
                Some((header, ..)) => self.heads.push(Reverse((header.captured_ns, index))),
                None => busy |= end.more,
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
            if at.at != *released {
                ring.release(at.at);
                *released = at.at;
            }
        }
    }

    /// Delivers the packet in several records at the head of ring `index`, all of which are there: the program
    /// publishes them together. Returns the number of packets delivered, 0 or 1.
    fn recv_large(&mut self, index: usize, act: &mut dyn FnMut(&[Captured<'_>])) -> usize {
        let (Some(ring), Some(position)) = (self.rings.get(index), self.positions.get_mut(index))
        else {
            return 0;
        };
        let end = ring.written().end;
        self.large.clear();
        self.large.reserve(MAX_PACKET_BYTES);
        let mut meta = CaptureMeta::default();
        // The first is a head, which `recv` has seen: there is progress in every case.
        while let Peek::Record(header, bytes, next) = ring.peek(*position, end) {
            if header.offset == 0 && self.large.is_empty() {
                meta = meta_of(&header);
            } else if header.offset as usize != self.large.len() {
                // Another packet: the rest of this one is missing.
                break;
            }
            self.large.extend_from_slice(bytes);
            *position = next;
            if self.large.len() >= (meta.frame_len as usize).min(MAX_PACKET_BYTES) {
                break;
            }
        }
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
            self.wake.clear();
        }
        if let Some(index) = self.pending.take()
            && self.recv_large(index, act) > 0
        {
            return 1;
        }
        // Read before the rings are looked at. With one ring there is nothing to put in order.
        let newest = if self.rings.len() > 1 {
            clock::now().0.saturating_sub(CLOCK_SLACK_NS)
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
                let Some((header, bytes, next)) =
                    head(ring, position, end.end, &mut self.malformed)
                else {
                    // What is being written may be older than everything else.
                    blocked = end.more;
                    break;
                };
                let Some(slot) = batch.get_mut(n).filter(|_| header.captured_ns <= until) else {
                    self.heads.push(Reverse((header.captured_ns, index)));
                    break;
                };
                if header.frame_len > header.len && header.flags & record_flags::TRIMMED == 0 {
                    large = Some(index);
                    break 'batch;
                }
                ring.prefetch(
                    next,
                    LOOK_AHEAD_RECORDS * record_bytes(u64::from(header.len)),
                );
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
        let waiting = self.rings.iter().zip(&self.positions).any(|(ring, at)| {
            let written = ring.written();
            record_start(at.at) < written.end || written.more
        });
        if waiting {
            self.armed = false;
            self.sleep.clear();
        }
        !waiting
    }

    fn fds(&self) -> Vec<RawFd> {
        vec![self.wake.fd()]
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
fn head<'a>(
    ring: &'a Ring,
    position: &mut Position,
    end: u64,
    malformed: &mut u64,
) -> Option<(RecordHeader, &'a [u8], Position)> {
    loop {
        match ring.peek(*position, end) {
            Peek::Empty => return None,
            Peek::Record(header, bytes, next) if header.offset == 0 => {
                return Some((header, bytes, next));
            }
            // A continuation whose head was given up.
            Peek::Record(.., next) => {
                *malformed += 1;
                *position = next;
            }
            Peek::Malformed => {
                *malformed += 1;
                *position = ring.skip(*position, end);
            }
        }
    }
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
