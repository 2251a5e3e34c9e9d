//! Turn-taking: a request that the client sent after reading an answer must not reach the target before
//! the target has given that answer.
//!
//! The client's acknowledgement numbers tell how many answer bytes it had read when it sent something.
//! Data with a higher acknowledgement than the data before begins a new turn; `need` is the difference.
//! Before it is sent the target must have answered the turn before. The rules, first that holds:
//!
//! 1. at least `need` bytes came and the last segment had PSH or was shorter than the MSS;
//! 2. at least one byte came, the last segment had PSH, and then it was quiet for
//!    max([`QUIET_MIN`], 2 x RTT): an answer of another length;
//! 3. the target closed or reset;
//! 4. the turn limit passed: the session goes on as captured, counted.
//!
//! A full-duplex session is not held back, but its close is: until all the answers came that the client had read when
//! it closed, or by rules 3 and 4. A server that reads the end before it has answered what lies in front of it closes
//! too, and never looks at the rest.

use common::flow::Nanos;
use common::packet::SeqNumber;

/// Shortest silence that ends an answer. Below it, scheduling of a loaded target looks like silence.
const QUIET_MIN: Nanos = Nanos::from_millis(2);
/// Pieces of evidence before a session counts as full-duplex: one may be a capture that ran late.
const DUPLEX_EVIDENCE: u8 = 3;
/// Shortest round trip that can give evidence. It is measured once, and on a near client mostly shows how late the
/// scheduler was then: its later requests, twice as fast, would all look like evidence.
const DUPLEX_RTT_MIN: Nanos = Nanos::from_millis(5);
/// Turns that may run into the limit in a row before a session is no longer held back: a protocol
/// whose server side speaks by itself would otherwise wait for its full limit each time.
const EXPIRED_IN_A_ROW: u8 = 2;

/// What the target has answered so far, kept by the receiver.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Answered {
    /// Payload bytes up to the highest seen, of the whole connection.
    pub(crate) bytes: u64,
    /// When the last payload came.
    pub(crate) at: Nanos,
    /// The last payload segment had PSH.
    pub(crate) psh: bool,
    /// The last payload segment was shorter than the MSS.
    pub(crate) short: bool,
    /// The target sent its FIN.
    pub(crate) fin: bool,
}

/// Whether data may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Go,
    /// Not before; ask again when something arrives, or at the given time.
    Wait(Nanos),
}

#[derive(Clone, Debug)]
pub(crate) struct Turns {
    /// Acknowledgement number of the turn that is being sent.
    ack: SeqNumber,
    /// Something was sent.
    started: bool,
    /// Answer bytes that were there when this turn began.
    baseline: u64,
    /// Acknowledgement number of the connection's first data: where the answers began.
    first: SeqNumber,
    /// Sequence number of the turn's first byte, where it was preceded by another on this connection.
    from: Option<SeqNumber>,
    /// Since when the next turn waits.
    waiting: Option<Nanos>,
    expired_in_a_row: u8,
    evidence: u8,
    unlimited: bool,
    /// Unlimited because somebody wished so (`-W`): closes as captured, too.
    as_captured: bool,
    /// Capture time and highest acknowledgement of client segments so far, for duplex evidence.
    last_data_at: Option<Nanos>,
    highest_ack: SeqNumber,
}

/// What [`Turns::gate`] found beside its verdict, for the totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TurnEvents {
    /// A turn was given up.
    pub(crate) expired: bool,
    /// The session will not be held back any more.
    pub(crate) became_duplex: bool,
}

impl Turns {
    /// `ack` is the client's acknowledgement of production's SYN, as far as known.
    pub(crate) fn new(ack: SeqNumber, unlimited: bool) -> Self {
        Self {
            ack,
            started: false,
            baseline: 0,
            first: ack,
            from: None,
            waiting: None,
            expired_in_a_row: 0,
            evidence: 0,
            unlimited,
            as_captured: unlimited,
            last_data_at: None,
            highest_ack: ack,
        }
    }

    /// Sees each captured segment in capture order. A client that acknowledges new answer bytes sooner
    /// after its own data than its round trip allows cannot be reading the answer to that data: both
    /// sides talk at once. Returns true when that makes the session full-duplex.
    pub(crate) fn observe(
        &mut self,
        at: Nanos,
        ack: SeqNumber,
        has_payload: bool,
        client_rtt: Option<Nanos>,
    ) -> bool {
        if !self.started && ack.before(self.ack) {
            // The capture brought a later packet first.
            self.ack = ack;
            self.first = ack;
        }
        let advanced = ack.after(self.highest_ack);
        if advanced {
            if let (false, Some(sent), Some(rtt)) = (has_payload, self.last_data_at, client_rtt)
                && rtt >= DUPLEX_RTT_MIN
                && at.since(sent).0 < rtt.0 / 2
            {
                self.evidence = self.evidence.saturating_add(1);
            }
            self.highest_ack = ack;
        }
        if has_payload {
            self.last_data_at = Some(at);
        }
        if self.evidence >= DUPLEX_EVIDENCE && !self.unlimited {
            self.unlimited = true;
            return true;
        }
        false
    }

