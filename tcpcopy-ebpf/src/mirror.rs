//! `mirror`: matching packets go to the AF_XDP socket of their queue.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use common::abi::{TapCounter, udp_slots};
use common::flow::flow_hash;
use common::packet::{Endpoint, decode_frame, decode_udp_frame};
use ebpf_kit::linear::Linear;
use ebpf_kit::{config, filter, xdp};

use crate::maps::{FILTERS, XSKS};
use crate::matching::{count, matches};
use crate::selection::{takes, takes_datagram};
use crate::udp;

#[xdp(frags)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn mirror(ctx: XdpContext) -> u32 {
    let decoded = decode_frame(&Linear::of_xdp(&ctx));
    if !config::behind_filter() && !matches(&decoded) {
        udp::go_on(&ctx, &decoded, udp_slots::CAPTURE);
        return XDP_PASS;
    }
    match &decoded {
        Ok(p) => {
            let client = Endpoint::new(p.ip.src, p.tcp.sport);
            if takes(p, flow_hash(client)) {
                return redirect(&ctx, client, Endpoint::new(p.ip.dst, p.tcp.dport));
            }
        }
        Err(_) => udp::go_on(&ctx, &decoded, udp_slots::CAPTURE),
    }
    XDP_PASS
}

/// In front of `mirror` if there is a filter.
#[xdp(frags)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn mirror_filtered(ctx: XdpContext) -> u32 {
    let decoded = decode_frame(&Linear::of_xdp(&ctx));
    if matches(&decoded) {
        filter::ask(&FILTERS, &ctx);
    } else {
        udp::go_on(&ctx, &decoded, udp_slots::FILTERED);
    }
    XDP_PASS
}

/// `mirror` for datagrams.
#[xdp(frags)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn mirror_udp(ctx: XdpContext) -> u32 {
    let decoded = decode_udp_frame(&Linear::of_xdp(&ctx));
    if (config::behind_filter() || udp::matches(&decoded))
        && let Ok(p) = &decoded
    {
        let client = Endpoint::new(p.ip.src, p.udp.sport);
        if takes_datagram(p.ip.src, flow_hash(client)) {
            return redirect(&ctx, client, Endpoint::new(p.ip.dst, p.udp.dport));
        }
    }
    XDP_PASS
}

/// `mirror_filtered` for datagrams.
#[xdp(frags)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn mirror_udp_filtered(ctx: XdpContext) -> u32 {
    if udp::matches(&decode_udp_frame(&Linear::of_xdp(&ctx))) {
        filter::ask(&FILTERS, &ctx);
    }
    XDP_PASS
}

#[inline(always)]
fn redirect(ctx: &XdpContext, client: Endpoint, online: Endpoint) -> u32 {
    let queue = ctx.rx_queue_index();
    if config::log_packets() {
        debug!(
            ctx,
            "mirror: [{:i}]:{} > [{:i}]:{} queue {}",
            client.addr.0,
            client.port,
            online.addr.0,
            online.port,
            queue
        );
    }
    // Looked up first: without a socket the packet goes to the stack, and what may go there is not
    // touched.
    if XSKS.get(queue).is_none() {
        count(TapCounter::RedirectFailed);
        return XDP_PASS;
    }
    xdp::write_meta(ctx, xdp::frame_len(ctx));
    if let Ok(action) = XSKS.redirect(queue, u64::from(XDP_PASS)) {
        count(TapCounter::Captured);
        action
    } else {
        count(TapCounter::RedirectFailed);
        XDP_PASS
    }
}
