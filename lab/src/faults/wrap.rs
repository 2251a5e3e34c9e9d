//! Wraps frames into the tunnels that switches and clouds mirror with. Tests of the decoder and of the BPF
//! programs include this file too, so it depends on nothing.

use std::net::IpAddr;

/// One layer around a frame or an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// A VLAN tag with this ethertype.
    Vlan(u16),
    /// Around the IP packet or the frame.
    Mpls {
        /// Their number.
        labels: u8,
        /// The frame, behind a control word.
        pseudowire: bool,
    },
    /// Around the frame.
    Vxlan {
        /// UDP port.
        port: u16,
        /// Network.
        vni: u32,
    },
    /// Around the frame or the IP packet.
    Geneve {
        /// Network.
        vni: u32,
        /// Words of options.
        options: u8,
        /// The IP packet.
        ip: bool,
    },
    /// Around the frame or the IP packet.
    Gre {
        /// With a checksum.
        checksum: bool,
        /// Key.
        key: Option<u32>,
        /// Sequence number.
        sequence: Option<u32>,
        /// The IP packet.
        ip: bool,
    },
    /// Around the frame.
    Erspan {
        /// Type, 1 to 3.
        version: u8,
        /// Session.
        session: u16,
        /// Sequence number, not of type 1.
        sequence: u32,
        /// The platform part of type 3.
        platform: bool,
    },
    /// IP in IP.
    Ipip,
    /// Around the IP packet.
    Gtpu {
        /// Tunnel endpoint.
        teid: u32,
        /// Extension headers.
        extensions: u8,
        /// With a sequence number.
        sequence: bool,
    },
}

/// Puts `frame`, an Ethernet frame with an IP packet, into a tunnel between two addresses of one family.
pub fn wrap(layer: Layer, ends: [IpAddr; 2], frame: &[u8]) -> Vec<u8> {
    match layer {
        Layer::Vlan(tpid) => {
            let mut out = frame[..12].to_vec();
            out.extend(tpid.to_be_bytes());
            out.extend([0, 42]);
            out.extend(&frame[12..]);
            out
        }
        Layer::Mpls { labels, pseudowire } => {
            let mut out = frame[..12].to_vec();
            out.extend([0x88, 0x47]);
            for at in 1..=labels {
                let word = u32::from(at) << 16 | u32::from(at == labels) << 8 | 64;
                out.extend(word.to_be_bytes());
            }
            if pseudowire {
                out.extend([0; 4]);
                out.extend(frame);
            } else {
                out.extend(ip_of(frame));
            }
            out
        }
        Layer::Vxlan { port, vni } => {
            let mut header = vec![8, 0, 0, 0];
            header.extend((vni << 8).to_be_bytes());
            header.extend(frame);
            outer(ends, 17, &udp(port, &header))
        }
        Layer::Geneve { vni, options, ip } => {
            let mut header = vec![options, 0];
            header.extend(protocol(frame, ip).to_be_bytes());
            header.extend((vni << 8).to_be_bytes());
            header.extend(vec![0x5a; usize::from(options) * 4]);
            header.extend(content(frame, ip));
            outer(ends, 17, &udp(6081, &header))
        }
        Layer::Gre {
            checksum,
            key,
            sequence,
            ip,
        } => {
            let content = content(frame, ip);
            outer(
                ends,
                47,
                &gre(protocol(frame, ip), checksum, key, sequence, content),
            )
        }
        Layer::Erspan { version: 1, .. } => outer(ends, 47, &gre(0x88be, false, None, None, frame)),
        Layer::Erspan {
            version,
            session,
            sequence,
            platform,
        } => {
            let word = u32::from(version - 1) << 28 | 5 << 16 | u32::from(session);
            let mut header = word.to_be_bytes().to_vec();
            if version == 2 {
                header.extend([0, 0, 0, 9]);
            } else {
                header.extend([1, 2, 3, 4, 0, 0, 0x80, u8::from(platform)]);
                header.extend(vec![7; if platform { 8 } else { 0 }]);
            }
            header.extend(frame);
            let protocol = if version == 2 { 0x88be } else { 0x22eb };
            outer(
                ends,
                47,
                &gre(protocol, false, None, Some(sequence), &header),
            )
        }
        Layer::Ipip => {
            let inner = ip_of(frame);
            outer(ends, if inner[0] >> 4 == 4 { 4 } else { 41 }, inner)
        }
        Layer::Gtpu {
            teid,
            extensions,
            sequence,
        } => {
            let mut optional = Vec::new();
            if extensions > 0 || sequence {
                optional.extend([0, 7, 0, if extensions > 0 { 0x85 } else { 0 }]);
            }
            for left in (0..extensions).rev() {
                optional.extend([1, 0x10, 9, if left > 0 { 0x85 } else { 0 }]);
            }
            let inner = ip_of(frame);
            let flags = 0x30 | if extensions > 0 { 4 } else { 0 } | if sequence { 2 } else { 0 };
            let mut header = vec![flags, 255];
            header.extend(((optional.len() + inner.len()) as u16).to_be_bytes());
            header.extend(teid.to_be_bytes());
            header.extend(optional);
            header.extend(inner);
            outer(ends, 17, &udp(2152, &header))
        }
    }
}

