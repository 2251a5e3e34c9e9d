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
//!
//! Rule 2 may be wrong: a target that waited for a processor was silent in the middle of an answer, the rest of which then
//! passes for the answer to the next turn. Data that comes early waits in the target's socket; a close would cut off the
//! request before it. So if the last turn did not begin with exactly the answers that the client had read then, its close
//! waits for exactly those that the client had read at its end, or for a longer silence ([`CLOSE_QUIET`]).

use crate::time::{Brief, Clock, Span, Tick};
use common::flow::Nanos;
use common::packet::SeqNumber;

/// Shortest silence that ends an answer. Below it, scheduling of a loaded target looks like silence.
const QUIET_MIN: Span = Span::of(Nanos::from_millis(2));
/// Silence before a close where it is not certain which turn the target answers. Longer than a loaded target is kept from
/// its processor, or takes to send a lost segment twice more (after 200 and 400 ms, `TCP_RTO_MIN` of Linux).
const CLOSE_QUIET: Span = Span::of(Nanos::from_secs(1));
/// Pieces of evidence before a session counts as full-duplex: one may be a capture that ran late.
const DUPLEX_EVIDENCE: u8 = 3;
/// Shortest round trip that can give evidence. It is measured once, and on a near client mostly shows how late the
/// scheduler was then: its later requests, twice as fast, would all look like evidence.
const DUPLEX_RTT_MIN: Span = Span::of(Nanos::from_millis(5));
/// Turns that may run into the limit in a row before a session is no longer held back: a protocol
/// whose server side speaks by itself would otherwise wait for its full limit each time.
const EXPIRED_IN_A_ROW: u8 = 2;

/// What the target has answered so far, kept by the receiver.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Answered {
    /// Payload bytes up to the highest seen, of the whole connection, modulo 2^32.
    pub(crate) bytes: u32,
    /// When the last payload came.
    pub(crate) at: Option<Brief>,
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
    Wait(Tick),
}

pub(crate) struct Turns {
    /// Acknowledgement number of the turn that is being sent.
    ack: SeqNumber,
    /// Answer bytes that were there when this turn began.
    baseline: u32,
    /// Acknowledgement number of the connection's first data: where the answers began.
    first: SeqNumber,
    /// Sequence number of the turn's first byte, if `preceded`.
    from: SeqNumber,
    /// Since when the next turn waits.
    waiting: Option<Tick>,
    /// Capture time and highest acknowledgement of client segments so far, for duplex evidence.
    last_data_at: Option<Brief>,
    highest_ack: SeqNumber,
    expired_in_a_row: u8,
    evidence: u8,
    facts: u8,
}

/// The client's side of the handshake was captured: the numbers mean something.
const KNOWN: u8 = 1;
/// Something was sent.
const STARTED: u8 = 1 << 1;
/// The turn was preceded by another on this connection.
const PRECEDED: u8 = 1 << 2;
/// Not held back any more.
const UNLIMITED: u8 = 1 << 3;
/// Unlimited because somebody wished so (`-W`): closes as captured, too.
const AS_CAPTURED: u8 = 1 << 4;

/// What [`Turns::gate`] found beside its verdict, for the totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TurnEvents {
    /// A turn was given up.
    pub(crate) expired: bool,
    /// The session will not be held back any more.
    pub(crate) became_duplex: bool,
}

impl Turns {
    /// Nothing is known yet.
    pub(crate) fn new(unlimited: bool) -> Self {
        Self {
            ack: SeqNumber(0),
            baseline: 0,
            first: SeqNumber(0),
            from: SeqNumber(0),
            waiting: None,
            last_data_at: None,
            highest_ack: SeqNumber(0),
            expired_in_a_row: 0,
            evidence: 0,
            facts: if unlimited {
                UNLIMITED | AS_CAPTURED
            } else {
                0
            },
        }
    }

    #[inline]
    fn is(&self, fact: u8) -> bool {
        self.facts & fact != 0
    }

    /// A packet behind the captured SYN was seen.
    #[inline]
    pub(crate) fn is_known(&self) -> bool {
        self.is(KNOWN)
    }

    /// `ack` is the client's acknowledgement of production's SYN, as far as known.
    pub(crate) fn begin(&mut self, ack: SeqNumber) {
        self.ack = ack;
        self.first = ack;
        self.highest_ack = ack;
        self.facts |= KNOWN;
    }

