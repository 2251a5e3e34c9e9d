//! The raw-socket path: for targets that Ethernet frames cannot reach.
//!
//! Frames injected into loopback or at this host's own addresses by AF_XDP are dropped as martians, and
//! a queue may be held by another program. Here the packet goes through the host's own output path
//! instead: routing, netfilter and qdisc see it (the AF_XDP path passes them by).
//!
//! ```text
//!   commit ──▶ slots (64 frames) ──flush──▶ sendmmsg(IPPROTO_RAW, IPv4) ─▶ ip_output
//!                                     └───▶ sendmmsg(IPPROTO_RAW, IPv6) ─▶ ip6_output
//! ```
//! IPPROTO_RAW sockets take the IP header from the caller, any source address included (raw(7)). The
//! Ethernet header of the frame is skipped; the kernel finds the next hop itself.
//!
//! What netfilter may do to them on the way is watched by [`crate::netfilter`].

use crate::errnos::ErrnoCounts;
use crate::netfilter::RawPath;
use crate::port::{BATCH, CounterSink, Transmit};
use common::packet::{Addr, Endpoint, TcpFlags, decode_ethernet, decode_ip, decode_tcp};
use rustix::io::{Errno, IoSlice};
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{
    AddressFamily, MMsgHdr, Protocol, SendAncillaryBuffer, SendFlags, SocketAddrAny, SocketFlags,
    SocketType, sendmmsg, socket_with,
};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// Room per frame: a jumbo MTU of 9000 with headers. Larger frames are only possible on loopback, where
/// sessions still cut at the target's MSS.
const FRAME_BYTES: usize = 9216;
/// Bytes that the kernel may hold queued for us: 64 full jumbo frames. The default of 208 KiB is used up
/// by about 90 frames of 1500 bytes, by their bookkeeping.
const SEND_BUFFER_BYTES: usize = 1 << 20;

/// Packets per sendmmsg(2). The headers live on the stack and are built anew for each call, 200 bytes a
/// packet; 16 hide the syscall's own cost behind the 1 to 2 microseconds that each packet takes anyway.
const MESSAGES_PER_CALL: usize = 16;

/// Why a raw socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    /// Not root.
    #[error("not allowed to open raw sockets: CAP_NET_RAW is needed; run as root or grant it")]
    Permission,
    /// Anything else.
    #[error("cannot open a raw socket for {family}: {source}")]
    Socket {
        /// IP version.
        family: &'static str,
        /// The kernel's reason.
        source: Errno,
    },
}

/// Where a queued frame goes: computed at commit, when its header is in cache.
#[derive(Clone, Copy)]
struct Packet {
    /// Offset of the IP header in the slot.
    ip_at: usize,
    end: usize,
    to: Addr,
}

/// Sends frames as IP packets through the host's stack.
pub struct RawTx {
    v4: OwnedFd,
    /// `None` on hosts with IPv6 switched off.
    v6: Option<OwnedFd>,
    slots: Box<[[u8; FRAME_BYTES]]>,
    /// The first `queued.len()` slots are taken.
    queued: Vec<Packet>,
    frames: u64,
    kicks: u64,
    no_frame: u64,
    not_ip: u64,
    errors: ErrnoCounts,
    path: RawPath,
    /// Ends of the connection that a packet sent since the last flush began.
    begun: Option<(Endpoint, Endpoint)>,
}

impl RawTx {
    /// Opens the sockets. Needs CAP_NET_RAW. `path` is shared by all that send this way.
    pub fn open(path: &RawPath) -> Result<Self, RawError> {
        let v4 = raw_socket(AddressFamily::INET).map_err(|source| refused("IPv4", source))?;
        let v6 = match raw_socket(AddressFamily::INET6) {
            Ok(socket) => Some(socket),
            Err(Errno::AFNOSUPPORT) => None,
            Err(source) => return Err(refused("IPv6", source)),
        };
        Ok(Self {
            v4,
            v6,
            slots: vec![[0; FRAME_BYTES]; BATCH].into_boxed_slice(),
            queued: Vec::with_capacity(BATCH),
            frames: 0,
            kicks: 0,
            no_frame: 0,
            not_ip: 0,
            errors: ErrnoCounts::new("raw socket".to_owned()),
            path: path.clone(),
            begun: None,
        })
    }

