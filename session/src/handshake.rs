//! Opening: SYN towards the target, its answer, and a second try when something old is in the way.

use crate::receiver::Receiver;
use crate::sender::Sender;
use crate::state::{Context, Flags, Phase, Session};
use crate::time::{Brief, Span, ticks};
use crate::wire_tuple::Wire;
use crate::{EngineConfig, Metric, Outcome, Output, Rtt};
use common::flow::{Cause, Nanos, ResponseHeader};
use common::packet::{TcpFlags, TcpOptions, Timestamps};

/// When no channel can take a route, the SYN is tried again after this long: channels reconnect within
/// a second or so, and an operator sees the counter move.
const ANNOUNCE_RETRY_TICKS: u32 = 200;
/// A SYN waits this long for the word that its route is ready, which takes a round trip to intercept: as long as it
/// would wait for its answer (RFC 6298 section 2).
const ROUTE_WAIT_TICKS: u32 = ticks(Nanos::from_secs(1));
/// Segment size of a target that names none (RFC 9293 section 3.7.1).
const DEFAULT_MSS_V4: u16 = 536;
const DEFAULT_MSS_V6: u16 = 1220;
/// NOP NOP timestamps.
const TIMESTAMP_BYTES: u16 = 12;
/// Below this a client's round trip is not worth imitating: timers tick in milliseconds.
const RTT_MIN: Span = Span::of(Nanos::from_millis(2));
/// How long a handshake waits for the captured client to complete its own, from which its round trip
/// is learnt. Half-open connections (a scan) are completed then. What takes longer is no round trip: a
/// SYN that was sent twice (RFC 6298 section 2: after a second), or a third packet that was not captured
/// and a client that thought before it asked.
const MEASURE_LIMIT: Span = Span::of(Nanos::from_secs(1));
const MEASURE_LIMIT_TICKS: u32 = ticks(Nanos::from_secs(1));
/// Window of adopted sessions, whose client's scaling was never seen: 1 MiB, scaled by 7.
pub(crate) const OWN_WINDOW_SHIFT: u8 = 7;
pub(crate) const OWN_WINDOW_FIELD: u16 = 8192;
/// A window for at least this much payload is assumed, however small `-M` is.
const MIN_MSS: u16 = 64;

