//! Copying a packet, or its headers, into a ring (`common::abi::RingHead`).
//!
//! ```text
//!   written: take ─▶ asleep? ─▶ place ─▶ time, header, bytes ─▶ written: publish ─▶ wake
//! ```
//! A record is a [`RecordHeader`] and the packet's bytes; packets beyond the largest record continue in further ones, which
//! are published together.
//!
//! Taking is one atomic instruction that marks the position as being written to. It does three things:
//! - It keeps others out. The hook runs with softirqs off, so that usually nobody else is on this CPU's ring; but on
//!   PREEMPT_RT such a section can be preempted, and CPUs that came up late share a ring. Who comes second
//!   loses the packet.
//! - It is the full barrier between this ring having something and the look at the worker's wish to be
//!   woken. The worker states its wish, and after a full barrier looks for something: one of the two sees the
//!   other, so that no wake-up is lost.
//! - It comes before the time is read: a reader that sees no mark at some time may rely on nothing from before
//!   that time appearing later, and merges rings by time.

mod chain;
mod maps;

use aya_ebpf::bindings::BPF_RB_FORCE_WAKEUP;
use aya_ebpf::helpers::generated::{
    bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_ringbuf_discard, bpf_ringbuf_reserve,
    bpf_skb_load_bytes,
};
use aya_ebpf::programs::TcContext;
use common::abi::{
    MAX_CONTINUATIONS, RECORD_HEADER_BYTES, RECORD_LAST_START, RECORD_MAX_DATA_BYTES,
    RING_BLOCK_BYTES, RecordHeader, RingHead, record_bytes, record_flags,
};
use common::flow::{flow_hash, owner};
use common::packet::Endpoint;

use crate::{atomic, config};
use maps::{BLOCKS, CPU_RINGS, HEADS, SLEEP, WAKE};

/// Looks at a ring that another is writing to before the packet is given up: a copy of 1500 bytes is done by then.
const LOOKS: u32 = 64;

/// Most bytes of headers: Ethernet with two tags, IPv6 with extension headers, TCP with all options fit.
const MAX_HEADERS_BYTES: u64 = 512;

/// Why a packet is in no ring.
#[derive(Clone, Copy)]
pub enum Lost {
    /// The ring of its CPU and worker is full, or another is writing to it.
    RingFull,
    /// It has no bytes.
    Truncated,
    /// It is larger than all continuation records together.
    TooLarge,
    /// The kernel could not copy its bytes.
    LoadFailed,
}

/// Where the next record goes.
#[derive(Clone, Copy)]
struct Place {
    /// Position.
    at: u64,
    /// Its block.
    block: u64,
}

/// Copies the whole packet. Written out like [`copy_headers`]: with what differs handed in as a closure, the tap took more
/// than the 512 bytes of stack that a program has.
#[inline(always)]
pub fn copy_packet(ctx: &TcContext, worker: u32) -> Result<(), Lost> {
    let Some(ring) = ring_of(worker) else {
        return Err(Lost::RingFull);
    };
    let Some(head) = HEADS.get_ptr_mut(ring) else {
        return Err(Lost::RingFull);
    };
    let Some(at) = take(head) else {
        return Err(Lost::RingFull);
    };
    let asleep = wants_waking(worker);
    end(head, at, worker, asleep, copy(ctx, ring, head, at))
}

/// Copies what lies in front of the payload, which begins at `payload`. The record tells the length of the whole packet.
#[inline(always)]
pub fn copy_headers(ctx: &TcContext, worker: u32, payload: u64) -> Result<(), Lost> {
    // Opaque, else LLVM drops a bound of the length that the verifier needs below.
    let len = core::hint::black_box(payload.min(u64::from(ctx.len())));
    if len == 0 || len > MAX_HEADERS_BYTES {
        return Err(Lost::Truncated);
    }
    let Some(ring) = ring_of(worker) else {
        return Err(Lost::RingFull);
    };
    let Some(head) = HEADS.get_ptr_mut(ring) else {
        return Err(Lost::RingFull);
    };
    let Some(at) = take(head) else {
        return Err(Lost::RingFull);
    };
    let asleep = wants_waking(worker);
    let mut header = header(ctx, u64::from(ctx.len()));
    header.len = len as u32;
    header.flags |= record_flags::TRIMMED;
    let copied = put(ctx, ring, head, place(head, at), &header, len);
    end(head, at, worker, asleep, copied)
}