    /// Sees each captured segment in capture order. A client that acknowledges new answer bytes sooner
    /// after its own data than its round trip allows cannot be reading the answer to that data: both
    /// sides talk at once. Returns true when that makes the session full-duplex.
    #[inline]
    pub(crate) fn observe(
        &mut self,
        at: Brief,
        ack: SeqNumber,
        has_payload: bool,
        client_rtt: Option<Span>,
    ) -> bool {
        if !self.is(STARTED) && ack.before(self.ack) {
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
            return false;
        }
        if self.evidence >= DUPLEX_EVIDENCE && !self.is(UNLIMITED) {
            self.facts |= UNLIMITED;
            return true;
        }
        false
    }

    /// How far the client had read when it sent what is being sent now.
    pub(crate) fn ack(&self) -> SeqNumber {
        self.ack
    }

    /// How far the client has read, as far as it said.
    pub(crate) fn highest_ack(&self) -> SeqNumber {
        self.highest_ack
    }

    /// The client had read more when it sent data with `ack`: a new turn.
    #[inline]
    pub(crate) fn begins(&self, ack: SeqNumber) -> bool {
        self.is(KNOWN) && ack.after(self.ack)
    }

    /// More of the turn that is being sent.
    #[inline]
    pub(crate) fn goes_on(&mut self) {
        self.facts |= STARTED;
    }

    /// A turn begins with the byte at `from`.
    pub(crate) fn begun(&mut self, from: SeqNumber) {
        self.from = from;
        self.facts |= PRECEDED;
    }

    /// Nothing of the turn that is being sent has had any effect that shows: the target answered the one before on
    /// this connection, but of this one not even the first byte, `una`, is acknowledged.
    pub(crate) fn without_effect(&self, una: SeqNumber, answered: &Answered) -> bool {
        self.is(PRECEDED)
            && self.from == una
            && self.baseline > 0
            && answered.bytes == self.baseline
            && !self.full_duplex()
    }

    /// The target's side begins anew, on another connection, with the data that has `ack`.
    pub(crate) fn restart(&mut self, ack: SeqNumber) {
        self.ack = self.ack.max(ack);
        self.first = self.ack;
        self.facts &= !PRECEDED;
        self.baseline = 0;
        self.waiting = None;
    }

    /// The session is not held back because both sides talk at once.
    pub(crate) fn full_duplex(&self) -> bool {
        self.is(UNLIMITED) && !self.is(AS_CAPTURED)
    }

    /// The target has answered all that the client had read when it sent `ack`, as far as rules 1 and 2
    /// can tell without waiting for silence.
    pub(crate) fn answered(&self, ack: SeqNumber, answered: &Answered) -> bool {
        let need = ack.since(self.ack);
        let came = answered.bytes.wrapping_sub(self.baseline);
        !self.is(KNOWN) || need <= 0 || came >= need as u32 || (came > 0 && answered.psh)
    }

    /// The turn that begins with `ack` need not wait: rules 1 and 3, or no rule at all.
    #[inline]
    pub(crate) fn is_released(&self, ack: SeqNumber, answered: &Answered) -> bool {
        let need = ack.since(self.ack) as u32;
        let came = answered.bytes.wrapping_sub(self.baseline);
        self.is(UNLIMITED) || answered.fin || (came >= need && (answered.psh || answered.short))
    }

    /// The turn that begins with `ack`, at `from`, goes; see [`Turns::is_released`].
    #[inline]
    pub(crate) fn released(&mut self, ack: SeqNumber, from: SeqNumber, answered: &Answered) {
        if !self.is(UNLIMITED) && !answered.fin {
            self.expired_in_a_row = 0;
        }
        self.start(ack, answered);
        self.begun(from);
    }

    #[inline]
    fn start(&mut self, ack: SeqNumber, answered: &Answered) {
        self.facts |= STARTED;
        self.ack = ack;
        self.baseline = answered.bytes;
        self.waiting = None;
    }

    /// May the close go now, FIN or RST, that the client sent with acknowledgement number `ack`?
    pub(crate) fn gate_close(
        &mut self,
        now: Clock,
        ack: SeqNumber,
        answered: &Answered,
        target_rtt: Span,
        limit_ticks: u32,
    ) -> (Gate, TurnEvents) {
        if self.is(KNOWN) && !answered.fin && !self.all_answered(ack, answered) {
            let expires = self.waiting.get_or_insert(now.from).plus(limit_ticks);
            let silence = answered.at.map_or(Span(0), |at| now.brief.since(at));
            let until = if self.full_duplex() {
                expires
            } else {
                let over = now.at + Span(CLOSE_QUIET.0.saturating_sub(silence.0)).nanos();
                Tick::after(over).min(expires)
            };
            if !until.due(now.tick) {
                return (Gate::Wait(until), TurnEvents::default());
            }
        }
        self.gate(now, ack, answered, target_rtt, limit_ticks)
    }

