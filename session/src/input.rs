//! What a session does with captured packets, responses and time.

use crate::state::{CapturedReset, Context, Flags, Phase, Session};
use crate::stream::{Incoming, Inserted};
use crate::time::Brief;
use crate::{Metric, Outcome, Output};
use common::flow::{Cause, ClientSegment, ResponseHeader};
use common::packet::{SeqNumber, TcpFlags};

/// Captured data is cut at this size where nothing tells the client's own segment size: the payload of
/// an Ethernet frame with timestamps.
pub(crate) const PIECE_BYTES: usize = 1448;
/// A captured RST is believed if it is this close to the stream: a forged or stray one is not.
const RESET_WINDOW: i32 = 1 << 20;

impl Session {
    /// A captured packet behind the SYN (or the SYN itself, for its payload).
    #[inline]
    pub(crate) fn captured<O: Output>(&mut self, cx: &mut Context<'_, O>, seg: &ClientSegment<'_>) {
        self.active_at = cx.all.now.from;
        if let Phase::Ended(outcome) = self.phase {
            self.captured_late(cx, seg, outcome);
            return;
        }
        let has_ack = seg.flags.has(TcpFlags::ACK);
        if seg.flags.has(TcpFlags::SYN.with(TcpFlags::RST)) {
            self.captured_control(cx, seg);
            return;
        }
        if !self.has(Flags::ADOPTED) {
            self.client_window = seg.window;
        }
        let measured = has_ack && self.observe(cx, seg);
        let fin = seg.flags.has(TcpFlags::FIN);
        self.set_if(Flags::CLIENT_DONE, fin);
        if fin || !seg.payload.is_empty() {
            self.store(cx, seg, seg.seq, fin);
        } else if seg.payload_len == 0 && has_ack {
            self.told(cx, seg.seq, seg.ack);
        }
        self.go_on(cx, measured);
    }

    /// A bare acknowledgement tells how far the client has sent: beyond what was captured there is a hole,
    /// which keep-alive probes, one number below, do not show.
    #[inline]
    fn told<O: Output>(&mut self, cx: &mut Context<'_, O>, seq: SeqNumber, ack: SeqNumber) {
        let (limit, now) = (cx.all.limits.session_bytes, cx.all.now.from);
        let (rare, read) = ((&mut self.rare, &mut cx.all.pool), self.turns.ack());
        let said = (seq, ack);
        self.stream
            .told(&cx.all.arena, rare, limit, now, said, read);
    }

    /// After what was captured has been stored.
    #[inline]
    fn go_on<O: Output>(&mut self, cx: &mut Context<'_, O>, measured: bool) {
        if self.phase == Phase::Open {
            // Only now, with the packet's data: it may end the session, behind a reset that came first.
            if measured && self.handshake_at().is_some() {
                self.wait_for_client(cx);
            }
            self.pump(cx);
            return;
        }
        let nothing_said = self.stream.head().is_none() && self.hole_since().is_none();
        if self.phase == Phase::Opening && self.reset().is_some() && nothing_said {
            // Cut off before anything was said: nothing to deliver, nothing to wait for.
            self.abort(cx, Outcome::ResetByClient);
        }
    }

    /// The payload of a SYN, or a reset.
    #[cold]
    fn captured_control<O: Output>(&mut self, cx: &mut Context<'_, O>, seg: &ClientSegment<'_>) {
        let (syn, rst) = (seg.flags.has(TcpFlags::SYN), seg.flags.has(TcpFlags::RST));
        let has_ack = seg.flags.has(TcpFlags::ACK);
        let mut measured = false;
        if rst {
            measured = !syn && has_ack && self.observe(cx, seg);
            let distance = seg.seq.since(self.stream.nxt());
            if (-RESET_WINDOW..=RESET_WINDOW).contains(&distance) {
                self.set(Flags::CLIENT_DONE);
                // Without ACK the client says nothing of what it read; the last it said counts.
                let ack = if has_ack {
                    seg.ack
                } else {
                    self.turns.highest_ack()
                };
                self.cut_off(cx, ack, seg.seq);
            }
        } else {
            let fin = seg.flags.has(TcpFlags::FIN);
            self.set_if(Flags::CLIENT_DONE, fin);
            if fin || !seg.payload.is_empty() {
                self.store(cx, seg, seg.seq + 1, fin);
            }
        }
        self.go_on(cx, measured);
    }

    /// The client's connection ends at `seq` with a reset.
    fn cut_off<O: Output>(&mut self, cx: &mut Context<'_, O>, ack: SeqNumber, seq: SeqNumber) {
        let arrived = cx.all.now.from;
        self.rare.need(&mut cx.all.pool).reset = Some(CapturedReset { ack, seq, arrived });
    }