    /// How far the client has read, as far as it said.
    pub(crate) fn highest_ack(&self) -> SeqNumber {
        self.highest_ack
    }

    /// The client had read more when it sent data with `ack`: a new turn.
    pub(crate) fn begins(&self, ack: SeqNumber) -> bool {
        ack.after(self.ack)
    }

    /// A turn begins with the byte at `from`.
    pub(crate) fn begun(&mut self, from: SeqNumber) {
        self.from = Some(from);
    }

    /// Nothing of the turn that is being sent has had any effect that shows: the target answered the one before on
    /// this connection, but of this one not even the first byte, `una`, is acknowledged.
    pub(crate) fn without_effect(&self, una: SeqNumber, answered: &Answered) -> bool {
        self.from == Some(una)
            && self.baseline > 0
            && answered.bytes == self.baseline
            && !self.full_duplex()
    }

    /// The target's side begins anew, on another connection, with the data that has `ack`.
    pub(crate) fn restart(&mut self, ack: SeqNumber) {
        self.ack = self.ack.max(ack);
        self.first = self.ack;
        self.from = None;
        self.baseline = 0;
        self.waiting = None;
    }

    /// The session is not held back because both sides talk at once.
    pub(crate) fn full_duplex(&self) -> bool {
        self.unlimited && !self.as_captured
    }

    /// May the close go now, FIN or RST, that the client sent with acknowledgement number `ack`?
    pub(crate) fn gate_close(
        &mut self,
        now: Nanos,
        ack: SeqNumber,
        answered: &Answered,
        target_rtt: Nanos,
        limit: Nanos,
    ) -> (Gate, TurnEvents) {
        // More than 2 GiB of answers do not fit into the difference: such a session closes as captured.
        let need = ack.since(self.first);
        if self.full_duplex() && !answered.fin && answered.bytes < need.max(0) as u64 {
            let expires = *self.waiting.get_or_insert(now) + limit;
            if now < expires {
                return (Gate::Wait(expires), TurnEvents::default());
            }
        }
        self.gate(now, ack, answered, target_rtt, limit)
    }

