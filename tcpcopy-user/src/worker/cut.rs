//! Cutting a segment into packets that the way takes.

use common::flow::Segment;
use common::packet::TcpFlags;

/// Payload of a piece at the least, however small the MTU: that of the smallest IPv4 network with the longest
/// headers (RFC 791 section 3.1: 68 bytes pass everywhere).
const MIN_PIECE_BYTES: usize = 8;

const IPV4_HEADER_BYTES: usize = 20;
const IPV6_HEADER_BYTES: usize = 40;
const TCP_HEADER_BYTES: usize = 20;
/// RFC 7323, with the two bytes that align it.
const TIMESTAMPS_BYTES: usize = 12;
/// IPv6 and TCP with all options.
const HEADERS_MAX_BYTES: usize = IPV6_HEADER_BYTES + 60;

/// Whether the segment's packet is at most `mtu` bytes.
#[inline]
pub fn fits(segment: &Segment<'_>, mtu: u16) -> bool {
    // Most have little payload; only for the others are the options looked at.
    segment.payload.len() + HEADERS_MAX_BYTES <= usize::from(mtu)
        || segment.payload.is_empty()
        || segment.payload.len() <= room(segment, mtu)
}

/// Payload that a packet of `mtu` bytes has room for.
fn room(segment: &Segment<'_>, mtu: u16) -> usize {
    let ip = if segment.dst.addr.is_v4() {
        IPV4_HEADER_BYTES
    } else {
        IPV6_HEADER_BYTES
    };
    let options = match segment.options {
        options if options.has_syn_options() => options.emit(&mut [0; 40]),
        options if options.timestamps.is_some() => TIMESTAMPS_BYTES,
        _ => 0,
    };
    usize::from(mtu).saturating_sub(ip + TCP_HEADER_BYTES + options)
}

/// The same bytes in packets of at most `mtu`. What ends something, FIN and PSH, is on the last; each has the
/// options, and an identification of its own.
pub fn pieces(segment: &Segment<'_>, mtu: u16, mut send: impl FnMut(&Segment<'_>)) {
    let most = room(segment, mtu).max(MIN_PIECE_BYTES);
    let mut rest = segment.payload;
    let mut piece = *segment;
    while rest.len() > most {
        let (now, later) = rest.split_at(most);
        piece.payload = now;
        piece.flags = segment.flags.without(TcpFlags::FIN).without(TcpFlags::PSH);
        send(&piece);
        piece.seq += now.len() as u32;
        piece.ip_id = piece.ip_id.wrapping_add(1);
        rest = later;
    }
    piece.payload = rest;
    piece.flags = segment.flags;
    send(&piece);
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::packet::{Addr, Endpoint, SeqNumber, TcpOptions, Timestamps};
    use proptest::prelude::*;

    fn segment(payload: &[u8]) -> Segment<'_> {
        Segment {
            src: Endpoint::new(Addr::v4([10, 0, 0, 1]), 1000),
            dst: Endpoint::new(Addr::v4([10, 0, 0, 2]), 80),
            seq: SeqNumber(u32::MAX - 700),
            ack: SeqNumber(7),
            flags: TcpFlags::ACK.with(TcpFlags::PSH).with(TcpFlags::FIN),
            window: 500,
            options: TcpOptions {
                timestamps: Some(Timestamps { val: 1, ecr: 2 }),
                ..TcpOptions::default()
            },
            payload,
            ip_id: u16::MAX,
        }
    }

    #[test]
    fn what_fits_is_left_alone() {
        let bytes = [1; 1448];
        assert!(fits(&segment(&bytes), 1500));
        assert!(!fits(&segment(&bytes), 1499));
        assert!(fits(&segment(&[]), 0), "headers cannot be cut");
    }

    proptest! {
        #[test]
        fn pieces_are_the_segment_in_packets_that_fit(len in 1usize..3000, mtu in 100u16..1600) {
            let bytes: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let whole = segment(&bytes);
            let (mut got, mut last) = (Vec::new(), None);
            pieces(&whole, mtu, |piece| {
                assert!(fits(piece, mtu) && !piece.payload.is_empty());
                assert_eq!(piece.seq, whole.seq + got.len() as u32);
                assert_eq!(piece.options, whole.options);
                if let Some(flags) = last.replace(piece.flags) {
                    assert_eq!(flags, TcpFlags::ACK);
                }
                got.extend_from_slice(piece.payload);
            });
            prop_assert_eq!(&got, &bytes);
            prop_assert_eq!(last, Some(whole.flags));
        }
    }
}