    /// The session is over: its bytes are lost.
    #[cold]
    fn captured_late<O: Output>(
        &mut self,
        cx: &mut Context<'_, O>,
        seg: &ClientSegment<'_>,
        outcome: Outcome,
    ) {
        if seg.flags.has(TcpFlags::FIN.with(TcpFlags::RST)) {
            self.set(Flags::CLIENT_DONE);
            cx.wake(self.deadline(&cx.all.limits));
        }
        let seq = seg.seq + u32::from(seg.flags.has(TcpFlags::SYN));
        let new = u64::from(self.stream.skip(seq, seg.payload_len));
        cx.all.totals.bytes_captured += new;
        // A completed connection had no more to say: new bytes are of another one on this tuple, whose SYN
        // was not captured.
        let cause = match outcome {
            Outcome::Completed => Outcome::CaptureGap,
            other => other,
        };
        cx.all.totals.lose(seg.target, cause, new);
    }

    /// Sees what the client acknowledges; true if that told its round trip.
    #[inline]
    fn observe<O: Output>(&mut self, cx: &mut Context<'_, O>, seg: &ClientSegment<'_>) -> bool {
        let at = Brief::of(seg.at);
        let first = !self.turns.is_known();
        if first {
            self.turns.begin(seg.ack);
            self.measure_client(at);
        }
        let rtt = self.client_rtt();
        let became = self
            .turns
            .observe(at, seg.ack, !seg.payload.is_empty(), rtt);
        cx.all.totals.full_duplex += u64::from(became);
        first
    }

    #[inline]
    fn store<O: Output>(
        &mut self,
        cx: &mut Context<'_, O>,
        seg: &ClientSegment<'_>,
        seq: SeqNumber,
        fin: bool,
    ) {
        let cut_short = (seg.payload.len() as u64) < u64::from(seg.payload_len);
        let piece = match usize::from(seg.gso_size) {
            0 => PIECE_BYTES,
            size => size.min(PIECE_BYTES),
        };
        let incoming = Incoming {
            seq,
            payload: seg.payload,
            psh: seg.flags.has(TcpFlags::PSH),
            // The FIN of a packet that was cut lies behind bytes that are missing.
            fin: fin && !cut_short,
            piece,
            ack: if seg.flags.has(TcpFlags::ACK) {
                seg.ack
            } else {
                self.turns.highest_ack()
            },
            at: seg.at,
        };
        let limit = cx.all.limits.session_bytes;
        let (arena, rare, pool) = (&mut cx.all.arena, &mut self.rare, &mut cx.all.pool);
        let inserted = self
            .stream
            .insert(arena, rare, pool, limit, cx.all.now, &incoming);
        let Inserted::Taken { bytes, new: true } = inserted else {
            self.not_stored(cx, seg, seq, inserted);
            return;
        };
        cx.all.totals.bytes_captured += u64::from(bytes);
    }

    /// Nothing new, or not all of it.
    #[cold]
    fn not_stored<O: Output>(
        &mut self,
        cx: &mut Context<'_, O>,
        seg: &ClientSegment<'_>,
        seq: SeqNumber,
        inserted: Inserted,
    ) {
        match inserted {
            Inserted::Taken { bytes, .. } => {
                cx.all.totals.bytes_captured += u64::from(bytes);
                cx.all.totals.segments_duplicate += 1;
            }
            Inserted::Foreign => {
                // Of another connection on this tuple; its SYN was not captured.
                let len = u64::from(seg.payload_len);
                cx.all.totals.bytes_captured += len;
                cx.all.totals.lose(seg.target, Outcome::CaptureGap, len);
            }
            Inserted::Full { bytes } => {
                cx.all.totals.bytes_captured += u64::from(bytes);
                self.abort(cx, Outcome::Shed);
                // What of it was not known before, and is not counted again when the client repeats it.
                let lost = u64::from(self.stream.skip(seq, seg.payload_len));
                cx.all.totals.bytes_captured += lost;
                cx.all.totals.lose(seg.target, Outcome::Shed, lost);
            }
        }
    }

    /// A response of the target.
    #[inline]
    pub(crate) fn response<O: Output>(&mut self, cx: &mut Context<'_, O>, h: &ResponseHeader) {
        match self.phase {
            Phase::Open => self.open_response(cx, h),
            Phase::Ended(outcome) => self.late_response(cx, h, outcome),
            Phase::Opening => {
                self.active_at = cx.all.now.from;
                self.opening(cx, h);
            }
        }
    }

