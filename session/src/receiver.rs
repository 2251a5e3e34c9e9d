//! What the session answers to the target: acknowledgement number, window, timestamps echo.
//!
//! The answers themselves are not kept: the highest byte seen is acknowledged (holes included), so that
//! the target never sends an answer again because a header was lost on the way to us.

use crate::state::{Phase, Session};
use crate::turn::Answered;
use common::flow::{Nanos, ResponseHeader};
use common::packet::{SeqNumber, TcpFlags};
use std::collections::VecDeque;

/// Acknowledgements that may be on their way to an emulated client at a time; more are merged into the
/// last. A real client's delayed acknowledgements merge as well.
const ON_THE_WAY: usize = 16;

/// Window that is offered at least once the client's own window says nothing any more (its capture
/// ended): 64 KiB, what the field can say without scaling.
const FLOOR_BYTES: u32 = 65_535;
/// A response within this distance of what is expected is believed even if the client's window was
/// smaller: headers that were lost on the way to us leave our own view behind the target's.
const PLAUSIBLE_BYTES: u32 = 1 << 20;

#[derive(Clone, Debug, Default)]
pub(crate) struct Receiver {
    /// Next sequence number expected (RCV.NXT), as the highest seen.
    pub(crate) nxt: SeqNumber,
    /// What the emulated client has acknowledged by now: `nxt`, a round trip later.
    pub(crate) visible: SeqNumber,
    /// When it will acknowledge up to where.
    on_the_way: VecDeque<(Nanos, SeqNumber)>,
    /// Newest TSval of the target (TS.Recent of RFC 7323 section 4.3).
    pub(crate) ts_recent: u32,
    /// Scaling is in force: the window field is the client's own.
    pub(crate) scaled: bool,
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
    pub(crate) fn established(&mut self, h: &ResponseHeader, scaled: bool) {
        self.nxt = h.seq + 1;
        self.visible = self.nxt;
        self.scaled = scaled;
        self.ts_recent = h.options.timestamps.map_or(0, |t| t.val);
    }

    /// The client acknowledges what has come so far at `due`.
    pub(crate) fn acknowledge_at(&mut self, due: Nanos) {
        if self.on_the_way.len() >= ON_THE_WAY {
            if let Some(last) = self.on_the_way.back_mut() {
                last.1 = self.nxt;
            }
            return;
        }
        self.on_the_way.push_back((due, self.nxt));
    }

    /// The client has read everything: it says something that depends on it.
    pub(crate) fn catch_up(&mut self) {
        self.visible = self.nxt;
        self.on_the_way.clear();
    }

    /// Lets the client acknowledge what is due; true if that is anything.
    pub(crate) fn arrive(&mut self, now: Nanos) -> bool {
        let mut any = false;
        while let Some((due, nxt)) = self.on_the_way.front().copied() {
            if due > now {
                break;
            }
            self.on_the_way.pop_front();
            self.visible = nxt;
            any = true;
        }
        any
    }

    /// When [`Receiver::arrive`] has something next.
    pub(crate) fn arrives_at(&self) -> Option<Nanos> {
        self.on_the_way.front().map(|(due, _)| *due)
    }

    /// RFC 9293 section 3.10.7.4, first check: what lies beyond every `window` (in bytes) that the target
    /// was offered is late, of an earlier connection on this tuple, or forged.
    pub(crate) fn acceptable(&self, seq: SeqNumber, window: u32) -> bool {
        seq.since(self.nxt).unsigned_abs() <= window.max(PLAUSIBLE_BYTES)
    }

    /// Takes payload, FIN and timestamps of an acceptable response (RFC 9293 section 3.10.7.4, seventh and
    /// eighth check). `full` is the payload of a full-sized segment.
    pub(crate) fn take(&mut self, h: &ResponseHeader, full: u32, now: Nanos) -> Received {
        let distance = h.seq.since(self.nxt);
        if let Some(ts) = h.options.timestamps {
            // Modular comparison, so that a clock that wraps keeps working.
            if SeqNumber(ts.val).after(SeqNumber(self.ts_recent)) {
                self.ts_recent = ts.val;
            }
        }
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
            self.answered.bytes += u64::from(got.bytes);
            self.nxt = data_end;
        }
        if h.payload_len > 0 {
            self.answered.at = now;
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
        u32::from(self.client_window) << self.offered.window_scale.unwrap_or(0).min(14)
    }

