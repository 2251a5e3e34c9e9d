//! Tunnels in UDP: VXLAN, GENEVE, GTP-U, MPLS; the destination port tells which.

use super::{Header, Peeled, Position, Tunnel, TunnelKind, VXLAN_PORT, layer::labels};
use crate::abi::DecapConfig;
use crate::packet::{Bytes, DecodeError, Ip, ethertype};

const UDP_HEADER_BYTES: usize = 8;
/// VXLAN as Linux and some overlays had it before IANA gave it a port.
const VXLAN_OLD_PORT: u16 = 8472;
/// VXLAN with the generic protocol extension (draft-ietf-nvo3-vxlan-gpe).
const VXLAN_GPE_PORT: u16 = 4790;
const GENEVE_PORT: u16 = 6081;
const GTPU_PORT: u16 = 2152;
/// RFC 7510.
const MPLS_PORT: u16 = 6635;
/// GTP-U extension headers that are looked behind; 5G's user plane has one.
const MAX_EXTENSIONS: usize = 4;
/// Message type of user data (TS 29.281 section 6.1).
const G_PDU: u8 = 255;

/// Decodes what the datagram behind `ip` carries. A datagram to a tunnel's port that is none of its
/// kind is what it looks like: UDP.
#[inline(always)]
pub(super) fn peel<B: Bytes + ?Sized>(
    bytes: &B,
    ip: &Ip,
    config: &DecapConfig,
) -> Result<Peeled, DecodeError> {
    let port = bytes.be16(ip.l4 + 2).ok_or(DecodeError::Truncated)?;
    let kind = match config.port_kind(port) {
        0 => match port {
            VXLAN_PORT | VXLAN_OLD_PORT | VXLAN_GPE_PORT => TunnelKind::Vxlan,
            GENEVE_PORT => TunnelKind::Geneve,
            GTPU_PORT => TunnelKind::Gtpu,
            MPLS_PORT => TunnelKind::Mpls,
            _ => return Err(DecodeError::NotTcp),
        },
        listed => match TunnelKind::from_number(listed) {
            Some(kind) => kind,
            None => return Err(DecodeError::NotTcp),
        },
    };
    let at = ip.l4 + UDP_HEADER_BYTES;
    let (id, next) = match kind {
        TunnelKind::Vxlan => vxlan(bytes, at)?,
        TunnelKind::Geneve => geneve(bytes, at)?,
        TunnelKind::Gtpu => gtpu(bytes, at)?,
        TunnelKind::Mpls => labels(bytes, at)?,
        _ => return Err(DecodeError::NotTcp),
    };
    let tunnel = Tunnel {
        port,
        id,
        ..Tunnel::of(kind, ip)
    };
    Ok(Peeled::Tunnel(tunnel, next))
}

/// RFC 7348 section 5. The flags beside I say nothing about the content (group policy), but P, with
/// which the last reserved byte names it.
#[inline(always)]
fn vxlan<B: Bytes + ?Sized>(bytes: &B, at: usize) -> Result<(u32, Position), DecodeError> {
    const VALID_VNI: u32 = 0x0800_0000;
    const NEXT_PROTOCOL: u32 = 0x0400_0000;
    let flags = bytes.be32(at).ok_or(DecodeError::Truncated)?;
    let vni = bytes.be32(at + 4).ok_or(DecodeError::Truncated)? >> 8;
    if flags & VALID_VNI == 0 {
        return Err(DecodeError::NotTcp);
    }
    let header = if flags & NEXT_PROTOCOL == 0 {
        Header::Ethernet
    } else {
        match flags & 0xff {
            1 | 2 => Header::Ip,
            3 => Header::Ethernet,
            5 => Header::Mpls,
            _ => return Err(DecodeError::NotIp),
        }
    };
    Ok((vni, Position::new(at + 8, header)))
}

/// RFC 8926 section 3.4. Options are skipped, critical ones too: they concern the tunnel's end.
#[inline(always)]
fn geneve<B: Bytes + ?Sized>(bytes: &B, at: usize) -> Result<(u32, Position), DecodeError> {
    let h = bytes.read::<8>(at).ok_or(DecodeError::Truncated)?;
    if h[0] >> 6 != 0 {
        return Err(DecodeError::NotTcp);
    }
    let options = ((h[0] & 0x3f) as usize) * 4;
    let vni = u32::from_be_bytes([0, h[4], h[5], h[6]]);
    let header = content(u16::from_be_bytes([h[2], h[3]]))?;
    Ok((vni, Position::new(at + 8 + options, header)))
}

/// TS 29.281 section 5.1 and 5.2.
#[inline(always)]
fn gtpu<B: Bytes + ?Sized>(bytes: &B, at: usize) -> Result<(u32, Position), DecodeError> {
    const VERSION_1_GTP: u8 = 0x30;
    const EXTENSION: u8 = 4;
    const SEQUENCE_OR_NPDU: u8 = 3;
    let h = bytes.read::<8>(at).ok_or(DecodeError::Truncated)?;
    if h[0] & 0xf0 != VERSION_1_GTP || h[1] != G_PDU {
        return Err(DecodeError::NotTcp);
    }
    let teid = u32::from_be_bytes([h[4], h[5], h[6], h[7]]);
    if h[0] & (EXTENSION | SEQUENCE_OR_NPDU) == 0 {
        return Ok((teid, Position::new(at + 8, Header::Ip)));
    }
    // The byte that names the next extension header, which follows it: the last of this part, and of
    // each extension header.
    let mut link = at + 11;
    let mut next = bytes.u8(link).ok_or(DecodeError::Truncated)?;
    if h[0] & EXTENSION == 0 {
        next = 0;
    }
    for _ in 0..MAX_EXTENSIONS {
        if next == 0 {
            break;
        }
        // In units of four bytes, the first and the last byte included.
        let len = (bytes.u8(link + 1).ok_or(DecodeError::Truncated)? as usize) * 4;
        if len == 0 {
            return Err(DecodeError::NotTcp);
        }
        link += len;
        next = bytes.u8(link).ok_or(DecodeError::Truncated)?;
    }
    if next != 0 {
        return Err(DecodeError::NotIp);
    }
    Ok((teid, Position::new(link + 1, Header::Ip)))
}

/// What an ethertype in a tunnel's header announces.
#[inline(always)]
pub(super) const fn content(protocol: u16) -> Result<Header, DecodeError> {
    match protocol {
        ethertype::BRIDGED => Ok(Header::Ethernet),
        ethertype::IPV4 | ethertype::IPV6 => Ok(Header::Ip),
        ethertype::MPLS | ethertype::MPLS_MULTICAST => Ok(Header::Mpls),
        _ => Err(DecodeError::NotIp),
    }
}
