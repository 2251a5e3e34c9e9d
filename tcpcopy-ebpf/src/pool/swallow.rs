//! IP packets to an address of the pool.

use aya_ebpf::bindings::tcx_action_base::{TCX_DROP, TCX_NEXT};
use aya_ebpf::helpers::generated::bpf_skb_pull_data;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use common::abi::{EndpointKey, PoolCounter};
use common::packet::{
    ETH_HEADER_BYTES, Endpoint, Ip, Tcp, decode_ip, decode_tcp, decode_udp, protocol,
};
use ebpf_kit::config;
use ebpf_kit::linear::Linear;
use ebpf_kit::ring::{Lost, copy_headers, worker_of};

use super::{addresses, count};
use crate::maps::TARGETS;

/// Bytes that all headers fit in.
const HEADERS_BYTES: u32 = 256;

/// Takes what a target answers; what else there is to these addresses ends here, or is the host's own.
#[inline(always)]
pub fn swallow(ctx: &TcContext) -> i32 {
    make_linear(ctx);
    let bytes = Linear::of_skb(ctx);
    let ip = match decode_ip(&bytes, ETH_HEADER_BYTES) {
        Ok(ip) => ip,
        Err(_) => return other(PoolCounter::OtherDropped),
    };
    if ip.fragment {
        return other(PoolCounter::Fragment);
    }
    if ip.protocol == protocol::TCP {
        return match decode_tcp(&bytes, &ip) {
            Ok(tcp) => {
                let source = Endpoint::new(ip.src, tcp.sport);
                if addresses::contain_port(tcp.dport)
                    && TARGETS.get_ptr(EndpointKey::new(source)).is_some()
                {
                    take(ctx, &ip, &tcp);
                    return TCX_DROP;
                }
                other(PoolCounter::OtherDropped)
            }
            Err(_) => other(PoolCounter::OtherDropped),
        };
    }
    if ip.protocol == protocol::UDP {
        return match decode_udp(&bytes, &ip) {
            Ok(udp) => {
                let source = Endpoint::new(ip.src, udp.sport);
                if addresses::contain_port(udp.dport)
                    && TARGETS.get_ptr(EndpointKey::udp(source)).is_some()
                {
                    count(PoolCounter::UdpDropped);
                    return TCX_DROP;
                }
                other(PoolCounter::OtherDropped)
            }
            Err(_) => other(PoolCounter::OtherDropped),
        };
    }
    other(PoolCounter::OtherDropped)
}

/// What is no answer of a target: the host's own if the address is.
#[inline(always)]
fn other(counter: PoolCounter) -> i32 {
    if addresses::own() {
        return TCX_NEXT;
    }
    count(counter);
    TCX_DROP
}

/// Moves headers that are not in the linear part there. If that fails they cannot be decoded.
#[inline(always)]
fn make_linear(ctx: &TcContext) {
    let (len, linear) = (ctx.len(), ctx.data_end() - ctx.data());
    let wanted = if len < HEADERS_BYTES {
        len
    } else {
        HEADERS_BYTES
    };
    if linear < wanted as usize {
        // SAFETY: the context of the running program; pointers into the packet are made anew behind it.
        let _ = unsafe { bpf_skb_pull_data(ctx.skb.skb.cast(), wanted) };
    }
}

#[inline(always)]
fn take(ctx: &TcContext, ip: &Ip, tcp: &Tcp) {
    let client = Endpoint::new(ip.dst, tcp.dport);
    let worker = worker_of(client);
    if config::log_packets() {
        debug!(
            ctx,
            "pool: [{:i}]:{} > [{:i}]:{} worker {}",
            ip.src.0,
            tcp.sport,
            client.addr.0,
            client.port,
            worker
        );
    }
    count(match copy_headers(ctx, worker, tcp.payload as u64) {
        Ok(()) => PoolCounter::Captured,
        Err(Lost::RingFull) => PoolCounter::RingFull,
        Err(Lost::Truncated | Lost::TooLarge | Lost::LoadFailed) => PoolCounter::LoadFailed,
    });
}
