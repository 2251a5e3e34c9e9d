//! Copying a packet into a ring.
//!
//! A record is a [`RecordHeader`] and room for one of the class sizes; packets beyond the largest
//! class continue in further records of the same ring. Sizes given to `bpf_ringbuf_reserve` must be
//! constants, hence one arm per class.

use aya_ebpf::bindings::{
    BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, BPF_RB_RING_SIZE,
};
use aya_ebpf::helpers::generated::{
    bpf_ktime_get_ns, bpf_ringbuf_discard, bpf_ringbuf_query, bpf_ringbuf_reserve,
    bpf_ringbuf_submit, bpf_skb_load_bytes,
};
use aya_ebpf::programs::TcContext;
use common::abi::{
    MAX_CONTINUATIONS, RECORD_CLASSES_BYTES, RecordHeader, TapCounter, record_flags,
};
use ebpf_kit::{atomic, config};

use crate::maps::{RINGS, Ring, SLEEP};
use crate::matching::count;

const HEADER_BYTES: u64 = size_of::<RecordHeader>() as u64;
/// Data of a record that only wakes: with the kernel's 8 bytes a cache line, as all others are of whole ones.
const WAKE_BYTES: u64 = 56;
const C0: usize = RECORD_CLASSES_BYTES[0];
const C1: usize = RECORD_CLASSES_BYTES[1];
const C2: usize = RECORD_CLASSES_BYTES[2];
const C3: usize = RECORD_CLASSES_BYTES[3];
const C4: usize = RECORD_CLASSES_BYTES[4];
const C5: usize = RECORD_CLASSES_BYTES[5];

/// Copies the whole packet, or counts why not.
#[inline(always)]
pub fn copy_packet(ctx: &TcContext, cpu: u32, worker: u32) {
    let Some(ring) = RINGS.get(cpu * config::workers() + worker) else {
        return count(TapCounter::RingFull);
    };
    // Opaque, else LLVM drops the lower bound of the length that the verifier needs below.
    let len = core::hint::black_box(u64::from(ctx.len()));
    // SAFETY: fields of the context that a classifier may read.
    let (gso_size, vlan_present, vlan_tci) = unsafe {
        let skb = ctx.skb.skb;
        ((*skb).gso_size, (*skb).vlan_present, (*skb).vlan_tci)
    };
    let header = RecordHeader {
        captured_ns: 0,
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
    };
    let outcome = if len == 0 {
        Err(TapCounter::Truncated)
    } else if len <= C0 as u64 {
        put::<C0>(ctx, ring, worker, header, len)
    } else if len <= C1 as u64 {
        put::<C1>(ctx, ring, worker, header, len)
    } else if len <= C2 as u64 {
        put::<C2>(ctx, ring, worker, header, len)
    } else if len <= C3 as u64 {
        put::<C3>(ctx, ring, worker, header, len)
    } else if len <= C4 as u64 {
        put::<C4>(ctx, ring, worker, header, len)
    } else if len <= C5 as u64 {
        put::<C5>(ctx, ring, worker, header, len)
    } else {
        put_large(ctx, ring, worker, header, len)
    };
    count(match outcome {
        Ok(()) => TapCounter::Captured,
        Err(why) => why,
    });
}

/// One record of class `C` with `len` bytes (1 to `C`) from `header.offset` on.
#[inline(always)]
fn put<const C: usize>(
    ctx: &TcContext,
    ring: &Ring,
    worker: u32,
    mut header: RecordHeader,
    len: u64,
) -> Result<(), TapCounter> {
    let map = core::ptr::from_ref(ring).cast_mut().cast();
    // SAFETY: `ring` is an inner map that the kernel just looked up.
    let record = unsafe { bpf_ringbuf_reserve(map, HEADER_BYTES + C as u64, 0) };
    if record.is_null() {
        return Err(TapCounter::RingFull);
    }
    header.len = len as u32;
    // After the reserve: a reader that sees no record up to some time in this ring may rely on none
    // from before that time appearing later, and merges rings by time.
    // SAFETY: a helper without arguments.
    header.captured_ns = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the record has room for a header and `C` bytes, `len` is at most `C`; records are
    // 8-byte aligned; each is submitted or discarded exactly once on every path.
    unsafe {
        record.cast::<RecordHeader>().write(header);
        let failed = bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            header.offset,
            record.byte_add(HEADER_BYTES as usize),
            len as u32,
        );
        if failed != 0 {
            bpf_ringbuf_discard(record, u64::from(BPF_RB_NO_WAKEUP));
            return Err(TapCounter::LoadFailed);
        }
        bpf_ringbuf_submit(record, u64::from(BPF_RB_NO_WAKEUP));
    }
    wake(map, worker);
    Ok(())
}

