//! One session and what its methods work with.
//!
//! ```text
//!  Session (per connection, at most 216 bytes)
//!    identity   client, path, wire          receiver   what the target is told
//!    stream     captured, not acknowledged  turns      when the next request may go
//!    sender     what the target has         rare       loss, holes, far clients: few at a time
//! ```

use crate::gap::Salvage;
use crate::paths::{PathId, Paths};
use crate::rare::{RarePool, RareSlot};
use crate::receiver::Receiver;
use crate::sender::Sender;
use crate::stream::{Arena, Stream};
use crate::table::Pair;
use crate::time::{Brief, Clock, Span, Tick, ticks};
use crate::turn::Turns;
use crate::wire_tuple::Wire;
use crate::{EngineConfig, Outcome, Output, SessionEnd, Totals, Waiting};
use common::flow::{Cause, ClientSegment, Nanos, Segment};
use common::packet::{Endpoint, SeqNumber, TcpFlags, TcpOptions, Timestamps};

/// The configured limits, in ticks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) turn: u32,
    pub(crate) connect: u32,
    pub(crate) response: u32,
    pub(crate) idle: u32,
    pub(crate) gap: u32,
    pub(crate) linger: u32,
    /// Bytes of blocks per session.
    pub(crate) session_bytes: u32,
}

impl Limits {
    pub(crate) fn new(config: &EngineConfig) -> Self {
        Self {
            turn: ticks(config.turn_limit),
            connect: ticks(config.connect_timeout),
            response: ticks(config.response_timeout),
            idle: ticks(config.idle_timeout),
            gap: ticks(config.gap_timeout),
            linger: ticks(config.linger),
            // Behind the limit a last block is stored: its cost must fit, too.
            session_bytes: config.session_bytes.min(i32::MAX as usize) as u32,
        }
    }
}

/// What all sessions share.
pub(crate) struct Shared {
    pub(crate) config: EngineConfig,
    pub(crate) limits: Limits,
    /// The time of the last input.
    pub(crate) now: Clock,
    pub(crate) paths: Paths,
    pub(crate) arena: Arena,
    pub(crate) pool: RarePool,
    pub(crate) totals: Totals,
}

/// What a session method may touch beside its session.
pub(crate) struct Context<'a, O: Output> {
    pub(crate) all: &'a mut Shared,
    pub(crate) out: &'a mut O,
    /// The session must be looked at then, or before.
    pub(crate) due: Option<Tick>,
    /// What the session leaves to another one of its client.
    pub(crate) salvage: Option<Box<Salvage>>,
}

impl<O: Output> Context<'_, O> {
    /// Something is to be done at `at`. Whoever brings a deadline of [`Session::deadline`] forward
    /// says so here, but for those of the rare part; what moves one back need not.
    #[inline]
    pub(crate) fn wake(&mut self, at: Tick) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}

/// Sends where speed does not matter: one copy of the code that builds frames.
#[inline(never)]
pub(crate) fn transmit<O: Output>(out: &mut O, segment: &Segment<'_>, cause: Cause) {
    out.transmit(segment, cause);
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// SYN sent, or waiting for a channel to announce its route.
    Opening,
    /// Handshake done.
    Open,
    /// Has its outcome. The entry stays to answer late packets of the target, to keep the tuple, and
    /// to know captured packets that still come.
    Ended(Outcome),
}

/// The client's FIN or RST as far as it matters to us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CapturedReset {
    /// How far the client had read the answers.
    pub(crate) ack: SeqNumber,
    /// Where it lies in the stream: data before it may be captured later.
    pub(crate) seq: SeqNumber,
    pub(crate) arrived: Tick,
}

/// What the captured SYN offered, or ours where it was not captured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offered {
    /// 0: none.
    mss: u16,
    window_scale: Option<u8>,
    pub(crate) sack_permitted: bool,
    pub(crate) timestamps: bool,
}

impl Offered {
    pub(crate) fn new(options: &TcpOptions) -> Self {
        Self {
            mss: options.mss.unwrap_or(0),
            window_scale: options.window_scale,
            sack_permitted: options.sack_permitted,
            timestamps: options.timestamps.is_some(),
        }
    }

    pub(crate) fn mss(self) -> Option<u16> {
        (self.mss != 0).then_some(self.mss)
    }

