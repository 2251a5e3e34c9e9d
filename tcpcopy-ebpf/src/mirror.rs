//! `mirror`: matching packets go to the AF_XDP socket of their queue.
//!
//! Frames that are no TCP of their own may be tunnels; these go on in the programs of [`crate::tunnel`],
//! so that plain traffic does not pay for them.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use common::abi::{TapCounter, decap_flags, mirror_tail as tail, udp_slots};
use common::packet::{
    Bytes, Endpoint, Ip, TcpFlags, decode_any_frame, decode_ethernet, decode_ip, decode_udp_frame,
    decode_usual, ethertype, protocol,
};
use ebpf_kit::linear::Linear;
use ebpf_kit::{config, filter, xdp};

use crate::fragments;
use crate::maps::{FILTERS, STAMPS, TAIL, XSKS};
use crate::matching::{count, transferred, undecodable, usual_transferred};
use crate::selection::{takes, takes_datagram};
use crate::tunnel::{self, decap_flags as flags};
use crate::udp;

#[xdp(frags)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn mirror(ctx: XdpContext) -> u32 {
    let bytes = Linear::of_xdp(&ctx);
    if let Some(p) = decode_usual(&bytes) {
        if !config::behind_filter() && !usual_transferred(&p) {
            return XDP_PASS;
        }
        return take(&ctx, p.source(), p.flags());
    }
    match decode_any_frame(&bytes) {
        Ok(p) => {
            if !config::behind_filter() && !transferred(&p) {
                return miss(&ctx);
            }
            take(&ctx, Endpoint::new(p.ip.src, p.tcp.sport), p.tcp.flags)
        }
        Err(error) => {
            fragments::go_on(&ctx, error);
            undecodable(error);
            udp::go_on(&ctx, error, udp_slots::CAPTURE);
            miss(&ctx)
        }
    }
}

/// Takes a packet of a transfer, if its session is.
#[inline(always)]
fn take(ctx: &XdpContext, client: Endpoint, flags: TcpFlags) -> u32 {
    if !takes(client, flags) {
        return XDP_PASS;
    }
    if config::log_packets() {
        // SAFETY: does not return if it succeeds; nothing here needs to be dropped.
        unsafe { TAIL.tail_call(ctx, tail::LOG) };
    }
    redirect(ctx)
}

/// In front of `mirror`, or of `mirror_selected` if there are tunnels, if there is a filter.
#[xdp(frags)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn mirror_filtered(ctx: XdpContext) -> u32 {
    let bytes = Linear::of_xdp(&ctx);
    if flags() & decap_flags::TUNNELS == 0
        && let Some(packet) = decode_usual(&bytes)
    {
        if usual_transferred(&packet) {
            filter::ask(&FILTERS, &ctx);
        }
        return XDP_PASS;
    }
    match decode_any_frame(&bytes) {
        Ok(packet) => {
            if !transferred(&packet) {
                return miss(&ctx);
            }
            if flags() & decap_flags::TUNNELS == 0 {
                filter::ask(&FILTERS, &ctx);
            } else {
                tunnel::ask_filter(&ctx, &packet);
            }
            XDP_PASS
        }
        Err(error) => {
            fragments::go_on(&ctx, error);
            undecodable(error);
            udp::go_on(&ctx, error, udp_slots::FILTERED);
            miss(&ctx)
        }
    }
}

/// `mirror` for datagrams in no tunnel.
#[xdp(frags)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn mirror_udp(ctx: XdpContext) -> u32 {
    let decoded = decode_udp_frame(&Linear::of_xdp(&ctx));
    if !config::behind_filter() && !udp::matches(&decoded) {
        return miss(&ctx);
    }
    if let Ok(p) = &decoded
        && takes_datagram(Endpoint::new(p.ip.src, p.udp.sport))
    {
        if config::log_packets() {
            log(&ctx, &p.ip, [p.udp.sport, p.udp.dport]);
        }
        return redirect(&ctx);
    }
    XDP_PASS
}

/// `mirror_filtered` for datagrams in no tunnel.
#[xdp(frags)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn mirror_udp_filtered(ctx: XdpContext) -> u32 {
    if !udp::matches(&decode_udp_frame(&Linear::of_xdp(&ctx))) {
        return miss(&ctx);
    }
    if flags() & decap_flags::TUNNELS == 0 {
        filter::ask(&FILTERS, &ctx);
    } else {
        tunnel::ask_filter_for_datagram(&ctx);
    }
    XDP_PASS
}

/// `mirror`'s end when packets are logged: what goes into a record needs much of the stack.
#[xdp(frags)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn mirror_log(ctx: XdpContext) -> u32 {
    let bytes = Linear::of_xdp(&ctx);
    // No more than the record needs: `mirror` has looked at the rest.
    if let Ok(ether) = decode_ethernet(&bytes)
        && let Ok(ip) = decode_ip(&bytes, ether.l3)
        && let Some([a, b, c, d]) = bytes.read::<4>(ip.l4)
    {
        let ports = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
        log(&ctx, &ip, ports);
    }
    redirect(&ctx)
}

/// A record of a packet that is taken.
#[inline(always)]
pub fn log(ctx: &XdpContext, ip: &Ip, [sport, dport]: [u16; 2]) {
    debug!(
        ctx,
        "mirror: [{:i}]:{} > [{:i}]:{} queue {}",
        ip.src.0,
        sport,
        ip.dst.0,
        dport,
        ctx.rx_queue_index()
    );
}

#[inline(always)]
fn miss(ctx: &XdpContext) -> u32 {
    if flags() & decap_flags::TUNNELS != 0 && may_be_tunnel(&Linear::of_xdp(ctx)) {
        // SAFETY: does not return if it succeeds; nothing here needs to be dropped.
        unsafe { TAIL.tail_call(ctx, tail::TUNNEL) };
    }
    XDP_PASS
}

/// False for the usual packets that are certainly none. Looks again instead of at what was decoded,
/// which the stack has no room to keep.
#[inline(always)]
fn may_be_tunnel(bytes: &Linear) -> bool {
    let protocol = match bytes.be16(12) {
        Some(ethertype::IPV4) => bytes.u8(14 + 9),
        Some(ethertype::IPV6) => bytes.u8(14 + 6),
        Some(_) => return true,
        None => return false,
    };
    protocol.is_some_and(|protocol| protocol != protocol::TCP)
}

/// Hands the whole frame to the socket of its queue.
#[inline(always)]
pub fn redirect(ctx: &XdpContext) -> u32 {
    let queue = ctx.rx_queue_index();
    if xdp::stamp_due(&STAMPS) {
        // Looked up first: without a socket the packet goes to the stack, and what may go there is not
        // touched.
        if XSKS.get(queue).is_none() {
            count(TapCounter::RedirectFailed);
            return XDP_PASS;
        }
        // Nothing is trimmed here. With zero-copy a frame that the socket had no room for goes back to the driver with
        // its metadata, and the next packet in it may come without its own: a length would be believed then.
        xdp::write_meta(ctx, 0);
    }
    if let Ok(action) = XSKS.redirect(queue, u64::from(XDP_PASS)) {
        count(TapCounter::Captured);
        action
    } else {
        count(TapCounter::RedirectFailed);
        XDP_PASS
    }
}