impl Session {
    /// Announces the route and sends the SYN, for the first time or again. Its sequence number is
    /// `snd_una` as long as it is not acknowledged.
    pub(crate) fn send_syn<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        let now = cx.all.now;
        let wire = self.wire_pair(&cx.all.config, &cx.all.paths);
        if !cx.out.announce(wire.client, wire.server) {
            cx.all.totals.announce_failed += 1;
            let at = now.from.plus(ANNOUNCE_RETRY_TICKS);
            self.sender.rto_at = Some(at);
            cx.wake(at);
            return;
        }
        if self.asked_at.is_none() && cx.out.awaits(wire.client, wire.server) {
            let at = now.from.plus(ROUTE_WAIT_TICKS);
            self.sender.rto_at = Some(at);
            cx.wake(at);
            return;
        }
        self.send_announced_syn(cx);
    }

    /// The responses are taken from now on: the SYN that waited for that goes.
    pub(crate) fn route_ready<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        if self.phase == Phase::Opening && self.asked_at.is_none() {
            self.sender.rto_at = None;
            self.send_announced_syn(cx);
        }
    }

    fn send_announced_syn<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        let now = cx.all.now;
        // Only what the target may answer by a plain TCP: no MPTCP, Fast Open, MD5, no ECN bits.
        let options = TcpOptions {
            mss: self.offered.mss(),
            window_scale: self.offered.window_scale(),
            sack_permitted: self.offered.sack_permitted,
            timestamps: self.offered.timestamps.then(|| Timestamps {
                val: self.ts_val(now.tick),
                ecr: 0,
            }),
        };
        let cause = if self.asked_at.is_none() {
            self.asked_at = Some(now.brief);
            if !self.has(Flags::SCHEDULED) {
                self.set(Flags::SCHEDULED);
                self.skew = now.brief.skew(self.syn_at);
            }
            // Opening began when progress was last made.
            let held = now.tick.since(self.sender.progress_at).max(0) as u64;
            self.sender.sent_new(self.sender.una + 1, now);
            Cause::Captured {
                at: Nanos(
                    now.at
                        .0
                        .saturating_sub(now.brief.since(self.syn_at).nanos().0),
                ),
                held: Nanos::from_millis(held),
            }
        } else {
            cx.all.totals.segments_retransmitted += 1;
            self.set(Flags::SYN_AGAIN);
            Cause::Retransmit
        };
        if let Some(at) = self.sender.rto_at {
            cx.wake(at);
        }
        self.send_control(cx, self.sender.una, TcpFlags::SYN, options, cause);
    }

    /// A response while the handshake is open (RFC 9293 section 3.10.7.3).
    pub(crate) fn opening<O: Output>(&mut self, cx: &mut Context<'_, O>, h: &ResponseHeader) {
        let Some(asked_at) = self.asked_at else {
            // No channel took the route yet: this answers an earlier connection on the tuple.
            return;
        };
        let acknowledges_syn = h.flags.has(TcpFlags::ACK) && h.ack == self.sender.una + 1;
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
        self.sender.shift = 0;
        if let (Some(_), Some(shift)) = (self.offered.window_scale(), h.options.window_scale) {
            self.set(Flags::SCALED);
            self.sender.shift = shift;
        }
        let both = self.offered.timestamps && h.options.timestamps.is_some();
        self.set_if(Flags::TIMESTAMPS, both);
        self.sender.mss = self.segment_size(cx, h);
        self.receiver.established(h);
        let took = cx.all.now.brief.since(asked_at);
        let rtt = (!self.has(Flags::SYN_AGAIN)).then_some(took);
        self.sender.established(h, rtt, cx.all.now, &mut self.rare);
        self.asked_at = None;
        self.phase = Phase::Open;
        cx.out.sample(Metric::Connect, took.nanos());
        self.wait_for_client(cx);
    }

    /// Lets the emulated client complete the handshake: now, or a round trip after the target's part.
    pub(crate) fn wait_for_client<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        // It may be waiting already, until its round trip is known.
        let waiting = self.handshake_at().map(|at| at.minus(MEASURE_LIMIT_TICKS));
        let unknown = cx.all.config.rtt == Rtt::Measured
            && !self.has(Flags::MEASURED)
            && !self.has(Flags::ADOPTED);
        let delay = if unknown {
            MEASURE_LIMIT_TICKS
        } else {
            self.client_delay(&cx.all.config).ticks()
        };
        let due = waiting.unwrap_or(cx.all.now.from).plus(delay);
        if delay == 0 || due.due(cx.all.now.tick) {
            self.complete_handshake(cx);
        } else {
            self.set(Flags::HANDSHAKE);
            self.wake_at = Some(due);
            cx.wake(due);
        }
    }

    /// The emulated client completes the handshake.
    pub(crate) fn complete_handshake<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        self.unset(Flags::HANDSHAKE);
        self.wake_at = None;
        self.set(Flags::ACK_DUE);
        self.pump(cx);
    }

    /// The first packet behind the captured SYN was captured at `at`: a round trip later, unless what
    /// it took cannot be one. Then none is imitated.
    pub(crate) fn measure_client(&mut self, at: Brief) {
        let since = at.since(self.syn_at);
        self.client_rtt = if since <= MEASURE_LIMIT {
            since
        } else {
            Span(0)
        };
        self.set(Flags::MEASURED);
    }

    /// How much later than we the client would answer the target.
    #[inline(always)]
    pub(crate) fn client_delay(&self, config: &EngineConfig) -> Span {
        let rtt = match config.rtt {
            Rtt::None => Span(0),
            Rtt::Measured if self.has(Flags::ADOPTED) => Span(0),
            Rtt::Measured => self.client_rtt,
            Rtt::Fixed(rtt) => Span::of(rtt),
        };
        if rtt >= RTT_MIN { rtt } else { Span(0) }
    }

    /// Begins anew towards the target, on another wire tuple, with the first data that is not sent
    /// yet: the target closed before it.
    pub(crate) fn reopen<O: Output>(&mut self, cx: &mut Context<'_, O>, wire: Wire) {
        let now = cx.all.now.tick;
        if !self.has(Flags::PEER_RESET) {
            // As the client would: the target is done, so are we.
            self.receiver.catch_up(&mut self.rare);
            let (flags, options) = (TcpFlags::FIN.with(TcpFlags::ACK), self.options(now));
            self.send_control(cx, self.sender.nxt, flags, options, Cause::Own);
        }
        let Some(next) = cx.all.arena.chunk(self.stream.cursor) else {
            return;
        };
        self.turns.restart(next.ack);
        cx.all.totals.reopened += 1;
        self.wire = wire;
        self.phase = Phase::Opening;
        self.sender = Sender::new(next.seq - 1, cx.all.config.mtu, cx.all.now.from);
        self.receiver = Receiver::default();
        if let Some(rare) = self.rare.get_mut() {
            rare.recovery = crate::sender::Recovery::default();
            rare.on_the_way = crate::receiver::OnTheWay::default();
        }
        self.asked_at = None;
        self.wake_at = None;
        for flag in [
            Flags::FIN_SENT,
            Flags::PEER_RESET,
            Flags::ACK_DUE,
            Flags::SYN_AGAIN,
            Flags::TIMESTAMPS,
            Flags::SCALED,
            Flags::HANDSHAKE,
        ] {
            self.unset(flag);
        }
        self.send_syn(cx);
        cx.wake(self.deadline(&cx.all.limits));
    }

    /// Payload bytes per segment: what the target takes and `-M` allows, less our own options
    /// (RFC 6691).
    fn segment_size<O: Output>(&self, cx: &Context<'_, O>, h: &ResponseHeader) -> u16 {
        let mtu = cx.all.config.mtu;
        let v4 = cx.all.paths.target(self.path).addr.is_v4();
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
        let options = if self.has(Flags::TIMESTAMPS) {
            TIMESTAMP_BYTES
        } else {
            0
        };
        mss.saturating_sub(options).max(MIN_MSS)
    }

    /// Payload of a full-sized segment of the target, as it follows from what we offered.
    #[inline(always)]
    pub(crate) fn full_response<O: Output>(&self, cx: &Context<'_, O>) -> u32 {
        let mss = self.offered.mss().unwrap_or_else(|| {
            if cx.all.paths.target(self.path).addr.is_v4() {
                DEFAULT_MSS_V4
            } else {
                DEFAULT_MSS_V6
            }
        });
        let options = if self.has(Flags::TIMESTAMPS) {
            TIMESTAMP_BYTES
        } else {
            0
        };
        u32::from(mss.saturating_sub(options).max(1))
    }
}