    pub(crate) fn window_scale(self) -> Option<u8> {
        self.window_scale
    }

    /// Shift of the client's window field, at most 14; 0 without scaling.
    #[inline]
    pub(crate) fn shift(self) -> u32 {
        u32::from(self.window_scale.unwrap_or(0)) & 15
    }
}

/// Facts about a session that are true or not, independent of each other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flags(u16);

impl Flags {
    /// Began without a captured SYN: options and window are our own.
    pub(crate) const ADOPTED: Self = Self(1);
    /// The target reset the connection when nothing was under way.
    pub(crate) const PEER_RESET: Self = Self(1 << 1);
    /// The target closed, the client has another request: open a new connection for it.
    pub(crate) const WANTS_REOPEN: Self = Self(1 << 2);
    /// Both sides agreed to timestamps.
    pub(crate) const TIMESTAMPS: Self = Self(1 << 3);
    /// Both sides agreed to window scaling.
    pub(crate) const SCALED: Self = Self(1 << 4);
    /// Our FIN is sent.
    pub(crate) const FIN_SENT: Self = Self(1 << 5);
    /// The captured client is done: FIN, RST or nothing for the idle timeout.
    pub(crate) const CLIENT_DONE: Self = Self(1 << 6);
    /// An acknowledgement is owed to the target and listed for the end of the batch.
    pub(crate) const ACK_DUE: Self = Self(1 << 7);
    /// The client's tuple belongs to a later connection; this one only finishes.
    pub(crate) const SUPERSEDED: Self = Self(1 << 8);
    /// The SYN was sent more than once: its answer says nothing about the round trip.
    pub(crate) const SYN_AGAIN: Self = Self(1 << 9);
    /// `skew` is known.
    pub(crate) const SCHEDULED: Self = Self(1 << 10);
    /// `client_rtt` is known.
    pub(crate) const MEASURED: Self = Self(1 << 11);
    /// `wake_at` is when the emulated client completes the handshake; else when a held turn is looked
    /// at again.
    pub(crate) const HANDSHAKE: Self = Self(1 << 12);
    /// Usual packets take the short way; see [`Session::settle`].
    pub(crate) const AT_EASE: Self = Self(1 << 13);

    /// These and those.
    pub(crate) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

pub(crate) struct Session {
    /// The captured client.
    pub(crate) client: Endpoint,
    /// Which copy of it, over all its targets.
    pub(crate) replica: u16,
    /// Whom it talked to, and the target.
    pub(crate) path: PathId,
    /// The client as the target sees it.
    pub(crate) wire: Wire,
    pub(crate) phase: Phase,
    flags: Flags,
    /// The client's last window field, unscaled.
    pub(crate) client_window: u16,
    pub(crate) offered: Offered,
    pub(crate) stream: Stream,
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
    pub(crate) turns: Turns,
    pub(crate) rare: RareSlot,
    /// Sequence number of the captured SYN, or in front of the first data of an adopted session.
    pub(crate) captured_iss: SeqNumber,
    /// Our timestamp clock is this far ahead of the tick's number.
    pub(crate) ts_offset: u32,
    /// Capture time of the SYN.
    pub(crate) syn_at: Brief,
    /// By how much the replay runs behind the capture: first SYN sent against SYN captured.
    pub(crate) skew: u32,
    /// Round trip between production and the client: captured SYN to captured third packet.
    pub(crate) client_rtt: Span,
    pub(crate) begun_at: Tick,
    /// Last packet of either side.
    pub(crate) active_at: Tick,
    /// What the timer is set to: it only ever has to be moved forward.
    pub(crate) timer_at: Option<Tick>,
    /// See [`Flags::HANDSHAKE`].
    pub(crate) wake_at: Option<Tick>,
    /// While opening: when this connection's SYN was first sent. Then: when the last byte of the
    /// current request was first sent, if no answer byte was seen yet.
    pub(crate) asked_at: Option<Brief>,
    /// Distinct payload bytes acknowledged by the target.
    pub(crate) delivered: u64,
}

/// With its share of the index and of the timer wheel a session takes at most 256 bytes.
const _: () = assert!(size_of::<Option<Session>>() <= 216);

/// What makes a session.
#[derive(Clone, Copy)]
pub(crate) struct Beginning {
    pub(crate) client: Endpoint,
    pub(crate) replica: u16,
    pub(crate) path: PathId,
    pub(crate) wire: Wire,
    /// Initial sequence number, captured or made up.
    pub(crate) iss: SeqNumber,
    pub(crate) offered: Offered,
    /// The client's timestamp clock at its beginning.
    pub(crate) ts_val: u32,
    pub(crate) window: u16,
    /// Capture time of the first packet.
    pub(crate) at: Nanos,
    pub(crate) adopted: bool,
}

impl Session {
    pub(crate) fn new(config: &EngineConfig, now: Clock, b: &Beginning) -> Self {
        Self {
            client: b.client,
            replica: b.replica,
            path: b.path,
            wire: b.wire,
            phase: Phase::Opening,
            flags: if b.adopted { Flags::ADOPTED } else { Flags(0) },
            client_window: b.window,
            offered: b.offered,
            stream: Stream::new(b.iss + 1),
            sender: Sender::new(b.iss, config.mtu, now.from),
            receiver: Receiver::default(),
            turns: Turns::new(config.no_turns),
            rare: RareSlot::default(),
            captured_iss: b.iss,
            ts_offset: b.ts_val.wrapping_sub(now.tick.number()),
            syn_at: Brief::of(b.at),
            skew: 0,
            client_rtt: Span(0),
            begun_at: now.from,
            active_at: now.from,
            timer_at: None,
            wake_at: None,
            asked_at: None,
            delivered: 0,
        }
    }

