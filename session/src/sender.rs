//! The TCP sender of one session: window, round-trip time, retransmission state.
//!
//! RFC 9293 section 3.10.7.4 (acknowledgements and window), RFC 6298 (retransmission timer), RFC 5681
//! section 3.2 and RFC 6582 (loss detection and recovery). There is no congestion window: the pace is
//! that of the captured client, whose own congestion control shaped it.

use crate::rare::{RarePool, RareSlot};
use crate::scoreboard::Scoreboard;
use crate::time::{Clock, Span, Tick};
use common::flow::{Nanos, ResponseHeader};
use common::packet::{SeqNumber, TcpFlags};
use std::num::NonZeroU32;

/// RFC 6298 (2.1).
const RTO_INITIAL_TICKS: u32 = 1_000;
/// Linux's lower bound. RFC 6298 (2.4) says one second, which would idle a local target five times
/// longer than any real client does.
const RTO_MIN_TICKS: u32 = 200;
const RTO_MIN_SPAN: Span = Span::of(Nanos::from_millis(RTO_MIN_TICKS as u64));
/// RFC 6298 (2.5).
const RTO_MAX_TICKS: u32 = 60_000;
/// Beyond so many doublings of the minimum the maximum is reached.
const MAX_BACKOFF: u8 = 9;
/// RFC 5681 section 3.2.
const DUP_ACK_THRESHOLD: u8 = 3;

/// What an acknowledgement brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Acked {
    /// `snd_una` moved by this many sequence numbers.
    pub(crate) advanced: u32,
    /// Something is lost: see [`Sender::lost`].
    pub(crate) retransmit: bool,
    /// It acknowledged what was never sent (RFC 9293 section 3.10.7.4): answer with an ACK, ignore.
    pub(crate) unacceptable: bool,
}

/// Loss that is being repaired.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recovery {
    /// It lasts until this is acknowledged.
    recover: Option<SeqNumber>,
    /// It began with a timeout: everything up to `recover` counts as lost, not only what the target
    /// reports as missing.
    all_lost: bool,
    /// Up to here it has sent again.
    resent: SeqNumber,
    scoreboard: Scoreboard,
}

pub(crate) struct Sender {
    /// Oldest unacknowledged sequence number (SND.UNA).
    pub(crate) una: SeqNumber,
    /// Next to be sent (SND.NXT).
    pub(crate) nxt: SeqNumber,
    /// Send window in bytes, scaled (SND.WND).
    pub(crate) wnd: u32,
    /// SND.WL1: sequence number of the last window update. SND.WL2 is not needed: acknowledgements
    /// that go back are not looked at, so none is below that of the last update.
    wl1: SeqNumber,
    /// SRTT and RTTVAR in units of [`Span`].
    srtt: Option<NonZeroU32>,
    rttvar: u32,
    /// Retransmission timer.
    pub(crate) rto_at: Option<Tick>,
    /// When `una` last moved, or the first unacknowledged byte was sent.
    pub(crate) progress_at: Tick,
    /// Payload bytes per segment.
    pub(crate) mss: u16,
    /// Shift of the target's window field; 0 unless both sides agreed (RFC 7323 section 2.2).
    pub(crate) shift: u8,
    dup_acks: u8,
    /// How often the timer was doubled (RFC 6298 (5.5)).
    backoff: u8,
}

impl Recovery {
    /// It says something about what is in flight.
    pub(crate) fn is_active(&self) -> bool {
        self.recover.is_some() || !self.scoreboard.is_empty()
    }
}

impl Sender {
    pub(crate) fn new(iss: SeqNumber, mss: u16, now: Tick) -> Self {
        Self {
            una: iss,
            nxt: iss,
            wnd: 0,
            wl1: SeqNumber(0),
            srtt: None,
            rttvar: 0,
            rto_at: None,
            progress_at: now,
            mss,
            shift: 0,
            dup_acks: 0,
            backoff: 0,
        }
    }

    /// Bytes (and SYN, FIN) sent but not acknowledged.
    #[inline(always)]
    pub(crate) fn in_flight(&self) -> u32 {
        self.nxt.since(self.una).max(0) as u32
    }

    /// How many bytes the target's window still takes.
    #[inline(always)]
    pub(crate) fn room(&self) -> u32 {
        self.wnd.saturating_sub(self.in_flight())
    }

