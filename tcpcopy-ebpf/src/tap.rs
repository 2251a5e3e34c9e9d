//! `tap`: matching packets are copied into the ring of their CPU and worker; every packet goes on.

use aya_ebpf::bindings::tcx_action_base::TCX_NEXT;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use common::abi::udp_slots;
use common::packet::{Endpoint, decode_usual};
use ebpf_kit::linear::Linear;
use ebpf_kit::ring::worker_of;
use ebpf_kit::{config, filter, skb};

use crate::fragments;
use crate::maps::FILTERS;
use crate::matching::{transferred, undecodable, usual_transferred};
use crate::record::record;
use crate::selection::{takes, takes_datagram};
use crate::udp;

#[classifier]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn tap(ctx: TcContext) -> i32 {
    if let Some(p) = decode_usual(&Linear::of_skb(&ctx)) {
        if (config::behind_filter() || usual_transferred(&p)) && takes(p.source(), p.flags()) {
            capture(&ctx, p.source(), p.destination());
        }
        return TCX_NEXT;
    }
    // Each case apart: with one condition over both, the compiler copies registers that an error has
    // not filled, which the verifier refuses.
    match skb::decode(&ctx) {
        Ok(p) => {
            if config::behind_filter() || transferred(&p) {
                let client = Endpoint::new(p.ip.src, p.tcp.sport);
                if takes(client, p.tcp.flags) {
                    capture(&ctx, client, Endpoint::new(p.ip.dst, p.tcp.dport));
                }
            }
        }
        Err(error) => {
            fragments::go_on(&ctx, error);
            undecodable(error);
            udp::go_on(&ctx, error, udp_slots::CAPTURE);
        }
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
    if let Some(packet) = decode_usual(&Linear::of_skb(&ctx)) {
        if usual_transferred(&packet) {
            filter::ask(&FILTERS, &ctx);
        }
        return TCX_NEXT;
    }
    match skb::decode(&ctx) {
        Ok(packet) => {
            if transferred(&packet) {
                filter::ask(&FILTERS, &ctx);
            }
        }
        Err(error) => {
            fragments::go_on(&ctx, error);
            undecodable(error);
            udp::go_on(&ctx, error, udp_slots::FILTERED);
        }
    }
    TCX_NEXT
}

/// `tap` for datagrams.
#[classifier]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn tap_udp(ctx: TcContext) -> i32 {
    let decoded = skb::decode_udp(&ctx);
    if (config::behind_filter() || udp::matches(&decoded))
        && let Ok(p) = &decoded
    {
        let client = Endpoint::new(p.ip.src, p.udp.sport);
        if takes_datagram(client) {
            capture(&ctx, client, Endpoint::new(p.ip.dst, p.udp.dport));
        }
    }
    TCX_NEXT
}

/// `tap_filtered` for datagrams.
#[classifier]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn tap_udp_filtered(ctx: TcContext) -> i32 {
    if udp::matches(&skb::decode_udp(&ctx)) {
        filter::ask(&FILTERS, &ctx);
    }
    TCX_NEXT
}

#[inline(always)]
fn capture(ctx: &TcContext, client: Endpoint, online: Endpoint) {
    let worker = worker_of(client);
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
    record(ctx, worker);
}
