//! UDP datagrams to targets.

use super::{BuildError, FrameAddresses, v4_header, v6_header};
use crate::packet::{ETH_HEADER_BYTES, Endpoint, UDP_HEADER_BYTES, checksum, ethertype, protocol};

/// A UDP datagram to be built. Addresses of both ends must be of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpFrame<'a> {
    /// Sender as the target sees it.
    pub src: Endpoint,
    /// Target.
    pub dst: Endpoint,
    /// Payload.
    pub payload: &'a [u8],
    /// IPv4 identification, as in [`super::TcpFrame::ip_id`].
    pub ip_id: u16,
}

impl UdpFrame<'_> {
    /// Bytes of the IP packet.
    pub const fn packet_len(&self) -> usize {
        let ip = if self.dst.addr.is_v4() { 20 } else { 40 };
        ip + UDP_HEADER_BYTES + self.payload.len()
    }
}

/// Writes a complete Ethernet frame with full checksums into `buf`; returns its length in bytes. The UDP
/// checksum is always computed, also where IPv4 would allow to leave it out.
#[inline]
pub fn build_udp_frame(
    buf: &mut [u8],
    mac: FrameAddresses,
    datagram: &UdpFrame<'_>,
) -> Result<usize, BuildError> {
    let len = UDP_HEADER_BYTES + datagram.payload.len();
    let (src, dst, id) = (datagram.src.addr, datagram.dst.addr, datagram.ip_id);
    match (src.as_v4(), dst.as_v4()) {
        (Some(src), Some(dst)) => {
            let ip = v4_header(src, dst, id, protocol::UDP, len);
            assemble(buf, mac, ethertype::IPV4, &ip, datagram)
        }
        (None, None) => {
            let ip = v6_header(src, dst, protocol::UDP, len);
            assemble(buf, mac, ethertype::IPV6, &ip, datagram)
        }
        _ => Err(BuildError::MixedFamilies),
    }
}

#[inline(always)]
fn assemble<const IP: usize>(
    buf: &mut [u8],
    mac: FrameAddresses,
    ethertype: u16,
    ip: &[u8; IP],
    datagram: &UdpFrame<'_>,
) -> Result<usize, BuildError> {
    let len = UDP_HEADER_BYTES + datagram.payload.len();
    let need = ETH_HEADER_BYTES + IP + len;
    let too_long = BuildError::TooLong {
        need,
        have: buf.len(),
    };
    if IP + len > usize::from(u16::MAX) {
        return Err(too_long);
    }
    let frame = buf.get_mut(..need).ok_or(too_long)?;
    let (eth, rest) = frame
        .split_first_chunk_mut::<ETH_HEADER_BYTES>()
        .ok_or(too_long)?;
    let (to_ip, rest) = rest.split_first_chunk_mut::<IP>().ok_or(too_long)?;
    let (udp, payload) = rest
        .split_first_chunk_mut::<UDP_HEADER_BYTES>()
        .ok_or(too_long)?;
    eth[..6].copy_from_slice(&mac.dst.0);
    eth[6..12].copy_from_slice(&mac.src.0);
    eth[12..].copy_from_slice(&ethertype.to_be_bytes());
    *to_ip = *ip;
    udp[..2].copy_from_slice(&datagram.src.port.to_be_bytes());
    udp[2..4].copy_from_slice(&datagram.dst.port.to_be_bytes());
    udp[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    udp[6..8].copy_from_slice(&[0; 2]);
    let bytes = checksum::fold(checksum::copy(payload, datagram.payload));
    let (src, dst) = (datagram.src.addr, datagram.dst.addr);
    let pseudo = checksum::pseudo_header(src, dst, protocol::UDP, len as u32);
    let sum = checksum::add(pseudo, checksum::sum(udp));
    let sum = match checksum::finish(checksum::add(sum, u16::from_be(bytes))) {
        // Zero says that there is no checksum: its other form is sent (RFC 768, RFC 8200 section 8.1).
        0 => u16::MAX,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    Ok(need)
}
