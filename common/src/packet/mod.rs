//! Packet decoding, one implementation for the kernel and for user space.
//!
//! ```text
//!  Bytes (trait)      [u8] slice here · (ptr, end) and skb readers in `ebpf-kit`
//!    │
//!    ├─▶ decode_usual ──▶ the whole packet        usual.rs   untagged IPv4 TCP: nearly all
//!    ▼
//!  decode_ethernet ─▶ l3 offset, VLAN tags      ether.rs
//!    ▼
//!  decode_ip ───────▶ addresses, l4 offset      ip.rs      fragments are recognised here
//!    ▼
//!  decode_tcp ──────▶ ports, seq, ack, flags    tcp.rs
//!  decode_udp ──────▶ ports, length             udp.rs     after TCP was tried, where UDP is wanted
//!    ▼
//!  TcpOptions::parse  (user space only)         options.rs
//! ```
//! Mirrors send packets in tunnels: [`decapsulate`] (decap/) goes from layer to layer with the same stages.
//!
//! Every function takes offsets into the same bytes and returns new offsets, so a BPF program can stop
//! after any stage. Nothing here panics; what cannot be decoded is a [`DecodeError`] that names why.

mod addr;
mod build;
mod bytes;
pub mod checksum;
mod decap;
mod ether;
mod ip;
mod options;
mod seq;
mod tcp;
mod udp;
mod usual;

pub use addr::{Addr, Endpoint};
pub use build::{
    BuildError, FragmentedFrame, FrameAddresses, HEADROOM_MAX_BYTES, TcpFrame, UdpFrame,
    allow_fragments, build_tcp_frame, build_udp_frame,
};
pub use bytes::Bytes;
pub use decap::{
    DecapError, Decapsulated, Header, MAX_LAYERS, Peeled, Position, TUNNEL_KINDS, Tunnel,
    TunnelKind, VXLAN_PORT, datagram_at, decapsulate, decapsulate_datagram, peel,
};
pub use ether::{ETH_HEADER_BYTES, Ether, MAX_VLAN_TAGS, MacAddr, decode_ethernet, ethertype};
pub use ip::{Fragment, Ip, decode_ip, protocol};
pub use options::{MAX_SACK_BLOCKS, SackBlock, SackBlocks, TcpOptions, Timestamps};
pub use seq::SeqNumber;
pub use tcp::{Tcp, TcpFlags, decode_tcp};
pub use udp::{UDP_HEADER_BYTES, Udp, UdpPacket, decode_udp, decode_udp_frame, decode_udp_from_ip};
pub use usual::{Usual, decode_usual};

/// Why bytes are not a usable packet. Kernel counters are indexed by these (see [`crate::abi`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DecodeError {
    /// The captured bytes end inside a header.
    Truncated = 0,
    /// Not IPv4 and not IPv6.
    NotIp = 1,
    /// IP version, header length or total length contradict each other.
    BadIp = 2,
    /// An IP fragment: the transport header is missing or the payload is incomplete.
    Fragment = 3,
    /// IP, but not TCP (nor UDP, where that was asked for).
    NotTcp = 4,
    /// TCP data offset below 5 words or beyond the packet.
    BadTcp = 5,
    /// UDP length below the header's or beyond the packet.
    BadUdp = 6,
}

impl core::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Truncated => "captured bytes end inside a header",
            Self::NotIp => "neither IPv4 nor IPv6",
            Self::BadIp => "IP header contradicts itself",
            Self::Fragment => "IP fragment",
            Self::NotTcp => "not TCP",
            Self::BadTcp => "TCP data offset out of range",
            Self::BadUdp => "UDP length out of range",
        })
    }
}

impl core::error::Error for DecodeError {}

/// All headers of one Ethernet/IP/TCP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpPacket {
    /// Network layer.
    pub ip: Ip,
    /// Transport layer.
    pub tcp: Tcp,
}

/// Decodes an Ethernet frame down to TCP.
#[inline(always)]
pub fn decode_frame<B: Bytes + ?Sized>(bytes: &B) -> Result<TcpPacket, DecodeError> {
    match decode_usual(bytes) {
        Some(usual) => Ok(usual.packet()),
        None => decode_any_frame(bytes),
    }
}

/// The same from layer to layer: for BPF programs that have dealt with what [`decode_usual`] knows in a
/// branch of its own.
#[inline(always)]
pub fn decode_any_frame<B: Bytes + ?Sized>(bytes: &B) -> Result<TcpPacket, DecodeError> {
    let ether = decode_ethernet(bytes)?;
    // What follows another ethertype (ARP, MPLS, PPPoE, a third tag) may look like an IP header.
    if !ether.is_ip() {
        return Err(DecodeError::NotIp);
    }
    decode_from_ip(bytes, ether.l3)
}

/// Decodes from the IP header at `l3` (an offset in bytes) down to TCP.
#[inline(always)]
pub fn decode_from_ip<B: Bytes + ?Sized>(bytes: &B, l3: usize) -> Result<TcpPacket, DecodeError> {
    let ip = decode_ip(bytes, l3)?;
    if ip.fragment {
        return Err(DecodeError::Fragment);
    }
    if ip.protocol != protocol::TCP {
        return Err(DecodeError::NotTcp);
    }
    let tcp = decode_tcp(bytes, &ip)?;
    Ok(TcpPacket { ip, tcp })
}

impl TcpPacket {
    /// Payload bytes that the headers announce, whatever was captured. With BIG TCP (IP length 0,
    /// RFC 2675 or the kernel's IPv4 variant) the caller passes the real length of the frame.
    #[inline(always)]
    pub const fn payload_len(&self, frame_len: usize) -> usize {
        let end = if self.ip.total_len == 0 {
            frame_len
        } else {
            self.ip.l3 + self.ip.total_len as usize
        };
        end.saturating_sub(self.tcp.payload)
    }
}

#[cfg(test)]
mod tests;
