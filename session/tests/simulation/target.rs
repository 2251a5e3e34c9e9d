//! The server under test: a real TCP stack (smoltcp) with an application that keeps what it reads.

use crate::client::REQUEST_HEADER_BYTES;
use common::flow::Nanos;
use common::packet::{Addr, Endpoint};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, Ipv4Address};
use std::collections::{BTreeMap, HashMap, VecDeque};

pub const TARGET: Endpoint = Endpoint::new(Addr::v4([10, 0, 0, 9]), 8080);

/// IP packets in and out.
#[derive(Default)]
struct Wire {
    rx: VecDeque<Vec<u8>>,
    tx: Vec<Vec<u8>>,
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
        let packet = self.rx.pop_front()?;
        Some((RxToken(packet), TxToken(&mut self.tx)))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        Some(TxToken(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut c = DeviceCapabilities::default();
        c.medium = Medium::Ip;
        c.max_transmission_unit = 1500;
        c
    }
}

/// What the application knows of one connection.
#[derive(Default, Debug)]
pub struct Seen {
    pub bytes: Vec<u8>,
    /// Bytes of complete requests.
    parsed: usize,
    /// Requests answered.
    pub answers: usize,
    /// Answers that the application is still working on: when they are ready, and their length.
    working: VecDeque<(Nanos, usize)>,
    pending: VecDeque<u8>,
}

/// The stack of one client's connection. smoltcp gives a repeated SYN to any listening socket, where
/// other stacks give it to the connection it began; a stack with one socket each cannot be wrong.
struct Stack {
    wire: Wire,
    iface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
}

impl Stack {
    fn new(rx_window: usize) -> Self {
        let mut wire = Wire::default();
        let mut iface = Interface::new(Config::new(HardwareAddress::Ip), &mut wire, at(Nanos(0)));
        let ip = Ipv4Address::new(10, 0, 0, 9);
        iface.update_ip_addrs(|a| a.push(IpCidr::new(IpAddress::Ipv4(ip), 24)).unwrap());
        iface
            .routes_mut()
            .add_default_ipv4_route(Ipv4Address::new(10, 0, 0, 1))
            .unwrap();
        let mut sockets = SocketSet::new(Vec::new());
        let mut socket = tcp::Socket::new(
            tcp::SocketBuffer::new(vec![0; rx_window]),
            tcp::SocketBuffer::new(vec![0; 32 * 1024]),
        );
        socket.listen(TARGET.port).unwrap();
        let handle = sockets.add(socket);
        Self {
            wire,
            iface,
            sockets,
            handle,
        }
    }
}

pub struct Target {
    stacks: BTreeMap<Endpoint, Stack>,
    rx_window: usize,
    /// By client, its connections in order; at least one.
    pub seen: HashMap<Endpoint, Vec<Seen>>,
    /// Answers are this many permille of what the request wants.
    pub answer_permille: u64,
    /// How long the application works on a request.
    pub service: Nanos,
}

fn at(now: Nanos) -> Instant {
    Instant::from_micros((now.0 / 1000) as i64)
}

impl Target {
    pub fn new(rx_window: usize, answer_permille: u64, service: Nanos) -> Self {
        Self {
            stacks: BTreeMap::new(),
            rx_window,
            seen: HashMap::new(),
            answer_permille,
            service,
        }
    }

    pub fn deliver(&mut self, client: Endpoint, packet: Vec<u8>) {
        let stack = self
            .stacks
            .entry(client)
            .or_insert_with(|| Stack::new(self.rx_window));
        stack.wire.rx.push_back(packet);
    }

    /// Runs stacks and application; returns the packets sent.
    pub fn poll(&mut self, now: Nanos) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        for (client, stack) in &mut self.stacks {
            stack
                .iface
                .poll(at(now), &mut stack.wire, &mut stack.sockets);
            let socket = stack.sockets.get_mut::<tcp::Socket>(stack.handle);
            let seen = self.seen.entry(*client).or_default();
            if socket.state() == tcp::State::Closed {
                socket.listen(TARGET.port).unwrap();
                seen.push(Seen::default());
            }
            if seen.is_empty() {
                seen.push(Seen::default());
            }
            if let Some(last) = seen.last_mut() {
                serve(socket, last, now, self.service, self.answer_permille);
            }
            stack
                .iface
                .poll(at(now), &mut stack.wire, &mut stack.sockets);
            sent.append(&mut stack.wire.tx);
        }
        sent
    }

    pub fn poll_at(&mut self, now: Nanos) -> Option<Nanos> {
        let stacks = self
            .stacks
            .values_mut()
            .filter_map(|s| s.iface.poll_at(at(now), &s.sockets));
        let stacks = stacks.map(|t| Nanos(t.total_micros() as u64 * 1000));
        let ready = self
            .seen
            .values()
            .filter_map(|s| s.last()?.working.front())
            .map(|(at, _)| *at);
        ready.chain(stacks).min()
    }
}

fn serve(
    socket: &mut tcp::Socket<'_>,
    seen: &mut Seen,
    now: Nanos,
    service: Nanos,
    answer_permille: u64,
) {
    while socket.can_recv() {
        let got = socket.recv(|data| (data.len(), data.to_vec())).unwrap();
        seen.bytes.extend(got);
    }
    loop {
        let rest = &seen.bytes[seen.parsed..];
        let Some(&[a, b, c, d, e, f, g, h]) = rest.first_chunk::<REQUEST_HEADER_BYTES>() else {
            break;
        };
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if rest.len() < len {
            break;
        }
        let answer = u64::from(u32::from_be_bytes([e, f, g, h])) * answer_permille / 1000;
        seen.parsed += len;
        seen.working
            .push_back((now + service, answer.max(1) as usize));
    }
    while seen.working.front().is_some_and(|(at, _)| *at <= now) {
        let Some((_, answer)) = seen.working.pop_front() else {
            break;
        };
        seen.pending.extend(std::iter::repeat_n(0x55, answer));
        seen.answers += 1;
    }
    while socket.can_send() && !seen.pending.is_empty() {
        let n = socket.send_slice(seen.pending.make_contiguous()).unwrap();
        seen.pending.drain(..n);
    }
    let idle = seen.pending.is_empty() && seen.working.is_empty();
    if !socket.may_recv() && idle && socket.state() == tcp::State::CloseWait {
        socket.close();
    }
}
