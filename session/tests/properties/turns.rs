//! Turn-taking against its own definition: a request that the client sent after reading an answer does
//! not reach the target before the target has answered, unless the limit passed; and it is not held back
//! for longer than that.

use crate::rig::{ACK, FIN_ACK, PSH_ACK, Rig, Sent};
use common::flow::Nanos;
use common::packet::TcpFlags;
use proptest::prelude::*;
use session::{EngineConfig, Outcome, Rtt};
use std::collections::VecDeque;

/// Shortest silence that ends an answer of another length (`turn.rs`).
const QUIET_MIN: Nanos = Nanos::from_millis(2);
const LIMIT: Nanos = Nanos::from_millis(400);
/// The engine's timers tick in milliseconds; one to be set, one to fire.
const TICKS: Nanos = Nanos::from_millis(2);
/// Payload of a full segment of the target: the client offers an MSS of 1460 and no timestamps.
const FULL: u32 = 1460;

#[derive(Clone, Debug)]
struct Turn {
    request: u32,
    /// Production's answer, which the client read before its next request.
    answer: u32,
    /// The target's answer: how long, in how many pieces, after how much work.
    other: u32,
    pieces: u32,
    delay: Nanos,
    /// Pause of the captured client in front of this request.
    think: Nanos,
}

fn turns(exact: bool) -> impl Strategy<Value = Vec<Turn>> {
    let turn = (
        1u32..3_000,
        1u32..5_000,
        1u32..5_000,
        1u32..5,
        // Some answers take longer than the limit.
        prop_oneof![8 => 0u64..50, 1 => 300u64..900],
        0u64..20,
    )
        .prop_map(move |(request, answer, other, pieces, delay, think)| Turn {
            request,
            answer,
            other: if exact { answer } else { other },
            pieces: pieces.min(if exact { answer } else { other }),
            delay: Nanos::from_millis(delay),
            think: Nanos::from_millis(think),
        });
    prop::collection::vec(turn, 1..10)
}

/// A target that answers each request when it has all of it.
#[derive(Default)]
struct Target {
    /// Request bytes it has.
    got: u32,
    said: u32,
    last: Option<(Nanos, u32, bool)>,
    /// Pieces still to be said: when, length, PSH.
    pieces: VecDeque<(Nanos, u32, bool)>,
}

impl Target {
    fn answer(&mut self, turn: &Turn, now: Nanos) {
        let mut at = now + turn.delay;
        if let Some((before, ..)) = self.pieces.back() {
            at = at.max(*before);
        }
        for n in 1..=turn.pieces {
            let part = turn.other / turn.pieces;
            let last = n == turn.pieces;
            let rest = if last { turn.other % turn.pieces } else { 0 };
            self.pieces.push_back((at, part + rest, last));
            at += Nanos::from_micros(300);
        }
    }
}

struct Run<'a> {
    rig: Rig,
    target: Target,
    turns: &'a [Turn],
    /// When each request was captured, and where it ends in the client's stream.
    captured: Vec<Nanos>,
    ends: Vec<u32>,
    /// Answer bytes that had come when the newest turn began, and when its last byte was sent.
    baseline: u32,
    sent_at: Nanos,
    /// Turns that ran into the limit, by the engine's count, before the newest.
    expired: u64,
}