    /// The session is over. A late ACK is normal and never answered (least of all by a reset); data or
    /// a FIN tell that the target missed our last word.
    #[cold]
    fn late_response<O: Output>(
        &mut self,
        cx: &mut Context<'_, O>,
        h: &ResponseHeader,
        outcome: Outcome,
    ) {
        let says_something = h.payload_len > 0 || h.flags.has(TcpFlags::FIN);
        if h.flags.has(TcpFlags::RST) || !says_something {
            return;
        }
        let options = self.options(cx.all.now.tick);
        if outcome == Outcome::Completed {
            cx.all.totals.acks_sent += 1;
            self.send_control(cx, self.sender.nxt, TcpFlags::ACK, options, Cause::Own);
        } else {
            self.send_control(cx, h.ack, TcpFlags::RST, options, Cause::Own);
        }
    }

    #[inline]
    fn open_response<O: Output>(&mut self, cx: &mut Context<'_, O>, h: &ResponseHeader) {
        let acceptable = self.receiver.acceptable(h.seq, self.client_window_bytes());
        if !acceptable || h.flags.has(TcpFlags::SYN.with(TcpFlags::RST)) {
            self.odd_response(cx, h, acceptable);
            return;
        }
        let got = self.receiver.take(h, self.full_response(cx), cx.all.now);
        cx.all.totals.response_bytes += u64::from(got.bytes);
        if self.receiver.visible != self.receiver.nxt || got.ack_due {
            let delay = self.client_delay(&cx.all.config).ticks();
            if delay == 0 || self.receiver.visible == self.receiver.nxt {
                self.receiver.catch_up(&mut self.rare);
                self.set_if(Flags::ACK_DUE, got.ack_due);
            } else if got.ack_due {
                let due = cx.all.now.from.plus(delay);
                self.receiver
                    .acknowledge_at(due, &mut self.rare, &mut cx.all.pool);
            }
        }
        if got.bytes > 0
            && let Some(sent) = self.asked_at.take()
        {
            let took = cx.all.now.brief.since(sent);
            cx.out.sample(Metric::Response, took.nanos());
        }
        let acked = self
            .sender
            .on_ack(h, cx.all.now.from, &mut self.rare, &mut cx.all.pool);
        if got.bytes > 0 || got.fin || acked.advanced > 0 {
            // Only what brings something new keeps a session alive: a target that repeats itself for
            // ever (its acknowledgements are lost, or it was told of bytes that it never sent) does not.
            self.active_at = cx.all.now.from;
        }
        self.set_if(Flags::ACK_DUE, acked.unacceptable);
        if acked.advanced > 0 {
            self.acknowledged(cx, acked.advanced);
        }
        if acked.retransmit {
            self.recover(cx);
        }
        self.pump(cx);
        self.finish_if_done(cx);
    }

    /// The target acknowledged so many more sequence numbers.
    #[inline(always)]
    pub(crate) fn acknowledged<O: Output>(&mut self, cx: &mut Context<'_, O>, advanced: u32) {
        let una = self.sender.una;
        let fin_acked = self.stream.finished() && una == self.stream.nxt();
        let sent_at = self.stream.acknowledge(&mut cx.all.arena, una);
        self.delivers(cx, advanced - u32::from(fin_acked), sent_at);
    }

    /// So many more bytes are delivered, the last of which were sent at `sent_at`, if that is known.
    #[inline(always)]
    pub(crate) fn delivers<O: Output>(
        &mut self,
        cx: &mut Context<'_, O>,
        bytes: u32,
        sent_at: Option<Brief>,
    ) {
        self.delivered += u64::from(bytes);
        cx.all.totals.bytes_delivered += u64::from(bytes);
        let rtt = sent_at.map(|sent| cx.all.now.brief.since(sent));
        self.sender.progressed(rtt, cx.all.now.from);
        if let Some(at) = self.sender.rto_at {
            cx.wake(at);
        }
    }

    /// Out of the window, or with SYN or RST.
    #[cold]
    fn odd_response<O: Output>(
        &mut self,
        cx: &mut Context<'_, O>,
        h: &ResponseHeader,
        acceptable: bool,
    ) {
        if h.flags.has(TcpFlags::SYN) {
            // Our ACK of the SYN-ACK was lost, or a blind attack (RFC 5961 section 4): acknowledge,
            // unless the emulated client has not done so yet.
            self.set_if(Flags::ACK_DUE, self.handshake_at().is_none());
        } else if !h.flags.has(TcpFlags::RST) {
            self.set(Flags::ACK_DUE);
        } else if acceptable {
            self.reset_by_target(cx, h);
        }
    }