    /// Window field for a segment: the client's own, translated where scaling was not agreed.
    pub(crate) fn window_field(&self, flags: TcpFlags) -> u16 {
        let shift = u32::from(self.offered.window_scale.unwrap_or(0));
        if flags.has(TcpFlags::SYN) || flags.has(TcpFlags::RST) {
            return self.client_window;
        }
        let mut bytes = self.client_window_bytes();
        if self.client_done || self.phase != Phase::Open || self.stream.finished() {
            bytes = bytes.max(FLOOR_BYTES);
        }
        let field = if self.receiver.scaled {
            bytes >> shift
        } else {
            bytes
        };
        field.min(u32::from(u16::MAX)) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::packet::{Addr, Endpoint, TcpOptions, Timestamps};

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
        }
    }

    fn open() -> Receiver {
        let mut r = Receiver::default();
        r.established(&header(IRS, 0, TcpFlags::SYN), false);
        r
    }

    #[test]
    fn the_highest_byte_is_acknowledged_and_holes_are_not_waited_for() {
        let mut r = open();
        let got = r.take(&header(IRS + 1001, 500, TcpFlags::PSH), 1000, Nanos(5));
        assert_eq!(
            got,
            Received {
                bytes: 1500,
                fin: false,
                ack_due: true,
            }
        );
        assert_eq!(r.nxt, IRS + 1501);
        let got = r.take(&header(IRS + 1, 1000, TcpFlags(0)), 1000, Nanos(6));
        assert_eq!((got.bytes, got.ack_due), (0, true));
        assert!(r.answered.psh && r.answered.short);
    }

    #[test]
    fn keep_alive_probes_and_retransmissions_are_answered_pure_acks_not() {
        let mut r = open();
        assert!(
            !r.take(&header(IRS + 1, 0, TcpFlags(0)), 1000, Nanos(5))
                .ack_due
        );
        assert!(r.take(&header(IRS, 0, TcpFlags(0)), 1000, Nanos(5)).ack_due);
        assert!(r.take(&header(IRS, 1, TcpFlags(0)), 1000, Nanos(5)).ack_due);
        assert_eq!(r.nxt, IRS + 1);
    }

    #[test]
    fn a_bare_acknowledgement_is_not_taken_for_the_bytes_before_it() {
        let mut r = open();
        r.take(&header(IRS + 1, 100, TcpFlags::PSH), 1000, Nanos(5));
        let got = r.take(&header(IRS + 501, 0, TcpFlags(0)), 1000, Nanos(900));
        assert_eq!((got.bytes, got.ack_due), (0, true));
        assert_eq!((r.nxt, r.answered.bytes), (IRS + 101, 100));
        r.take(&header(IRS + 101, 400, TcpFlags::PSH), 1000, Nanos(901));
        assert_eq!(r.nxt, IRS + 501);
    }

    #[test]
    fn a_fin_counts_once() {
        let mut r = open();
        let fin = header(IRS + 1, 10, TcpFlags::FIN);
        assert_eq!(r.take(&fin, 1000, Nanos(5)).bytes, 10);
        assert_eq!(r.nxt, IRS + 12);
        assert_eq!(r.take(&fin, 1000, Nanos(5)).bytes, 0);
        assert_eq!(r.nxt, IRS + 12);
        assert!(r.answered.fin);
    }

    #[test]
    fn rfc7323_timestamps_are_compared_modulo_2_32() {
        let mut r = open();
        let at = |val| {
            let mut h = header(IRS + 1, 0, TcpFlags(0));
            h.options.timestamps = Some(Timestamps { val, ecr: 0 });
            h
        };
        r.ts_recent = u32::MAX - 1;
        r.take(&at(5), 1000, Nanos(1));
        assert_eq!(r.ts_recent, 5);
        r.take(&at(u32::MAX), 1000, Nanos(1));
        assert_eq!(r.ts_recent, 5);
    }

    #[test]
    fn another_connection_is_told_apart() {
        let r = open();
        assert!(!r.acceptable(IRS + (1 << 31), u32::from(u16::MAX) << 14));
        assert!(r.acceptable(IRS + 1, 0));
        assert_eq!(r.nxt, IRS + 1);
    }
}
