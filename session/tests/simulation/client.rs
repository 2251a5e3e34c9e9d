//! Captured clients: scripts of what a tap on the production host would see.
//!
//! A request is its length (u32), the length of the answer it wants (u32), then bytes. Production answers
//! after a service time; the client acknowledges that, thinks, and sends the next.

use crate::rng::Rng;
use common::flow::Nanos;
use common::packet::{Addr, Endpoint, SeqNumber, TcpFlags, TcpOptions, Timestamps};

pub const REQUEST_HEADER_BYTES: usize = 8;

/// One packet of a script.
#[derive(Clone, Debug)]
pub struct Packet {
    pub at: Nanos,
    pub seq: SeqNumber,
    pub ack: SeqNumber,
    pub flags: TcpFlags,
    pub options: TcpOptions,
    pub payload: Vec<u8>,
    pub gso_size: u16,
}

/// How a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// FIN after the last answer.
    Close,
    /// FIN with the last request, then reading to the end.
    HalfClose,
    /// RST after the last answer.
    Reset,
}

/// A whole captured connection.
#[derive(Clone, Debug)]
pub struct Script {
    pub client: Endpoint,
    pub packets: Vec<Packet>,
    /// All request bytes in order.
    pub stream: Vec<u8>,
    /// Offset of each request in `stream`.
    pub starts: Vec<usize>,
    pub iss: SeqNumber,
    pub leave: Leave,
}

pub fn script(rng: &mut Rng, index: u32) -> Script {
    let client = Endpoint::new(
        Addr::v4([192, 0, 2, 1 + (index % 200) as u8]),
        20_000 + index as u16,
    );
    // A third of the sessions cross the wrap-around within their first requests.
    let iss = SeqNumber(if rng.chance(333) {
        u32::MAX - rng.pick(0..3000) as u32
    } else {
        rng.next() as u32
    });
    let irs = SeqNumber(rng.next() as u32);
    let leave = match rng.pick(0..10) {
        0 => Leave::Reset,
        1 | 2 => Leave::HalfClose,
        _ => Leave::Close,
    };
    let rtt = Nanos::from_micros(rng.pick(50..40_000));
    let mut now = Nanos::from_millis(1_000 + rng.pick(0..2_000));
    let timestamps = rng.chance(700).then(|| Timestamps {
        val: rng.next() as u32,
        ecr: 0,
    });
    let mut packets = Vec::new();
    let mut seq = iss;
    let mut ack = irs;
    let mut put = |at: Nanos, seq, ack, flags: TcpFlags, payload: Vec<u8>, gso_size| {
        let mut options = TcpOptions {
            timestamps,
            ..TcpOptions::default()
        };
        let mut flags = flags;
        if flags.has(TcpFlags::SYN) {
            options.mss = Some(1460);
            options.window_scale = Some(7);
            options.sack_permitted = true;
        } else {
            flags = flags.with(TcpFlags::ACK);
        }
        packets.push(Packet {
            at,
            seq,
            ack,
            flags,
            options,
            payload,
            gso_size,
        });
    };
    put(now, seq, SeqNumber(0), TcpFlags::SYN, Vec::new(), 0);
    seq += 1;
    ack += 1;
    now += rtt;
    put(now, seq, ack, TcpFlags(0), Vec::new(), 0);

    let (mut stream, mut starts) = (Vec::new(), Vec::new());
    let requests = rng.pick(1..8);
    for n in 0..requests {
        now += Nanos::from_micros(rng.pick(0..20_000));
        let len = match rng.pick(0..4) {
            0 => rng.pick(8..40),
            1 => rng.pick(3000..12_000),
            _ => rng.pick(40..1500),
        } as usize;
        let answer = if rng.chance(200) {
            rng.pick(4000..20_000)
        } else {
            rng.pick(1..1400)
        } as u32;
        let mut request = Vec::with_capacity(len);
        request.extend((len as u32).to_be_bytes());
        request.extend(answer.to_be_bytes());
        request.extend(
            (REQUEST_HEADER_BYTES..len).map(|i| (i as u64 * 31 + n + u64::from(index)) as u8),
        );
        starts.push(stream.len());
        stream.extend_from_slice(&request);
        // Sometimes the kernel had merged the segments.
        let merged = rng.chance(300);
        let (size, gso) = if merged { (len, 1448) } else { (1448, 0) };
        let last = n + 1 == requests;
        let mut sent = 0;
        while sent < len {
            let to = (sent + size).min(len);
            let mut flags = TcpFlags(0);
            if to == len {
                flags = flags.with(TcpFlags::PSH);
                if last && leave == Leave::HalfClose {
                    flags = flags.with(TcpFlags::FIN);
                }
            }
            put(
                now,
                seq,
                ack,
                flags,
                request[sent..to].to_vec(),
                if to - sent > 1448 { gso } else { 0 },
            );
            seq += (to - sent) as u32;
            sent = to;
            now += Nanos::from_micros(5);
        }
        if last && leave == Leave::HalfClose {
            seq += 1;
        }
        // The answer arrives at the client a service time and a round trip later, acknowledged in steps.
        now += rtt + Nanos::from_micros(rng.pick(10..3_000));
        let mut read = 0;
        while read < answer {
            read = (read + 2896).min(answer);
            put(now, seq, ack + read, TcpFlags(0), Vec::new(), 0);
            now += Nanos::from_micros(30);
        }
        ack += answer;
    }
    now += Nanos::from_micros(rng.pick(0..20_000));
    match leave {
        Leave::Close => {
            put(now, seq, ack, TcpFlags::FIN, Vec::new(), 0);
            put(now + rtt, seq + 1, ack + 1, TcpFlags(0), Vec::new(), 0);
        }
        Leave::HalfClose => put(now, seq, ack + 1, TcpFlags(0), Vec::new(), 0),
        Leave::Reset => put(now, seq, ack, TcpFlags::RST, Vec::new(), 0),
    }
    Script {
        client,
        packets,
        stream,
        starts,
        iss,
        leave,
    }
}