    /// No answer is missing of those that the client had read when it sent `ack`: surely, or as far as the turns tell,
    /// if these are in step.
    fn all_answered(&self, ack: SeqNumber, answered: &Answered) -> bool {
        let need = ack.since(self.first);
        if self.full_duplex() {
            // More than 2 GiB of answers do not fit into the difference: such a session closes as captured.
            return answered.bytes >= need.max(0) as u32;
        }
        let in_step = self.baseline == self.ack.since(self.first) as u32;
        self.is(UNLIMITED) || !self.is(PRECEDED) || in_step || answered.bytes == need as u32
    }

    /// May data that the client sent with acknowledgement number `ack` go now?
    #[inline]
    pub(crate) fn gate(
        &mut self,
        now: Clock,
        ack: SeqNumber,
        answered: &Answered,
        target_rtt: Span,
        limit_ticks: u32,
    ) -> (Gate, TurnEvents) {
        let mut events = TurnEvents::default();
        let need = ack.since(self.ack);
        if !self.is(KNOWN) || need <= 0 {
            self.facts |= STARTED;
            return (Gate::Go, events);
        }
        let mut verdict = Gate::Go;
        if self.is_released(ack, answered) {
            if !self.is(UNLIMITED) && !answered.fin {
                self.expired_in_a_row = 0;
            }
        } else {
            let came = answered.bytes.wrapping_sub(self.baseline);
            let expires = self.waiting.get_or_insert(now.from).plus(limit_ticks);
            let quiet = QUIET_MIN.max(Span(target_rtt.0.saturating_mul(2)));
            let silence = answered.at.map_or(Span(0), |at| now.brief.since(at));
            let ended = came > 0 && answered.psh;
            if ended && silence >= quiet {
                self.expired_in_a_row = 0;
            } else if expires.due(now.tick) {
                events.expired = true;
                self.expired_in_a_row += 1;
                if self.expired_in_a_row >= EXPIRED_IN_A_ROW {
                    self.facts |= UNLIMITED;
                    events.became_duplex = true;
                }
            } else if ended {
                let over = now.at + Span(quiet.0 - silence.0).nanos();
                verdict = Gate::Wait(Tick::after(over).min(expires));
            } else {
                verdict = Gate::Wait(expires);
            }
        }
        if verdict == Gate::Go {
            self.start(ack, answered);
        }
        (verdict, events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u32 = 5_000;
    const RTT: Span = Span::of(Nanos::from_micros(300));
    const PROD: SeqNumber = SeqNumber(u32::MAX - 10);

    fn ms(n: u64) -> Clock {
        // Moments have no zero.
        Clock::at(Nanos::from_millis(1_000 + n))
    }

    fn wait(until: u64) -> Gate {
        Gate::Wait(ms(until).tick)
    }

    fn rtt(n: u64) -> Span {
        Span::of(Nanos::from_millis(n))
    }

    fn turns(unlimited: bool) -> Turns {
        let mut t = Turns::new(unlimited);
        t.begin(PROD);
        t
    }

    fn answered(bytes: u32, at: u64, psh: bool) -> Answered {
        Answered {
            bytes,
            at: Some(ms(at).brief),
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
        let mut t = turns(false);
        assert_eq!(verdict(&mut t, 1, PROD, &Answered::default()), Gate::Go);
        assert_eq!(verdict(&mut t, 1, PROD, &Answered::default()), Gate::Go);
    }

    #[test]
    fn rule_1_the_whole_answer_releases_at_once() {
        let mut t = turns(false);
        assert_eq!(
            verdict(&mut t, 10, PROD + 1000, &Answered::default()),
            wait(5010)
        );
        assert_eq!(
            verdict(&mut t, 11, PROD + 1000, &answered(999, 11, false)),
            wait(5010)
        );
        assert_eq!(
            verdict(&mut t, 11, PROD + 1000, &answered(1000, 11, true)),
            Gate::Go
        );
        // The next turn counts from there.
        assert_eq!(
            verdict(&mut t, 12, PROD + 1500, &answered(1000, 11, true)),
            wait(5012)
        );
    }

    #[test]
    fn rule_2_a_shorter_answer_releases_after_silence() {
        let mut t = turns(false);
        assert_eq!(
            verdict(&mut t, 10, PROD + 1000, &answered(10, 10, true)),
            wait(12)
        );
        assert_eq!(
            verdict(&mut t, 12, PROD + 1000, &answered(10, 10, true)),
            Gate::Go
        );
    }

    #[test]
    fn rule_3_a_close_releases() {
        let mut t = turns(false);
        let closed = Answered {
            fin: true,
            ..Answered::default()
        };
        assert_eq!(verdict(&mut t, 10, PROD + 1000, &closed), Gate::Go);
    }

    #[test]
    fn rule_4_the_limit_releases_and_repeated_expiry_ends_throttling() {
        let mut t = turns(false);
        let none = Answered::default();
        assert_eq!(verdict(&mut t, 0, PROD + 1, &none), wait(5000));
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
        let mut t = turns(false);
        for n in 0..3u32 {
            t.observe(ms(100).brief, PROD + n * 100, true, Some(rtt(20)));
            t.observe(ms(101).brief, PROD + n * 100 + 50, false, Some(rtt(20)));
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
        assert_eq!(close(11, &late), wait(5011));
        assert_eq!(close(5010, &late), wait(5011));
        assert_eq!(close(5010, &answered(3000, 5010, true)), Gate::Go);
        let mut other = turns(false);
        other.facts |= UNLIMITED;
        let mut close = |now: u64, answered: &Answered| {
            other
                .gate_close(ms(now), PROD + 3000, answered, RTT, LIMIT)
                .0
        };
        assert_eq!(close(1, &late), wait(5001));
        assert_eq!(close(5001, &late), Gate::Go, "the turn limit");
        // As captured means all of it.
        let mut as_captured = turns(true);
        let (gate, _) = as_captured.gate_close(ms(1), PROD + 3000, &late, RTT, LIMIT);
        assert_eq!(gate, Gate::Go);
    }

    #[test]
    fn a_close_waits_for_the_answers_of_a_target_that_is_a_turn_behind() {
        // In the middle of the first answer, of 1000 bytes, the target is silent: the second request goes.
        let behind = || {
            let mut t = turns(false);
            t.goes_on();
            let half = answered(600, 10, true);
            assert_eq!(verdict(&mut t, 12, PROD + 1000, &half), Gate::Go);
            t.begun(SeqNumber(1));
            t
        };
        let close = |t: &mut Turns, now: u64, a: &Answered| {
            t.gate_close(ms(now), PROD + 1300, a, RTT, LIMIT).0
        };
        // The rest of it is more than the second answer, of 300.
        let mut t = behind();
        let first = answered(1000, 20, true);
        assert_eq!(close(&mut t, 20, &first), wait(1020));
        assert_eq!(close(&mut t, 30, &answered(1300, 30, true)), Gate::Go);
        // A target whose answers are shorter says nothing more.
        let mut t = behind();
        assert_eq!(close(&mut t, 20, &first), wait(1020));
        assert_eq!(close(&mut t, 1020, &first), Gate::Go);
        // Or nothing but pieces: the turn's limit.
        let mut t = behind();
        for now in 20..5020 {
            let piece = answered(1000, now, true);
            assert_eq!(close(&mut t, now, &piece), wait((now + 1000).min(5020)));
        }
        assert_eq!(close(&mut t, 5020, &answered(1001, 5020, true)), Gate::Go);
    }

    #[test]
    fn a_near_client_whose_handshake_was_slow_is_not_full_duplex() {
        let mut t = turns(false);
        for n in 0..9u64 {
            let ack = PROD + n as u32 * 100;
            t.observe(ms(100 * n).brief, ack, true, Some(rtt(3)));
            assert!(!t.observe(ms(100 * n + 1).brief, ack + 99, false, Some(rtt(3))));
        }
    }

    #[test]
    fn acknowledgements_faster_than_the_round_trip_are_full_duplex() {
        let mut t = turns(false);
        let rtt = Some(rtt(20));
        for n in 0..3u32 {
            assert!(!t.observe(ms(100).brief, PROD + n * 100, true, rtt));
            let became = t.observe(ms(101).brief, PROD + n * 100 + 50, false, rtt);
            assert_eq!(became, n == 2);
        }
        // Ordinary request and answer: the acknowledgement comes a round trip later.
        let mut t = turns(false);
        for n in 0..9u32 {
            t.observe(ms(100 * u64::from(n)).brief, PROD + n * 100, true, rtt);
            assert!(!t.observe(
                ms(100 * u64::from(n) + 21).brief,
                PROD + n * 100 + 99,
                false,
                rtt
            ));
        }
    }
}
