//! IP fragments of packets that may be of a transfer: only the first has ports, so all that go to an address of
//! one are taken, and user space judges what it has put together (`tcpcopy-user/src/worker/fragments.rs`).
//!
//! ```text
//!  tap ──── a fragment ──▶ tap_fragments ────▶ ring of the worker of its fragment hash
//!  packet ─ a fragment ──▶ packet_fragments ─▶ ring of the same worker
//!  mirror ─ a fragment ──▶ mirror_fragments ─▶ socket of its queue
//! ```
//! What goes to a target's address is taken like the rest, since the port alone tells whether it is ours: user
//! space, which has the ports, leaves it out.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::tcx_action_base::TCX_NEXT;
use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use common::abi::{EndpointKey, TapCounter, config_flags, decap_flags, fragment_slots};
use common::flow::{fragment_hash, owner};
use common::packet::{
    Addr, Bytes, DecodeError, Fragment, Ip, decode_ethernet, decode_ip, protocol,
};
use ebpf_kit::linear::Linear;
use ebpf_kit::{config, skb};

use crate::maps::{ADDRESSES, FRAGMENTS};
use crate::matching::count;
use crate::mirror::redirect;
use crate::record::record;
use crate::selection::denied;
use crate::tunnel;

/// Goes on in the program for fragments if this error says that the packet is one; else returns.
#[inline(always)]
pub fn go_on<C: EbpfContext>(ctx: &C, error: DecodeError) {
    if matches!(error, DecodeError::Fragment) {
        // SAFETY: does not return if it succeeds; the callers own nothing that would have to be dropped.
        unsafe { FRAGMENTS.tail_call(ctx, fragment_slots::CAPTURE) };
    }
}

/// `tap` for fragments, with and without a filter.
#[classifier]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn tap_fragments(ctx: TcContext) -> i32 {
    // By helper: there are few of them, and their headers may lie anywhere.
    if let Some(hash) = taken(&skb::SkbBytes(&ctx)) {
        record(&ctx, owner(hash, config::workers()));
    }
    TCX_NEXT
}

/// `mirror` for fragments in no tunnel, with and without a filter. Its queue says nothing of whose it is: the
/// workers see to that.
#[xdp(frags)]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn mirror_fragments(ctx: XdpContext) -> u32 {
    if taken(&Linear::of_xdp(&ctx)).is_some() {
        return redirect(&ctx);
    }
    // Of a tunnel's packet perhaps, of which the rest is elsewhere.
    if tunnel::decap_flags() & decap_flags::TUNNELS != 0 {
        count(TapCounter::Fragment);
    }
    XDP_PASS
}

/// The fragment hash of a frame that is a fragment and to be taken, which is counted.
#[inline(always)]
pub fn taken<B: Bytes>(bytes: &B) -> Option<u32> {
    let ip = match decode_ethernet(bytes) {
        Ok(ether) => match decode_ip(bytes, ether.l3) {
            Ok(ip) => ip,
            Err(_) => return None,
        },
        Err(_) => return None,
    };
    if !wanted(&ip) {
        return None;
    }
    match Fragment::decode(bytes, &ip) {
        Ok(fragment) => {
            count(TapCounter::FragmentTaken);
            Some(fragment_hash(ip.src, ip.dst, fragment.id))
        }
        Err(_) => {
            count(TapCounter::Truncated);
            None
        }
    }
}

/// True if a transfer may cover the packet, and its client is not denied. Shards and shares take ports to
/// tell.
#[inline(always)]
fn wanted(ip: &Ip) -> bool {
    if !matches!(ip.protocol, protocol::TCP | protocol::UDP) {
        return false;
    }
    let any = EndpointKey::address(Addr::ANY, ip.protocol);
    let own = EndpointKey::address(ip.dst, ip.protocol);
    (ADDRESSES.get_ptr(own).is_some() || ADDRESSES.get_ptr(any).is_some())
        && !(config::flags() & config_flags::DENY != 0 && denied(ip.src))
}
