//! One layer: link headers, labels, and what an IP header carries.

use super::{Header, Peeled, Position, Tunnel, TunnelKind, gre, udp};
use crate::abi::DecapConfig;
use crate::packet::{
    Addr, Bytes, DecodeError, Ip, TcpPacket, UdpPacket, decode_ethernet, decode_ip, decode_tcp,
    decode_udp_from_ip, ethertype, protocol,
};

/// Labels that are looked behind. Service label, transport label and an entropy pair is what real
/// networks have.
const MAX_LABELS: usize = 4;
const LABEL_BYTES: usize = 4;
/// Bottom-of-stack bit (RFC 3032 section 2.1).
const BOTTOM: u32 = 0x100;

/// Decodes what is at `at`.
#[inline(always)]
pub fn peel<B: Bytes + ?Sized>(
    bytes: &B,
    at: Position,
    config: &DecapConfig,
) -> Result<Peeled, DecodeError> {
    let l3 = match at.header {
        Header::Ethernet => {
            let ether = decode_ethernet(&At(bytes, at.offset))?;
            let l3 = at.offset + ether.l3;
            match ether.ethertype {
                ethertype::IPV4 | ethertype::IPV6 => l3,
                ethertype::MPLS | ethertype::MPLS_MULTICAST => return bare_labels(bytes, l3),
                _ => return Err(DecodeError::NotIp),
            }
        }
        Header::Mpls => return bare_labels(bytes, at.offset),
        Header::Ip => at.offset,
    };
    let ip = decode_ip(bytes, l3)?;
    if ip.fragment {
        return Err(DecodeError::Fragment);
    }
    match ip.protocol {
        protocol::TCP => {
            let tcp = decode_tcp(bytes, &ip)?;
            Ok(Peeled::Packet(TcpPacket { ip, tcp }))
        }
        protocol::UDP => udp::peel(bytes, &ip, config),
        protocol::GRE => gre::peel(bytes, &ip),
        protocol::IPV4 | protocol::IPV6 => Ok(Peeled::Tunnel(
            Tunnel::of(TunnelKind::Ipip, &ip),
            Position::new(ip.l4, Header::Ip),
        )),
        protocol::MPLS => {
            let (id, next) = labels(bytes, ip.l4)?;
            let tunnel = Tunnel {
                id,
                ..Tunnel::of(TunnelKind::Mpls, &ip)
            };
            Ok(Peeled::Tunnel(tunnel, next))
        }
        _ => Err(DecodeError::NotTcp),
    }
}

/// Decodes the datagram of a packet that begins at `at`, where [`peel`] has found no further tunnel.
#[inline(always)]
pub fn datagram_at<B: Bytes + ?Sized>(bytes: &B, at: Position) -> Result<UdpPacket, DecodeError> {
    let l3 = match at.header {
        Header::Ethernet => {
            let ether = decode_ethernet(&At(bytes, at.offset))?;
            if !ether.is_ip() {
                return Err(DecodeError::NotIp);
            }
            at.offset + ether.l3
        }
        Header::Ip => at.offset,
        Header::Mpls => return Err(DecodeError::NotIp),
    };
    decode_udp_from_ip(bytes, l3)
}

impl Tunnel {
    /// Of an outer packet, without id.
    #[inline(always)]
    pub(super) const fn of(kind: TunnelKind, ip: &Ip) -> Self {
        Self {
            kind,
            cut: false,
            port: 0,
            id: 0,
            sequence: None,
            src: ip.src,
            dst: ip.dst,
        }
    }
}

/// Labels directly on a link or in a header that is a layer of its own.
#[inline(always)]
fn bare_labels<B: Bytes + ?Sized>(bytes: &B, at: usize) -> Result<Peeled, DecodeError> {
    let (id, next) = labels(bytes, at)?;
    let tunnel = Tunnel {
        kind: TunnelKind::Mpls,
        cut: false,
        port: 0,
        id,
        sequence: None,
        src: Addr::ANY,
        dst: Addr::ANY,
    };
    Ok(Peeled::Tunnel(tunnel, next))
}

/// The label at the bottom of the stack. Behind it is what the first four bits tell (RFC 4928 section
/// 3): an IP version, the control word of a pseudowire (RFC 4385), or an Ethernet frame without one.
#[inline(always)]
pub(super) fn labels<B: Bytes + ?Sized>(
    bytes: &B,
    at: usize,
) -> Result<(u32, Position), DecodeError> {
    let mut at = at;
    for _ in 0..MAX_LABELS {
        let label = bytes.be32(at).ok_or(DecodeError::Truncated)?;
        at += LABEL_BYTES;
        if label & BOTTOM != 0 {
            let next = match bytes.u8(at).ok_or(DecodeError::Truncated)? >> 4 {
                4 | 6 => Position::new(at, Header::Ip),
                0 => Position::new(at + LABEL_BYTES, Header::Ethernet),
                _ => Position::new(at, Header::Ethernet),
            };
            return Ok((label >> 12, next));
        }
    }
    Err(DecodeError::NotIp)
}

/// Bytes from an offset on.
struct At<'a, B: ?Sized>(&'a B, usize);

impl<B: Bytes + ?Sized> Bytes for At<'_, B> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.read::<N>(self.1 + offset)
    }
}