    /// Smoothed round-trip time to the target; zero before the first sample.
    pub(crate) fn rtt(&self) -> Span {
        Span(self.srtt.map_or(0, NonZeroU32::get))
    }

    /// The retransmission timeout in ticks (RFC 6298 (2.3)).
    #[inline(always)]
    fn rto(&self) -> u32 {
        let base = match self.srtt {
            None => RTO_INITIAL_TICKS,
            // The usual case without a division.
            Some(srtt) if self.rto_span(srtt) <= RTO_MIN_SPAN => RTO_MIN_TICKS,
            Some(srtt) => {
                let ticks = self.rto_span(srtt).ticks();
                ticks.clamp(RTO_MIN_TICKS, RTO_MAX_TICKS)
            }
        };
        if self.backoff == 0 {
            return base;
        }
        (base << self.backoff.min(MAX_BACKOFF)).min(RTO_MAX_TICKS)
    }

    #[inline(always)]
    fn rto_span(&self, srtt: NonZeroU32) -> Span {
        Span(srtt.get().saturating_add(self.rttvar.saturating_mul(4)))
    }

    /// Accounts for new sequence numbers up to `end` being sent now.
    #[inline(always)]
    pub(crate) fn sent_new(&mut self, end: SeqNumber, now: Clock) {
        if self.in_flight() == 0 {
            self.progress_at = now.from;
        }
        self.nxt = self.nxt.max(end);
        if self.rto_at.is_none() {
            self.rto_at = Some(now.from.plus(self.rto()));
        }
    }

    /// Accounts for a retransmission up to `end`.
    pub(crate) fn sent_again(end: SeqNumber, rare: &mut RareSlot) {
        if let Some(r) = rare.get_mut().map(|r| &mut r.recovery) {
            r.resent = r.resent.max(end);
        }
    }

    /// What to send again next, as far as it is known to be lost: a stretch of sent data, not empty.
    pub(crate) fn lost(&self, rare: &RareSlot) -> Option<(SeqNumber, SeqNumber)> {
        let r = &rare.get()?.recovery;
        let recover = r.recover?;
        let from = self.una.max(r.resent);
        if let Some((start, end)) = r.scoreboard.hole(from) {
            return Some((start, end));
        }
        // Without reports: the oldest segment (RFC 6582), or all of it after a timeout.
        let known = r.all_lost || (r.scoreboard.is_empty() && from == self.una);
        (known && from.before(recover)).then_some((from, recover))
    }

    /// The retransmission timer fired: back off (RFC 6298 (5.5)) and start recovery.
    pub(crate) fn back_off(&mut self, now: Tick, rare: &mut RareSlot, pool: &mut RarePool) {
        self.backoff = self.backoff.saturating_add(1).min(MAX_BACKOFF);
        self.rto_at = Some(now.plus(self.rto()));
        self.dup_acks = 0;
        if self.in_flight() > 0 {
            rare.need(pool).recovery = Recovery {
                recover: Some(self.nxt),
                all_lost: true,
                resent: self.una,
                scoreboard: Scoreboard::default(),
            };
        }
    }

    /// Data waits for the window: makes sure that a probe is sent if no update comes (RFC 9293 section
    /// 3.8.6.1: the first after one retransmission timeout).
    pub(crate) fn watch_window(&mut self, now: Tick) {
        if self.rto_at.is_none() {
            self.rto_at = Some(now.plus(self.rto()));
            self.progress_at = now;
        }
    }

    /// The handshake's answer: `una` and window begin; the window of a SYN is never scaled. `rtt` is
    /// what it took, if the SYN was sent once.
    pub(crate) fn established(
        &mut self,
        h: &ResponseHeader,
        rtt: Option<Span>,
        now: Clock,
        rare: &mut RareSlot,
    ) {
        self.una = h.ack;
        self.nxt = self.nxt.max(h.ack);
        self.wnd = u32::from(h.window);
        self.wl1 = h.seq;
        if let Some(r) = rare.get_mut() {
            r.recovery = Recovery::default();
        }
        self.progressed(rtt, now.from);
    }

    /// Takes the acknowledgement of a response that is next in sequence and in the window, while
    /// nothing is lost. If it acknowledges something new, [`Sender::progressed`] must follow.
    #[inline(always)]
    pub(crate) fn take_next(&mut self, h: &ResponseHeader, now: Tick) {
        if h.ack != self.una {
            self.una = h.ack;
            self.progress_at = now;
            self.dup_acks = 0;
        }
        self.wnd = u32::from(h.window) << self.shift;
        self.wl1 = h.seq;
    }

