//! UDP header (RFC 768), and frames down to it.

use super::{Bytes, DecodeError, Ip, decode_ethernet, decode_ip, protocol};

/// Ports, length, checksum.
pub const UDP_HEADER_BYTES: usize = 8;

/// Transport layer of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp {
    /// Source port; 0 if the sender wants no answer (RFC 768).
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Offset of the payload.
    pub payload: usize,
    /// Bytes of payload that the header announces. 0 with a length field of 0 (RFC 2675 section 4):
    /// [`UdpPacket::payload_len`] knows those.
    pub payload_len: u32,
    /// The length field is 0: the datagram ends where the IP packet does.
    jumbo: bool,
}

/// All headers of one Ethernet/IP/UDP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpPacket {
    /// Network layer.
    pub ip: Ip,
    /// Transport layer.
    pub udp: Udp,
}

/// Decodes an Ethernet frame down to UDP. Anything but UDP is [`DecodeError::NotTcp`]: the caller has
/// tried TCP before.
#[inline(always)]
pub fn decode_udp_frame<B: Bytes + ?Sized>(bytes: &B) -> Result<UdpPacket, DecodeError> {
    let ether = decode_ethernet(bytes)?;
    if !ether.is_ip() {
        return Err(DecodeError::NotIp);
    }
    decode_udp_from_ip(bytes, ether.l3)
}

/// Decodes from the IP header at `l3` (an offset in bytes) down to UDP.
#[inline(always)]
pub fn decode_udp_from_ip<B: Bytes + ?Sized>(
    bytes: &B,
    l3: usize,
) -> Result<UdpPacket, DecodeError> {
    let ip = decode_ip(bytes, l3)?;
    if ip.fragment {
        return Err(DecodeError::Fragment);
    }
    if ip.protocol != protocol::UDP {
        return Err(DecodeError::NotTcp);
    }
    let udp = decode_udp(bytes, &ip)?;
    Ok(UdpPacket { ip, udp })
}

/// Decodes the UDP header behind `ip`. The checksum is not looked at: it may be unfinished (a local
/// peer's), absent (IPv4), and the target gets one that is computed anew.
#[inline(always)]
pub fn decode_udp<B: Bytes + ?Sized>(bytes: &B, ip: &Ip) -> Result<Udp, DecodeError> {
    let h = bytes
        .read::<UDP_HEADER_BYTES>(ip.l4)
        .ok_or(DecodeError::Truncated)?;
    let len = u16::from_be_bytes([h[4], h[5]]) as usize;
    // A length of 0 stands for one that 16 bits cannot say, which the IP header then cannot say either.
    let jumbo = len == 0 && ip.total_len == 0;
    if !jumbo
        && (len < UDP_HEADER_BYTES
            || (ip.total_len != 0 && ip.l4 + len > ip.l3 + ip.total_len as usize))
    {
        return Err(DecodeError::BadUdp);
    }
    Ok(Udp {
        sport: u16::from_be_bytes([h[0], h[1]]),
        dport: u16::from_be_bytes([h[2], h[3]]),
        payload: ip.l4 + UDP_HEADER_BYTES,
        payload_len: len.saturating_sub(UDP_HEADER_BYTES) as u32,
        jumbo,
    })
}