    /// One of `flags` is set.
    #[inline]
    pub(crate) fn has(&self, flags: Flags) -> bool {
        self.flags.0 & flags.0 != 0
    }

    /// All of `flags` are set.
    #[inline(always)]
    pub(crate) fn has_all(&self, flags: Flags) -> bool {
        self.flags.0 & flags.0 == flags.0
    }

    #[inline]
    pub(crate) fn set(&mut self, flag: Flags) {
        self.flags.0 |= flag.0;
    }

    #[inline]
    pub(crate) fn set_if(&mut self, flag: Flags, condition: bool) {
        self.flags.0 |= if condition { flag.0 } else { 0 };
    }

    #[inline]
    pub(crate) fn unset(&mut self, flag: Flags) {
        self.flags.0 &= !flag.0;
    }

    /// It replays, as this copy, the connection that `seg` is of, and no later connection does.
    #[inline(always)]
    pub(crate) fn is_of(&self, paths: &Paths, seg: &ClientSegment<'_>, replica: u16) -> bool {
        self.client == seg.client
            && paths
                .get(self.path)
                .is_some_and(|path| path.online == seg.online)
            && self.replica == replica
            && !self.has(Flags::SUPERSEDED)
    }

    /// It is as `client` that `target` knows it.
    #[inline(always)]
    pub(crate) fn has_wire(&self, all: &Shared, client: &Endpoint, target: &Endpoint) -> bool {
        let path = all.paths.get(self.path);
        self.wire.endpoint(&all.config, self.client) == *client
            && path.is_some_and(|path| path.target == *target)
    }

    /// Reads a little of each cache line.
    #[inline(always)]
    pub(crate) fn glance(&self) -> u32 {
        let turn = self.turns.ack().0 ^ self.sender.una.0 ^ self.ts_offset;
        turn ^ self.stream.nxt().0 ^ self.client_rtt.0 ^ u32::from(self.flags.0)
    }

    /// What lies at `seq` belongs to a later connection on this tuple: it is behind all that the client had
    /// to say, or further ahead than a session may buffer.
    #[inline]
    pub(crate) fn is_over_before(&self, seq: SeqNumber, limits: &Limits) -> bool {
        let ahead = seq.since(self.stream.nxt());
        if ahead <= 0 {
            return false;
        }
        let done = self.outcome().is_some() && self.has(Flags::CLIENT_DONE);
        ahead > limits.session_bytes as i32 || done || self.stream.finished()
    }

