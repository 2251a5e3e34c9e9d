//! The TCP sender of one session: window, round-trip time, retransmission state.
//!
//! RFC 9293 section 3.10.7.4 (acknowledgements and window), RFC 6298 (retransmission timer), RFC 5681
//! section 3.2 and RFC 6582 (loss detection and recovery). There is no congestion window: the pace is
//! that of the captured client, whose own congestion control shaped it.

use crate::scoreboard::Scoreboard;
use common::flow::{Nanos, ResponseHeader};
use common::packet::{SeqNumber, TcpFlags};

/// RFC 6298 (2.1).
const RTO_INITIAL: Nanos = Nanos::from_secs(1);
/// Linux's lower bound. RFC 6298 (2.4) says one second, which would idle a local target five times
/// longer than any real client does.
const RTO_MIN: Nanos = Nanos::from_millis(200);
/// RFC 6298 (2.5).
const RTO_MAX: Nanos = Nanos::from_secs(60);
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

#[derive(Clone, Debug)]
pub(crate) struct Sender {
    /// Oldest unacknowledged sequence number (SND.UNA).
    pub(crate) una: SeqNumber,
    /// Next to be sent (SND.NXT).
    pub(crate) nxt: SeqNumber,
    /// Send window in bytes, scaled (SND.WND).
    pub(crate) wnd: u32,
    /// SND.WL1 and SND.WL2: sequence and acknowledgement of the last window update.
    wl1: SeqNumber,
    wl2: SeqNumber,
    /// Shift of the target's window field; 0 unless both sides agreed (RFC 7323 section 2.2).
    pub(crate) shift: u8,
    /// Payload bytes per segment.
    pub(crate) mss: u16,
    srtt: Option<Nanos>,
    rttvar: Nanos,
    rto: Nanos,
    /// The sequence number being timed and when it was sent (Karn: never a retransmission).
    timed: Option<(SeqNumber, Nanos)>,
    /// Retransmission timer.
    pub(crate) rto_at: Option<Nanos>,
    dup_acks: u8,
    /// In loss recovery until this is acknowledged.
    recover: Option<SeqNumber>,
    /// The recovery began with a timeout: everything up to `recover` counts as lost, not only what
    /// the target reports as missing.
    all_lost: bool,
    /// Up to here this recovery has sent again.
    resent: SeqNumber,
    scoreboard: Scoreboard,
    /// When `una` last moved, or the first unacknowledged byte was sent.
    pub(crate) progress_at: Nanos,
}

impl Sender {
    pub(crate) fn new(iss: SeqNumber, mss: u16, now: Nanos) -> Self {
        Self {
            una: iss,
            nxt: iss,
            wnd: 0,
            wl1: SeqNumber(0),
            wl2: SeqNumber(0),
            shift: 0,
            mss,
            srtt: None,
            rttvar: Nanos(0),
            rto: RTO_INITIAL,
            timed: None,
            rto_at: None,
            dup_acks: 0,
            recover: None,
            all_lost: false,
            resent: iss,
            scoreboard: Scoreboard::default(),
            progress_at: now,
        }
    }

    /// Bytes (and SYN, FIN) sent but not acknowledged.
    pub(crate) fn in_flight(&self) -> u32 {
        self.nxt.since(self.una).max(0) as u32
    }

    /// How many bytes the target's window still takes.
    pub(crate) fn room(&self) -> u32 {
        self.wnd.saturating_sub(self.in_flight())
    }

    /// Smoothed round-trip time to the target; zero before the first sample.
    pub(crate) fn rtt(&self) -> Nanos {
        self.srtt.unwrap_or(Nanos(0))
    }

    /// Accounts for new sequence numbers up to `end` being sent now.
    pub(crate) fn sent_new(&mut self, end: SeqNumber, now: Nanos) {
        if self.in_flight() == 0 {
            self.progress_at = now;
        }
        self.nxt = self.nxt.max(end);
        if self.timed.is_none() {
            self.timed = Some((end, now));
        }
        if self.rto_at.is_none() {
            self.rto_at = Some(now + self.rto);
        }
    }

    /// Accounts for a retransmission up to `end` (RFC 6298 section 3: what was timed is ambiguous
    /// now).
    pub(crate) fn sent_again(&mut self, end: SeqNumber) {
        self.timed = None;
        self.resent = self.resent.max(end);
    }

    /// What to send again next, as far as it is known to be lost: a stretch of sent data, not empty.
    pub(crate) fn lost(&self) -> Option<(SeqNumber, SeqNumber)> {
        let recover = self.recover?;
        let from = self.una.max(self.resent);
        if let Some((start, end)) = self.scoreboard.hole(from) {
            return Some((start, end));
        }
        // Without reports: the oldest segment (RFC 6582), or all of it after a timeout.
        let known = self.all_lost || (self.scoreboard.is_empty() && from == self.una);
        (known && from.before(recover)).then_some((from, recover))
    }

