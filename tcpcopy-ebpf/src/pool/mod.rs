//! `pool`: tcx ingress, first of its hook, on the interface that targets answer by. Here addresses live that no host has.
//!
//! ```text
//!  to this interface?   ─ no ─────────────────────────────────────────────▶ TCX_NEXT
//!        │ yes
//!        ├ ARP, solicitation for an address of the pool ─▶ made an answer ─▶ TCX_REDIRECT, out by the same interface
//!        ├ IP to an address of the pool ─▶ a target's TCP? headers ─▶ ring [cpu][worker of the address and port]
//!        │                                 whatever it is          ─▶ TCX_DROP
//!        └ else ─────────────────────────────────────────────────────────▶ TCX_NEXT, untouched
//! ```
//! Nothing for the pool reaches the stack: with forwarding on it would send it on, and without the kernel would count it as
//! stray. A pool that is a port range of the host's own address takes the targets' answers to these ports, nothing else.

mod addresses;
mod answer;
mod swallow;

use aya_ebpf::bindings::tcx_action_base::TCX_NEXT;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use common::abi::PoolCounter;
use common::packet::{Addr, Bytes, ETH_HEADER_BYTES, ethertype};
use ebpf_kit::counters;
use ebpf_kit::linear::Linear;
use ebpf_kit::skb::SkbBytes;

use crate::maps::POOL_COUNTS;

/// Offset of the destination in an IPv4 header.
const V4_DST: usize = ETH_HEADER_BYTES + 16;
/// The same for IPv6.
const V6_DST: usize = ETH_HEADER_BYTES + 24;
/// A VLAN's number in the tag; 0 is a priority only.
const VLAN_ID: u32 = 0xfff;

#[classifier]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn pool(ctx: TcContext) -> i32 {
    let bytes = Linear::of_skb(&ctx);
    if in_vlan(&ctx) || !to_this_interface(&bytes) {
        return TCX_NEXT;
    }
    match bytes.be16(12) {
        Some(ethertype::IPV4) => {
            let Some(dst) = read::<4>(&ctx, &bytes, V4_DST) else {
                return TCX_NEXT;
            };
            if addresses::contain(Addr::v4(dst)) {
                return swallow::swallow(&ctx);
            }
            TCX_NEXT
        }
        Some(ethertype::IPV6) => {
            let Some(dst) = read::<16>(&ctx, &bytes, V6_DST) else {
                return TCX_NEXT;
            };
            let inside = addresses::contain(Addr(dst));
            // What asks for an address of the pool goes to it, or to the group of its last bytes.
            if !addresses::own() && (inside || dst[0] == 0xff) {
                let verdict = answer::neighbour_discovery(&ctx);
                if verdict != TCX_NEXT {
                    return verdict;
                }
            }
            if inside {
                return swallow::swallow(&ctx);
            }
            TCX_NEXT
        }
        Some(ethertype::ARP) if !addresses::own() => answer::arp(&ctx),
        _ => TCX_NEXT,
    }
}

/// True for what comes tagged: it is for another device, on top of this one.
#[inline(always)]
fn in_vlan(ctx: &TcContext) -> bool {
    // SAFETY: fields of the context that a classifier may read.
    let (present, tag) = unsafe { ((*ctx.skb.skb).vlan_present, (*ctx.skb.skb).vlan_tci) };
    present != 0 && tag & VLAN_ID != 0
}

/// True for frames to this interface's address, and to groups. Others come in promiscuous mode, or are on their way through
/// a bridge.
#[inline(always)]
fn to_this_interface(bytes: &Linear) -> bool {
    bytes
        .read::<6>(0)
        .is_some_and(|dst| dst[0] & 1 != 0 || dst == addresses::mac())
}

/// From the linear part, where it nearly always is.
#[inline(always)]
fn read<const N: usize>(ctx: &TcContext, bytes: &Linear, offset: usize) -> Option<[u8; N]> {
    match bytes.read::<N>(offset) {
        Some(read) => Some(read),
        None => SkbBytes(ctx).read::<N>(offset),
    }
}

#[inline(always)]
fn count(counter: PoolCounter) {
    counters::bump(&POOL_COUNTS, counter.index());
}
