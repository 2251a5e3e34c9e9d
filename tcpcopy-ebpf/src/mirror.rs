//! `mirror`: matching packets go to the AF_XDP socket of their queue.
//!
//! Frames that are no TCP of their own may be tunnels; these go on in the program of [`crate::tunnel`],
//! so that plain traffic does not pay for them.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use common::abi::{TapCounter, decap_flags};
use common::packet::{DecodeError, TcpPacket, decode_frame};
use ebpf_kit::linear::Linear;
use ebpf_kit::{config, xdp};

use crate::maps::{TUNNEL, XSKS};
use crate::matching::{count, matches};
use crate::tunnel::decap_flags;

#[xdp(frags)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn mirror(ctx: XdpContext) -> u32 {
    let decoded = decode_frame(&Linear::of_xdp(&ctx));
    let taken = decap_flags();
    if taken & decap_flags::PLAIN != 0 {
        if matches(&decoded)
            && let Ok(packet) = &decoded
        {
            return redirect(&ctx, packet);
        }
    } else if matches!(decoded, Err(DecodeError::Fragment)) {
        // Of a tunnel's packet perhaps, of which the rest is elsewhere.
        count(TapCounter::Fragment);
    }
    if taken & decap_flags::TUNNELS != 0
        && matches!(decoded, Err(DecodeError::NotTcp | DecodeError::NotIp))
    {
        // SAFETY: does not return if it succeeds; nothing here needs to be dropped.
        unsafe { TUNNEL.tail_call(&ctx, 0) };
    }
    XDP_PASS
}

/// Hands the whole frame to the socket of its queue.
#[inline(always)]
pub fn redirect(ctx: &XdpContext, p: &TcpPacket) -> u32 {
    let queue = ctx.rx_queue_index();
    if config::log_packets() {
        debug!(
            ctx,
            "mirror: [{:i}]:{} > [{:i}]:{} queue {}",
            p.ip.src.0,
            p.tcp.sport,
            p.ip.dst.0,
            p.tcp.dport,
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