    /// Our FIN is sent and acknowledged.
    #[inline]
    fn fin_acknowledged(&self) -> bool {
        self.has(Flags::FIN_SENT) && self.sender.in_flight() == 0
    }

    #[inline]
    fn finish_if_done<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        if self.receiver.answered.fin && self.phase == Phase::Open && self.fin_acknowledged() {
            if self.has(Flags::ACK_DUE) || self.receiver.visible != self.receiver.nxt {
                self.receiver.catch_up(&mut self.rare);
                self.send_ack(cx);
            }
            self.end(cx, Outcome::Completed);
        }
    }

    /// Sends the acknowledgement that is owed.
    #[inline]
    pub(crate) fn send_ack<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        cx.all.totals.acks_sent += 1;
        let options = self.options(cx.all.now.tick);
        self.send_control(cx, self.sender.nxt, TcpFlags::ACK, options, Cause::Own);
    }

    fn reset_by_target<O: Output>(&mut self, cx: &mut Context<'_, O>, h: &ResponseHeader) {
        if self.survives_reset(&cx.all.arena) {
            self.set(Flags::PEER_RESET);
            self.receiver.answered.fin = true;
            self.pump(cx);
            return;
        }
        // Without ACK it is the answer to a segment for which there is no connection (RFC 9293 section 3.10.7.1);
        // who ends a connection that lives acknowledges in its reset what it has received.
        if !h.flags.has(TcpFlags::ACK) && self.came_too_late(&cx.all.arena) {
            self.set(Flags::PEER_RESET);
            self.stream.cursor = self.stream.head();
            self.set(Flags::WANTS_REOPEN);
            return;
        }
        let read = self.turns.highest_ack();
        let answered = self.turns.answered(read, &self.receiver.answered);
        let outcome = if self.all_delivered() && self.stream.finished() && answered {
            // Everything arrived, was answered, and the client is done: the target only skipped the
            // last words.
            Outcome::Completed
        } else if self.all_delivered() && self.reset().is_some() {
            Outcome::ResetByClient
        } else if self.receiver.answered.fin {
            Outcome::ClosedByTarget
        } else {
            Outcome::ResetByTarget
        };
        self.end(cx, outcome);
    }

    /// Time has passed: whatever is due.
    pub(crate) fn timer<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        let (now, limits) = (cx.all.now.tick, &cx.all.limits);
        if self.outcome().is_some() {
            return;
        }
        if self.active_at.plus(limits.idle).due(now) {
            let done = self.fin_acknowledged() && self.all_delivered();
            self.set(Flags::CLIENT_DONE);
            let outcome = if done {
                Outcome::Completed
            } else {
                Outcome::TimedOut
            };
            self.abort(cx, outcome);
            return;
        }
        let since_progress = |limit: u32| self.sender.progress_at.plus(limit).due(now);
        if self.phase == Phase::Opening && since_progress(limits.connect) {
            self.abort(cx, Outcome::Unanswered);
            return;
        }
        if self.hole_due(limits).is_some_and(|t| t.due(now)) {
            self.give_up_hole(cx);
            return;
        }
        let waits = self.phase == Phase::Open && self.sender.in_flight() > 0;
        if waits && since_progress(limits.response) {
            self.abort(cx, Outcome::TimedOut);
            return;
        }
        if self.sender.rto_at.is_some_and(|t| t.due(now)) {
            if self.phase == Phase::Opening {
                if self.asked_at.is_some() {
                    self.sender
                        .back_off(cx.all.now.from, &mut self.rare, &mut cx.all.pool);
                } else {
                    self.sender.rto_at = None;
                }
                self.send_syn(cx);
            } else {
                self.retransmit_timeout(cx);
            }
        }
        if self.handshake_at().is_some_and(|t| t.due(now)) {
            self.complete_handshake(cx);
        }
        if self.receiver.arrive(now, &mut self.rare) {
            self.set(Flags::ACK_DUE);
        }
        if self.gate_until().is_some_and(|t| t.due(now)) {
            self.pump(cx);
            self.finish_if_done(cx);
        }
    }

    /// The client opened a new connection on the same ports: this one gets no more packets. It still
    /// delivers what it has.
    pub(crate) fn supersede<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        self.set(Flags::CLIENT_DONE);
        if let Phase::Ended(_) = self.phase {
            cx.wake(self.deadline(&cx.all.limits));
            return;
        }
        if !self.stream.finished() && self.reset().is_none() {
            self.cut_off(cx, self.turns.highest_ack(), self.stream.nxt());
        }
        if self.phase == Phase::Opening && self.stream.head().is_none() {
            self.abort(cx, Outcome::ResetByClient);
        }
        self.pump(cx);
    }
}