/// The worker that owns the sessions of a client.
#[inline(always)]
#[must_use]
pub fn worker_of(client: Endpoint) -> u32 {
    match config::workers() {
        1 => 0,
        several => owner(flow_hash(client), several),
    }
}

/// The ring of a worker on this CPU.
#[inline(always)]
fn ring_of(worker: u32) -> Option<u32> {
    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    CPU_RINGS.get(cpu).map(|first| *first + worker)
}

/// Publishes what was put behind `at`, and wakes the worker if it slept when the ring was taken.
#[inline(always)]
fn end(
    head: *mut RingHead,
    at: u64,
    worker: u32,
    asleep: bool,
    copied: Result<Place, Lost>,
) -> Result<(), Lost> {
    match copied {
        Ok(end) => {
            chain::set_current(head, end.block);
            publish(head, end.at);
            if asleep {
                wake(worker);
            }
            Ok(())
        }
        Err(why) => {
            publish(head, at);
            Err(why)
        }
    }
}

/// Marks the ring as being written to, unless it is; returns where its records end.
#[inline(always)]
fn take(head: *mut RingHead) -> Option<u64> {
    // SAFETY: a value of the map, whose words are aligned and only accessed whole.
    let written = unsafe { &raw mut (*head).written };
    for _ in 0..LOOKS {
        // SAFETY: as above.
        let at = unsafe { written.read_volatile() } & !RingHead::WRITING;
        // SAFETY: as above.
        if unsafe { atomic::compare_exchange(written, at, at | RingHead::WRITING) } == at {
            return Some(at);
        }
    }
    None
}

/// Ends the records at `end`, and takes the mark away.
#[inline(always)]
fn publish(head: *mut RingHead, end: u64) {
    // SAFETY: as in `take`, whose mark makes this the only writer. Nothing of the record may become visible
    // later: the processor keeps stores in order, or the exchange is a full barrier.
    unsafe {
        let written = &raw mut (*head).written;
        if config::stores_in_order() {
            written.write_volatile(end);
        } else {
            atomic::exchange(written, end);
        }
    }
}

/// Where records behind `at`, the end of those before, begin.
#[inline(always)]
fn place(head: *mut RingHead, at: u64) -> Place {
    Place {
        at,
        block: chain::current(head),
    }
}

/// What a record says of the packet, whose length is `len`; that of a record with all of it.
#[inline(always)]
fn header(ctx: &TcContext, len: u64) -> RecordHeader {
    // SAFETY: fields of the context that a classifier may read.
    let (gso_size, vlan_present, vlan_tci) = unsafe {
        let skb = ctx.skb.skb;
        ((*skb).gso_size, (*skb).vlan_present, (*skb).vlan_tci)
    };
    RecordHeader {
        // SAFETY: a helper without arguments.
        captured_ns: unsafe { bpf_ktime_get_ns() },
        frame_len: len as u32,
        offset: 0,
        len: len as u32,
        gso_size: gso_size as u16,
        vlan_tci: vlan_tci as u16,
        flags: if vlan_present == 0 {
            0
        } else {
            record_flags::VLAN
        },
        reserved: 0,
    }
}

