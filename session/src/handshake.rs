//! Opening: SYN towards the target, its answer, and a second try when something old is in the way.

use crate::receiver::Receiver;
use crate::sender::Sender;
use crate::state::{Context, Phase, Session};
use crate::table::Pair;
use crate::{EngineConfig, Metric, Outcome, Output, Rtt};
use common::flow::{Cause, Nanos, ResponseHeader};
use common::packet::{TcpFlags, TcpOptions, Timestamps};

/// When no channel can take a route, the SYN is tried again after this long: channels reconnect within
/// a second or so, and an operator sees the counter move.
const ANNOUNCE_RETRY: Nanos = Nanos::from_millis(200);
/// Segment size of a target that names none (RFC 9293 section 3.7.1).
const DEFAULT_MSS_V4: u16 = 536;
const DEFAULT_MSS_V6: u16 = 1220;
/// NOP NOP timestamps.
const TIMESTAMP_BYTES: u16 = 12;
/// Below this a client's round trip is not worth imitating: timers tick in milliseconds.
const RTT_MIN: Nanos = Nanos::from_millis(2);
/// How long a handshake waits for the captured client to complete its own, from which its round trip
/// is learnt. Half-open connections (a scan) are completed then. What takes longer is no round trip: a
/// SYN that was sent twice (RFC 6298 section 2: after a second), or a third packet that was not captured
/// and a client that thought before it asked.
const MEASURE_LIMIT: Nanos = Nanos::from_secs(1);
/// Window of adopted sessions, whose client's scaling was never seen: 1 MiB, scaled by 7.
pub(crate) const OWN_WINDOW_SHIFT: u8 = 7;
pub(crate) const OWN_WINDOW_FIELD: u16 = 8192;
/// A window for at least this much payload is assumed, however small `-M` is.
const MIN_MSS: u16 = 64;