    /// Processes the acknowledgement of a response (RFC 9293 section 3.10.7.4, fifth check). If it
    /// acknowledges something new, [`Sender::progressed`] must follow.
    #[inline]
    pub(crate) fn on_ack(
        &mut self,
        h: &ResponseHeader,
        now: Tick,
        rare: &mut RareSlot,
        pool: &mut RarePool,
    ) -> Acked {
        let mut acked = Acked::default();
        if !h.flags.has(TcpFlags::ACK) {
            return acked;
        }
        if h.ack.after(self.nxt) {
            acked.unacceptable = true;
            return acked;
        }
        let advanced = h.ack.since(self.una);
        if advanced < 0 {
            // An old acknowledgement, overtaken on its way; its window is old too.
            return acked;
        }
        let wnd = u32::from(h.window) << self.shift;
        if advanced > 0 {
            self.una = h.ack;
            self.progress_at = now;
            self.dup_acks = 0;
            acked.advanced = advanced as u32;
        }
        if advanced == 0 || rare.get().is_some() {
            acked.retransmit = self.notice_loss(h, wnd != self.wnd, acked.advanced, rare, pool);
        }
        // SND.WL1: only a segment that is not older may change the window. One that acknowledges
        // something new is not, even if it carries old data again: with the window of before, its edge
        // would move.
        if advanced > 0 || !h.seq.before(self.wl1) {
            self.wnd = wnd;
            self.wl1 = h.seq;
        }
        acked
    }

    /// Duplicate acknowledgements and recovery; true if something is to be sent again.
    fn notice_loss(
        &mut self,
        h: &ResponseHeader,
        window_changed: bool,
        advanced: u32,
        rare: &mut RareSlot,
        pool: &mut RarePool,
    ) -> bool {
        let duplicate = advanced == 0
            && self.in_flight() > 0
            && h.payload_len == 0
            && !window_changed
            && !h.flags.has(TcpFlags::SYN.with(TcpFlags::FIN));
        if duplicate {
            // As RFC 5681 section 2 defines it.
            self.dup_acks = self.dup_acks.saturating_add(1);
        }
        let reports = !h.sack.is_empty() && self.in_flight() > 0;
        let third = duplicate && self.dup_acks >= DUP_ACK_THRESHOLD;
        if !reports && !third && !rare.get().is_some_and(|r| r.recovery.is_active()) {
            return false;
        }
        let r = &mut rare.need(pool).recovery;
        r.scoreboard.update(h.ack, self.nxt, h.sack.as_slice());
        match r.recover {
            Some(recover) if advanced > 0 => {
                // Partial acknowledgement: the next segment is lost too (RFC 6582 section 3.2).
                let partial = h.ack.before(recover);
                if !partial {
                    r.recover = None;
                }
                partial
            }
            // Each says that something more arrived; with SACK also what is missing.
            Some(_) => duplicate && !r.scoreboard.is_empty(),
            None if third => {
                r.recover = Some(self.nxt);
                r.all_lost = false;
                r.resent = self.una;
                true
            }
            None => false,
        }
    }

