//! Ethernet, IP and TCP.

use common::flow::ResponseHeader;
use common::packet::{
    Addr, Endpoint, FrameAddresses, HEADROOM_MAX_BYTES, MAX_VLAN_TAGS, SackBlocks, TcpFlags,
    TcpFrame, TcpPacket, build_tcp_frame, decode_ethernet, decode_frame, decode_udp_frame,
    protocol,
};

/// Every frame that decodes obeys its bounds, and is the same when built and decoded again.
pub fn decode(data: &[u8]) {
    datagram(data);
    let Ok(packet) = decode_frame(data) else {
        return;
    };
    bounds(data, &packet);
    let frame_len = data.len();
    let response = ResponseHeader::from_packet(data, &packet, frame_len);
    assert_eq!(response.payload_len as usize, packet.payload_len(frame_len));
    let at = packet.tcp.payload.min(frame_len);
    let payload = data
        .get(at..at + packet.payload_len(frame_len).min(frame_len - at))
        .unwrap_or_default();
    again(&packet, &response, payload);
}

fn bounds(data: &[u8], p: &TcpPacket) {
    let ether = decode_ethernet(data).expect("a frame has an Ethernet header");
    assert!(ether.is_ip() && usize::from(ether.vlan_tags) <= MAX_VLAN_TAGS);
    assert_eq!(p.ip.l3, ether.l3);
    assert!(!p.ip.fragment && p.ip.protocol == protocol::TCP);
    if data[p.ip.l3] >> 4 == 4 {
        assert!(p.ip.src.is_v4() && p.ip.dst.is_v4());
        assert!(p.ip.l4 >= p.ip.l3 + 20);
    } else {
        assert!(p.ip.l4 >= p.ip.l3 + 40);
    }
    // All fixed fields were there; options and payload may be cut.
    assert!(p.ip.l4 + 16 <= data.len());
    assert!((20..=60).contains(&(p.tcp.payload - p.ip.l4)));
    assert_eq!(p.tcp.flags.0 & !0x3f, 0);
    if p.ip.total_len != 0 {
        let end = p.ip.l3 + p.ip.total_len as usize;
        assert_eq!(p.tcp.payload + p.payload_len(0), end);
    }
}

/// Builds what was decoded, and decodes that.
fn again(packet: &TcpPacket, response: &ResponseHeader, payload: &[u8]) {
    let options = response.options;
    let seg = TcpFrame {
        src: response.target,
        dst: response.client,
        seq: response.seq,
        ack: response.ack,
        flags: response.flags,
        window: response.window,
        options,
        payload,
        ip_id: 1,
    };
    let mut buf = vec![0; payload.len() + HEADROOM_MAX_BYTES];
    let Ok(len) = build_tcp_frame(&mut buf, FrameAddresses::default(), &seg) else {
        // An IPv6 header may carry one IPv4-mapped address, never both; or more than 64 KiB.
        let mapped = |a: Addr| packet.ip.l4 >= packet.ip.l3 + 40 && a.is_v4();
        assert!(
            mapped(seg.src.addr) || mapped(seg.dst.addr) || payload.len() > 65_000,
            "{packet:?}"
        );
        return;
    };
    let frame = &buf[..len];
    let back = decode_frame(frame).expect("what was built decodes");
    let header = ResponseHeader::from_packet(frame, &back, len);
    let ack = if seg.flags.has(TcpFlags::ACK) {
        seg.ack
    } else {
        common::packet::SeqNumber(0)
    };
    assert_eq!(
        header,
        ResponseHeader {
            ack,
            options,
            // Never sent: we have no holes to report.
            sack: SackBlocks::default(),
            payload_len: payload.len() as u32,
            ..*response
        }
    );
    assert_eq!(&frame[back.tcp.payload..], payload);
    assert_eq!(plain_tcp_sum(frame, &back), 0xffff, "TCP checksum");
    if seg.src.addr.is_v4() {
        assert_eq!(plain_sum(&frame[14..34]), 0xffff, "IPv4 checksum");
    }
}

/// RFC 1071 as it reads there.
fn plain_sum(bytes: &[u8]) -> u32 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

fn plain_tcp_sum(frame: &[u8], p: &TcpPacket) -> u32 {
    let segment = &frame[p.ip.l4..];
    let mut all = Vec::new();
    for end in [
        Endpoint::new(p.ip.src, p.tcp.sport),
        Endpoint::new(p.ip.dst, p.tcp.dport),
    ] {
        match end.addr.as_v4() {
            Some(v4) => all.extend(v4),
            None => all.extend(end.addr.0),
        }
    }
    all.extend((segment.len() as u32).to_be_bytes());
    all.extend([0, 0, 0, protocol::TCP]);
    all.extend(segment);
    plain_sum(&all)
}

/// What decodes as UDP lies within its packet, and is no TCP.
fn datagram(data: &[u8]) {
    let Ok(p) = decode_udp_frame(data) else {
        return;
    };
    assert!(decode_frame(data).is_err());
    assert!(p.udp.payload <= data.len());
    if p.ip.total_len != 0 {
        let end = p.udp.payload + p.payload_len(data.len());
        assert!(end <= p.ip.l3 + p.ip.total_len as usize);
    }
}