    /// It has its outcome.
    #[inline]
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        match self.phase {
            Phase::Ended(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Key of the wire side: client as the target sees it, and target.
    pub(crate) fn wire_pair(&self, config: &EngineConfig, paths: &Paths) -> Pair {
        Pair {
            client: self.wire.endpoint(config, self.client),
            server: paths.target(self.path),
        }
    }

    /// The client's round trip, once its handshake was seen.
    #[inline]
    pub(crate) fn client_rtt(&self) -> Option<Span> {
        self.has(Flags::MEASURED).then_some(self.client_rtt)
    }

    /// When the emulated client completes the handshake, if the target has done its part.
    #[inline]
    pub(crate) fn handshake_at(&self) -> Option<Tick> {
        self.wake_at.filter(|_| self.has(Flags::HANDSHAKE))
    }

    /// The next turn is held back until then, unless the target says something before.
    pub(crate) fn gate_until(&self) -> Option<Tick> {
        self.wake_at.filter(|_| !self.has(Flags::HANDSHAKE))
    }

    /// Timestamp clock: the client's own value at its SYN, then milliseconds, which is what Linux
    /// clients do (RFC 7323 section 5.4: 1 ms to 1 s per tick).
    #[inline]
    pub(crate) fn ts_val(&self, now: Tick) -> u32 {
        now.number().wrapping_add(self.ts_offset)
    }

    /// Options of every segment but the SYN.
    #[inline(always)]
    pub(crate) fn options(&self, now: Tick) -> TcpOptions {
        TcpOptions {
            timestamps: self.has(Flags::TIMESTAMPS).then(|| Timestamps {
                val: self.ts_val(now),
                ecr: self.receiver.ts_recent,
            }),
            ..TcpOptions::default()
        }
    }

    /// A segment of this session as it goes on the wire now, without its payload. Every segment with ACK
    /// carries the newest acknowledgement, so one that is owed is paid by it.
    #[inline(always)]
    pub(crate) fn segment<'a>(
        &mut self,
        all: &mut Shared,
        seq: SeqNumber,
        flags: TcpFlags,
        options: TcpOptions,
    ) -> Segment<'a> {
        let target = all.paths.target(self.path);
        self.segment_to(target, all, seq, flags, options)
    }