    /// Something new was acknowledged: restarts the timer (RFC 6298 (5.2), (5.3)), with a round trip
    /// if one could be measured.
    #[inline(always)]
    pub(crate) fn progressed(&mut self, rtt: Option<Span>, now: Tick) {
        if let Some(Span(r)) = rtt {
            // RFC 6298 (2.2) and (2.3), alpha = 1/8, beta = 1/4.
            let srtt = if let Some(srtt) = self.srtt {
                let srtt = srtt.get();
                self.rttvar = self.rttvar - self.rttvar / 4 + srtt.abs_diff(r) / 4;
                srtt - srtt / 8 + r / 8
            } else {
                self.rttvar = r / 2;
                r
            };
            self.srtt = Some(NonZeroU32::new(srtt).unwrap_or(NonZeroU32::MIN));
        }
        self.backoff = 0;
        self.rto_at = (self.in_flight() > 0).then(|| now.plus(self.rto()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::packet::{Addr, Endpoint, SackBlock, SackBlocks, TcpOptions};

    const ISS: SeqNumber = SeqNumber(u32::MAX - 5);
    const IRS: SeqNumber = SeqNumber(77);

    fn at(ms: u64) -> Clock {
        Clock::at(Nanos::from_millis(ms))
    }

    fn tick(ms: u64) -> Tick {
        at(ms).tick
    }

    fn span(ms: u64) -> Span {
        Span::of(Nanos::from_millis(ms))
    }

    fn ack(seq: SeqNumber, ack: SeqNumber, window: u16) -> ResponseHeader {
        let e = Endpoint::new(Addr::ANY, 1);
        ResponseHeader {
            target: e,
            client: e,
            seq,
            ack,
            flags: TcpFlags::ACK,
            window,
            payload_len: 0,
            options: TcpOptions::default(),
            sack: SackBlocks::default(),
        }
    }

    /// A sender with what a session lends it.
    struct Open {
        s: Sender,
        rare: RareSlot,
        pool: RarePool,
    }

    impl Open {
        fn sent(&mut self, offset: u32, ms: u64) {
            self.s.sent_new(ISS + offset, at(ms));
        }

        /// `rtt` is measured unless something was sent twice.
        fn ack(&mut self, h: &ResponseHeader, ms: u64, rtt: Option<Span>) -> Acked {
            let acked = self
                .s
                .on_ack(h, at(ms).tick, &mut self.rare, &mut self.pool);
            if acked.advanced > 0 {
                self.s.progressed(rtt, at(ms).tick);
            }
            self.rare.tidy(&mut self.pool);
            acked
        }

        fn back_off(&mut self, ms: u64) {
            self.s.back_off(at(ms).tick, &mut self.rare, &mut self.pool);
        }

        fn lost(&self) -> Option<(SeqNumber, SeqNumber)> {
            self.s.lost(&self.rare)
        }
    }

    fn open() -> Open {
        let mut o = Open {
            s: Sender::new(ISS, 1000, at(1).tick),
            rare: RareSlot::default(),
            pool: RarePool::default(),
        };
        o.sent(1, 1);
        let h = ack(IRS, ISS + 1, 5000);
        o.s.established(&h, Some(span(10)), at(11), &mut o.rare);
        o
    }

    #[test]
    fn rfc6298_first_sample_and_minimum() {
        let o = open();
        assert_eq!(o.s.rtt(), span(10));
        assert_eq!(o.s.rto(), RTO_MIN_TICKS);
        assert_eq!(o.s.rto_at, None);
    }

    #[test]
    fn rfc6298_2_3_later_samples_move_the_estimate_by_an_eighth() {
        let mut o = open();
        o.sent(101, 20);
        o.ack(&ack(IRS + 1, ISS + 101, 5000), 110, Some(span(90)));
        let near = |got: u32, want: u32| assert!(got.abs_diff(want) < 8, "{got} {want}");
        near(o.s.rtt().0, span(20).0);
        // 3/4 * 5 + 1/4 * 80 = 23.75 ms; 20 + 4 * 23.75 = 115 ms, below the minimum.
        near(o.s.rttvar * 4, span(95).0);
        assert_eq!(o.s.rto(), RTO_MIN_TICKS);
        o.sent(201, 120);
        o.ack(&ack(IRS + 1, ISS + 201, 5000), 1120, Some(span(1000)));
        // 1/8 * 1000 + 7/8 * 20 = 142.5; 3/4 * 23.75 + 1/4 * 980 = 262.8.
        near(o.s.rto(), 1194);
    }

    #[test]
    fn rfc6298_5_5_back_off_doubles_up_to_a_minute_and_ends_with_progress() {
        let mut o = open();
        o.sent(101, 20);
        assert_eq!(o.s.rto_at, Some(tick(220)));
        o.back_off(220);
        assert_eq!(o.s.rto_at, Some(tick(620)));
        Sender::sent_again(ISS + 101, &mut o.rare);
        o.back_off(620);
        assert_eq!(o.s.rto_at, Some(tick(1420)));
        // Karn: what was sent twice is not measured.
        let a = o.ack(&ack(IRS + 1, ISS + 101, 5000), 1500, None);
        assert_eq!((a.advanced, a.retransmit), (100, false));
        assert_eq!(o.s.rtt(), span(10));
        assert_eq!((o.s.rto_at, o.s.rto()), (None, RTO_MIN_TICKS));
        assert!(o.rare.get().is_none());
        o.sent(201, 2000);
        for _ in 0..300 {
            o.back_off(2000);
        }
        assert_eq!(o.s.rto_at, Some(tick(62_000)));
    }

    #[test]
    fn rfc5681_third_duplicate_ack_retransmits_once() {
        let mut o = open();
        o.sent(3001, 20);
        let dup = ack(IRS + 1, ISS + 1, 5000);
        let hits: Vec<bool> = (0..6).map(|_| o.ack(&dup, 21, None).retransmit).collect();
        assert_eq!(hits, [false, false, true, false, false, false]);
        // RFC 6582: a partial acknowledgement retransmits the next hole, a full one ends recovery.
        assert!(o.ack(&ack(IRS + 1, ISS + 1001, 5000), 22, None).retransmit);
        assert!(!o.ack(&ack(IRS + 1, ISS + 3001, 5000), 23, None).retransmit);
        assert!(o.rare.get().is_none());
    }

    #[test]
    fn acknowledgements_never_move_backwards_nor_beyond_what_was_sent() {
        let mut o = open();
        o.sent(1001, 20);
        o.ack(&ack(IRS + 1, ISS + 501, 5000), 21, None);
        assert_eq!(o.ack(&ack(IRS + 1, ISS + 1, 9), 21, None), Acked::default());
        assert_eq!((o.s.una, o.s.wnd), (ISS + 501, 5000));
        assert!(
            o.ack(&ack(IRS + 1, ISS + 1002, 5000), 21, None)
                .unacceptable
        );
        assert_eq!(o.s.una, ISS + 501);
    }

    #[test]
    fn rfc2018_reported_holes_are_sent_again_and_nothing_else() {
        let mut o = open();
        o.sent(5001, 20);
        let mut dup = ack(IRS + 1, ISS + 1, 5000);
        let block = |left: u32, right: u32| SackBlock {
            left: ISS + left,
            right: ISS + right,
        };
        dup.sack = SackBlocks::new(&[block(4001, 5001), block(1001, 2001)]);
        for _ in 0..3 {
            o.ack(&dup, 21, None);
        }
        assert_eq!(o.lost(), Some((ISS + 1, ISS + 1001)));
        Sender::sent_again(ISS + 1001, &mut o.rare);
        assert_eq!(o.lost(), Some((ISS + 2001, ISS + 4001)));
        Sender::sent_again(ISS + 4001, &mut o.rare);
        assert_eq!(o.lost(), None);
        // A timeout trusts no report (RFC 2018 section 8).
        o.back_off(300);
        assert_eq!(o.lost(), Some((ISS + 1, ISS + 5001)));
    }

    #[test]
    fn reports_without_loss_are_forgotten_with_the_next_progress() {
        let mut o = open();
        o.sent(2001, 20);
        let mut dup = ack(IRS + 1, ISS + 1, 5000);
        dup.sack = SackBlocks::new(&[SackBlock {
            left: ISS + 1001,
            right: ISS + 2001,
        }]);
        assert!(!o.ack(&dup, 21, None).retransmit);
        assert!(o.rare.get().is_some());
        o.ack(&ack(IRS + 1, ISS + 2001, 5000), 22, None);
        assert!(o.rare.get().is_none());
    }

    #[test]
    fn a_retransmission_that_acknowledges_more_brings_its_window() {
        let mut o = open();
        o.ack(&ack(IRS + 500, ISS + 1, 5000), 20, None);
        o.sent(4001, 20);
        // The target sends old data again, with what it has received since: no byte beyond ISS + 5001
        // was ever allowed.
        o.ack(&ack(IRS + 1, ISS + 4001, 1000), 21, None);
        assert_eq!((o.s.una, o.s.room()), (ISS + 4001, 1000));
    }

    #[test]
    fn a_pure_window_update_lets_sending_go_on() {
        let mut o = open();
        o.s.shift = 2;
        o.ack(&ack(IRS + 1, ISS + 1, 0), 20, None);
        assert_eq!(o.s.room(), 0);
        o.ack(&ack(IRS + 1, ISS + 1, 100), 21, None);
        assert_eq!(o.s.room(), 400, "may send again");
        // An older segment must not shrink it again.
        o.ack(&ack(IRS, ISS + 1, 1), 22, None);
        assert_eq!(o.s.room(), 400);
    }
}
