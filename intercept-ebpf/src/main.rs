//! The black hole: responses of targets leave the host's receive path here and go to AF_XDP.
//!
//! ```text
//!  XDP ─ source in RESPONSES? ─ no ─▶ XDP_PASS
//!                │ yes
//!                ▼
//!        cut behind the headers ─▶ metadata ─▶ AF_XDP socket of the queue, none: XDP_DROP
//! ```
//! A response must never reach the stack: it could be forwarded to a real client. The payload is cut
//! off in the kernel since only headers are needed (IP lengths stay as they were). UDP answers of
//! targets are needed by nobody: they are dropped here.
//!
//! With `-F` the operator's filter stands in the place of `RESPONSES`: `responses_filtered` asks it first, and
//! it goes on to `responses`.
#![no_std]
#![no_main]

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::btf_maps::{HashMap, PerCpuArray, XskMap};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use common::abi::{
    EndpointKey, INTERCEPT_COUNTERS, InterceptCounter, MAX_ENDPOINTS, MAX_LOCAL_ADDRESSES,
    config_flags,
};
use common::packet::{
    Addr, DecodeError, Endpoint, Ip, TcpPacket, decode_ethernet, decode_ip, decode_tcp, decode_udp,
    protocol,
};
use ebpf_kit::filter::Filters;
use ebpf_kit::linear::Linear;
use ebpf_kit::{config, counters, filter, xdp};

/// Receive queues that can have a socket; no NIC has more. An unused entry costs 8 bytes.
const MAX_QUEUES: usize = 4096;

/// Sources whose packets are taken, and with port 0 the bare addresses of those rules: fragments
/// carry no port.
#[btf_map]
static RESPONSES: HashMap<
    EndpointKey,
    u32,
    { MAX_ENDPOINTS as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// This host's addresses; looked at only with rules that peers gave, those of UDP among them.
#[btf_map]
static LOCAL: HashMap<Addr, u32, { MAX_LOCAL_ADDRESSES as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// By `InterceptCounter`.
#[btf_map]
static COUNTERS: PerCpuArray<u64, { INTERCEPT_COUNTERS as usize }> = PerCpuArray::new();

/// The filter and what follows it, by `filter_slots`.
#[btf_map]
static FILTERS: Filters = Filters::new();

/// Sockets by receive queue.
#[btf_map]
static XSKS: XskMap<MAX_QUEUES> = XskMap::new();

/// No helper in use demands a GPL-compatible license.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";

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
        Ok(packet)
            if packet.tcp.sport != 0
                && taken(packet.ip.src, packet.tcp.sport)
                && !protected(packet.ip.dst) =>
        {
            take(&ctx, &packet)
        }
        Ok(_) => XDP_PASS,
        Err(Undecoded::Error(error)) => {
            if let Some(counter) = counters::intercept_error(error) {
                count(counter);
            }
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
fn count(counter: InterceptCounter) {
    counters::bump(&COUNTERS, counter.index());
}

/// What is no TCP packet.
enum Undecoded {
    /// A UDP target's answer to a replayed client.
    Udp,
    /// Anything else.
    Error(DecodeError),
}

impl From<DecodeError> for Undecoded {
    #[inline(always)]
    fn from(error: DecodeError) -> Self {
        Self::Error(error)
    }
}

/// `decode_frame` with a look at the source of fragments and UDP on the way.
#[inline(always)]
fn decode(bytes: &Linear) -> Result<TcpPacket, Undecoded> {
    let ether = decode_ethernet(bytes)?;
    if !ether.is_ip() {
        return Err(DecodeError::NotIp.into());
    }
    let ip = decode_ip(bytes, ether.l3)?;
    if ip.protocol == protocol::UDP && udp_answer(bytes, &ip) {
        return Err(Undecoded::Udp);
    }
    if ip.fragment {
        if taken(ip.src, 0) {
            count(InterceptCounter::Fragment);
        }
        return Err(DecodeError::Fragment.into());
    }
    if ip.protocol != protocol::TCP {
        return Err(DecodeError::NotTcp.into());
    }
    let tcp = decode_tcp(bytes, &ip)?;
    Ok(TcpPacket { ip, tcp })
}

/// [`udp_answer`] of a whole frame: no filter is asked about those.
#[inline(always)]
fn is_udp_answer(bytes: &Linear) -> bool {
    let Ok(ether) = decode_ethernet(bytes) else {
        return false;
    };
    if !ether.is_ip() {
        return false;
    }
    decode_ip(bytes, ether.l3)
        .is_ok_and(|ip| ip.protocol == protocol::UDP && udp_answer(bytes, &ip))
}

/// True if a UDP target sent this, to a client and not to this host. Such rules always come from peers.
/// Fragments, of which all but the first carry no port, go by the address.
#[inline(always)]
fn udp_answer(bytes: &Linear, ip: &Ip) -> bool {
    let port = if ip.fragment {
        0
    } else if let Ok(udp) = decode_udp(bytes, ip) {
        if udp.sport == 0 {
            return false;
        }
        udp.sport
    } else {
        return false;
    };
    let key = EndpointKey::udp(Endpoint::new(ip.src, port));
    RESPONSES.get_ptr(key).is_some() && LOCAL.get_ptr(ip.dst).is_none()
}

/// True if a rule names this source, or the packet has passed the filter.
#[inline(always)]
fn taken(src: Addr, port: u16) -> bool {
    config::behind_filter()
        || RESPONSES
            .get_ptr(EndpointKey::new(Endpoint::new(src, port)))
            .is_some()
}

/// True if the packet is for this host itself and the rule was given by a peer.
#[inline(always)]
fn protected(dst: Addr) -> bool {
    config::flags() & config_flags::LEARNED_RULES != 0 && LOCAL.get_ptr(dst).is_some()
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
