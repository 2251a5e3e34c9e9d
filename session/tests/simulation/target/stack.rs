//! smoltcp with one socket, fed with IP packets.
//!
//! smoltcp gives a repeated SYN to any listening socket, where other stacks give it to the connection it
//! began; a stack with one socket for each client endpoint cannot be wrong.

use super::app::{Seen, serve};
use crate::setting::Behaviour;
use common::flow::Nanos;
use common::packet::{
    ETH_HEADER_BYTES, Endpoint, FrameAddresses, SeqNumber, TcpFlags, TcpFrame, TcpOptions,
    build_tcp_frame, decode_from_ip,
};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, Ipv4Address, Ipv6Address};
use std::collections::VecDeque;
use std::net::IpAddr;

const SEND_BUFFER_BYTES: usize = 32 * 1024;
/// Further back than any window.
const OUTSIDE_BYTES: u32 = 1 << 20;

/// IP packets in and out.
struct Wire {
    rx: Option<Vec<u8>>,
    tx: Vec<Vec<u8>>,
    mtu: usize,
}

struct RxToken(Vec<u8>);
struct TxToken<'a>(&'a mut Vec<Vec<u8>>);

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let r = f(&mut packet);
        self.0.push(packet);
        r
    }
}

impl phy::Device for Wire {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: Instant) -> Option<(RxToken, TxToken<'_>)> {
        let packet = self.rx.take()?;
        Some((RxToken(packet), TxToken(&mut self.tx)))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        Some(TxToken(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut c = DeviceCapabilities::default();
        c.medium = Medium::Ip;
        c.max_transmission_unit = self.mtu;
        c
    }
}

pub struct Stack {
    /// Packets, and whether they are as they were sent.
    inbox: VecDeque<(Vec<u8>, bool)>,
    /// Addresses, sequence and acknowledgement number of the newest segment of the connection.
    newest: Option<TcpFrame<'static>>,
    /// Sequence number of the newest SYN.
    begun: Option<SeqNumber>,
    wire: Wire,
    iface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    port: u16,
    /// False: every packet is answered by RST.
    pub listening: bool,
    /// When it wants to run next.
    pub due: Nanos,
}

fn at(now: Nanos) -> Instant {
    Instant::from_micros((now.0 / 1000) as i64)
}

impl Stack {
    pub fn new(endpoint: Endpoint, behaviour: &Behaviour, seed: u64, listening: bool) -> Self {
        let mut wire = Wire {
            rx: None,
            tx: Vec::new(),
            mtu: behaviour.mtu,
        };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut iface = Interface::new(config, &mut wire, at(Nanos(0)));
        let ip = match endpoint.addr.to_ip() {
            IpAddr::V4(ip) => IpAddress::Ipv4(ip),
            IpAddr::V6(ip) => IpAddress::Ipv6(ip),
        };
        iface.update_ip_addrs(|a| a.push(IpCidr::new(ip, 24)).expect("room for one address"));
        let routes = iface.routes_mut();
        let v4 = routes.add_default_ipv4_route(Ipv4Address::new(10, 0, 0, 1));
        v4.expect("room for a route");
        let gateway = Ipv6Address::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);
        routes
            .add_default_ipv6_route(gateway)
            .expect("room for a route");
        let mut sockets = SocketSet::new(Vec::new());
        let mut socket = tcp::Socket::new(
            tcp::SocketBuffer::new(vec![0; behaviour.rx_window]),
            tcp::SocketBuffer::new(vec![0; SEND_BUFFER_BYTES]),
        );
        socket.set_nagle_enabled(!behaviour.nodelay);
        if listening {
            socket
                .listen(endpoint.port)
                .expect("a closed socket listens");
        }
        let handle = sockets.add(socket);
        Self {
            inbox: VecDeque::new(),
            newest: None,
            begun: None,
            wire,
            iface,
            sockets,
            handle,
            port: endpoint.port,
            listening,
            due: Nanos(u64::MAX),
        }
    }

    /// False if too many wait.
    pub fn receive(&mut self, packet: Vec<u8>, intact: bool, most: usize) -> bool {
        let room = self.inbox.len() < most;
        if room {
            self.inbox.push_back((packet, intact));
        }
        room
    }

    /// Takes what has arrived, runs the application, sends.
    pub fn run(&mut self, now: Nanos, seen: &mut Vec<Seen>, behaviour: &Behaviour) {
        if seen.is_empty() {
            seen.push(Seen::default());
        }
        loop {
            self.wire.rx = self
                .inbox
                .pop_front()
                .map(|(p, intact)| self.arrives(p, intact));
            self.iface.poll(at(now), &mut self.wire, &mut self.sockets);
            self.listen_again(seen);
            if self.inbox.is_empty() {
                break;
            }
        }
        let socket = self.sockets.get_mut::<tcp::Socket>(self.handle);
        if let Some(last) = seen.last_mut() {
            serve(socket, last, now, behaviour);
        }
        self.iface.poll(at(now), &mut self.wire, &mut self.sockets);
        self.listen_again(seen);
    }

    /// A SYN on a connection that exists gets an acknowledgement of what is expected (RFC 5961 section
    /// 4), which smoltcp does not send; it does for data outside of its window.
    fn arrives(&mut self, packet: Vec<u8>, intact: bool) -> Vec<u8> {
        let Some(p) = intact
            .then(|| decode_from_ip(&packet[..], 0).ok())
            .flatten()
        else {
            return packet;
        };
        let state = self.sockets.get::<tcp::Socket>(self.handle).state();
        if !p.tcp.flags.has(TcpFlags::SYN) {
            self.newest = Some(TcpFrame {
                src: Endpoint::new(p.ip.src, p.tcp.sport),
                dst: Endpoint::new(p.ip.dst, p.tcp.dport),
                seq: p.tcp.seq,
                ack: p.tcp.ack,
                flags: TcpFlags::ACK,
                window: p.tcp.window,
                options: TcpOptions::default(),
                payload: &[0],
                ip_id: 1,
            });
            return packet;
        }
        if state == tcp::State::SynReceived && self.begun != Some(p.tcp.seq) {
            // Nobody has completed this one; smoltcp would ignore the SYN as long as it repeats its answer.
            self.forget();
        }
        self.begun = Some(p.tcp.seq);
        match (state, self.newest) {
            (tcp::State::Closed | tcp::State::Listen | tcp::State::SynReceived, _) | (_, None) => {
                packet
            }
            (_, Some(newest)) => {
                let outside = TcpFrame {
                    seq: newest.seq - OUTSIDE_BYTES,
                    ..newest
                };
                let mut buf = [0; 256];
                let n = build_tcp_frame(&mut buf, FrameAddresses::default(), &outside);
                buf[ETH_HEADER_BYTES..n.expect("a small frame")].to_vec()
            }
        }
    }

    fn forget(&mut self) {
        let socket = self.sockets.get_mut::<tcp::Socket>(self.handle);
        let (rx, tx) = (socket.recv_capacity(), socket.send_capacity());
        let nagle = socket.nagle_enabled();
        *socket = tcp::Socket::new(
            tcp::SocketBuffer::new(vec![0; rx]),
            tcp::SocketBuffer::new(vec![0; tx]),
        );
        socket.set_nagle_enabled(nagle);
        socket.listen(self.port).expect("a new socket listens");
    }

    /// A listening server has a socket for the next connection at once.
    fn listen_again(&mut self, seen: &mut Vec<Seen>) {
        let socket = self.sockets.get_mut::<tcp::Socket>(self.handle);
        if self.listening && socket.state() == tcp::State::Closed {
            socket.listen(self.port).expect("a closed socket listens");
            seen.push(Seen::default());
        }
    }

    pub fn sent(&mut self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.wire.tx.drain(..)
    }

    /// When stack or application want to run again.
    pub fn next(&mut self, now: Nanos, seen: &[Seen], behaviour: &Behaviour) -> Nanos {
        let stack = self.iface.poll_at(at(now), &self.sockets);
        let stack = stack.map(|t| Nanos(t.total_micros() as u64 * 1000));
        let socket = self.sockets.get::<tcp::Socket>(self.handle);
        let deaf = behaviour
            .deaf
            .filter(|d| d.covers(now) && socket.can_recv());
        let ready = seen.last().and_then(Seen::ready_at);
        let soonest = [stack, deaf.map(|d| d.end()), ready]
            .into_iter()
            .flatten()
            .min();
        // A stack that is due at once has nothing that a later look would not do.
        soonest.map_or(Nanos(u64::MAX), |t| t.max(now + Nanos::from_micros(1)))
    }
}
