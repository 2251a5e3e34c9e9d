//! Captured traffic: what a client of production sends, as frames.

use crate::pieces::cut;
use common::flow::{CaptureMeta, Nanos};
use common::packet::{
    Addr, Endpoint, FrameAddresses, SeqNumber, TcpFlags, TcpFrame, TcpOptions, build_tcp_frame,
};
use dataplane::memory::MemoryCapture;

/// Bytes that production and target answer each request with.
pub const ANSWER_BYTES: u32 = 200;
/// Production's first sequence number, for all sessions.
const PRODUCTION_ISS: SeqNumber = SeqNumber(0xffff_ff00);
/// Payload of one captured segment.
const SEGMENT_BYTES: usize = 1000;

pub fn production() -> Endpoint {
    Endpoint::new(Addr::v4([10, 77, 0, 20]), 80)
}

/// A client in the middle of its session.
pub struct Client {
    pub endpoint: Endpoint,
    seq: SeqNumber,
    ack: SeqNumber,
    /// Everything it has sent.
    pub sent: Vec<u8>,
    /// Packets with more than so many bytes behind their IP header come in fragments, last one first.
    pub piece_bytes: Option<usize>,
    packets: u16,
}

impl Client {
    /// Sequence numbers begin just before the wrap.
    pub fn new(port: u16) -> Self {
        Self {
            endpoint: Endpoint::new(Addr::v4([10, 77, 2, 1]), port),
            seq: SeqNumber(u32::MAX - u32::from(port % 97)),
            ack: PRODUCTION_ISS,
            sent: Vec::new(),
            piece_bytes: None,
            packets: 0,
        }
    }

    fn push(&mut self, to: &MemoryCapture, flags: TcpFlags, options: TcpOptions, payload: &[u8]) {
        let frame = TcpFrame {
            src: self.endpoint,
            dst: production(),
            seq: self.seq,
            ack: self.ack,
            flags,
            window: 60_000,
            options,
            payload,
            ip_id: self.endpoint.port.wrapping_mul(64) + self.packets,
        };
        let mut bytes = vec![0; 2048];
        let len = build_tcp_frame(&mut bytes, FrameAddresses::default(), &frame).unwrap();
        let meta = CaptureMeta {
            at: dataplane::clock::now(),
            ..CaptureMeta::default()
        };
        self.packets += 1;
        let pieces = cut(&bytes[..len], self.piece_bytes.unwrap_or(len), 0);
        for piece in pieces.iter().rev() {
            to.push(piece, meta);
        }
        self.seq += payload.len() as u32 + u32::from(flags.has(TcpFlags::SYN.with(TcpFlags::FIN)));
        self.sent.extend_from_slice(payload);
    }

    pub fn connect(&mut self, to: &MemoryCapture) {
        let offer = TcpOptions {
            mss: Some(1460),
            window_scale: Some(7),
            ..TcpOptions::default()
        };
        self.push(to, TcpFlags::SYN, offer, &[]);
        self.ack += 1;
        self.push(to, TcpFlags::ACK, TcpOptions::default(), &[]);
    }

    /// A request of `len` bytes ending in a line feed, with a content that no other request has, and
    /// the acknowledgement of its answer.
    pub fn request(&mut self, to: &MemoryCapture, number: usize, len: usize) {
        let mut body = format!("POST /{}/{number} ", self.endpoint.port).into_bytes();
        while body.len() < len.max(2) - 1 {
            body.push(b'a' + (body.len() % 23) as u8);
        }
        body.push(b'\n');
        let count = body.chunks(SEGMENT_BYTES).count();
        for (n, part) in body.chunks(SEGMENT_BYTES).enumerate() {
            let last = n + 1 == count;
            let flags = if last {
                TcpFlags::ACK.with(TcpFlags::PSH)
            } else {
                TcpFlags::ACK
            };
            self.push(to, flags, TcpOptions::default(), part);
        }
        self.ack += ANSWER_BYTES;
        self.push(to, TcpFlags::ACK, TcpOptions::default(), &[]);
    }

    pub fn close(&mut self, to: &MemoryCapture) {
        self.push(
            to,
            TcpFlags::ACK.with(TcpFlags::FIN),
            TcpOptions::default(),
            &[],
        );
        self.ack += 1;
        self.push(to, TcpFlags::ACK, TcpOptions::default(), &[]);
    }
}

/// A whole session: connect, requests, close.
pub fn session(to: &MemoryCapture, port: u16, requests: usize, len: usize) -> Client {
    let mut client = Client::new(port);
    client.connect(to);
    for n in 0..requests {
        client.request(to, n, len + n);
    }
    client.close(to);
    client
}

/// Time of a capture that comes after the end of a run.
pub fn late() -> Nanos {
    dataplane::clock::now() + Nanos::from_secs(3600)
}