    /// Sends queued frames from `from` on that are of the same family; returns where it stopped.
    fn send_run(&mut self, from: usize) -> Result<usize, Errno> {
        let is_v4 = self.queued[from].to.is_v4();
        let run = self.queued[from..]
            .iter()
            .take(MESSAGES_PER_CALL)
            .take_while(|p| p.to.is_v4() == is_v4)
            .count();
        let socket = if is_v4 {
            Some(&self.v4)
        } else {
            self.v6.as_ref()
        };
        let socket = socket.ok_or(Errno::AFNOSUPPORT)?;
        let packets = &self.queued[from..from + run];
        let slots = &self.slots[from..from + run];
        // Port 0: the field is ignored for IPv4 and must be 0 or the protocol for IPv6
        // (net/ipv6/raw.c, rawv6_sendmsg).
        let to: [SocketAddrAny; MESSAGES_PER_CALL] = std::array::from_fn(|i| {
            let ip = packets.get(i).map_or(Addr::v4([0; 4]), |p| p.to).to_ip();
            SocketAddr::new(ip, 0).into()
        });
        let iov: [[IoSlice<'_>; 1]; MESSAGES_PER_CALL] = std::array::from_fn(|i| {
            [IoSlice::new(
                packets.get(i).map_or(&[], |p| &slots[i][p.ip_at..p.end]),
            )]
        });
        let mut control: [SendAncillaryBuffer<'_, '_, '_>; MESSAGES_PER_CALL] =
            std::array::from_fn(|_| SendAncillaryBuffer::default());
        let mut ends = to.iter().zip(&iov);
        let mut messages = control.each_mut().map(|control| match ends.next() {
            Some((to, iov)) => MMsgHdr::new_with_addr(to, iov, control),
            None => MMsgHdr::new(&[], control),
        });
        self.kicks += 1;
        let sent = sendmmsg(socket, &mut messages[..run], SendFlags::DONTWAIT)?;
        self.frames += sent as u64;
        Ok(from + sent)
    }
}

fn refused(family: &'static str, source: Errno) -> RawError {
    match source {
        Errno::PERM | Errno::ACCESS => RawError::Permission,
        _ => RawError::Socket { family, source },
    }
}

fn raw_socket(family: AddressFamily) -> Result<OwnedFd, Errno> {
    let protocol = Protocol::from_raw(
        // IPPROTO_RAW, 255.
        rustix::net::RawProtocol::new(255).ok_or(Errno::INVAL)?,
    );
    let socket = socket_with(
        family,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(protocol),
    )?;
    // A smaller buffer only means more waiting.
    let _ = set_socket_send_buffer_size(&socket, SEND_BUFFER_BYTES);
    Ok(socket)
}

impl Transmit for RawTx {
    fn reserve(&mut self) -> Option<&mut [u8]> {
        if self.queued.len() == BATCH {
            self.flush();
        }
        if self.queued.len() == BATCH {
            self.no_frame += 1;
            return None;
        }
        let at = self.queued.len();
        self.slots
            .get_mut(at)
            .map(<[u8; FRAME_BYTES]>::as_mut_slice)
    }

    fn commit(&mut self, len: usize) {
        let Some(slot) = self.slots.get(self.queued.len()) else {
            return;
        };
        let frame = &slot[..len.min(FRAME_BYTES)];
        let ip = decode_ethernet(frame).and_then(|ether| decode_ip(frame, ether.l3));
        let Ok(ip) = ip else {
            self.not_ip += 1;
            return;
        };
        // The first packet decides what NAT does with a connection.
        if self.begun.is_none()
            && let Ok(tcp) = decode_tcp(frame, &ip)
            && tcp.flags.has(TcpFlags::SYN)
        {
            self.begun = Some((
                Endpoint::new(ip.src, tcp.sport),
                Endpoint::new(ip.dst, tcp.dport),
            ));
        }
        self.queued.push(Packet {
            ip_at: ip.l3,
            end: frame.len(),
            to: ip.dst,
        });
        if self.queued.len() == BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let mut at = 0;
        while at < self.queued.len() {
            match self.send_run(at) {
                Ok(next) => at = next,
                // The send buffer is full: the rest waits for the next flush, in order.
                Err(Errno::AGAIN) => {
                    self.errors.count(Errno::AGAIN);
                    break;
                }
                Err(Errno::INTR) => {}
                // About this one packet: too long for the route's MTU (EMSGSIZE), refused by
                // netfilter (EPERM), no route, device queue full (ENOBUFS). TCP will send it again.
                Err(errno) => {
                    self.errors.count(errno);
                    at += 1;
                }
            }
        }
        // What waits moves to the front, so that slots and packets keep the same index.
        let left = self.queued.len() - at;
        for i in 0..left {
            self.slots.swap(i, at + i);
        }
        self.queued.drain(..at);
        if let Some((from, to)) = self.begun.take() {
            self.path.began(from, to);
        }
    }

    fn busy(&self) -> bool {
        !self.queued.is_empty()
    }

    fn counters(&mut self, sink: CounterSink<'_>) {
        sink("tx_raw_frames", self.frames);
        sink("tx_kicks", self.kicks);
        sink("tx_no_frame", self.no_frame);
        sink("tx_not_ip", self.not_ip);
        self.path.counters(sink);
        self.errors.report(sink);
    }
}
