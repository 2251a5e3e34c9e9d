//! What the session answers to the target: acknowledgement number, window, timestamps echo.
//!
//! The answers themselves are not kept: the highest byte seen is acknowledged (holes included), so that
//! the target never sends an answer again because a header was lost on the way to us.

use crate::rare::{RarePool, RareSlot};
use crate::state::{Flags, Phase, Session};
use crate::time::{Clock, Tick};
use crate::turn::Answered;
use common::flow::ResponseHeader;
use common::packet::{SeqNumber, TcpFlags};

/// Acknowledgements that may be on their way to an emulated client at a time; more are merged into the
/// last. A real client's delayed acknowledgements merge as well.
const ON_THE_WAY: usize = 16;

/// Window that is offered at least once the client's own window says nothing any more (its capture
/// ended): 64 KiB, what the field can say without scaling.
const FLOOR_BYTES: u32 = 65_535;
/// A response within this distance of what is expected is believed even if the client's window was
/// smaller: headers that were lost on the way to us leave our own view behind the target's.
const PLAUSIBLE_BYTES: u32 = 1 << 20;

/// When the emulated client will acknowledge up to where, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct OnTheWay {
    due: [Option<(Tick, SeqNumber)>; ON_THE_WAY],
    count: u8,
}

impl OnTheWay {
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn push(&mut self, due: Tick, nxt: SeqNumber) {
        if let Some(slot) = self.due.get_mut(usize::from(self.count)) {
            *slot = Some((due, nxt));
            self.count += 1;
        } else if let Some((_, last)) = self.due.last_mut().and_then(Option::as_mut) {
            *last = nxt;
        }
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Tick> {
        self.due.first()?.map(|(due, _)| due)
    }

    fn pop(&mut self, now: Tick) -> Option<SeqNumber> {
        let (_, nxt) = self.due.first()?.filter(|(due, _)| due.due(now))?;
        self.due.rotate_left(1);
        if let Some(last) = self.due.last_mut() {
            *last = None;
        }
        self.count -= 1;
        Some(nxt)
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Receiver {
    /// Next sequence number expected (RCV.NXT), as the highest seen.
    pub(crate) nxt: SeqNumber,
    /// What the emulated client has acknowledged by now: `nxt`, a round trip later.
    pub(crate) visible: SeqNumber,
    /// Newest TSval of the target (TS.Recent of RFC 7323 section 4.3).
    pub(crate) ts_recent: u32,
    pub(crate) answered: Answered,
}

/// What a response brought beside its acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    /// New payload bytes.
    pub(crate) bytes: u32,
    /// It closed just now.
    pub(crate) fin: bool,
    /// The target must be acknowledged.
    pub(crate) ack_due: bool,
}

impl Receiver {
    pub(crate) fn established(&mut self, h: &ResponseHeader) {
        self.nxt = h.seq + 1;
        self.visible = self.nxt;
        self.ts_recent = h.options.timestamps.map_or(0, |t| t.val);
    }

    /// The client acknowledges what has come so far at `due`.
    pub(crate) fn acknowledge_at(&self, due: Tick, rare: &mut RareSlot, pool: &mut RarePool) {
        rare.need(pool).on_the_way.push(due, self.nxt);
    }

    /// The client has read everything: it says something that depends on it.
    #[inline]
    pub(crate) fn catch_up(&mut self, rare: &mut RareSlot) {
        self.visible = self.nxt;
        if let Some(rare) = rare.get_mut() {
            rare.on_the_way = OnTheWay::default();
        }
    }

    /// Lets the client acknowledge what is due; true if that is anything.
    pub(crate) fn arrive(&mut self, now: Tick, rare: &mut RareSlot) -> bool {
        let mut any = false;
        while let Some(nxt) = rare.get_mut().and_then(|r| r.on_the_way.pop(now)) {
            self.visible = nxt;
            any = true;
        }
        any
    }

    /// RFC 9293 section 3.10.7.4, first check: what lies beyond every `window` (in bytes) that the target
    /// was offered is late, of an earlier connection on this tuple, or forged.
    pub(crate) fn acceptable(&self, seq: SeqNumber, window: u32) -> bool {
        seq.since(self.nxt).unsigned_abs() <= window.max(PLAUSIBLE_BYTES)
    }

    /// Takes payload and timestamps of a response that continues the answer, without FIN.
    #[inline(always)]
    pub(crate) fn take_next(&mut self, h: &ResponseHeader, full: u32, now: Clock) {
        self.note_timestamp(h);
        self.nxt += h.payload_len;
        self.visible = self.nxt;
        let a = &mut self.answered;
        a.bytes = a.bytes.wrapping_add(h.payload_len);
        a.at = Some(now.brief);
        a.psh = h.flags.has(TcpFlags::PSH);
        a.short = !h.payload_len.is_multiple_of(full);
    }

    #[inline(always)]
    pub(crate) fn note_timestamp(&mut self, h: &ResponseHeader) {
        if let Some(ts) = h.options.timestamps {
            // Modular comparison, so that a clock that wraps keeps working.
            if SeqNumber(ts.val).after(SeqNumber(self.ts_recent)) {
                self.ts_recent = ts.val;
            }
        }
    }

    /// Takes payload, FIN and timestamps of an acceptable response (RFC 9293 section 3.10.7.4, seventh and
    /// eighth check). `full` is the payload of a full-sized segment.
    #[inline]
    pub(crate) fn take(&mut self, h: &ResponseHeader, full: u32, now: Clock) -> Received {
        let distance = h.seq.since(self.nxt);
        self.note_timestamp(h);
        let data_end = h.seq + h.payload_len;
        let fin = h.flags.has(TcpFlags::FIN);
        let mut got = Received {
            // Whatever does not just continue the stream wants an acknowledgement: data, FIN, a
            // retransmission whose acknowledgement was lost, a keep-alive probe (RFC 9293 3.8.4).
            ack_due: h.payload_len > 0 || fin || distance != 0,
            ..Received::default()
        };
        // A bare acknowledgement behind bytes that did not come (yet) is not taken for them: whether they
        // end the answer only they can tell, and unacknowledged they come again.
        if data_end.after(self.nxt) && (h.payload_len > 0 || fin) && !self.answered.fin {
            got.bytes = data_end.since(self.nxt) as u32;
            self.answered.bytes = self.answered.bytes.wrapping_add(got.bytes);
            self.nxt = data_end;
        }
        if h.payload_len > 0 {
            self.answered.at = Some(now.brief);
            if data_end == self.nxt {
                self.answered.psh = h.flags.has(TcpFlags::PSH);
                // Merged segments are whole multiples of the MSS but for the last.
                self.answered.short = !h.payload_len.is_multiple_of(full.max(1));
            }
        }
        if fin && !self.answered.fin && data_end == self.nxt {
            self.answered.fin = true;
            got.fin = true;
            self.nxt += 1;
        }
        got
    }
}

impl Session {
    /// The client's last window in bytes. The shift is at most 14 (see `TcpOptions::parse`), so it fits.
    pub(crate) fn client_window_bytes(&self) -> u32 {
        u32::from(self.client_window) << self.offered.shift()
    }

    /// Window field for a segment: the client's own, translated where scaling was not agreed.
    #[inline(always)]
    pub(crate) fn window_field(&self, flags: TcpFlags) -> u16 {
        if flags.has(TcpFlags::SYN.with(TcpFlags::RST)) {
            return self.client_window;
        }
        if self.has_all(Flags::AT_EASE.with(Flags::SCALED)) {
            return self.client_window;
        }
        let mut bytes = self.client_window_bytes();
        if self.has(Flags::CLIENT_DONE) || self.phase != Phase::Open || self.stream.finished() {
            bytes = bytes.max(FLOOR_BYTES);
        }
        let field = if self.has(Flags::SCALED) {
            bytes >> self.offered.shift()
        } else {
            bytes
        };
        field.min(u32::from(u16::MAX)) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::flow::Nanos;
    use common::packet::{Addr, Endpoint, SackBlocks, TcpOptions, Timestamps};

    const IRS: SeqNumber = SeqNumber(u32::MAX - 2);

    fn header(seq: SeqNumber, len: u32, flags: TcpFlags) -> ResponseHeader {
        let e = Endpoint::new(Addr::ANY, 1);
        ResponseHeader {
            target: e,
            client: e,
            seq,
            ack: SeqNumber(1),
            flags: TcpFlags::ACK.with(flags),
            window: 100,
            payload_len: len,
            options: TcpOptions::default(),
            sack: SackBlocks::default(),
        }
    }

    fn at(ns: u64) -> Clock {
        Clock::at(Nanos(ns))
    }

    fn open() -> Receiver {
        let mut r = Receiver::default();
        r.established(&header(IRS, 0, TcpFlags::SYN));
        r
    }

    #[test]
    fn the_highest_byte_is_acknowledged_and_holes_are_not_waited_for() {
        let mut r = open();
        let got = r.take(&header(IRS + 1001, 500, TcpFlags::PSH), 1000, at(5));
        assert_eq!(
            got,
            Received {
                bytes: 1500,
                fin: false,
                ack_due: true,
            }
        );
        assert_eq!(r.nxt, IRS + 1501);
        let got = r.take(&header(IRS + 1, 1000, TcpFlags(0)), 1000, at(6));
        assert_eq!((got.bytes, got.ack_due), (0, true));
        assert!(r.answered.psh && r.answered.short);
    }

    #[test]
    fn keep_alive_probes_and_retransmissions_are_answered_pure_acks_not() {
        let mut r = open();
        assert!(
            !r.take(&header(IRS + 1, 0, TcpFlags(0)), 1000, at(5))
                .ack_due
        );
        assert!(r.take(&header(IRS, 0, TcpFlags(0)), 1000, at(5)).ack_due);
        assert!(r.take(&header(IRS, 1, TcpFlags(0)), 1000, at(5)).ack_due);
        assert_eq!(r.nxt, IRS + 1);
    }

    #[test]
    fn a_bare_acknowledgement_is_not_taken_for_the_bytes_before_it() {
        let mut r = open();
        r.take(&header(IRS + 1, 100, TcpFlags::PSH), 1000, at(5));
        let got = r.take(&header(IRS + 501, 0, TcpFlags(0)), 1000, at(900));
        assert_eq!((got.bytes, got.ack_due), (0, true));
        assert_eq!((r.nxt, r.answered.bytes), (IRS + 101, 100));
        r.take(&header(IRS + 101, 400, TcpFlags::PSH), 1000, at(901));
        assert_eq!(r.nxt, IRS + 501);
    }

    #[test]
    fn a_fin_counts_once() {
        let mut r = open();
        let fin = header(IRS + 1, 10, TcpFlags::FIN);
        assert_eq!(r.take(&fin, 1000, at(5)).bytes, 10);
        assert_eq!(r.nxt, IRS + 12);
        assert_eq!(r.take(&fin, 1000, at(5)).bytes, 0);
        assert_eq!(r.nxt, IRS + 12);
        assert!(r.answered.fin);
    }

    #[test]
    fn rfc7323_timestamps_are_compared_modulo_2_32() {
        let mut r = open();
        let with = |val| {
            let mut h = header(IRS + 1, 0, TcpFlags(0));
            h.options.timestamps = Some(Timestamps { val, ecr: 0 });
            h
        };
        r.ts_recent = u32::MAX - 1;
        r.take(&with(5), 1000, at(1));
        assert_eq!(r.ts_recent, 5);
        r.take(&with(u32::MAX), 1000, at(1));
        assert_eq!(r.ts_recent, 5);
    }

    #[test]
    fn another_connection_is_told_apart() {
        let r = open();
        assert!(!r.acceptable(IRS + (1 << 31), u32::from(u16::MAX) << 14));
        assert!(r.acceptable(IRS + 1, 0));
        assert_eq!(r.nxt, IRS + 1);
    }

    #[test]
    fn acknowledgements_arrive_in_time_and_merge_when_there_are_too_many() {
        let (mut r, mut rare, mut pool) = (open(), RareSlot::default(), RarePool::default());
        let tick = |ms| Clock::at(Nanos::from_millis(ms)).tick;
        for n in 0..20u64 {
            r.nxt += 10;
            r.acknowledge_at(tick(100 + n), &mut rare, &mut pool);
        }
        assert!(!r.arrive(tick(99), &mut rare));
        assert!(r.arrive(tick(101), &mut rare));
        assert_eq!(r.visible, IRS + 21);
        assert!(r.arrive(tick(115), &mut rare));
        assert_eq!(r.visible, r.nxt);
        rare.tidy(&mut pool);
        assert!(rare.get().is_none());
    }
}