    /// The retransmission timer fired: back off (RFC 6298 (5.5)) and start recovery.
    pub(crate) fn back_off(&mut self, now: Nanos) {
        self.timed = None;
        self.rto = Nanos(self.rto.0.saturating_mul(2)).min(RTO_MAX);
        self.rto_at = Some(now + self.rto);
        self.dup_acks = 0;
        self.recover = (self.in_flight() > 0).then_some(self.nxt);
        self.all_lost = true;
        self.resent = self.una;
        self.scoreboard.clear();
    }

    /// Data waits for the window: makes sure that a probe is sent if no update comes (RFC 9293 section
    /// 3.8.6.1: the first after one retransmission timeout).
    pub(crate) fn watch_window(&mut self, now: Nanos) {
        if self.rto_at.is_none() {
            self.rto_at = Some(now + self.rto);
            self.progress_at = now;
        }
    }

    /// Sets the timer as for a retransmission without counting one (a SYN that could not be sent).
    pub(crate) fn retry_at(&mut self, at: Nanos) {
        self.rto_at = Some(at);
    }

    /// The handshake's answer: `una` and window begin; the window of a SYN is never scaled.
    pub(crate) fn established(&mut self, h: &ResponseHeader, now: Nanos) {
        self.una = h.ack;
        self.nxt = self.nxt.max(h.ack);
        self.wnd = u32::from(h.window);
        self.wl1 = h.seq;
        self.wl2 = h.ack;
        self.sample(now);
        self.restart_timer(now);
    }

    /// Processes the acknowledgement of a response (RFC 9293 section 3.10.7.4, fifth check).
    pub(crate) fn on_ack(&mut self, h: &ResponseHeader, now: Nanos) -> Acked {
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
        self.scoreboard
            .update(h.ack, self.nxt, h.options.sack_blocks());
        let wnd = u32::from(h.window) << self.shift;
        let window_changed = wnd != self.wnd;
        if advanced > 0 {
            if self.timed.is_some_and(|(seq, _)| !h.ack.before(seq)) {
                self.sample(now);
            }
            self.una = h.ack;
            self.progress_at = now;
            self.dup_acks = 0;
            self.restart_timer(now);
            acked.advanced = advanced as u32;
            if let Some(recover) = self.recover {
                if h.ack.before(recover) {
                    // Partial acknowledgement: the next segment is lost too (RFC 6582 section 3.2).
                    acked.retransmit = true;
                } else {
                    self.recover = None;
                    self.all_lost = false;
                }
            }
        } else if self.in_flight() > 0
            && h.payload_len == 0
            && !window_changed
            && !h.flags.has(TcpFlags::SYN.with(TcpFlags::FIN))
        {
            // A duplicate acknowledgement as RFC 5681 section 2 defines it.
            self.dup_acks = self.dup_acks.saturating_add(1);
            if self.recover.is_some() {
                // Each says that something more arrived; with SACK also what is missing.
                acked.retransmit = !self.scoreboard.is_empty();
            } else if self.dup_acks >= DUP_ACK_THRESHOLD {
                self.recover = Some(self.nxt);
                self.all_lost = false;
                self.resent = self.una;
                acked.retransmit = true;
            }
        }
        // SND.WL1/WL2: only a segment that is not older may change the window. One that acknowledges
        // something new is not, even if it carries old data again: with the window of before, its edge
        // would move.
        if advanced > 0 || self.wl1.before(h.seq) || (self.wl1 == h.seq && !h.ack.before(self.wl2))
        {
            self.wnd = wnd;
            self.wl1 = h.seq;
            self.wl2 = h.ack;
        }
        acked
    }

    fn sample(&mut self, now: Nanos) {
        let Some((_, sent)) = self.timed.take() else {
            return;
        };
        let r = now.since(sent);
        // RFC 6298 (2.2) and (2.3), alpha = 1/8, beta = 1/4.
        if let Some(srtt) = self.srtt {
            let error = Nanos(srtt.0.abs_diff(r.0));
            self.rttvar = Nanos((3 * self.rttvar.0 + error.0) / 4);
            self.srtt = Some(Nanos((7 * srtt.0 + r.0) / 8));
        } else {
            self.srtt = Some(r);
            self.rttvar = Nanos(r.0 / 2);
        }
    }

    fn restart_timer(&mut self, now: Nanos) {
        let srtt = self.srtt.unwrap_or(RTO_INITIAL);
        self.rto = Nanos(srtt.0.saturating_add(self.rttvar.0.saturating_mul(4)))
            .max(RTO_MIN)
            .min(RTO_MAX);
        self.rto_at = (self.in_flight() > 0).then(|| now + self.rto);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::packet::{Addr, Endpoint, SackBlock, TcpOptions};

    const ISS: SeqNumber = SeqNumber(u32::MAX - 5);
    const IRS: SeqNumber = SeqNumber(77);

    fn ms(n: u64) -> Nanos {
        Nanos::from_millis(n)
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
        }
    }