/// The IP packet of a frame, behind tags.
fn ip_of(frame: &[u8]) -> &[u8] {
    let mut at = 12;
    while matches!(frame[at..at + 2], [0x81 | 0x91, 0] | [0x88, 0xa8]) {
        at += 4;
    }
    &frame[at + 2..]
}

fn content(frame: &[u8], ip: bool) -> &[u8] {
    if ip { ip_of(frame) } else { frame }
}

fn protocol(frame: &[u8], ip: bool) -> u16 {
    match (ip, ip_of(frame)[0] >> 4) {
        (false, _) => 0x6558,
        (true, 4) => 0x0800,
        (true, _) => 0x86dd,
    }
}

fn gre(
    protocol: u16,
    checksum: bool,
    key: Option<u32>,
    sequence: Option<u32>,
    content: &[u8],
) -> Vec<u8> {
    let flags = u16::from(checksum) << 15
        | u16::from(key.is_some()) << 13
        | u16::from(sequence.is_some()) << 12;
    let mut out = flags.to_be_bytes().to_vec();
    out.extend(protocol.to_be_bytes());
    if checksum {
        out.extend([0xab, 0xcd, 0, 0]);
    }
    out.extend(key.iter().flat_map(|n| n.to_be_bytes()));
    out.extend(sequence.iter().flat_map(|n| n.to_be_bytes()));
    out.extend(content);
    out
}

/// UDP without checksum, which IPv6 allows for tunnels (RFC 6935).
fn udp(port: u16, content: &[u8]) -> Vec<u8> {
    let mut out = 49_152u16.to_be_bytes().to_vec();
    out.extend(port.to_be_bytes());
    out.extend((content.len() as u16 + 8).to_be_bytes());
    out.extend([0, 0]);
    out.extend(content);
    out
}

/// Ethernet and IP around a payload.
fn outer([src, dst]: [IpAddr; 2], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![2, 0, 0, 0, 0, 0x0b, 2, 0, 0, 0, 0, 0x0a];
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut ip = vec![0x45, 0];
            ip.extend((payload.len() as u16 + 20).to_be_bytes());
            ip.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
            ip.extend(src.octets());
            ip.extend(dst.octets());
            let sum = ip.chunks(2).fold(0u32, |sum, pair| {
                sum + u32::from(u16::from_be_bytes([pair[0], pair[1]]))
            });
            let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            out.extend([8, 0]);
            out.extend(ip);
        }
        (src, dst) => {
            out.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            out.extend((payload.len() as u16).to_be_bytes());
            out.extend([protocol, 64]);
            for end in [src, dst] {
                match end {
                    IpAddr::V4(v4) => out.extend(v4.to_ipv6_mapped().octets()),
                    IpAddr::V6(v6) => out.extend(v6.octets()),
                }
            }
        }
    }
    out.extend(payload);
    out
}