/// Puts the packet behind `at`; returns where its records end.
#[inline(always)]
fn copy(ctx: &TcContext, ring: u32, head: *mut RingHead, at: u64) -> Result<Place, Lost> {
    let place = place(head, at);
    // Opaque, else LLVM drops the lower bound of the length that the verifier needs below.
    let len = core::hint::black_box(u64::from(ctx.len()));
    let mut header = header(ctx, len);
    if len == 0 {
        return Err(Lost::Truncated);
    }
    if len <= RECORD_MAX_DATA_BYTES {
        return put(ctx, ring, head, place, &header, len);
    }
    if len > RECORD_MAX_DATA_BYTES * u64::from(MAX_CONTINUATIONS) {
        return Err(Lost::TooLarge);
    }
    // BIG TCP.
    let (mut place, mut offset) = (place, 0);
    for _ in 0..MAX_CONTINUATIONS {
        let rest = core::hint::black_box(len - offset);
        header.offset = offset as u32;
        if rest == 0 {
            break;
        } else if rest <= RECORD_MAX_DATA_BYTES {
            header.len = rest as u32;
            return put(ctx, ring, head, place, &header, rest);
        }
        header.len = RECORD_MAX_DATA_BYTES as u32;
        place = put(ctx, ring, head, place, &header, RECORD_MAX_DATA_BYTES)?;
        offset += RECORD_MAX_DATA_BYTES;
    }
    Ok(place)
}

/// Puts a record with `len` bytes (1 to `RECORD_MAX_DATA_BYTES`) from `header.offset` on at `place`; returns where it
/// ends.
#[inline(always)]
fn put(
    ctx: &TcContext,
    ring: u32,
    head: *mut RingHead,
    mut place: Place,
    header: &RecordHeader,
    len: u64,
) -> Result<Place, Lost> {
    // Opaque, so that the comparison below is one of this value, which the verifier follows.
    let mut offset = core::hint::black_box(place.at % RING_BLOCK_BYTES);
    if offset > RECORD_LAST_START {
        place.at += RING_BLOCK_BYTES - offset;
        let Some(block) = chain::follow(ring, head, place.block, place.at / RING_BLOCK_BYTES)
        else {
            return Err(Lost::RingFull);
        };
        place.block = block;
        offset = 0;
    }
    let Some(block) = BLOCKS.get_ptr_mut(chain::index(ring, place.block)) else {
        return Err(Lost::RingFull);
    };
    // SAFETY: a record of any length that begins at RECORD_LAST_START at the latest ends within the block; it
    // begins on a multiple of the header's alignment. The reader looks at none of it before it is published.
    let failed = unsafe {
        let record = block.cast::<u8>().add(offset as usize);
        record.cast::<RecordHeader>().write(*header);
        bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            header.offset,
            record.add(RECORD_HEADER_BYTES as usize).cast(),
            len as u32,
        )
    };
    if failed != 0 {
        return Err(Lost::LoadFailed);
    }
    place.at += record_bytes(len);
    Ok(place)
}

/// True if the worker asks to be woken. While it is awake all its producers only read the flag: the line stays
/// in the caches of all of them.
#[inline(always)]
fn wants_waking(worker: u32) -> bool {
    SLEEP.get_ptr_mut(worker).is_some_and(|slot| {
        let slot: *mut u64 = slot.cast();
        // SAFETY: the first word of the worker's slot, 8-byte aligned, only accessed as a whole word.
        unsafe { slot.read_volatile() != 0 }
    })
}

/// Wakes the worker, unless another has.
#[inline(always)]
fn wake(worker: u32) {
    let Some(slot) = SLEEP.get_ptr_mut(worker) else {
        return;
    };
    // SAFETY: as above. The one who takes the flag wakes.
    if unsafe { atomic::exchange(slot.cast(), 0) } == 0 {
        return;
    }
    let Some(ring) = WAKE.get(worker) else {
        return;
    };
    // Waking is done by a record without contents. If there is no room for it, those that are there have not
    // been seen, and poll(2) does not sleep.
    // SAFETY: the ring that the kernel looked up; the record is discarded on the only path.
    unsafe {
        let record = bpf_ringbuf_reserve(core::ptr::from_ref(ring).cast_mut().cast(), 8, 0);
        if !record.is_null() {
            bpf_ringbuf_discard(record, u64::from(BPF_RB_FORCE_WAKEUP));
        }
    }
}
