//! `responses`: XDP, into AF_XDP.
//!
//! ```text
//!  a response? ─ no ─▶ XDP_PASS
//!        │ yes
//!        ▼
//!  cut behind the headers ─▶ metadata ─▶ AF_XDP socket of the queue, none: XDP_DROP
//! ```

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use common::abi::InterceptCounter;
use common::packet::TcpPacket;
use ebpf_kit::linear::Linear;
use ebpf_kit::{config, filter, xdp};

use crate::maps::{FILTERS, XSKS};
use crate::matching::{Undecoded, count, decode, is_response, is_udp_answer, undecodable};

#[xdp(frags)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn responses(ctx: XdpContext) -> u32 {
    match decode(&Linear::of_xdp(&ctx)) {
        Err(Undecoded::Udp) => {
            count(InterceptCounter::UdpDropped);
            XDP_DROP
        }
        Ok(packet) if is_response(&packet) => take(&ctx, &packet),
        Ok(_) => XDP_PASS,
        Err(Undecoded::Error(error)) => {
            undecodable(error);
            XDP_PASS
        }
    }
}

/// In front of `responses` if there is a filter, which alone says what a response is.
#[xdp(frags)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn responses_filtered(ctx: XdpContext) -> u32 {
    if is_udp_answer(&Linear::of_xdp(&ctx)) {
        count(InterceptCounter::UdpDropped);
        return XDP_DROP;
    }
    filter::ask(&FILTERS, &ctx);
    XDP_PASS
}

#[inline(always)]
fn take(ctx: &XdpContext, p: &TcpPacket) -> u32 {
    let queue = ctx.rx_queue_index();
    if config::log_packets() {
        debug!(
            ctx,
            "responses: [{:i}]:{} > [{:i}]:{} queue {}",
            p.ip.src.0,
            p.tcp.sport,
            p.ip.dst.0,
            p.tcp.dport,
            queue
        );
    }
    let (frame_len, headers) = (xdp::frame_len(ctx), p.tcp.payload as u64);
    if frame_len > headers {
        count(if xdp::trim(ctx, frame_len, headers) {
            InterceptCounter::Trimmed
        } else {
            InterceptCounter::TrimFailed
        });
    }
    xdp::write_meta(ctx, frame_len);
    if let Ok(action) = XSKS.redirect(queue, u64::from(XDP_DROP)) {
        count(InterceptCounter::Captured);
        action
    } else {
        count(InterceptCounter::RedirectFailed);
        XDP_DROP
    }
}