impl Run<'_> {
    fn arrives(&mut self, sent: &[Sent]) {
        for s in sent.iter().filter(|s| s.len() > 0) {
            assert_eq!(s.from, self.target.got + 1, "nothing is lost here");
            let n = self.ends.partition_point(|end| *end < s.from);
            let first = n.checked_sub(1).map_or(1, |before| self.ends[before] + 1);
            if s.from == first && n > 0 {
                self.begins(n, s.at);
            }
            self.target.got = s.end() - 1;
            if self.target.got == self.ends[n] {
                self.sent_at = s.at;
                self.target.answer(&self.turns[n], s.at);
            }
            let ack = Rig::header(ACK, 1 + self.target.said, s.end(), 60_000, 0);
            self.rig.respond(&ack);
        }
    }

    /// The rules of `turn.rs`, first of all that the answer is there.
    fn begins(&mut self, n: usize, now: Nanos) {
        let need = self.turns[n - 1].answer;
        let came = self.target.said - self.baseline;
        let whole = self
            .target
            .last
            .is_some_and(|(_, len, psh)| came >= need && (psh || !len.is_multiple_of(FULL)));
        let quiet = self
            .target
            .last
            .is_some_and(|(at, _, psh)| came > 0 && psh && now >= at + QUIET_MIN);
        let totals = self.rig.engine.totals();
        let since = self.captured[n].max(self.sent_at);
        let expired = totals.turns_expired > self.expired && now >= since + LIMIT;
        let unlimited = totals.full_duplex > 0;
        assert!(
            whole || quiet || expired || unlimited,
            "request {n} sent at {now:?}, waiting since {since:?}, {came} of {need} bytes"
        );
        assert!(
            now <= since + LIMIT + TICKS,
            "request {n} sent at {now:?}, waiting since {since:?}"
        );
        self.expired = totals.turns_expired;
        self.baseline = self.target.said;
    }

    fn says(&mut self) {
        while let Some((_, len, psh)) = self.target.pieces.pop_front_if(|p| p.0 <= self.rig.now()) {
            let flags = if psh { PSH_ACK } else { ACK };
            let ack = 1 + self.target.got;
            let h = Rig::header(flags, 1 + self.target.said, ack, 60_000, len);
            self.target.said += len;
            self.target.last = Some((self.rig.now(), len, psh));
            self.rig.respond(&h);
            self.settle();
        }
    }

    fn settle(&mut self) {
        self.rig.advance();
        loop {
            let sent = self.rig.take_sent();
            if sent.is_empty() {
                return;
            }
            self.arrives(&sent);
        }
    }

    /// Time goes on to `until`, the target speaks in between.
    fn pass_until(&mut self, until: Nanos) {
        loop {
            let next = [
                self.target.pieces.front().map(|p| p.0),
                self.rig.engine.next_deadline(),
            ];
            let next = next.into_iter().flatten().min().unwrap_or(until);
            if next > until {
                break;
            }
            self.rig.wire.now = self.rig.now().max(next);
            self.says();
            self.settle();
        }
        self.rig.wire.now = until;
        self.settle();
    }
}

/// Runs the turns; the engine's count of those that expired.
fn run(turns: &[Turn]) -> Run<'_> {
    let mut rig = Rig::new(EngineConfig {
        rtt: Rtt::None,
        turn_limit: LIMIT,
        ..EngineConfig::default()
    });
    rig.open(Nanos::from_micros(100), 60_000, 0, 1460);
    rig.take_sent();
    let mut run = Run {
        target: Target::default(),
        turns,
        captured: Vec::new(),
        ends: Vec::new(),
        baseline: 0,
        sent_at: rig.now(),
        expired: 0,
        rig,
    };
    let (mut offset, mut read) = (1, 0);
    for t in turns {
        run.pass_until(run.rig.now() + t.think);
        run.captured.push(run.rig.now());
        run.ends.push(offset + t.request - 1);
        run.rig.client(offset, read, PSH_ACK, t.request);
        offset += t.request;
        read += t.answer;
        run.settle();
    }
    // The client closes when it has read the last answer; so does the target.
    run.rig.client(offset, read, FIN_ACK, 0);
    let most = Nanos((LIMIT.0 + 1_000_000_000) * turns.len() as u64);
    run.pass_until(run.rig.now() + most);
    assert_eq!(run.target.got, offset - 1, "every request arrives");
    let fin = Rig::header(
        TcpFlags::FIN.with(ACK),
        1 + run.target.said,
        offset + 1,
        60_000,
        0,
    );
    run.rig.respond(&fin);
    assert_eq!(run.rig.wire.outcome, Some(Outcome::Completed));
    run
}

proptest! {
    #[test]
    fn a_request_waits_for_the_whole_answer_of_the_same_length(turns in turns(true)) {
        // `Run::begins` checks each request; without expiry only by rule 1.
        let run = run(&turns);
        let slow = turns.iter().any(|t| t.delay >= Nanos::from_millis(300));
        prop_assert!(slow || run.rig.engine.totals().turns_expired == 0);
        prop_assert_eq!(run.rig.engine.totals().responses_stray, 0);
    }

    #[test]
    fn an_answer_of_another_length_ends_by_silence_or_by_the_limit(turns in turns(false)) {
        let run = run(&turns);
        prop_assert_eq!(run.rig.engine.totals().responses_stray, 0);
    }
}
