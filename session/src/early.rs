//! Packets that were captured before the SYN of their connection.
//!
//! ```text
//!  SYN  ──queue 0──▶ worker 0 ─hand-over ring─┐
//!                                             ├─▶ owner     what comes first waits here, for its SYN or
//!  data ──queue 1──▶ worker 1 ─hand-over ring─┘             until it is clear that none will come
//! ```
//! A flow whose packets come by several queues comes in disorder. Behind its SYN a session puts them in order
//! by itself; what comes in front of it looks like a connection that began before the capture, and would
//! be treated as one. So all packets of a connection that is not known wait a moment, in the order of their
//! arrival, within bounds: what there is no room for is treated at once.

use crate::table::{CaptureKey, PairHasherBuilder};
use common::flow::{ClientSegment, Nanos};
use std::collections::{HashMap, VecDeque};

/// Most packets that wait: with their payload a few milliseconds of a full 10 Gbit/s, which is what rings
/// hold.
const MOST_PACKETS: usize = 4096;
/// Most payload bytes that wait.
const MOST_BYTES: usize = 4 << 20;
/// Emptied buffers that are kept for further packets.
const SPARE: usize = 256;
/// A buffer that grew beyond this (a merged packet was in it) is freed.
const SPARE_BYTES: usize = 2048;

/// A packet that waits.
pub(crate) struct Waiting {
    /// Without its payload.
    head: ClientSegment<'static>,
    payload: Vec<u8>,
}

impl Waiting {
    /// As it was captured.
    pub(crate) fn segment(&self) -> ClientSegment<'_> {
        ClientSegment {
            payload: &self.payload,
            ..self.head
        }
    }
}

struct Line {
    due: Nanos,
    packets: Vec<Waiting>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Early {
    lines: HashMap<CaptureKey, Line, PairHasherBuilder>,
    /// When the wait of each line is over, soonest first. One that is not in `lines`, or there with another
    /// time, is over already.
    due: VecDeque<(Nanos, CaptureKey)>,
    packets: usize,
    bytes: usize,
    spare: Vec<Vec<u8>>,
}

impl Early {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Lets a packet wait, until `due` if it is the first of its connection; false if there is no room.
    pub(crate) fn hold(&mut self, key: CaptureKey, due: Nanos, seg: &ClientSegment<'_>) -> bool {
        if self.packets >= MOST_PACKETS || self.bytes + seg.payload.len() > MOST_BYTES {
            return false;
        }
        let mut payload = self.spare.pop().unwrap_or_default();
        payload.extend_from_slice(seg.payload);
        self.packets += 1;
        self.bytes += payload.len();
        let line = self.lines.entry(key).or_insert_with(|| {
            self.due.push_back((due, key));
            Line {
                due,
                packets: Vec::new(),
            }
        });
        line.packets.push(Waiting {
            head: ClientSegment {
                payload: &[],
                ..*seg
            },
            payload,
        });
        true
    }

    /// The packets that wait for a SYN of this connection, in the order of their arrival.
    #[inline]
    pub(crate) fn take(&mut self, key: &CaptureKey) -> Vec<Waiting> {
        if self.lines.is_empty() {
            return Vec::new();
        }
        let line = self.lines.remove(key);
        let packets = line.map(|line| line.packets).unwrap_or_default();
        if self.lines.is_empty() {
            self.due.clear();
        }
        self.packets -= packets.len();
        self.bytes -= packets.iter().map(|p| p.payload.len()).sum::<usize>();
        packets
    }

    /// A connection that has waited long enough.
    pub(crate) fn over(&mut self, now: Nanos) -> Option<CaptureKey> {
        while let Some((due, key)) = self.due.front().copied() {
            let stands = self.stands(due, &key);
            if stands && due > now {
                break;
            }
            self.due.pop_front();
            if stands {
                return Some(key);
            }
        }
        None
    }

    /// When the first wait is over. May name one that ended before.
    #[inline]
    pub(crate) fn next_due(&self) -> Option<Nanos> {
        self.due.front().map(|(due, _)| *due)
    }