    /// May data that the client sent with acknowledgement number `ack` go now?
    pub(crate) fn gate(
        &mut self,
        now: Nanos,
        ack: SeqNumber,
        answered: &Answered,
        target_rtt: Nanos,
        limit: Nanos,
    ) -> (Gate, TurnEvents) {
        let mut events = TurnEvents::default();
        let need = ack.since(self.ack);
        if need <= 0 {
            self.started = true;
            return (Gate::Go, events);
        }
        let came = answered.bytes - self.baseline.min(answered.bytes);
        let since = *self.waiting.get_or_insert(now);
        let mut verdict = Gate::Go;
        if self.unlimited || answered.fin {
        } else if came >= need as u64 && (answered.psh || answered.short) {
            self.expired_in_a_row = 0;
        } else {
            let expires = since + limit;
            let quiet = answered.at + QUIET_MIN.max(Nanos(target_rtt.0.saturating_mul(2)));
            let ended = came > 0 && answered.psh;
            if ended && now >= quiet {
                self.expired_in_a_row = 0;
            } else if now >= expires {
                events.expired = true;
                self.expired_in_a_row += 1;
                if self.expired_in_a_row >= EXPIRED_IN_A_ROW {
                    self.unlimited = true;
                    events.became_duplex = true;
                }
            } else {
                verdict = Gate::Wait(if ended { quiet.min(expires) } else { expires });
            }
        }
        if verdict == Gate::Go {
            self.started = true;
            self.ack = ack;
            self.baseline = answered.bytes;
            self.waiting = None;
        }
        (verdict, events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Nanos = Nanos::from_secs(5);
    const RTT: Nanos = Nanos::from_micros(300);
    const PROD: SeqNumber = SeqNumber(u32::MAX - 10);

    fn ms(n: u64) -> Nanos {
        Nanos::from_millis(n)
    }

    fn answered(bytes: u64, at: u64, psh: bool) -> Answered {
        Answered {
            bytes,
            at: ms(at),
            psh,
            short: false,
            fin: false,
        }
    }

    fn verdict(t: &mut Turns, now: u64, ack: SeqNumber, a: &Answered) -> Gate {
        t.gate(ms(now), ack, a, RTT, LIMIT).0
    }

    #[test]
    fn pipelined_data_is_one_turn() {
        let mut t = Turns::new(PROD, false);
        assert_eq!(verdict(&mut t, 1, PROD, &Answered::default()), Gate::Go);
        assert_eq!(verdict(&mut t, 1, PROD, &Answered::default()), Gate::Go);
    }

    #[test]
    fn rule_1_the_whole_answer_releases_at_once() {
        let mut t = Turns::new(PROD, false);
        assert_eq!(
            verdict(&mut t, 10, PROD + 1000, &Answered::default()),
            Gate::Wait(ms(5010))
        );
        assert_eq!(
            verdict(&mut t, 11, PROD + 1000, &answered(999, 11, false)),
            Gate::Wait(ms(5010))
        );
        assert_eq!(
            verdict(&mut t, 11, PROD + 1000, &answered(1000, 11, true)),
            Gate::Go
        );
        // The next turn counts from there.
        assert_eq!(
            verdict(&mut t, 12, PROD + 1500, &answered(1000, 11, true)),
            Gate::Wait(ms(5012))
        );
    }

    #[test]
    fn rule_2_a_shorter_answer_releases_after_silence() {
        let mut t = Turns::new(PROD, false);
        assert_eq!(
            verdict(&mut t, 10, PROD + 1000, &answered(10, 10, true)),
            Gate::Wait(ms(12))
        );
        assert_eq!(
            verdict(&mut t, 12, PROD + 1000, &answered(10, 10, true)),
            Gate::Go
        );
    }

    #[test]
    fn rule_3_a_close_releases() {
        let mut t = Turns::new(PROD, false);
        let closed = Answered {
            fin: true,
            ..Answered::default()
        };
        assert_eq!(verdict(&mut t, 10, PROD + 1000, &closed), Gate::Go);
    }

    #[test]
    fn rule_4_the_limit_releases_and_repeated_expiry_ends_throttling() {
        let mut t = Turns::new(PROD, false);
        let none = Answered::default();
        assert_eq!(verdict(&mut t, 0, PROD + 1, &none), Gate::Wait(ms(5000)));
        let (gate, events) = t.gate(ms(5000), PROD + 1, &none, RTT, LIMIT);
        assert_eq!(
            (gate, events.expired, events.became_duplex),
            (Gate::Go, true, false)
        );
        t.gate(ms(5000), PROD + 2, &none, RTT, LIMIT);
        let (_, events) = t.gate(ms(10_000), PROD + 2, &none, RTT, LIMIT);
        assert!(events.expired && events.became_duplex);
        assert_eq!(verdict(&mut t, 10_000, PROD + 9000, &none), Gate::Go);
    }

    #[test]
    fn a_full_duplex_session_closes_after_the_answers_that_the_client_had_read() {
        let mut t = Turns::new(PROD, false);
        for n in 0..3u32 {
            t.observe(ms(100), PROD + n * 100, true, Some(ms(20)));
            t.observe(ms(101), PROD + n * 100 + 50, false, Some(ms(20)));
        }
        // Data goes as captured, whatever the target has said.
        for n in 1..=3 {
            let ack = PROD + n * 1000;
            assert_eq!(verdict(&mut t, 10, ack, &Answered::default()), Gate::Go);
        }
        let mut close = |now: u64, answered: &Answered| {
            t.gate_close(ms(now), PROD + 3000, answered, RTT, LIMIT).0
        };
        let late = answered(2999, 10, true);
        assert_eq!(close(11, &late), Gate::Wait(ms(5011)));
        assert_eq!(close(5010, &late), Gate::Wait(ms(5011)));
        assert_eq!(close(5010, &answered(3000, 5010, true)), Gate::Go);
        let mut other = Turns::new(PROD, false);
        other.unlimited = true;
        let mut close = |now: u64, answered: &Answered| {
            other
                .gate_close(ms(now), PROD + 3000, answered, RTT, LIMIT)
                .0
        };
        assert_eq!(close(1, &late), Gate::Wait(ms(5001)));
        assert_eq!(close(5001, &late), Gate::Go, "the turn limit");
        // As captured means all of it.
        let mut as_captured = Turns::new(PROD, true);
        let (gate, _) = as_captured.gate_close(ms(1), PROD + 3000, &late, RTT, LIMIT);
        assert_eq!(gate, Gate::Go);
    }

    #[test]
    fn a_near_client_whose_handshake_was_slow_is_not_full_duplex() {
        let mut t = Turns::new(PROD, false);
        for n in 0..9u64 {
            let (at, ack) = (ms(100 * n), PROD + n as u32 * 100);
            t.observe(at, ack, true, Some(ms(3)));
            assert!(!t.observe(at + ms(1), ack + 99, false, Some(ms(3))));
        }
    }

    #[test]
    fn acknowledgements_faster_than_the_round_trip_are_full_duplex() {
        let mut t = Turns::new(PROD, false);
        let rtt = Some(ms(20));
        for n in 0..3u32 {
            assert!(!t.observe(ms(100), PROD + n * 100, true, rtt));
            let became = t.observe(ms(101), PROD + n * 100 + 50, false, rtt);
            assert_eq!(became, n == 2);
        }
        // Ordinary request and answer: the acknowledgement comes a round trip later.
        let mut t = Turns::new(PROD, false);
        for n in 0..9u32 {
            t.observe(ms(100 * u64::from(n)), PROD + n * 100, true, rtt);
            assert!(!t.observe(ms(100 * u64::from(n) + 21), PROD + n * 100 + 99, false, rtt));
        }
    }
}
