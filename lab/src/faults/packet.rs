//! What a rule sees of a frame.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use super::rule::BadWord;

pub(super) const ETHERNET_BYTES: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];
pub(super) const IPV6: [u8; 2] = [0x86, 0xdd];
const IPV6_BYTES: usize = 40;
const TCP: u8 = 6;
/// Flags of the TCP header (RFC 9293, 3.1).
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Flow {
    pub from: SocketAddr,
    pub to: SocketAddr,
}

/// A TCP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub flow: Flow,
    pub flags: u8,
    pub window: u16,
    pub payload_bytes: usize,
}

/// Reads a frame; `None` if it is not TCP, not its first fragment, or behind IPv6 extension headers.
pub(super) fn read(frame: &[u8]) -> Option<Packet> {
    let (ethernet, ip) = frame.split_at_checked(ETHERNET_BYTES)?;
    let word = |at: usize| Some(u16::from_be_bytes([*ip.get(at)?, *ip.get(at + 1)?]));
    let (ends, header_bytes, bytes): ([IpAddr; 2], _, _) = match [ethernet[12], ethernet[13]] {
        IPV4 => {
            if ip.first()? >> 4 != 4 || *ip.get(9)? != TCP || word(6)? & 0x1fff != 0 {
                return None;
            }
            let header_bytes = usize::from(*ip.first()? & 0x0f) * 4;
            let end = |at: usize| ip.get(at..)?.first_chunk::<4>().map(|end| (*end).into());
            ([end(12)?, end(16)?], header_bytes, usize::from(word(2)?))
        }
        IPV6 => {
            if *ip.get(6)? != TCP {
                return None;
            }
            let end = |at: usize| ip.get(at..)?.first_chunk::<16>().map(|end| (*end).into());
            let bytes = IPV6_BYTES + usize::from(word(4)?);
            ([end(8)?, end(24)?], IPV6_BYTES, bytes)
        }
        _ => return None,
    };
    let port = |at: usize| word(header_bytes + at);
    let all_headers = header_bytes + usize::from(*ip.get(header_bytes + 12)? >> 4) * 4;
    Some(Packet {
        flow: Flow {
            from: SocketAddr::new(ends[0], port(0)?),
            to: SocketAddr::new(ends[1], port(2)?),
        },
        flags: *ip.get(header_bytes + 13)?,
        window: word(header_bytes + 14)?,
        payload_bytes: bytes.saturating_sub(all_headers),
    })
}

/// Kinds of packets that a rule can be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// All of TCP.
    Any,
    /// The first packet of a handshake.
    Syn,
    /// The second one.
    SynAck,
    /// With payload.
    Data,
    /// Neither payload nor SYN, FIN or RST: acknowledgements, window updates, keep-alive probes.
    Ack,
    /// With FIN.
    Fin,
    /// With RST.
    Reset,
    /// A bare acknowledgement with window 0.
    WindowClosed,
    /// The first one with a window after one without, in its direction of its connection.
    WindowOpened,
}

impl Class {
    /// All, in the order of the report.
    pub const ALL: [Self; 9] = [
        Self::Any,
        Self::Syn,
        Self::SynAck,
        Self::Data,
        Self::Ack,
        Self::Fin,
        Self::Reset,
        Self::WindowClosed,
        Self::WindowOpened,
    ];

