//! What passes the interfaces of this host, all of them, for a look of some seconds.
//!
//! ```text
//!  every interface, in and out ── first bytes of each packet ──▶ socket buffer ──▶ PacketWatch::recv
//! ```
//! A look takes nothing away and may miss packets: what does not fit the socket's buffer is dropped, which bounds what a
//! look costs a host with heavy traffic. What native XDP has taken never comes here.

use crate::afpacket::{bind, filter, instruction, unbound};
use rustix::net::SocketFlags;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Holds Ethernet with two tags, IPv6 with extension headers, TCP with all options.
const SNAP_BYTES: usize = 256;

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Way {
    /// To this host.
    In,
    /// By this interface to another host: broadcast included, a switch's flooding, a mirror.
    Passing,
    /// From this host.
    Out,
}

/// A packet that passed.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Where.
    pub ifindex: u32,
    /// Which way.
    pub way: Way,
    /// Its first bytes, from the Ethernet header on; the outermost VLAN tag is not in them.
    pub frame: &'a [u8],
}

/// A socket that sees every packet of the network namespace.
#[derive(Debug)]
pub struct PacketWatch {
    socket: OwnedFd,
    buffer: Box<[u8; SNAP_BYTES]>,
}

impl PacketWatch {
    /// Begins to look. Needs CAP_NET_RAW.
    pub fn open() -> io::Result<Self> {
        let socket = unbound(SocketFlags::NONBLOCK)?;
        // The kernel keeps no more of each packet.
        let snap = instruction(libc::BPF_RET | libc::BPF_K, SNAP_BYTES as u32, 0, 0);
        filter(&socket, [snap])?;
        bind(&socket, 0, libc::ETH_P_ALL)?;
        Ok(Self {
            socket,
            buffer: Box::new([0; SNAP_BYTES]),
        })
    }

    /// The next packet with an Ethernet header, if one waits. Does not block.
    pub fn recv(&mut self) -> Option<Seen<'_>> {
        loop {
            let mut from = libc::sockaddr_ll {
                sll_family: 0,
                sll_protocol: 0,
                sll_ifindex: 0,
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 0,
                sll_addr: [0; 8],
            };
            let mut from_len = size_of_val(&from) as libc::socklen_t;
            // SAFETY: the buffer and the address are writable for the lengths given, and nothing keeps them.
            let received = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    self.buffer.as_mut_ptr().cast(),
                    SNAP_BYTES,
                    0,
                    (&raw mut from).cast(),
                    &raw mut from_len,
                )
            };
            // An interface that went down is told once by ENETDOWN; others go on.
            if received < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::ENETDOWN) {
                continue;
            }
            let len = usize::try_from(received).ok()?;
            if !matches!(from.sll_hatype, libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK) {
                continue;
            }
            let way = match from.sll_pkttype {
                libc::PACKET_OUTGOING => Way::Out,
                libc::PACKET_HOST => Way::In,
                _ => Way::Passing,
            };
            return Some(Seen {
                ifindex: from.sll_ifindex.cast_unsigned(),
                way,
                frame: &self.buffer[..len.min(SNAP_BYTES)],
            });
        }
    }
}
