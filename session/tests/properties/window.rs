//! The sender against a model of a receiver: what has arrived, what its application has read, and so
//! the window it offers. Segments and acknowledgements are lost on the way.

use crate::rig::{ACK, FIN_ACK, ISS, PSH_ACK, Rig, Sent, byte};
use common::flow::{Nanos, ResponseHeader};
use common::packet::{SackBlock, SackBlocks, TcpFlags};
use proptest::prelude::*;
use session::{EngineConfig, Outcome, Rtt};
use std::collections::VecDeque;

/// Linux's and our lower bound of the retransmission timeout, and RFC 6298's upper one.
const RTO_MIN: Nanos = Nanos::from_millis(200);
const RTO_MAX: Nanos = Nanos::from_secs(60);
/// The engine's timers tick in milliseconds.
const TICK: Nanos = Nanos::from_millis(1);

/// The target's side.
struct Receiver {
    /// Bytes that arrived; index 0 is the stream's first.
    arrived: Vec<bool>,
    /// In order so far.
    in_order: u32,
    /// Read by the application.
    read: u32,
    buffer: u32,
    shift: u8,
    fin: bool,
    sack: bool,
}

impl Receiver {
    /// Window field; never taken back (RFC 9293 section 3.8.6.2.2), so the right edge is kept.
    fn window(&self, edge: &mut u32) -> u16 {
        let free = self.buffer - (self.in_order - self.read);
        let wanted = (1 + self.in_order + free).max(*edge);
        let field = (wanted - 1 - self.in_order) >> self.shift;
        let field = field.min(u32::from(u16::MAX));
        *edge = (*edge).max(1 + self.in_order + (field << self.shift));
        field as u16
    }

    /// Takes a segment; bytes beyond the buffer are refused.
    fn take(&mut self, s: &Sent) {
        let room = 1 + self.read + self.buffer;
        for (offset, b) in (s.from..).zip(&s.payload) {
            assert_eq!(*b, byte(offset), "wrong byte at {offset}");
            if offset < room {
                self.arrived[offset as usize - 1] = true;
            }
        }
        self.in_order = self.arrived.iter().take_while(|b| **b).count() as u32;
        let all = self.in_order as usize == self.arrived.len();
        self.fin |= s.flags.has(TcpFlags::FIN) && all;
    }

    fn answer(&self, edge: &mut u32) -> ResponseHeader {
        let window = self.window(edge);
        let ack = 1 + self.in_order + u32::from(self.fin);
        // Its own FIN follows the client's at once.
        let flags = if self.fin { FIN_ACK } else { ACK };
        let mut h = Rig::header(flags, 1, ack, window, 0);
        if self.sack {
            self.report(&mut h);
        }
        h
    }

    /// The first stretch behind the hole.
    fn report(&self, h: &mut ResponseHeader) {
        let at = |from: usize, what: bool| {
            let found = self.arrived.iter().skip(from).position(|b| *b == what);
            found.map_or(self.arrived.len(), |n| from + n)
        };
        let left = at(self.in_order as usize, true);
        let right = at(left, false);
        if left < right {
            h.sack = SackBlocks::new(&[SackBlock {
                left: ISS + 1 + left as u32,
                right: ISS + 1 + right as u32,
            }]);
        }
    }
}

#[derive(Clone, Debug)]
struct Scenario {
    /// Bytes of each captured segment.
    writes: Vec<u32>,
    buffer: u32,
    shift: u8,
    mss: u16,
    sack: bool,
    rtt: Nanos,
    /// What becomes of segments and of acknowledgements in turn: true is lost. Later ones arrive.
    lost: VecDeque<bool>,
    /// Bytes that the application reads each round trip.
    pace: u32,
}

fn scenario() -> impl Strategy<Value = Scenario> {
    (
        prop::collection::vec(1u32..4_000, 1..20),
        1u32..40_000,
        0u8..6,
        prop_oneof![Just(1460u16), 64u16..3_000],
        any::<bool>(),
        1u64..400,
        prop::collection::vec(prop::bool::weighted(0.3), 0..60),
        prop_oneof![Just(u32::MAX), 1u32..3_000],
    )
        .prop_map(
            |(writes, buffer, shift, mss, sack, rtt, lost, pace)| Scenario {
                writes,
                // A window field must be able to say that it is open.
                buffer: buffer.max(2 << shift),
                shift,
                mss,
                sack,
                rtt: Nanos::from_millis(rtt),
                lost: lost.into(),
                pace: pace.max(1 << shift),
            },
        )
}

fn config() -> EngineConfig {
    EngineConfig {
        rtt: Rtt::None,
        no_turns: true,
        response_timeout: Nanos::from_secs(100_000),
        idle_timeout: Nanos::from_secs(1_000_000),
        ..EngineConfig::default()
    }
}