impl UdpPacket {
    /// Payload bytes that the headers announce, whatever was captured. `frame_len` is the real length
    /// of the frame, for datagrams whose headers cannot say theirs.
    #[inline(always)]
    pub const fn payload_len(&self, frame_len: usize) -> usize {
        if self.udp.jumbo {
            frame_len.saturating_sub(self.udp.payload)
        } else {
            self.udp.payload_len as usize
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Addr, Endpoint, FrameAddresses, UdpFrame, build_udp_frame, checksum};
    use proptest::prelude::*;
    use std::vec::Vec;

    fn endpoints(v6: bool, a: [u8; 16], b: [u8; 16], ports: (u16, u16)) -> (Endpoint, Endpoint) {
        let addr = |mut x: [u8; 16]| {
            if v6 {
                // Never an IPv4-mapped address.
                x[0] |= 0x20;
                Addr(x)
            } else {
                Addr::v4([x[0], x[1], x[2], x[3]])
            }
        };
        (
            Endpoint::new(addr(a), ports.0),
            Endpoint::new(addr(b), ports.1),
        )
    }

    fn built(src: Endpoint, dst: Endpoint, payload: &[u8]) -> Vec<u8> {
        let mut buf: Vec<u8> = (0..payload.len() + 100).map(|_| 0xee).collect();
        let frame = UdpFrame {
            src,
            dst,
            payload,
            ip_id: 7,
        };
        let len = build_udp_frame(&mut buf, FrameAddresses::default(), &frame).unwrap();
        buf.truncate(len);
        buf
    }

    proptest! {
        #[test]
        fn what_is_built_decodes_and_its_sums_are_right(
            v6 in any::<bool>(),
            a in any::<[u8; 16]>(), b in any::<[u8; 16]>(), ports in any::<(u16, u16)>(),
            payload in prop::collection::vec(any::<u8>(), 0..1500),
        ) {
            let (src, dst) = endpoints(v6, a, b, ports);
            let frame = built(src, dst, &payload);
            let p = decode_udp_frame(&frame[..]).unwrap();
            prop_assert_eq!(Endpoint::new(p.ip.src, p.udp.sport), src);
            prop_assert_eq!(Endpoint::new(p.ip.dst, p.udp.dport), dst);
            prop_assert_eq!(p.payload_len(frame.len()), payload.len());
            prop_assert_eq!(&frame[p.udp.payload..], &payload[..]);
            // The sum over pseudo header and datagram, its own field included, is all ones; the field
            // itself is never zero, which would say that there is none (RFC 768, RFC 8200 section 8.1).
            let datagram = &frame[p.ip.l4..];
            let pseudo = checksum::pseudo_header(src.addr, dst.addr, protocol::UDP, datagram.len() as u32);
            prop_assert_eq!(checksum::add(pseudo, checksum::sum(datagram)), 0xffff);
            prop_assert_ne!(&datagram[6..8], &[0u8, 0][..]);
            if !v6 {
                prop_assert_eq!(checksum::sum(&frame[14..34]), 0xffff);
                prop_assert_eq!(frame[20] & 0x40, 0x40, "DF");
            }
        }

        #[test]
        fn any_bytes_are_refused_or_within_their_packet(bytes in prop::collection::vec(any::<u8>(), 0..120), v6 in any::<bool>()) {
            let mut bytes = bytes;
            if bytes.len() > 24 {
                bytes[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
                bytes[14] = if v6 { 0x60 } else { 0x45 };
                bytes[if v6 { 20 } else { 23 }] = protocol::UDP;
            }
            if let Ok(p) = decode_udp_frame(&bytes[..]) {
                prop_assert!(p.udp.payload <= bytes.len());
                if p.ip.total_len != 0 {
                    prop_assert!(p.udp.payload + p.payload_len(bytes.len()) <= p.ip.l3 + p.ip.total_len as usize);
                }
            }
        }
    }

    #[test]
    fn lengths_that_contradict_the_packet_are_refused() {
        let (src, dst) = endpoints(false, [1; 16], [2; 16], (53, 54));
        let good = built(src, dst, b"query");
        let with_len = |len: u16| {
            let mut frame = good.clone();
            frame[38..40].copy_from_slice(&len.to_be_bytes());
            decode_udp_frame(&frame[..]).map(|p| p.payload_len(frame.len()))
        };
        assert_eq!(with_len(13), Ok(5));
        // Shorter than the IP packet is legal; what follows is not of the datagram.
        assert_eq!(with_len(10), Ok(2));
        assert_eq!(with_len(8), Ok(0));
        for bad in [0, 7, 14, 0xffff] {
            assert_eq!(with_len(bad), Err(DecodeError::BadUdp), "{bad}");
        }
        for cut in 0..42 {
            assert_eq!(
                decode_udp_frame(&good[..cut]),
                Err(DecodeError::Truncated),
                "{cut}"
            );
        }
        let mut tcp = good.clone();
        tcp[23] = protocol::TCP;
        assert_eq!(decode_udp_frame(&tcp[..]), Err(DecodeError::NotTcp));
        let mut fragment = good;
        fragment[20] = 0x20;
        assert_eq!(decode_udp_frame(&fragment[..]), Err(DecodeError::Fragment));
    }

    #[test]
    fn a_sum_of_zero_is_sent_as_all_ones() {
        let (src, dst) = endpoints(false, [10; 16], [11; 16], (1000, 2000));
        let zero = built(src, dst, &[0, 0]);
        // The payload that makes the sum all ones, so that its complement is zero.
        let missing = u16::from_be_bytes([zero[40], zero[41]]);
        let frame = built(src, dst, &missing.to_be_bytes());
        assert_eq!(&frame[40..42], &[0xff, 0xff]);
    }
}
