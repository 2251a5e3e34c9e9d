//! Asking conntrack for one connection (nfnetlink; include/uapi/linux/netfilter/nfnetlink_conntrack.h).

use common::packet::{Addr, Endpoint};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::fmt;
use std::io;
use std::time::Duration;

/// The kernel answers within the call.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// An entry with all its attributes takes some 300 bytes.
const BUFFER_BYTES: usize = 8192;

/// NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET.
const GET: u16 = 1 << 8 | 1;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const HEADER_BYTES: usize = 16;
/// struct nfgenmsg.
const FAMILY_BYTES: usize = 4;
const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = 0x3fff;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
/// Source and destination for IPv4, then for IPv6.
const CTA_IP: [[u16; 2]; 2] = [[1, 2], [3, 4]];
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_PORTS: [u16; 2] = [2, 3];
const TCP: u8 = 6;

/// Both ends of a TCP connection, as one of its packets bears them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuple {
    pub(super) from: Endpoint,
    pub(super) to: Endpoint,
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.from, self.to)
    }
}

pub(super) struct Conntrack {
    socket: Socket,
    sequence: u32,
}

impl Conntrack {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// How packets sent as `sent` leave the host: the other way round of what conntrack expects as an answer.
    /// `None` if it does not know the connection. Needs CAP_NET_ADMIN.
    pub(super) fn wire_tuple(&mut self, sent: &Tuple) -> io::Result<Option<Tuple>> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&request(sent, self.sequence), 0)?;
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        loop {
            buffer.clear();
            self.socket.recv(&mut buffer, 0)?;
            let Some((kind, sequence, body)) = message(&buffer) else {
                return Err(io::Error::other("an answer that is no netlink message"));
            };
            if sequence != self.sequence {
                continue;
            }
            if kind == NLMSG_ERROR {
                let code = body
                    .first_chunk()
                    .map_or(0, |code| i32::from_ne_bytes(*code));
                let error = io::Error::from_raw_os_error(-code);
                return match Errno::from_io_error(&error) {
                    Some(Errno::NOENT) => Ok(None),
                    _ => Err(error),
                };
            }
            let reply = body
                .get(FAMILY_BYTES..)
                .and_then(|attributes| tuple(find(attributes, CTA_TUPLE_REPLY)?))
                .ok_or_else(|| io::Error::other("an entry without the answer's addresses"))?;
            return Ok(Some(Tuple {
                from: reply.to,
                to: reply.from,
            }));
        }
    }
}

fn request(sent: &Tuple, sequence: u32) -> Vec<u8> {
    let is_v4 = sent.from.addr.is_v4();
    let [src, dst] = CTA_IP[usize::from(!is_v4)];
    let mut ip = Vec::new();
    for (kind, addr) in [(src, sent.from.addr), (dst, sent.to.addr)] {
        match addr.as_v4() {
            Some(v4) => attribute(&mut ip, kind, &v4),
            None => attribute(&mut ip, kind, &addr.0),
        }
    }
    let mut proto = Vec::new();
    attribute(&mut proto, CTA_PROTO_NUM, &[TCP]);
    for (kind, port) in CTA_PROTO_PORTS
        .into_iter()
        .zip([sent.from.port, sent.to.port])
    {
        attribute(&mut proto, kind, &port.to_be_bytes());
    }
    let mut both = Vec::new();
    attribute(&mut both, CTA_TUPLE_IP | NLA_F_NESTED, &ip);
    attribute(&mut both, CTA_TUPLE_PROTO | NLA_F_NESTED, &proto);
    let family = if is_v4 { libc::AF_INET } else { libc::AF_INET6 };
    let mut body = vec![family as u8, 0, 0, 0];
    attribute(&mut body, CTA_TUPLE_ORIG | NLA_F_NESTED, &both);

    let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
    out.extend(((HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    out.extend(GET.to_ne_bytes());
    out.extend(NLM_F_REQUEST.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend(0u32.to_ne_bytes());
    out.extend(body);
    out
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend(((4 + value.len()) as u16).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Type, sequence number and body of the message in `bytes`.
fn message(bytes: &[u8]) -> Option<(u16, u32, &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let sequence = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
    Some((kind, sequence, bytes.get(HEADER_BYTES..length)?))
}

/// The value of the first attribute of a kind.
fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let this = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        if this & NLA_TYPE_MASK == kind {
            return attributes.get(4..length);
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

fn tuple(attributes: &[u8]) -> Option<Tuple> {
    let ip = find(attributes, CTA_TUPLE_IP)?;
    let proto = find(attributes, CTA_TUPLE_PROTO)?;
    let addr = |end: usize| {
        CTA_IP.iter().find_map(|kinds| {
            let value = find(ip, kinds[end])?;
            let v4 = value.try_into().ok().map(Addr::v4);
            v4.or_else(|| value.try_into().ok().map(Addr))
        })
    };
    let port = |end: usize| {
        let value = find(proto, CTA_PROTO_PORTS[end])?;
        Some(u16::from_be_bytes(value.try_into().ok()?))
    };
    Some(Tuple {
        from: Endpoint::new(addr(0)?, port(0)?),
        to: Endpoint::new(addr(1)?, port(1)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_back_as_what_it_asks_for() {
        for (a, b) in [
            (Addr::v4([10, 0, 0, 1]), Addr::v4([10, 0, 0, 2])),
            (Addr([1; 16]), Addr([2; 16])),
        ] {
            let asked = Tuple {
                from: Endpoint::new(a, 40_000),
                to: Endpoint::new(b, 80),
            };
            let bytes = request(&asked, 7);
            let (kind, sequence, body) = message(&bytes).expect("message");
            assert_eq!((kind, sequence), (GET, 7));
            let found = find(&body[FAMILY_BYTES..], CTA_TUPLE_ORIG).and_then(tuple);
            assert_eq!(found, Some(asked));
            for cut in 0..bytes.len() {
                // Nothing of it is out of bounds, whatever is missing.
                let _ = bytes
                    .get(20..cut)
                    .and_then(|b| find(b, CTA_TUPLE_ORIG))
                    .and_then(tuple);
                assert!(message(&bytes[..cut]).is_none());
            }
        }
    }
}