    /// The same; `target` is that of its path.
    #[inline(always)]
    pub(crate) fn segment_to<'a>(
        &mut self,
        target: Endpoint,
        all: &mut Shared,
        seq: SeqNumber,
        flags: TcpFlags,
        options: TcpOptions,
    ) -> Segment<'a> {
        if flags.has(TcpFlags::ACK) {
            self.unset(Flags::ACK_DUE);
        }
        all.totals.segments_sent += 1;
        Segment {
            src: self.wire.endpoint(&all.config, self.client),
            dst: target,
            seq,
            ack: self.receiver.visible,
            flags,
            window: self.window_field(flags),
            options,
            payload: &[],
            ip_id: all.totals.segments_sent as u16,
        }
    }

    /// Sends a segment without payload.
    pub(crate) fn send_control<O: Output>(
        &mut self,
        cx: &mut Context<'_, O>,
        seq: SeqNumber,
        flags: TcpFlags,
        options: TcpOptions,
        cause: Cause,
    ) {
        let segment = self.segment(cx.all, seq, flags, options);
        transmit(cx.out, &segment, cause);
    }

    /// Captured payload bytes that the target has not acknowledged.
    pub(crate) fn pending(&self) -> u32 {
        // The SYN, not acknowledged before the connection is open, is no byte of the stream.
        let syn = u32::from(self.phase == Phase::Opening);
        self.stream.pending(self.sender.una + syn, &self.rare)
    }

    /// True once every captured byte is acknowledged (a FIN need not be).
    pub(crate) fn all_delivered(&self) -> bool {
        self.pending() == 0
    }

    /// Gives the session its outcome and its memory back.
    pub(crate) fn end<O: Output>(&mut self, cx: &mut Context<'_, O>, outcome: Outcome) {
        if self.outcome().is_some() {
            return;
        }
        let pending = u64::from(self.pending());
        let wire = self.wire_pair(&cx.all.config, &cx.all.paths);
        cx.out.ended(&SessionEnd {
            client: self.client,
            online: cx.all.paths.online(self.path),
            wire: wire.client,
            target: wire.server,
            outcome,
            waiting: self.waiting(),
            captured: self.delivered + pending,
            delivered: self.delivered,
            lasted: Nanos::from_millis(cx.all.now.tick.since(self.begun_at).max(0) as u64),
        });
        cx.all
            .totals
            .end(wire.server, outcome, self.delivered, pending);
        self.stream.clear(&mut cx.all.arena, &mut self.rare);
        self.receiver.catch_up(&mut self.rare);
        self.rare.clear(&mut cx.all.pool);
        self.phase = Phase::Ended(outcome);
        self.unset(Flags::ACK_DUE);
        self.unset(Flags::WANTS_REOPEN);
        self.unset(Flags::HANDSHAKE);
        self.sender.rto_at = None;
        self.wake_at = None;
        self.active_at = cx.all.now.from;
        cx.wake(self.deadline(&cx.all.limits));
        cx.out.retire(wire.client, wire.server);
    }

    /// What keeps the session from going on.
    fn waiting(&self) -> Waiting {
        match self.phase {
            Phase::Opening if self.asked_at.is_none() => Waiting::Channel,
            Phase::Opening => Waiting::Handshake,
            Phase::Open if self.gate_until().is_some() => Waiting::Turn,
            Phase::Open if self.sender.in_flight() > 0 => Waiting::Acknowledgement,
            Phase::Open if !self.stream.cursor.is_none() => Waiting::Window,
            Phase::Open if self.hole_since().is_some() => Waiting::Capture,
            Phase::Open if !self.has(Flags::FIN_SENT) => Waiting::Client,
            Phase::Open if !self.receiver.answered.fin => Waiting::Close,
            Phase::Open | Phase::Ended(_) => Waiting::Nothing,
        }
    }

    /// Ends with a reset towards the target (RFC 9293 section 3.10.5).
    pub(crate) fn abort<O: Output>(&mut self, cx: &mut Context<'_, O>, outcome: Outcome) {
        let flags = match self.phase {
            Phase::Ended(_) => return,
            Phase::Open => TcpFlags::RST.with(TcpFlags::ACK),
            Phase::Opening => TcpFlags::RST,
        };
        if self.phase == Phase::Open || self.asked_at.is_some() {
            let options = self.options(cx.all.now.tick);
            self.send_control(cx, self.sender.nxt, flags, options, Cause::Own);
        }
        self.end(cx, outcome);
    }

    /// The client was cut off, and the target is not yet.
    #[inline]
    pub(crate) fn reset(&self) -> Option<CapturedReset> {
        self.rare.get()?.reset
    }

    /// Since when captured bytes are missing in front of other ones, or of the client's reset.
    #[inline]
    pub(crate) fn hole_since(&self) -> Option<Tick> {
        let rare = self.rare.get()?;
        let reset = rare.reset.filter(|r| self.stream.nxt().before(r.seq));
        rare.ahead.since().or(reset.map(|r| r.arrived))
    }

    /// The timer fires at the deadline or before: nobody brought it forward without a word.
    pub(crate) fn timer_is_in_time(&self, limits: &Limits) -> bool {
        self.timer_at
            .is_some_and(|at| self.deadline(limits).since(at) >= 0)
    }

    /// When this session wants to be looked at next.
    pub(crate) fn deadline(&self, limits: &Limits) -> Tick {
        if self.outcome().is_some() {
            let done = self.has(Flags::CLIENT_DONE);
            return self
                .active_at
                .plus(if done { limits.linger } else { limits.idle });
        }
        let mut due = self.active_at.plus(limits.idle);
        if self.phase == Phase::Opening {
            due = due.min(self.sender.progress_at.plus(limits.connect));
        }
        if let Some(t) = self.sender.rto_at {
            due = due.min(t);
            // Only data can time out: a SYN has its own limit, and a timer that is due but does nothing
            // would fire again each tick.
            if self.phase == Phase::Open && self.sender.in_flight() > 0 {
                due = due.min(self.sender.progress_at.plus(limits.response));
            }
        }
        if let Some(t) = self.wake_at {
            due = due.min(t);
        }
        if let Some(t) = self.rare.get().and_then(|r| r.on_the_way.next()) {
            due = due.min(t);
        }
        if let Some(t) = self.hole_due(limits) {
            due = due.min(t);
        }
        due
    }
}
