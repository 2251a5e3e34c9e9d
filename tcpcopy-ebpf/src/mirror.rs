//! `mirror`: matching packets go to the AF_XDP socket of their queue.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use common::abi::TapCounter;
use common::flow::flow_hash;
use common::packet::{DecodeError, Endpoint, TcpPacket, decode_frame, decode_udp_frame};
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
    let ends = ends(&ctx, &decode_frame(&Linear::of_xdp(&ctx)));
    let Some((client, online)) = ends else {
        return XDP_PASS;
    };
    let queue = ctx.rx_queue_index();
    if config::log_packets() {
        debug!(
            &ctx,
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
    xdp::write_meta(&ctx, xdp::frame_len(&ctx));
    if let Ok(action) = XSKS.redirect(queue, u64::from(XDP_PASS)) {
        count(TapCounter::Captured);
        action
    } else {
        count(TapCounter::RedirectFailed);
        XDP_PASS
    }
}

/// Client and online address of what is to be taken.
#[inline(always)]
fn ends(
    ctx: &XdpContext,
    decoded: &Result<TcpPacket, DecodeError>,
) -> Option<(Endpoint, Endpoint)> {
    if udp::wanted(decoded) {
        let decoded = decode_udp_frame(&Linear::of_xdp(ctx));
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

/// In front of `mirror` if there is a filter.
#[xdp(frags)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn mirror_filtered(ctx: XdpContext) -> u32 {
    let decoded = decode_frame(&Linear::of_xdp(&ctx));
    let matched = if udp::wanted(&decoded) {
        udp::matches(&decode_udp_frame(&Linear::of_xdp(&ctx)))
    } else {
        matches(&decoded)
    };
    if matched {
        filter::ask(&FILTERS, &ctx);
    }
    XDP_PASS
}
