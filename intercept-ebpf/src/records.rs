//! `records`: tcx ingress, where XDP is taken or AF_XDP cannot bind.
//!
//! ```text
//!  a response? ─ no ─▶ TCX_NEXT
//!        │ yes
//!        ▼
//!  headers ─▶ ring [cpu][worker of the client], full: counted ─▶ TCX_DROP
//! ```
//! It runs behind GRO, so that one record may stand for several segments, whose length it tells.

use aya_ebpf::bindings::tcx_action_base::{TCX_DROP, TCX_NEXT};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use common::abi::InterceptCounter;
use common::packet::{DecodeError, Endpoint, TcpPacket};
use ebpf_kit::linear::Linear;
use ebpf_kit::ring::{Lost, copy_headers, worker_of};
use ebpf_kit::skb::SkbBytes;
use ebpf_kit::{config, filter};

use crate::maps::FILTERS;
use crate::matching::{Undecoded, count, decode, is_response, is_udp_answer, undecodable};

#[classifier]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn records(ctx: TcContext) -> i32 {
    match decode_skb(&ctx) {
        Err(Undecoded::Udp) => {
            count(InterceptCounter::UdpDropped);
            TCX_DROP
        }
        Ok(packet) => {
            if is_response(&packet) {
                take(&ctx, &packet);
                TCX_DROP
            } else {
                TCX_NEXT
            }
        }
        Err(Undecoded::Error(error)) => {
            undecodable(error);
            TCX_NEXT
        }
    }
}

/// In front of `records` if there is a filter, which alone says what a response is.
#[classifier]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn records_filtered(ctx: TcContext) -> i32 {
    // By helper: datagrams that are not linear are answers all the same.
    if is_udp_answer(&SkbBytes(&ctx)) {
        count(InterceptCounter::UdpDropped);
        return TCX_DROP;
    }
    filter::ask(&FILTERS, &ctx);
    TCX_NEXT
}

/// From the linear part, and only if the headers go beyond it by helper.
#[inline(always)]
fn decode_skb(ctx: &TcContext) -> Result<TcpPacket, Undecoded> {
    match decode(&Linear::of_skb(ctx)) {
        Err(Undecoded::Error(DecodeError::Truncated))
            if ctx.data_end() - ctx.data() < ctx.len() as usize =>
        {
            decode(&SkbBytes(ctx))
        }
        decoded => decoded,
    }
}

#[inline(always)]
fn take(ctx: &TcContext, p: &TcpPacket) {
    let client = Endpoint::new(p.ip.dst, p.tcp.dport);
    let worker = worker_of(client);
    if config::log_packets() {
        debug!(
            ctx,
            "records: [{:i}]:{} > [{:i}]:{} worker {}",
            p.ip.src.0,
            p.tcp.sport,
            client.addr.0,
            client.port,
            worker
        );
    }
    put(ctx, worker, p.tcp.payload as u64);
}

/// Copies what lies in front of the payload into a ring of the worker.
#[inline(always)]
pub fn put(ctx: &TcContext, worker: u32, payload: u64) {
    if u64::from(ctx.len()) > payload {
        count(InterceptCounter::Trimmed);
    }
    count(match copy_headers(ctx, worker, payload) {
        Ok(()) => InterceptCounter::Captured,
        Err(Lost::RingFull) => InterceptCounter::RingFull,
        Err(Lost::Truncated | Lost::TooLarge | Lost::LoadFailed) => InterceptCounter::LoadFailed,
    });
}
