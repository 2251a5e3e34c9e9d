//! The captured streams: who they are, what their bytes are, which of them were captured.

use common::packet::{Addr, Endpoint, SeqNumber};

/// Number of captured streams.
pub const STREAMS: usize = 8;

const TARGET_V4: Endpoint = Endpoint::new(Addr::v4([10, 0, 0, 9]), 8080);
const TARGET_V6: Endpoint = Endpoint::new(
    Addr([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]),
    8080,
);
const ONLINE_V6: Addr = Addr([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
const CLIENT_V6: Addr = Addr([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 7]);

/// Every endpoint that may be sent to.
pub const TARGETS: [Endpoint; 2] = [TARGET_V4, TARGET_V6];

/// Client, production and target of a stream. Streams 0 and 1 are one client endpoint at two services
/// that are replayed to one target, so they compete for a wire tuple. The last two are IPv6.
pub fn ends(stream: usize) -> (Endpoint, Endpoint, Endpoint) {
    let port = 40_000 + stream as u16 / 2 * 2;
    let service = stream as u8 % 2;
    if stream >= STREAMS - 2 {
        (
            Endpoint::new(CLIENT_V6, port + u16::from(service)),
            Endpoint::new(ONLINE_V6, 80),
            TARGET_V6,
        )
    } else {
        (
            Endpoint::new(Addr::v4([192, 0, 2, 7]), port),
            Endpoint::new(Addr::v4([10, 0, 0, 2 + service]), 80),
            TARGET_V4,
        )
    }
}

/// The stream between these two.
pub fn stream_of(client: Endpoint, online: Endpoint) -> Option<usize> {
    (0..STREAMS).find(|n| {
        let (c, o, _) = ends(*n);
        (c, o) == (client, online)
    })
}

/// The byte of a stream at a sequence number.
pub fn byte(stream: usize, seq: SeqNumber) -> u8 {
    let mixed = (seq.0 ^ (stream as u32).wrapping_mul(0x9e37_79b1)).wrapping_mul(0x85eb_ca6b);
    (mixed >> 23) as u8
}

/// The bytes of a stream from a sequence number on.
pub fn payload(stream: usize, from: SeqNumber, len: usize) -> Vec<u8> {
    (0..len as u32).map(|n| byte(stream, from + n)).collect()
}

/// Which bytes of each stream were captured.
#[derive(Default)]
pub struct Captured {
    ranges: [Vec<(SeqNumber, u32)>; STREAMS],
}

impl Captured {
    pub fn add(&mut self, stream: usize, from: SeqNumber, len: u32) {
        if len > 0 {
            self.ranges[stream].push((from, len));
        }
    }

    /// Every byte of `from..from + sent.len()` was captured on this stream, with this content.
    pub fn has(&self, stream: usize, from: SeqNumber, sent: &[u8]) -> bool {
        let same = sent
            .iter()
            .zip(0..)
            .all(|(b, n)| *b == byte(stream, from + n));
        same && self.covers(stream, from, sent.len() as u32)
    }

    fn covers(&self, stream: usize, from: SeqNumber, len: u32) -> bool {
        let mut done = 0;
        while done < len {
            let at = from + done;
            let reach = self.ranges[stream]
                .iter()
                .filter(|(start, len)| at.0.wrapping_sub(start.0) < *len)
                .map(|(start, len)| len - at.0.wrapping_sub(start.0))
                .max();
            let Some(reach) = reach else { return false };
            done += reach;
        }
        true
    }
}