/// A packet larger than the last class (BIG TCP).
#[inline(always)]
fn put_large(
    ctx: &TcContext,
    ring: &Ring,
    worker: u32,
    mut header: RecordHeader,
    len: u64,
) -> Result<(), TapCounter> {
    if len > C5 as u64 * u64::from(MAX_CONTINUATIONS) {
        return Err(TapCounter::TooLarge);
    }
    // All or nothing: a head without its tail would only cost the reader time. Room for 8 records of
    // the largest class is asked for, since this CPU is the only one that fills the ring.
    let map: *mut core::ffi::c_void = core::ptr::from_ref(ring).cast_mut().cast();
    // SAFETY: `ring` is an inner map that the kernel just looked up.
    let (used, size) = unsafe {
        (
            bpf_ringbuf_query(map, u64::from(BPF_RB_AVAIL_DATA)),
            bpf_ringbuf_query(map, u64::from(BPF_RB_RING_SIZE)),
        )
    };
    // The kernel puts 8 bytes in front of each record and rounds up to 8 (kernel/bpf/ringbuf.c).
    // Waking takes a record more.
    let need = len.div_ceil(C5 as u64) * (HEADER_BYTES + C5 as u64 + 16) + WAKE_BYTES + 8;
    if used + need > size {
        return Err(TapCounter::RingFull);
    }
    let mut offset = 0u64;
    for _ in 0..MAX_CONTINUATIONS {
        if offset >= len {
            break;
        }
        let rest = core::hint::black_box(len - offset);
        header.offset = offset as u32;
        if rest == 0 {
            break;
        } else if rest <= C5 as u64 {
            put::<C5>(ctx, ring, worker, header, rest)?;
        } else {
            put::<C5>(ctx, ring, worker, header, C5 as u64)?;
        }
        offset += C5 as u64;
    }
    Ok(())
}

/// Wakes the worker if it sleeps, and then only once.
///
/// The worker sets its flag, and after a full barrier looks for data; this program made data visible (the
/// reserve moved the producer position), and after the full barrier that submitting is (an exchange, in
/// `bpf_ringbuf_commit`, kernel/bpf/ringbuf.c) it looks at the flag. So one of the two sees the other and no
/// wake-up is lost. While the worker is awake all its producers only read the flag: the line stays in the
/// caches of all of them.
#[inline(always)]
fn wake(map: *mut core::ffi::c_void, worker: u32) {
    let Some(slot) = SLEEP.get_ptr_mut(worker) else {
        return;
    };
    let slot: *mut u64 = slot.cast();
    // SAFETY: the first word of the worker's slot, 8-byte aligned, only accessed as a whole word.
    if unsafe { slot.read_volatile() } == 0 {
        return;
    }
    // SAFETY: as above. The one who takes the flag wakes.
    if unsafe { atomic::exchange(slot, 0) } == 0 {
        return;
    }
    // Waking is done by a record: an empty one, which the reader steps over.
    // SAFETY: the ring that the kernel looked up; the record is discarded on the only path.
    unsafe {
        let record = bpf_ringbuf_reserve(map, WAKE_BYTES, 0);
        if record.is_null() {
            // Full, so that a reader who looked would not have slept: left to the next packet.
            atomic::exchange(slot, 1);
        } else {
            bpf_ringbuf_discard(record, u64::from(BPF_RB_FORCE_WAKEUP));
        }
    }
}
