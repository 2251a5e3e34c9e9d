//! Who asks for an address of the pool is told this interface's: the question is made the answer, and sent back.
//!
//! A frame that has been written to never goes on to the stack.

use aya_ebpf::bindings::BPF_F_RECOMPUTE_CSUM;
use aya_ebpf::bindings::tcx_action_base::{TCX_DROP, TCX_NEXT, TCX_REDIRECT};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_skb_change_tail, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use common::abi::PoolCounter;
use common::packet::{Addr, Bytes, ETH_HEADER_BYTES, checksum, ethertype, protocol};
use ebpf_kit::skb::SkbBytes;

use super::{addresses, count};

/// Ethernet, and ARP for IPv4 on it (RFC 826).
const ARP_BYTES: usize = 42;
/// Types of link and network, lengths of their addresses.
const ARP_ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ARP_REQUEST: u8 = 1;
const ARP_REPLY: u8 = 2;

/// Ethernet, IPv6, an advertisement with its one option.
const ADVERTISEMENT_BYTES: usize = 86;
/// Where the checksum's area begins: addresses of IPv6, then the message.
const SUMMED_FROM: usize = 22;
const MESSAGE_BYTES: u16 = 32;
/// Neighbour discovery (RFC 4861 section 4.3, 4.4).
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
/// What no router lets through (RFC 4861 section 7.1.1).
const HOP_LIMIT: u8 = 255;
/// A message without options.
const SHORTEST_MESSAGE_BYTES: u16 = 24;
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// ARP. Probes and announcements by others (RFC 5227) are requests, too: the answer tells them that the address is taken.
#[inline(always)]
pub fn arp(ctx: &TcContext) -> i32 {
    let Some(arp) = SkbBytes(ctx).read::<28>(ETH_HEADER_BYTES) else {
        return TCX_NEXT;
    };
    let [
        h0,
        h1,
        h2,
        h3,
        h4,
        h5,
        _,
        operation,
        sha0,
        sha1,
        sha2,
        sha3,
        sha4,
        sha5,
        spa0,
        spa1,
        spa2,
        spa3,
        ..,
    ] = arp;
    if [h0, h1, h2, h3, h4, h5] != ARP_ETHERNET_IPV4 {
        return TCX_NEXT;
    }
    let target = [arp[24], arp[25], arp[26], arp[27]];
    let claimed = addresses::contain(Addr::v4([spa0, spa1, spa2, spa3]));
    if claimed {
        count(PoolCounter::Conflict);
    }
    if !addresses::contain(Addr::v4(target)) {
        return TCX_NEXT;
    }
    if operation != ARP_REQUEST || sha0 & 1 != 0 {
        // An answer to a question that nobody asked, or one for a group.
        count(PoolCounter::OtherDropped);
        return TCX_DROP;
    }
    let [m0, m1, m2, m3, m4, m5] = addresses::mac();
    let [t0, t1, t2, t3] = target;
    let [e0, e1] = ethertype::ARP.to_be_bytes();
    let reply: [u8; ARP_BYTES] = [
        sha0, sha1, sha2, sha3, sha4, sha5, m0, m1, m2, m3, m4, m5, e0, e1, h0, h1, h2, h3, h4, h5,
        0, ARP_REPLY, m0, m1, m2, m3, m4, m5, t0, t1, t2, t3, sha0, sha1, sha2, sha3, sha4, sha5,
        spa0, spa1, spa2, spa3,
    ];
    send_back(ctx, &reply, PoolCounter::ArpAnswered)
}