impl Session {
    /// Announces the route and sends the SYN, for the first time or again.
    pub(crate) fn send_syn<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        if !cx.out.announce(self.wire.client, self.wire.server) {
            cx.totals.announce_failed += 1;
            self.sender.retry_at(cx.now + ANNOUNCE_RETRY);
            return;
        }
        // Only what the target may answer by a plain TCP: no MPTCP, Fast Open, MD5, no ECN bits.
        let options = TcpOptions {
            mss: self.offered.mss,
            window_scale: self.offered.window_scale,
            sack_permitted: self.offered.sack_permitted,
            timestamps: self.offered.timestamps.map(|_| Timestamps {
                val: self.ts_val(cx.now),
                ecr: 0,
            }),
            ..TcpOptions::default()
        };
        let cause = if self.syn_sent_at.is_none() {
            self.syn_sent_at = Some(cx.now);
            self.schedule_at.get_or_insert(cx.now);
            self.sender.sent_new(self.iss + 1, cx.now);
            Cause::Captured {
                at: self.syn_at,
                held: cx.now.since(self.opened_at),
            }
        } else {
            cx.totals.segments_retransmitted += 1;
            self.sender.sent_again(self.iss + 1);
            Cause::Retransmit
        };
        self.send_control(cx, self.iss, TcpFlags::SYN, options, cause);
    }

    /// A response while the handshake is open (RFC 9293 section 3.10.7.3).
    pub(crate) fn opening<O: Output>(&mut self, cx: &mut Context<'_, O>, h: &ResponseHeader) {
        if self.syn_sent_at.is_none() {
            // No channel took the route yet: this answers an earlier connection on the tuple.
            return;
        }
        let acknowledges_syn = h.flags.has(TcpFlags::ACK) && h.ack == self.iss + 1;
        if h.flags.has(TcpFlags::RST) {
            if acknowledges_syn {
                self.end(cx, Outcome::Refused);
            }
            return;
        }
        if !acknowledges_syn {
            // An older connection lives on this tuple at the target: reset it; our SYN is repeated by
            // its timer.
            if h.flags.has(TcpFlags::ACK) {
                self.send_control(cx, h.ack, TcpFlags::RST, TcpOptions::default(), Cause::Own);
            }
            return;
        }
        if !h.flags.has(TcpFlags::SYN) {
            return;
        }
        let scaled = self.offered.window_scale.is_some() && h.options.window_scale.is_some();
        self.sender.shift = if scaled {
            h.options.window_scale.unwrap_or(0)
        } else {
            0
        };
        self.timestamps = self.offered.timestamps.is_some() && h.options.timestamps.is_some();
        self.sender.mss = self.segment_size(cx.config.mtu, h);
        self.receiver.established(h, scaled);
        self.sender.established(h, cx.now);
        self.phase = Phase::Open;
        if let Some(sent) = self.syn_sent_at {
            cx.out.sample(Metric::Connect, cx.now.since(sent));
        }
        self.established_at = cx.now;
        self.wait_for_client(cx);
    }

    /// Lets the emulated client complete the handshake: now, or a round trip after the target's part.
    pub(crate) fn wait_for_client<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        let due = match (cx.config.rtt, self.client_rtt) {
            (Rtt::Measured, None) if !self.adopted => self.established_at + MEASURE_LIMIT,
            _ => self.established_at + self.client_delay(cx.config),
        };
        self.handshake_at = (due > cx.now).then_some(due);
        if self.handshake_at.is_none() {
            self.ack_due = true;
            self.pump(cx);
        }
    }

    /// The first packet behind the captured SYN came `since` later: the client's round trip, unless it
    /// cannot be one. Then none is imitated.
    pub(crate) fn measure_client(&mut self, since: Nanos) {
        let plausible = since <= MEASURE_LIMIT;
        self.client_rtt = Some(if plausible { since } else { Nanos(0) });
    }

    /// How much later than we the client would answer the target.
    pub(crate) fn client_delay(&self, config: &EngineConfig) -> Nanos {
        let rtt = match config.rtt {
            Rtt::Measured if self.adopted => None,
            Rtt::Measured => self.client_rtt,
            Rtt::None => None,
            Rtt::Fixed(rtt) => Some(rtt),
        };
        rtt.filter(|rtt| *rtt >= RTT_MIN).unwrap_or(Nanos(0))
    }

    /// Begins anew towards the target, on another wire tuple, with the first data that is not sent
    /// yet: the target closed before it.
    pub(crate) fn reopen<O: Output>(&mut self, cx: &mut Context<'_, O>, wire: Pair) {
        if !self.peer_reset {
            // As the client would: the target is done, so are we.
            self.receiver.catch_up();
            let (flags, options) = (TcpFlags::FIN.with(TcpFlags::ACK), self.options(cx.now));
            self.send_control(cx, self.sender.nxt, flags, options, Cause::Own);
        }
        let Some(next) = self.stream.queue().get(self.cursor) else {
            return;
        };
        let (first, ack) = (next.seq, next.stamp.ack);
        if let Some(turns) = self.turns.as_mut() {
            turns.restart(ack);
        }
        cx.totals.reopened += 1;
        self.wire = wire;
        self.phase = Phase::Opening;
        self.iss = first - 1;
        self.sender = Sender::new(self.iss, cx.config.mtu, cx.now);
        self.receiver = Receiver::default();
        self.opened_at = cx.now;
        self.syn_sent_at = None;
        self.request_sent_at = None;
        self.fin_sent = false;
        self.peer_reset = false;
        self.ack_due = false;
        self.send_syn(cx);
    }

    /// Payload bytes per segment: what the target takes and `-M` allows, less our own options
    /// (RFC 6691).
    fn segment_size(&self, mtu: u16, h: &ResponseHeader) -> u16 {
        let v4 = self.wire.server.addr.is_v4();
        let (headers, default) = if v4 {
            (40, DEFAULT_MSS_V4)
        } else {
            (60, DEFAULT_MSS_V6)
        };
        let mss = h
            .options
            .mss
            .unwrap_or(default)
            .min(mtu.saturating_sub(headers));
        let options = if self.timestamps { TIMESTAMP_BYTES } else { 0 };
        mss.saturating_sub(options).max(MIN_MSS)
    }

    /// Payload of a full-sized segment of the target, as it follows from what we offered.
    pub(crate) fn full_response(&self) -> u32 {
        let default = if self.wire.server.addr.is_v4() {
            DEFAULT_MSS_V4
        } else {
            DEFAULT_MSS_V6
        };
        let options = if self.timestamps { TIMESTAMP_BYTES } else { 0 };
        u32::from(
            self.offered
                .mss
                .unwrap_or(default)
                .saturating_sub(options)
                .max(1),
        )
    }
}