    fn stands(&self, due: Nanos, key: &CaptureKey) -> bool {
        self.lines.get(key).is_some_and(|line| line.due == due)
    }

    /// Takes the memory of packets back that are dealt with.
    pub(crate) fn give_back(&mut self, packets: Vec<Waiting>) {
        let room = SPARE.saturating_sub(self.spare.len());
        let small = packets.into_iter().map(|p| p.payload);
        let small = small.filter(|bytes| bytes.capacity() <= SPARE_BYTES);
        self.spare.extend(small.take(room).map(|mut bytes| {
            bytes.clear();
            bytes
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Pair;
    use common::packet::{Endpoint, SeqNumber, TcpFlags, TcpOptions};

    fn key(port: u16) -> CaptureKey {
        CaptureKey {
            pair: Pair {
                client: Endpoint::new(Endpoint::ANY.addr, port),
                server: Endpoint::ANY,
            },
            replica: 0,
        }
    }

    fn packet(payload: &[u8]) -> ClientSegment<'_> {
        ClientSegment {
            client: Endpoint::ANY,
            online: Endpoint::ANY,
            target: Endpoint::ANY,
            lane: 0,
            seq: SeqNumber(1),
            ack: SeqNumber(1),
            flags: TcpFlags::ACK,
            window: 1,
            options: TcpOptions::default(),
            payload,
            payload_len: payload.len() as u32,
            gso_size: 0,
            at: Nanos(0),
        }
    }

    fn payloads(packets: &[Waiting]) -> Vec<&[u8]> {
        packets.iter().map(|p| p.segment().payload).collect()
    }

    #[test]
    fn packets_wait_as_long_as_the_first_of_their_connection() {
        let mut early = Early::default();
        assert!(early.hold(key(1), Nanos(10), &packet(b"a")));
        assert!(early.hold(key(2), Nanos(11), &packet(b"b")));
        assert!(early.hold(key(1), Nanos(12), &packet(b"c")));
        assert_eq!(early.over(Nanos(9)), None);
        assert_eq!(early.over(Nanos(10)), Some(key(1)));
        assert_eq!(payloads(&early.take(&key(1))), [b"a", b"c"]);
        assert_eq!(early.over(Nanos(10)), None);
        assert_eq!(early.next_due(), Some(Nanos(11)));
        assert_eq!(payloads(&early.take(&key(2))), [b"b"]);
        // It came out before its time, and is not named again.
        assert_eq!(early.over(Nanos(20)), None);
        assert_eq!((early.packets, early.bytes), (0, 0));
        assert_eq!(early.next_due(), None);
    }

    #[test]
    fn a_connection_that_waits_again_waits_its_own_time() {
        let mut early = Early::default();
        assert!(early.hold(key(1), Nanos(10), &packet(b"a")));
        early.take(&key(1));
        assert!(early.hold(key(1), Nanos(15), &packet(b"b")));
        assert_eq!(early.over(Nanos(10)), None);
        assert_eq!(early.over(Nanos(15)), Some(key(1)));
    }

    #[test]
    fn what_waits_is_bounded_in_packets_and_bytes() {
        let mut early = Early::default();
        let large = vec![0; MOST_BYTES / 4];
        for n in 0..4 {
            assert!(early.hold(key(n), Nanos(1), &packet(&large)));
        }
        assert!(!early.hold(key(9), Nanos(1), &packet(b"x")));
        assert!(early.hold(key(9), Nanos(1), &packet(b"")));
        let packets = early.take(&key(0));
        early.give_back(packets);
        assert!(early.spare.is_empty(), "large buffers are not kept");
        for _ in 4..MOST_PACKETS {
            assert!(early.hold(key(9), Nanos(1), &packet(b"x")));
        }
        assert!(!early.hold(key(10), Nanos(1), &packet(b"")));
        let packets = early.take(&key(9));
        early.give_back(packets);
        assert_eq!(early.spare.len(), SPARE);
        assert!(early.hold(key(10), Nanos(1), &packet(b"again")));
        assert_eq!(payloads(&early.take(&key(10))), [b"again"]);
    }
}