/// Neighbour discovery of IPv6. `TCX_NEXT`, untouched, for everything that is no solicitation for an address of the pool.
#[inline(always)]
pub fn neighbour_discovery(ctx: &TcContext) -> i32 {
    let bytes = SkbBytes(ctx);
    let Some([len0, len1, next, hops]) = bytes.read::<4>(ETH_HEADER_BYTES + 4) else {
        return TCX_NEXT;
    };
    if next != protocol::ICMP6
        || hops != HOP_LIMIT
        || u16::from_be_bytes([len0, len1]) < SHORTEST_MESSAGE_BYTES
    {
        return TCX_NEXT;
    }
    let Some([kind, code]) = bytes.read::<2>(ETH_HEADER_BYTES + 40) else {
        return TCX_NEXT;
    };
    let Some(target) = bytes.read::<16>(ETH_HEADER_BYTES + 48) else {
        return TCX_NEXT;
    };
    if code != 0 || !addresses::contain(Addr(target)) {
        return TCX_NEXT;
    }
    if kind == ADVERTISEMENT {
        count(PoolCounter::Conflict);
        return TCX_NEXT;
    }
    if kind != SOLICITATION {
        return TCX_NEXT;
    }
    let (Some(src), Some(src_mac)) = (bytes.read::<16>(ETH_HEADER_BYTES + 8), bytes.read::<6>(6))
    else {
        return TCX_NEXT;
    };
    let mut out = [0u8; ADVERTISEMENT_BYTES];
    let flags = if Addr(src).is_any() {
        // Another host wants the address (RFC 4862 section 5.4.3), and does without once it hears that it is taken.
        out[..6].copy_from_slice(&ALL_NODES_MAC);
        out[38..54].copy_from_slice(&ALL_NODES);
        OVERRIDE
    } else {
        out[..6].copy_from_slice(&src_mac);
        out[38..54].copy_from_slice(&src);
        SOLICITED | OVERRIDE
    };
    let mac = addresses::mac();
    out[6..12].copy_from_slice(&mac);
    out[12..14].copy_from_slice(&ethertype::IPV6.to_be_bytes());
    out[14] = 0x60;
    out[19] = MESSAGE_BYTES as u8;
    out[20] = protocol::ICMP6;
    out[21] = HOP_LIMIT;
    out[22..38].copy_from_slice(&target);
    out[54] = ADVERTISEMENT;
    out[58] = flags;
    out[62..78].copy_from_slice(&target);
    out[78] = TARGET_LINK_LAYER_ADDRESS;
    // In units of eight bytes.
    out[79] = 1;
    out[80..86].copy_from_slice(&mac);
    // The pseudo header's length and protocol (RFC 8200 section 8.1); its addresses lie in front of the message.
    let pseudo = (MESSAGE_BYTES + u16::from(protocol::ICMP6)).to_be();
    let sum = checksum::partial(&out[SUMMED_FROM..]) + u64::from(pseudo);
    out[56..58].copy_from_slice(&(!checksum::fold(sum)).to_ne_bytes());
    // SAFETY: the context of the running program.
    let failed = unsafe { bpf_skb_change_tail(ctx.skb.skb.cast(), ADVERTISEMENT_BYTES as u32, 0) };
    if failed != 0 {
        count(PoolCounter::AnswerFailed);
        return TCX_DROP;
    }
    send_back(ctx, &out, PoolCounter::NdpAnswered)
}

/// Writes the frame over the one that came, which is at least as long, and sends it out by the interface.
#[inline(always)]
fn send_back<const N: usize>(ctx: &TcContext, frame: &[u8; N], counter: PoolCounter) -> i32 {
    // SAFETY: the context of the running program, and `N` bytes; the helper fails unless the packet has as many.
    let failed = unsafe {
        bpf_skb_store_bytes(
            ctx.skb.skb.cast(),
            0,
            frame.as_ptr().cast(),
            N as u32,
            u64::from(BPF_F_RECOMPUTE_CSUM),
        )
    };
    if failed != 0 {
        count(PoolCounter::AnswerFailed);
        return TCX_DROP;
    }
    // SAFETY: a helper that takes numbers.
    let verdict = unsafe { bpf_redirect(addresses::ifindex(), 0) } as i32;
    if verdict != TCX_REDIRECT {
        count(PoolCounter::AnswerFailed);
        return TCX_DROP;
    }
    count(counter);
    verdict
}
