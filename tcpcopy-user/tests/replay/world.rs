//! The other side: a target that speaks TCP just well enough, and an intercept that reports its answers
//! in the C programs' format to the connections that asked for them.

use crate::client::ANSWER_BYTES;
use common::flow::{CaptureMeta, Captured, ResponseHeader};
use common::packet::{Endpoint, SackBlocks, SeqNumber, TcpFlags, TcpOptions, decode_frame};
use common::wire::compat::{self, ClientRecord};
use dataplane::memory::MemoryTransmit;
use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

const TARGET_ISS: SeqNumber = SeqNumber(u32::MAX - 50);

/// One connection as the target sees it.
#[derive(Debug, Default)]
pub struct Connection {
    /// Bytes that the application has read.
    pub read: Vec<u8>,
    expected: SeqNumber,
    sent: SeqNumber,
    /// The client closed in order.
    pub closed: bool,
    /// The client reset.
    pub reset: bool,
    requests: usize,
}

pub struct World {
    listener: TcpListener,
    streams: Vec<TcpStream>,
    partial: Vec<Vec<u8>>,
    routes: HashMap<(Endpoint, Endpoint), usize>,
    ports: Vec<MemoryTransmit>,
    /// By client as the target sees it.
    pub connections: HashMap<Endpoint, Connection>,
    /// Every n-th frame to the target is lost; 0: none.
    pub lose_every: u64,
    frames: u64,
    pub lost: u64,
    /// Answers that came before anybody had asked for them.
    pub unrouted: u64,
    /// Requests after which the target falls silent; `None`: it answers everything.
    pub answers: Option<usize>,
}

impl World {
    pub fn new(ports: Vec<MemoryTransmit>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Self {
            listener,
            streams: Vec::new(),
            partial: Vec::new(),
            routes: HashMap::new(),
            ports,
            connections: HashMap::new(),
            lose_every: 0,
            frames: 0,
            lost: 0,
            unrouted: 0,
            answers: None,
        }
    }

    pub fn intercept(&self) -> Endpoint {
        self.listener.local_addr().unwrap().into()
    }

    /// Closes all connections to the worker, as a restarting intercept does.
    pub fn drop_connections(&mut self) {
        self.streams.clear();
        self.partial.clear();
        self.routes.clear();
    }

    /// One step: new connections, announcements, frames, answers.
    pub fn step(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true).unwrap();
            self.streams.push(stream);
            self.partial.push(Vec::new());
        }
        self.read_announcements();
        let frames: Vec<_> = self
            .ports
            .iter()
            .flat_map(MemoryTransmit::take_sent)
            .collect();
        // A SYN may have overtaken its announcement only within this step.
        self.read_announcements();
        for frame in frames {
            self.frames += 1;
            if self.frames.is_multiple_of(self.lose_every) {
                self.lost += 1;
                continue;
            }
            for answer in self.receive(&frame) {
                self.report(&answer);
            }
        }
    }

    fn read_announcements(&mut self) {
        for (at, stream) in self.streams.iter_mut().enumerate() {
            let mut buffer = [0; 4096];
            loop {
                match stream.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(n) => self.partial[at].extend_from_slice(&buffer[..n]),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(e) => panic!("{e}"),
                }
            }
            let whole = self.partial[at].len() / 14 * 14;
            for record in self.partial[at]
                .drain(..whole)
                .collect::<Vec<_>>()
                .as_chunks::<14>()
                .0
            {
                match ClientRecord::decode(record, true) {
                    ClientRecord::Hello { .. } => {}
                    ClientRecord::Add { client, target } => {
                        self.routes.insert((client, target), at);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    fn report(&mut self, answer: &ResponseHeader) {
        let Some(&at) = self.routes.get(&(answer.client, answer.target)) else {
            self.unrouted += 1;
            return;
        };
        let mut frame = 1u16.to_be_bytes().to_vec();
        frame.extend_from_slice(&compat::encode_record(answer).unwrap());
        let mut rest = frame.as_slice();
        while !rest.is_empty() {
            match self.streams[at].write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(_) => return,
            }
        }
    }

    /// The target's TCP: in order or not at all, everything acknowledged.
    fn receive(&mut self, frame: &[u8]) -> Vec<ResponseHeader> {
        let packet = decode_frame(frame).expect("the worker sends whole packets");
        let captured = Captured {
            bytes: frame,
            meta: CaptureMeta::default(),
        };
        let payload = &captured.bytes[packet.tcp.payload..];
        let (client, target) = (
            Endpoint::new(packet.ip.src, packet.tcp.sport),
            Endpoint::new(packet.ip.dst, packet.tcp.dport),
        );
        let flags = packet.tcp.flags;
        let c = self.connections.entry(client).or_default();
        let header =
            |c: &Connection, flags: TcpFlags, seq: SeqNumber, payload_len: u32| ResponseHeader {
                target,
                client,
                seq,
                ack: c.expected,
                flags: flags.with(TcpFlags::ACK),
                window: 65_000,
                payload_len,
                options: TcpOptions {
                    mss: flags.has(TcpFlags::SYN).then_some(1460),
                    ..TcpOptions::default()
                },
                sack: SackBlocks::default(),
            };
        if flags.has(TcpFlags::RST) {
            c.reset = true;
            return Vec::new();
        }
        if flags.has(TcpFlags::SYN) {
            c.expected = packet.tcp.seq + 1;
            c.sent = TARGET_ISS + 1;
            return vec![header(c, TcpFlags::SYN, TARGET_ISS, 0)];
        }
        let mut answers = Vec::new();
        let new = c.expected.since(packet.tcp.seq);
        if new < 0 {
            // A hole: duplicate acknowledgement.
            return vec![header(c, TcpFlags::ACK, c.sent, 0)];
        }
        let fresh = payload.get(new as usize..).unwrap_or_default();
        c.expected += fresh.len() as u32;
        c.read.extend_from_slice(fresh);
        if !payload.is_empty() {
            answers.push(header(c, TcpFlags::ACK, c.sent, 0));
        }
        for _ in fresh.iter().filter(|b| **b == b'\n') {
            c.requests += 1;
            if self.answers.is_none_or(|n| c.requests <= n) {
                answers.push(header(c, TcpFlags::PSH, c.sent, ANSWER_BYTES));
                c.sent += ANSWER_BYTES;
            }
        }
        if flags.has(TcpFlags::FIN) && c.expected == packet.tcp.seq + payload.len() as u32 {
            c.expected += 1;
            c.closed = true;
            answers.push(header(c, TcpFlags::FIN, c.sent, 0));
            c.sent += 1;
        } else if flags.has(TcpFlags::FIN) {
            // Again, because our FIN's acknowledgement was lost.
            answers.push(header(c, TcpFlags::FIN, c.sent - 1, 0));
        }
        answers
    }
}
