//! What the XDP programs do to a packet before it is redirected.

use aya_ebpf::EbpfContext;
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::helpers::generated::{
    bpf_jiffies64, bpf_ktime_get_ns, bpf_xdp_adjust_meta, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len,
};
use aya_ebpf::programs::XdpContext;
use common::abi::{Stamps, XdpMeta, config_flags};

use crate::config;

const META_BYTES: usize = size_of::<XdpMeta>();

/// Length of the whole packet in bytes, all fragments included.
#[inline(always)]
#[must_use]
pub fn frame_len(ctx: &XdpContext) -> u64 {
    // SAFETY: the context of the running program.
    unsafe { bpf_xdp_get_buff_len(ctx.ctx) }
}

/// Cuts the packet behind `keep` bytes; false if the driver refuses. Packet pointers are invalid
/// afterwards.
#[inline(always)]
#[must_use]
pub fn trim(ctx: &XdpContext, frame_len: u64, keep: u64) -> bool {
    let delta = keep as i64 - frame_len as i64;
    // SAFETY: the context of the running program; the helper checks the amount.
    unsafe { bpf_xdp_adjust_tail(ctx.ctx, delta as i32) == 0 }
}

/// True if this packet is one of those that [`write_meta`] is for, by the state of its CPU.
#[inline(always)]
#[must_use]
pub fn stamp_due(stamps: &PerCpuArray<Stamps, 1>) -> bool {
    if config::flags() & config_flags::XDP_META == 0 {
        return false;
    }
    let Some(stamps) = stamps.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's value of the map, and a helper without arguments, which the kernel compiles in.
    unsafe { (*stamps).due(bpf_jiffies64()) }
}

/// Puts [`XdpMeta`] in front of the packet if that is switched on and the driver has room, else does
/// nothing. Packet pointers are invalid afterwards.
#[inline(always)]
pub fn write_meta(ctx: &XdpContext, frame_len: u64) {
    if config::flags() & config_flags::XDP_META == 0 {
        return;
    }
    // SAFETY: the context of the running program.
    if unsafe { bpf_xdp_adjust_meta(ctx.as_ptr().cast(), -(META_BYTES as i32)) } != 0 {
        return;
    }
    let (meta, data) = (ctx.metadata(), ctx.data());
    if meta + META_BYTES > data {
        return;
    }
    let value = XdpMeta {
        // SAFETY: a helper without arguments.
        captured_ns: unsafe { bpf_ktime_get_ns() },
        frame_len: frame_len as u32,
        cookie: config::cookie(),
    };
    // SAFETY: within the metadata area by the comparison above; 4-byte aligned by the kernel, so
    // written unaligned.
    unsafe { (meta as *mut XdpMeta).write_unaligned(value) };
}