/// Runs the scenario; returns how the session ended and what the receiver has.
fn run(mut s: Scenario) -> (Option<Outcome>, Receiver) {
    let total: u32 = s.writes.iter().sum();
    let mut target = Receiver {
        arrived: vec![false; total as usize],
        in_order: 0,
        read: 0,
        buffer: s.buffer,
        shift: s.shift,
        fin: false,
        sack: s.sack,
    };
    let mut rig = Rig::new(config());
    let initial = s.buffer.min(u32::from(u16::MAX));
    rig.open(s.rtt, initial as u16, s.shift, s.mss);
    // Right edges: the newest that was offered, and the newest that the engine can know of.
    let mut offered = 1 + initial;
    let mut known = offered;
    let mut offset = 1;
    for len in &s.writes {
        rig.client(offset, 0, PSH_ACK, *len);
        offset += len;
    }
    rig.client(offset, 0, FIN_ACK, 0);
    let half = Nanos(s.rtt.0 / 2);
    let mut sent = rig.take_sent();
    for _ in 0..20_000 {
        for seg in &sent {
            let probe = seg.len() == 1;
            assert!(
                seg.end() <= known || probe || seg.len() == 0,
                "sent {}..{} beyond {known}",
                seg.from,
                seg.end()
            );
            assert!(seg.len() <= u32::from(s.mss.clamp(64, 1460)));
        }
        if rig.wire.outcome.is_some() {
            break;
        }
        // Half a round trip there, the application reads, half a round trip back.
        let mut back = Vec::new();
        for seg in &sent {
            if !s.lost.pop_front().unwrap_or(false) {
                target.take(seg);
                back.push(target.answer(&mut offered));
            }
        }
        let unread = target.in_order - target.read;
        target.read += unread.min(s.pace);
        if unread > 0 {
            // The window update that follows reading.
            back.push(target.answer(&mut offered));
        }
        rig.pass_until(rig.now() + half + half);
        for h in &back {
            if !s.lost.pop_front().unwrap_or(false) {
                let edge = h.ack.since(ISS) as u32 + (u32::from(h.window) << s.shift);
                known = known.max(edge);
                rig.respond(h);
            }
        }
        rig.advance();
        sent = rig.take_sent();
        if sent.is_empty() && back.is_empty() {
            // Only a timer brings it on.
            let due = rig.engine.next_deadline().expect("something is to come");
            rig.pass_until(due);
            sent = rig.take_sent();
        }
    }
    (rig.wire.outcome, target)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// RFC 9293 section 3.8.6: nothing beyond the window that was offered, but one byte to probe it;
    /// and in the end everything arrives, whatever is lost.
    #[test]
    fn the_window_is_kept_and_everything_arrives(s in scenario()) {
        let (outcome, target) = run(s);
        prop_assert_eq!(target.in_order as usize, target.arrived.len());
        prop_assert!(target.fin);
        prop_assert_eq!(outcome, Some(Outcome::Completed));
    }

    /// RFC 6298 (5.5), (2.4) and (2.5): without any answer each wait is twice the one before, from the
    /// minimum to the maximum, and the session ends at its limit.
    #[test]
    fn the_timeout_doubles_until_the_session_ends(
        rtt in 1u64..900,
        len in 1u32..5_000,
        limit in 1u64..400,
    ) {
        let limit = Nanos::from_secs(limit);
        let mut rig = Rig::new(EngineConfig { response_timeout: limit, ..config() });
        rig.open(Nanos::from_millis(rtt), 60_000, 0, 1460);
        rig.client(1, 0, PSH_ACK, len);
        rig.advance();
        let begun = rig.now();
        rig.take_sent();
        rig.pass_until(begun + limit + Nanos::from_secs(1));
        prop_assert_eq!(rig.wire.outcome, Some(Outcome::TimedOut));
        let again = rig.take_sent();
        let (reset, again) = again.split_last().expect("at least the reset");
        prop_assert!(reset.flags.has(TcpFlags::RST));
        prop_assert!(reset.at.since(begun) >= limit && reset.at.since(begun) <= limit + TICK + TICK);
        let times: Vec<Nanos> = [begun].into_iter().chain(again.iter().map(|s| s.at)).collect();
        let waits: Vec<u64> = times.windows(2).map(|w| w[1].since(w[0]).0).collect();
        // SRTT + 4 * RTTVAR of the one sample is three round trips.
        let first = (3 * rtt * 1_000_000).clamp(RTO_MIN.0, RTO_MAX.0);
        for (n, wait) in waits.iter().enumerate() {
            let expected = first.saturating_mul(1 << n.min(20)).min(RTO_MAX.0);
            prop_assert!(wait.abs_diff(expected) <= 2 * TICK.0, "{waits:?}, first {first}");
        }
        // One segment each time, always the oldest.
        prop_assert!(again.iter().all(|s| s.from == 1 && s.len() == len.min(1448)));
    }
}