    /// As in rules and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Syn => "syn",
            Self::SynAck => "syn-ack",
            Self::Data => "data",
            Self::Ack => "ack",
            Self::Fin => "fin",
            Self::Reset => "rst",
            Self::WindowClosed => "window-closed",
            Self::WindowOpened => "window-opened",
        }
    }

    /// Whether `packet` is of it; `was_closed`: the last packet of its direction had window 0.
    pub(super) fn holds(self, packet: &Packet, was_closed: bool) -> bool {
        let has = |flags| packet.flags & flags == flags;
        let bare = packet.payload_bytes == 0 && packet.flags & (SYN | FIN | RST) == 0;
        match self {
            Self::Any => true,
            Self::Syn => has(SYN) && !has(ACK),
            Self::SynAck => has(SYN | ACK),
            Self::Data => packet.payload_bytes > 0,
            Self::Ack => bare,
            Self::Fin => has(FIN),
            Self::Reset => has(RST),
            Self::WindowClosed => bare && packet.window == 0,
            Self::WindowOpened => bare && packet.window > 0 && was_closed,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Class {
    type Err = BadWord;

    fn from_str(word: &str) -> Result<Self, BadWord> {
        Self::ALL
            .into_iter()
            .find(|class| class.name() == word)
            .ok_or_else(|| BadWord::new(word, "a class of packets"))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A frame of client port `port`, with `payload` bytes.
    pub fn frame(port: u16, flags: u8, window: u16, payload: usize) -> Vec<u8> {
        let mut frame = vec![0; ETHERNET_BYTES + 40 + payload];
        frame[12..14].copy_from_slice(&IPV4);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&(40 + payload as u16).to_be_bytes());
        frame[23] = TCP;
        frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        frame[34..36].copy_from_slice(&port.to_be_bytes());
        frame[36..38].copy_from_slice(&80_u16.to_be_bytes());
        frame[46] = 0x50;
        frame[47] = flags;
        frame[48..50].copy_from_slice(&window.to_be_bytes());
        frame
    }

    #[test]
    fn a_frame_is_read_in_full() {
        let packet = read(&frame(4000, ACK, 77, 5)).unwrap();
        assert_eq!(packet.flow.from, "10.0.0.1:4000".parse().unwrap());
        assert_eq!(packet.flow.to, "10.0.0.2:80".parse().unwrap());
        assert_eq!((packet.window, packet.payload_bytes), (77, 5));
    }

    #[test]
    fn so_is_one_of_ipv6() {
        let v4 = frame(4000, FIN | ACK, 77, 5);
        let mut v6 = vec![0; ETHERNET_BYTES + IPV6_BYTES];
        v6[12..14].copy_from_slice(&IPV6);
        v6[19] = 25;
        v6[20] = TCP;
        v6[37] = 1;
        v6.extend(&v4[34..]);
        let packet = read(&v6).unwrap();
        assert_eq!(packet.flow.from, "[::1]:4000".parse().unwrap());
        assert_eq!(packet.flow.to, "[::]:80".parse().unwrap());
        assert_eq!((packet.flags, packet.payload_bytes), (FIN | ACK, 5));
        // Behind a destination options header.
        v6[20] = 60;
        assert_eq!(read(&v6), None);
    }

    #[test]
    fn what_is_not_tcp_or_cut_short_is_nothing() {
        let whole = frame(1, ACK, 1, 0);
        for cut in 0..whole.len() - 4 {
            assert_eq!(read(&whole[..cut]), None, "{cut}");
        }
        let mut arp = whole.clone();
        arp[13] = 0x06;
        let mut udp = whole.clone();
        udp[23] = 17;
        let mut fragment = whole;
        fragment[21] = 1;
        for other in [arp, udp, fragment] {
            assert_eq!(read(&other), None);
        }
    }

    #[test]
    fn classes_are_told_apart() {
        let classes = |flags, window, payload, was_closed| {
            let packet = read(&frame(1, flags, window, payload)).unwrap();
            Class::ALL
                .into_iter()
                .filter(|class| class.holds(&packet, was_closed))
                .skip(1)
                .collect::<Vec<_>>()
        };
        assert_eq!(classes(SYN, 9, 0, false), [Class::Syn]);
        assert_eq!(classes(SYN | ACK, 9, 0, false), [Class::SynAck]);
        assert_eq!(classes(ACK, 9, 3, false), [Class::Data]);
        assert_eq!(classes(ACK | FIN, 9, 3, false), [Class::Data, Class::Fin]);
        assert_eq!(classes(ACK | RST, 9, 0, false), [Class::Reset]);
        assert_eq!(classes(ACK, 9, 0, false), [Class::Ack]);
        assert_eq!(classes(ACK, 0, 0, true), [Class::Ack, Class::WindowClosed]);
        assert_eq!(classes(ACK, 9, 0, true), [Class::Ack, Class::WindowOpened]);
    }
}
