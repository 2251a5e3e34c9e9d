//! Capture where the kernel has no tcx: filters of AF_PACKET sockets, one for each worker.
//!
//! ```text
//!  frame ─▶ packet_owner ─ number ─▶ socket of that worker ─▶ packet ─ match ─▶ whole frame into its ring
//!           (fanout, if there are several)                        └─ else 0: not copied
//! ```
//! The programs are those of [`crate::tap`] with two differences. A filter of a socket may not look at packet
//! memory itself (`sk_filter_is_valid_access`, net/core/filter.c), so every look is a helper's. And it says how
//! much of the packet is copied instead of copying, so what the ring had no room for only the socket knows.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{__sk_buff, bpf_hdr_start_off::BPF_HDR_START_MAC};
use aya_ebpf::helpers::generated::bpf_skb_load_bytes_relative;
use aya_ebpf::macros::socket_filter;
use aya_ebpf::programs::{SkBuffContext, TcContext};
use aya_log_ebpf::debug;
use common::abi::{TapCounter, config_flags, udp_slots};
use common::flow::{flow_hash, fragment_hash, owner};
use common::packet::{
    Bytes, Endpoint, Fragment, decode_any_frame, decode_ethernet, decode_ip, decode_udp_frame,
};
use ebpf_kit::skb::SkbBytes;
use ebpf_kit::{config, filter};

use crate::fragments;
use crate::maps::FILTERS;
use crate::matching::{count, transferred, undecodable};
use crate::selection::{takes, takes_datagram};
use crate::udp;

/// Verdict: not for this socket.
const NOTHING: i64 = 0;
/// Verdict: all of it.
const WHOLE: i64 = u32::MAX as i64;
/// `PACKET_OUTGOING` (linux/if_packet.h): what this host sends, which taps of packet sockets see too.
const OUTGOING: u32 = 4;

#[socket_filter]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn packet(ctx: SkBuffContext) -> i64 {
    if !goes_the_way(ctx.skb.skb) {
        return NOTHING;
    }
    let ctx = TcContext::new(ctx.skb.skb);
    match decode_any_frame(&SkbBytes(&ctx)) {
        Ok(p) => {
            if !config::behind_filter() && !transferred(&p) {
                return NOTHING;
            }
            let client = Endpoint::new(p.ip.src, p.tcp.sport);
            if !takes(client, p.tcp.flags) {
                return NOTHING;
            }
            whole(&ctx, client, Endpoint::new(p.ip.dst, p.tcp.dport))
        }
        Err(error) => {
            fragments::go_on(&ctx, error);
            undecodable(error);
            udp::go_on(&ctx, error, udp_slots::CAPTURE);
            NOTHING
        }
    }
}

/// In front of `packet` if there is a filter.
#[socket_filter]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn packet_filtered(ctx: SkBuffContext) -> i64 {
    if !goes_the_way(ctx.skb.skb) {
        return NOTHING;
    }
    let ctx = TcContext::new(ctx.skb.skb);
    match decode_any_frame(&SkbBytes(&ctx)) {
        Ok(p) => {
            if transferred(&p) {
                filter::ask(&FILTERS, &ctx);
            }
        }
        Err(error) => {
            fragments::go_on(&ctx, error);
            undecodable(error);
            udp::go_on(&ctx, error, udp_slots::FILTERED);
        }
    }
    NOTHING
}

/// `packet` for datagrams.
#[socket_filter]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn packet_udp(ctx: SkBuffContext) -> i64 {
    let ctx = TcContext::new(ctx.skb.skb);
    let decoded = decode_udp_frame(&SkbBytes(&ctx));
    if !config::behind_filter() && !udp::matches(&decoded) {
        return NOTHING;
    }
    match &decoded {
        Ok(p) => {
            let client = Endpoint::new(p.ip.src, p.udp.sport);
            if !takes_datagram(client) {
                return NOTHING;
            }
            whole(&ctx, client, Endpoint::new(p.ip.dst, p.udp.dport))
        }
        Err(_) => NOTHING,
    }
}

/// `packet_filtered` for datagrams.
#[socket_filter]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn packet_udp_filtered(ctx: SkBuffContext) -> i64 {
    let ctx = TcContext::new(ctx.skb.skb);
    if udp::matches(&decode_udp_frame(&SkbBytes(&ctx))) {
        filter::ask(&FILTERS, &ctx);
    }
    NOTHING
}

/// `packet` for fragments, with and without a filter.
#[socket_filter]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn packet_fragments(ctx: SkBuffContext) -> i64 {
    let ctx = TcContext::new(ctx.skb.skb);
    if fragments::taken(&SkbBytes(&ctx)).is_none() {
        return NOTHING;
    }
    count(TapCounter::Captured);
    WHOLE
}

/// Which of the workers' sockets gets a packet: that of its flow's owner, whatever its protocol, fragments that
/// of the worker that gathers them. Packets without ports, and those whose headers are not in the linear part, go to the first, whose worker hands over
/// what is another's.
#[socket_filter]
#[expect(
    clippy::needless_pass_by_value,
    reason = "the attribute's entry point makes the context and hands it over"
)]
fn packet_owner(ctx: SkBuffContext) -> i64 {
    let frame = FromMac(ctx.skb.skb);
    let Ok(ether) = decode_ethernet(&frame) else {
        return 0;
    };
    match decode_ip(&frame, ether.l3) {
        Ok(ip) if ip.fragment => match Fragment::decode(&frame, &ip) {
            Ok(fragment) => i64::from(owner(
                fragment_hash(ip.src, ip.dst, fragment.id),
                config::workers(),
            )),
            Err(_) => 0,
        },
        Ok(ip) => match frame.be16(ip.l4) {
            Some(port) => i64::from(owner(
                flow_hash(Endpoint::new(ip.src, port)),
                config::workers(),
            )),
            None => 0,
        },
        Err(_) => 0,
    }
}

/// The frame from its Ethernet header on. A fanout program runs before the kernel has put the packet back to
/// where that begins (`packet_rcv_fanout`, net/packet/af_packet.c).
struct FromMac(*mut __sk_buff);

impl Bytes for FromMac {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut bytes = [0u8; N];
        // SAFETY: the context of the running program, and a buffer of `N` bytes. The helper fails unless all of
        // them are in the linear part.
        let failed = unsafe {
            bpf_skb_load_bytes_relative(
                self.0.cast(),
                offset as u32,
                bytes.as_mut_ptr().cast(),
                N as u32,
                BPF_HDR_START_MAC,
            )
        };
        (failed == 0).then_some(bytes)
    }
}

/// The packet goes in the direction that is captured.
#[inline(always)]
fn goes_the_way(skb: *mut __sk_buff) -> bool {
    // SAFETY: a field of the context that a socket filter may read.
    let outgoing = unsafe { (*skb).pkt_type == OUTGOING };
    let unwanted = if outgoing {
        config_flags::NOT_OUT
    } else {
        config_flags::NOT_IN
    };
    config::flags() & unwanted == 0
}

#[inline(always)]
fn whole<C: EbpfContext>(ctx: &C, client: Endpoint, online: Endpoint) -> i64 {
    if config::log_packets() {
        debug!(
            ctx,
            "packet: [{:i}]:{} > [{:i}]:{}", client.addr.0, client.port, online.addr.0, online.port
        );
    }
    count(TapCounter::Captured);
    WHOLE
}
