//! `tap`: matching packets are copied into the ring of their CPU and worker; every packet goes on.

use aya_ebpf::bindings::tcx_action_base::TCX_NEXT;
use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use common::flow::{flow_hash, owner};
use common::packet::{Endpoint, TcpPacket};
use ebpf_kit::{config, filter, skb};

use crate::maps::FILTERS;
use crate::matching::matches;
use crate::record::copy_packet;
use crate::selection::takes;

#[classifier]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn tap(ctx: TcContext) -> i32 {
    let decoded = skb::decode(&ctx);
    if (config::behind_filter() || matches(&decoded))
        && let Ok(packet) = &decoded
    {
        capture(&ctx, packet);
    }
    TCX_NEXT
}

/// In front of `tap` if there is a filter.
#[classifier]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn tap_filtered(ctx: TcContext) -> i32 {
    if matches(&skb::decode(&ctx)) {
        filter::ask(&FILTERS, &ctx);
    }
    TCX_NEXT
}

#[inline(always)]
fn capture(ctx: &TcContext, p: &TcpPacket) {
    let hash = flow_hash(Endpoint::new(p.ip.src, p.tcp.sport));
    if !takes(p, hash) {
        return;
    }
    let worker = owner(hash, config::workers());
    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    if config::log_packets() {
        debug!(
            ctx,
            "tap: [{:i}]:{} > [{:i}]:{} worker {}",
            p.ip.src.0,
            p.tcp.sport,
            p.ip.dst.0,
            p.tcp.dport,
            worker
        );
    }
    copy_packet(ctx, cpu, worker);
}
