//! `on_target`: tcx egress, on the target itself.
//!
//! ```text
//!  sent by the target ─▶ announced session? ─ no ─▶ TCX_NEXT: real clients, everything else
//!                              │ yes
//!                              ▼
//!          headers ─▶ ring [cpu][worker of the client] ─▶ redirected to nowhere: freed, and the sender is told "sent"
//! ```
//! The target's TCP must believe that its packet left. `TCX_DROP` tells it NET_XMIT_DROP, upon which it reduces its window
//! and sends again; a redirect is success whatever comes of it (`sch_handle_egress`, net/core/dev.c), and one to an interface
//! that does not exist frees the packet (`skb_do_redirect`, net/core/filter.c). No device has index 0, and so there is
//! no sink whose queue could fill, and nothing that could stay behind.
//!
//! The hook comes before segmentation: one record tells of up to 64 KiB, more with BIG TCP.

use aya_ebpf::bindings::tcx_action_base::TCX_NEXT;
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use common::abi::PairKey;
use common::packet::{DecodeError, Endpoint};
use ebpf_kit::ring::worker_of;
use ebpf_kit::skb;

use crate::maps::ROUTES;
use crate::matching::undecodable;
use crate::records::put;

/// An interface that does not exist (`dev_index_reserve`, net/core/dev.c: indices begin with 1).
const NOWHERE: u32 = 0;

#[classifier]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn on_target(ctx: TcContext) -> i32 {
    let packet = match skb::decode(&ctx) {
        Ok(packet) => packet,
        // Fragments of TCP are of others: its own TCP never makes any.
        Err(DecodeError::Fragment) => return TCX_NEXT,
        Err(error) => {
            undecodable(error);
            return TCX_NEXT;
        }
    };
    let client = Endpoint::new(packet.ip.dst, packet.tcp.dport);
    let target = Endpoint::new(packet.ip.src, packet.tcp.sport);
    if ROUTES.get_ptr(PairKey::new(client, target)).is_none() {
        return TCX_NEXT;
    }
    put(&ctx, worker_of(client), packet.tcp.payload as u64);
    // SAFETY: a helper that takes two numbers.
    unsafe { bpf_redirect(NOWHERE, 0) as i32 }
}
