//! Datagrams that the way does not take whole.

use super::{BuildError, checksum};
use crate::packet::{ETH_HEADER_BYTES, ethertype, protocol};

const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const FRAGMENT_HEADER_BYTES: usize = 8;

/// The fragments of a frame that [`super::build_udp_frame`] wrote (RFC 791 section 3.2, RFC 8200 section 4.5), each
/// a frame of its own.
#[derive(Clone, Copy, Debug)]
pub struct FragmentedFrame<'a> {
    /// Ethernet and IP.
    headers: &'a [u8],
    payload: &'a [u8],
    /// Bytes of payload in each but the last.
    step: usize,
    id: u32,
    /// Bytes of payload that are written.
    done: usize,
}

impl<'a> FragmentedFrame<'a> {
    /// In packets of at most `mtu` bytes, but no fewer than eight of them payload. `id` names the packet among others
    /// of the same addresses; IPv4 takes its lower half, of which 0 counts as 1: the kernel's raw sockets replace
    /// that. `None` if `frame` is no such frame.
    pub fn new(frame: &'a [u8], mtu: u16, id: u32) -> Option<Self> {
        let (ip, fragment) = match *frame.get(12..ETH_HEADER_BYTES)? {
            [a, b] if u16::from_be_bytes([a, b]) == ethertype::IPV4 => (IPV4_BYTES, 0),
            [a, b] if u16::from_be_bytes([a, b]) == ethertype::IPV6 => {
                (IPV6_BYTES, FRAGMENT_HEADER_BYTES)
            }
            _ => return None,
        };
        let (headers, payload) = frame.split_at_checked(ETH_HEADER_BYTES + ip)?;
        // Offsets are in units of eight bytes.
        let room = usize::from(mtu).saturating_sub(ip + fragment) & !7;
        Some(Self {
            headers,
            payload,
            step: room.max(8),
            id,
            done: 0,
        })
    }

    /// All are written.
    pub const fn is_done(&self) -> bool {
        self.done >= self.payload.len()
    }

    /// Writes the next one into `buf`; its length in bytes.
    pub fn write_next(&mut self, buf: &mut [u8]) -> Result<usize, BuildError> {
        let at = self.done.min(self.payload.len());
        let to = (at + self.step).min(self.payload.len());
        let piece = self.payload.get(at..to).unwrap_or_default();
        let more = to < self.payload.len();
        let v4 = self.headers.len() == ETH_HEADER_BYTES + IPV4_BYTES;
        let extra = if v4 { 0 } else { FRAGMENT_HEADER_BYTES };
        let need = self.headers.len() + extra + piece.len();
        let too_long = BuildError::TooLong {
            need,
            have: buf.len(),
        };
        let frame = buf.get_mut(..need).ok_or(too_long)?;
        let (headers, rest) = frame.split_at_mut(self.headers.len());
        headers.copy_from_slice(self.headers);
        let (header, body) = rest.split_at_mut(extra);
        body.copy_from_slice(piece);
        let ip = headers.get_mut(ETH_HEADER_BYTES..).ok_or(too_long)?;
        if let Some(ip) = ip.first_chunk_mut::<IPV4_BYTES>().filter(|_| v4) {
            let total = (IPV4_BYTES + piece.len()) as u16;
            // Without DF: routers may cut further.
            let field = (at / 8) as u16 | if more { 0x2000 } else { 0 };
            ip[2..4].copy_from_slice(&total.to_be_bytes());
            ip[4..6].copy_from_slice(&(self.id as u16).max(1).to_be_bytes());
            ip[6..8].copy_from_slice(&field.to_be_bytes());
            ip[10..12].fill(0);
            let sum = checksum::finish(checksum::sum(ip));
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        } else if let (Some(ip), Some(header)) = (
            ip.first_chunk_mut::<IPV6_BYTES>(),
            header.first_chunk_mut::<FRAGMENT_HEADER_BYTES>(),
        ) {
            let len = (FRAGMENT_HEADER_BYTES + piece.len()) as u16;
            let field = at as u16 | u16::from(more);
            ip[4..6].copy_from_slice(&len.to_be_bytes());
            header[..2].copy_from_slice(&[ip[6], 0]);
            ip[6] = protocol::FRAGMENT;
            header[2..4].copy_from_slice(&field.to_be_bytes());
            header[4..].copy_from_slice(&self.id.to_be_bytes());
        }
        self.done = to;
        Ok(need)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{
        Addr, Endpoint, Fragment, FrameAddresses, UdpFrame, build_udp_frame, decode_ip,
    };
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    fn whole(v4: bool, payload: &[u8]) -> Vec<u8> {
        let end = |n| {
            let addr = if v4 {
                Addr::v4([10, 0, 0, n])
            } else {
                Addr([n; 16])
            };
            Endpoint::new(addr, 53)
        };
        let datagram = UdpFrame {
            src: end(7),
            dst: end(9),
            payload,
            ip_id: 5,
        };
        let mut bytes = vec![0; 66_000];
        let len = build_udp_frame(&mut bytes, FrameAddresses::default(), &datagram).unwrap();
        bytes.truncate(len);
        bytes
    }

    proptest! {
        #[test]
        fn fragments_fit_and_make_the_packet(
            v4 in any::<bool>(),
            len in 1usize..65_000,
            mtu in 68u16..9000,
            id in any::<u32>(),
        ) {
            let payload: Vec<u8> = (0..len).map(|n| (n / 7) as u8).collect();
            let frame = whole(v4, &payload);
            let l4 = ETH_HEADER_BYTES + if v4 { IPV4_BYTES } else { IPV6_BYTES };
            let mut cut = FragmentedFrame::new(&frame, mtu, id).unwrap();
            let (mut got, mut buf, mut last) = (Vec::new(), vec![0; 9100], false);
            while !cut.is_done() {
                let n = cut.write_next(&mut buf).unwrap();
                let piece = &buf[..n];
                prop_assert!(!last && n - ETH_HEADER_BYTES <= usize::from(mtu));
                let ip = decode_ip(piece, ETH_HEADER_BYTES).unwrap();
                prop_assert_eq!(ip.l3 + ip.total_len as usize, n);
                prop_assert_eq!(ip.protocol, protocol::UDP);
                if ip.fragment {
                    let said = Fragment::decode(piece, &ip).unwrap();
                    prop_assert_eq!(said.offset as usize, got.len());
                    let same = if v4 { said.id == u32::from((id as u16).max(1)) } else { said.id == id };
                    prop_assert!(same);
                    last = !said.more;
                } else {
                    last = true;
                }
                if v4 {
                    prop_assert_eq!(checksum::finish(checksum::sum(&piece[14..34])), 0);
                }
                got.extend_from_slice(&piece[ip.l4..]);
            }
            prop_assert!(last && got == frame[l4..]);
        }
    }

    #[test]
    fn what_is_no_frame_or_has_no_room_is_refused() {
        assert!(FragmentedFrame::new(&[0; 60], 1500, 1).is_none());
        assert!(FragmentedFrame::new(&whole(true, b"x")[..30], 1500, 1).is_none());
        let frame = whole(true, &[7; 3000]);
        let mut cut = FragmentedFrame::new(&frame, 1500, 1).unwrap();
        assert!(cut.write_next(&mut [0; 1000]).is_err());
    }
}