    fn open() -> Sender {
        let mut s = Sender::new(ISS, 1000, ms(1));
        s.sent_new(ISS + 1, ms(1));
        s.established(&ack(IRS, ISS + 1, 5000), ms(11));
        s
    }

    #[test]
    fn rfc6298_first_sample_and_minimum() {
        let s = open();
        assert_eq!(s.rtt(), ms(10));
        assert_eq!(s.rto, RTO_MIN);
        assert_eq!(s.rto_at, None);
    }

    #[test]
    fn rfc6298_5_5_back_off_doubles_and_karn_ignores_retransmitted() {
        let mut s = open();
        s.sent_new(ISS + 101, ms(20));
        assert_eq!(s.rto_at, Some(ms(220)));
        s.back_off(ms(220));
        assert_eq!(s.rto_at, Some(ms(620)));
        s.sent_again(ISS + 101);
        s.back_off(ms(620));
        assert_eq!(s.rto_at, Some(ms(1420)));
        let a = s.on_ack(&ack(IRS + 1, ISS + 101, 5000), ms(1500));
        assert_eq!((a.advanced, a.retransmit), (100, false));
        assert_eq!(s.rtt(), ms(10));
        assert_eq!((s.rto_at, s.rto), (None, RTO_MIN));
    }

    #[test]
    fn rfc5681_third_duplicate_ack_retransmits_once() {
        let mut s = open();
        s.sent_new(ISS + 3001, ms(20));
        let dup = ack(IRS + 1, ISS + 1, 5000);
        let hits: Vec<bool> = (0..6).map(|_| s.on_ack(&dup, ms(21)).retransmit).collect();
        assert_eq!(hits, [false, false, true, false, false, false]);
        // RFC 6582: a partial acknowledgement retransmits the next hole, a full one ends recovery.
        assert!(s.on_ack(&ack(IRS + 1, ISS + 1001, 5000), ms(22)).retransmit);
        assert!(!s.on_ack(&ack(IRS + 1, ISS + 3001, 5000), ms(23)).retransmit);
        assert!(s.recover.is_none());
    }

    #[test]
    fn acknowledgements_never_move_backwards_nor_beyond_what_was_sent() {
        let mut s = open();
        s.sent_new(ISS + 1001, ms(20));
        s.on_ack(&ack(IRS + 1, ISS + 501, 5000), ms(21));
        assert_eq!(
            s.on_ack(&ack(IRS + 1, ISS + 1, 9), ms(21)),
            Acked::default()
        );
        assert_eq!((s.una, s.wnd), (ISS + 501, 5000));
        assert!(
            s.on_ack(&ack(IRS + 1, ISS + 1002, 5000), ms(21))
                .unacceptable
        );
        assert_eq!(s.una, ISS + 501);
    }

    #[test]
    fn rfc2018_reported_holes_are_sent_again_and_nothing_else() {
        let mut s = open();
        s.sent_new(ISS + 5001, ms(20));
        let mut dup = ack(IRS + 1, ISS + 1, 5000);
        dup.options.sack_count = 2;
        dup.options.sack[0] = SackBlock {
            left: ISS + 4001,
            right: ISS + 5001,
        };
        dup.options.sack[1] = SackBlock {
            left: ISS + 1001,
            right: ISS + 2001,
        };
        for _ in 0..3 {
            s.on_ack(&dup, ms(21));
        }
        assert_eq!(s.lost(), Some((ISS + 1, ISS + 1001)));
        s.sent_again(ISS + 1001);
        assert_eq!(s.lost(), Some((ISS + 2001, ISS + 4001)));
        s.sent_again(ISS + 4001);
        assert_eq!(s.lost(), None);
        // A timeout trusts no report (RFC 2018 section 8).
        s.back_off(ms(300));
        assert_eq!(s.lost(), Some((ISS + 1, ISS + 5001)));
    }

    #[test]
    fn a_retransmission_that_acknowledges_more_brings_its_window() {
        let mut s = open();
        s.on_ack(&ack(IRS + 500, ISS + 1, 5000), ms(20));
        s.sent_new(ISS + 4001, ms(20));
        // The target sends old data again, with what it has received since: no byte beyond ISS + 5001
        // was ever allowed.
        s.on_ack(&ack(IRS + 1, ISS + 4001, 1000), ms(21));
        assert_eq!((s.una, s.room()), (ISS + 4001, 1000));
    }

    #[test]
    fn a_pure_window_update_lets_sending_go_on() {
        let mut s = open();
        s.shift = 2;
        s.on_ack(&ack(IRS + 1, ISS + 1, 0), ms(20));
        assert_eq!(s.room(), 0);
        s.on_ack(&ack(IRS + 1, ISS + 1, 100), ms(21));
        assert_eq!(s.room(), 400, "may send again");
        // An older segment must not shrink it again.
        s.on_ack(&ack(IRS, ISS + 1, 1), ms(22));
        assert_eq!(s.room(), 400);
    }
}
