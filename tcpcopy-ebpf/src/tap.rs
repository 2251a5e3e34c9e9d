//! `tap`: matching packets are copied into the ring of their CPU and worker; every packet goes on.

use aya_ebpf::bindings::tcx_action_base::TCX_NEXT;
use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use common::flow::{flow_hash, owner};
use common::packet::{DecodeError, Endpoint, TcpPacket};
use ebpf_kit::{config, filter, skb};

use crate::maps::FILTERS;
use crate::matching::matches;
use crate::record::copy_packet;
use crate::selection::{takes, takes_datagram};
use crate::udp;

#[classifier]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn tap(ctx: TcContext) -> i32 {
    let ends = ends(&ctx, &skb::decode(&ctx));
    if let Some((client, online)) = ends {
        capture(&ctx, client, online);
    }
    TCX_NEXT
}

/// Client and online address of what is to be captured.
#[inline(always)]
fn ends(ctx: &TcContext, decoded: &Result<TcpPacket, DecodeError>) -> Option<(Endpoint, Endpoint)> {
    if udp::wanted(decoded) {
        let decoded = skb::decode_udp(ctx);
        if !config::behind_filter() && !udp::matches(&decoded) {
            return None;
        }
        let p = decoded.ok()?;
        let client = Endpoint::new(p.ip.src, p.udp.sport);
        return takes_datagram(p.ip.src, flow_hash(client))
            .then(|| (client, Endpoint::new(p.ip.dst, p.udp.dport)));
    }
    if !config::behind_filter() && !matches(decoded) {
        return None;
    }
    let p = decoded.as_ref().ok()?;
    let client = Endpoint::new(p.ip.src, p.tcp.sport);
    takes(p, flow_hash(client)).then(|| (client, Endpoint::new(p.ip.dst, p.tcp.dport)))
}

/// In front of `tap` if there is a filter.
#[classifier]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn tap_filtered(ctx: TcContext) -> i32 {
    let decoded = skb::decode(&ctx);
    let matched = if udp::wanted(&decoded) {
        udp::matches(&skb::decode_udp(&ctx))
    } else {
        matches(&decoded)
    };
    if matched {
        filter::ask(&FILTERS, &ctx);
    }
    TCX_NEXT
}

#[inline(always)]
fn capture(ctx: &TcContext, client: Endpoint, online: Endpoint) {
    let worker = owner(flow_hash(client), config::workers());
    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    if config::log_packets() {
        debug!(
            ctx,
            "tap: [{:i}]:{} > [{:i}]:{} worker {}",
            client.addr.0,
            client.port,
            online.addr.0,
            online.port,
            worker
        );
    }
    copy_packet(ctx, cpu, worker);
}
