//! GRE (RFC 2784, 2890) and ERSPAN in it (draft-foschiano-erspan-03).

use super::{Header, Peeled, Position, Tunnel, TunnelKind, udp::content};
use crate::packet::{Bytes, DecodeError, Ip, ethertype};

const CHECKSUM: u16 = 0x8000;
const ROUTING: u16 = 0x4000;
const KEY: u16 = 0x2000;
const SEQUENCE: u16 = 0x1000;
const VERSION: u16 = 0x0007;
const ERSPAN_II_BYTES: usize = 8;
const ERSPAN_III_BYTES: usize = 12;
/// The optional part of type III, for one platform or another.
const ERSPAN_III_PLATFORM_BYTES: usize = 8;

/// Decodes the GRE header behind `ip`.
#[inline(always)]
pub(super) fn peel<B: Bytes + ?Sized>(bytes: &B, ip: &Ip) -> Result<Peeled, DecodeError> {
    let flags = bytes.be16(ip.l4).ok_or(DecodeError::Truncated)?;
    let protocol = bytes.be16(ip.l4 + 2).ok_or(DecodeError::Truncated)?;
    // Source routes are gone since RFC 2784; version 1 is PPTP's.
    if flags & (ROUTING | VERSION) != 0 {
        return Err(DecodeError::NotTcp);
    }
    let mut at = ip.l4 + 4;
    if flags & CHECKSUM != 0 {
        at += 4;
    }
    let mut tunnel = Tunnel::of(TunnelKind::Gre, ip);
    if flags & KEY != 0 {
        tunnel.id = bytes.be32(at).ok_or(DecodeError::Truncated)?;
        at += 4;
    }
    if flags & SEQUENCE != 0 {
        tunnel.sequence = Some(bytes.be32(at).ok_or(DecodeError::Truncated)?);
        at += 4;
    }
    let next = match protocol {
        ethertype::ERSPAN_II => {
            tunnel.kind = TunnelKind::Erspan;
            tunnel.id = 0;
            // Type I has neither a sequence number nor a header of its own.
            if flags & SEQUENCE != 0 {
                session(bytes, at, 1, &mut tunnel)?;
                at += ERSPAN_II_BYTES;
            }
            Position::new(at, Header::Ethernet)
        }
        ethertype::ERSPAN_III => {
            tunnel.kind = TunnelKind::Erspan;
            session(bytes, at, 2, &mut tunnel)?;
            erspan_iii(bytes, at)?
        }
        _ => Position::new(at, content(protocol)?),
    };
    Ok(Peeled::Tunnel(tunnel, next))
}

/// The first word of types II and III: version, VLAN, class, truncated bit, session.
#[inline(always)]
fn session<B: Bytes + ?Sized>(
    bytes: &B,
    at: usize,
    version: u32,
    tunnel: &mut Tunnel,
) -> Result<(), DecodeError> {
    let word = bytes.be32(at).ok_or(DecodeError::Truncated)?;
    if word >> 28 != version {
        return Err(DecodeError::NotIp);
    }
    tunnel.cut = word & 0x400 != 0;
    tunnel.id = word & 0x3ff;
    Ok(())
}

#[inline(always)]
fn erspan_iii<B: Bytes + ?Sized>(bytes: &B, at: usize) -> Result<Position, DecodeError> {
    const PLATFORM: u16 = 1;
    const IP_FRAME: u16 = 2;
    // Frame type (5 bits behind P), hardware id, direction, granularity, O.
    let word = bytes.be16(at + 10).ok_or(DecodeError::Truncated)?;
    let mut next = at + ERSPAN_III_BYTES;
    if word & PLATFORM != 0 {
        next += ERSPAN_III_PLATFORM_BYTES;
    }
    let header = if (word >> 10) & 0x1f == IP_FRAME {
        Header::Ip
    } else {
        Header::Ethernet
    };
    Ok(Position::new(next, header))
}
