//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers.

use super::{Addr, Bytes, DecodeError};

/// IP protocol numbers (IANA).
pub mod protocol {
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv4 in IP.
    pub const IPV4: u8 = 4;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// GRE.
    pub const GRE: u8 = 47;
    /// MPLS in IP (RFC 4023).
    pub const MPLS: u8 = 137;
    /// ICMP for IPv6.
    pub const ICMP6: u8 = 58;
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// IPv6 destination options.
    pub const DESTINATION: u8 = 60;
    /// IPv6 mobility header (RFC 6275), skipped like the others.
    pub const MOBILITY: u8 = 135;
}

/// IPv6 extension headers that are looked behind; real packets have at most two. A bound keeps the
/// BPF verifier and hostile packets equally short.
const MAX_EXTENSION_HEADERS: usize = 4;
const IPV6_HEADER_BYTES: usize = 40;

/// Network layer of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Offset of this header.
    pub l3: usize,
    /// Offset of the transport header.
    pub l4: usize,
    /// Bytes from `l3` to the end of the packet as the header says; 0 with BIG TCP, where the header
    /// cannot say it.
    pub total_len: u32,
    /// Transport protocol.
    pub protocol: u8,
    /// Part of a fragmented packet (first fragments too).
    pub fragment: bool,
}

/// Where a fragment belongs in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification: with both addresses and the protocol it names the datagram.
    pub id: u32,
    /// First byte of the datagram's payload that is in this fragment.
    pub offset: u32,
    /// Others follow behind it.
    pub more: bool,
}

impl Fragment {
    /// What the headers of a packet say that [`decode_ip`] called a fragment.
    #[inline(always)]
    pub fn decode<B: Bytes + ?Sized>(bytes: &B, ip: &Ip) -> Result<Self, DecodeError> {
        let (id, field, more) = if ip.src.is_v4() {
            let h = bytes.read::<4>(ip.l3 + 4).ok_or(DecodeError::Truncated)?;
            let field = u16::from_be_bytes([h[2], h[3]]);
            // In units of eight bytes; behind three flags, the last of which is "more" (RFC 791
            // section 3.1).
            (
                u32::from(u16::from_be_bytes([h[0], h[1]])),
                field << 3,
                field & 0x2000 != 0,
            )
        } else {
            // The fragment header lies in front of what it carries (RFC 8200 section 4.5).
            let at = ip.l4.checked_sub(8).ok_or(DecodeError::BadIp)?;
            let h = bytes.read::<8>(at).ok_or(DecodeError::Truncated)?;
            let field = u16::from_be_bytes([h[2], h[3]]);
            (
                u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
                field & 0xfff8,
                field & 1 != 0,
            )
        };
        Ok(Self {
            id,
            offset: u32::from(field),
            more,
        })
    }
}

/// Decodes the IP header at `l3`.
#[inline(always)]
pub fn decode_ip<B: Bytes + ?Sized>(bytes: &B, l3: usize) -> Result<Ip, DecodeError> {
    let version = bytes.u8(l3).ok_or(DecodeError::Truncated)? >> 4;
    match version {
        4 => decode_v4(bytes, l3),
        6 => decode_v6(bytes, l3),
        _ => Err(DecodeError::NotIp),
    }
}

#[inline(always)]
fn decode_v4<B: Bytes + ?Sized>(bytes: &B, l3: usize) -> Result<Ip, DecodeError> {
    let h = bytes.read::<20>(l3).ok_or(DecodeError::Truncated)?;
    let header_len = ((h[0] & 0x0f) as usize) * 4;
    let total_len = u16::from_be_bytes([h[2], h[3]]) as u32;
    if header_len < 20 || (total_len != 0 && (total_len as usize) < header_len) {
        return Err(DecodeError::BadIp);
    }
    // More-fragments bit or an offset (RFC 791 section 3.1); DF and the reserved bit do not matter.
    let fragment = u16::from_be_bytes([h[6], h[7]]) & 0x3fff != 0;
    Ok(Ip {
        src: Addr::v4([h[12], h[13], h[14], h[15]]),
        dst: Addr::v4([h[16], h[17], h[18], h[19]]),
        l3,
        l4: l3 + header_len,
        total_len,
        protocol: h[9],
        fragment,
    })
}

#[inline(always)]
fn decode_v6<B: Bytes + ?Sized>(bytes: &B, l3: usize) -> Result<Ip, DecodeError> {
    let h = bytes.read::<8>(l3).ok_or(DecodeError::Truncated)?;
    let src = Addr(bytes.read::<16>(l3 + 8).ok_or(DecodeError::Truncated)?);
    let dst = Addr(bytes.read::<16>(l3 + 24).ok_or(DecodeError::Truncated)?);
    let payload_len = u16::from_be_bytes([h[4], h[5]]) as u32;
    let mut next = h[6];
    let mut l4 = l3 + IPV6_HEADER_BYTES;
    let mut fragment = false;
    for _ in 0..MAX_EXTENSION_HEADERS {
        match next {
            protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::DESTINATION
            | protocol::MOBILITY => {
                let [following, len] = bytes.read::<2>(l4).ok_or(DecodeError::Truncated)?;
                next = following;
                // Length in 8-byte units without the first (RFC 8200 section 4.3).
                l4 += 8 + (len as usize) * 8;
            }
            protocol::FRAGMENT => {
                let ext = bytes.read::<4>(l4).ok_or(DecodeError::Truncated)?;
                next = ext[0];
                // Offset and M flag; both zero is an atomic fragment (RFC 6946), a whole packet.
                fragment = fragment || u16::from_be_bytes([ext[2], ext[3]]) & 0xfff9 != 0;
                l4 += 8;
            }
            _ => break,
        }
        if fragment {
            break;
        }
    }
    let total_len = if payload_len == 0 {
        0
    } else {
        payload_len + IPV6_HEADER_BYTES as u32
    };
    if total_len != 0 && l3 + (total_len as usize) < l4 {
        return Err(DecodeError::BadIp);
    }
    Ok(Ip {
        src,
        dst,
        l3,
        l4,
        total_len,
        protocol: next,
        fragment,
    })
}
