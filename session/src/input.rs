//! What a session does with captured packets, responses and time.

use crate::state::{CapturedReset, Context, Phase, Session};
use crate::stream::{Incoming, Inserted, Stamp};
use crate::turn::Turns;
use crate::{Metric, Outcome, Output};
use common::flow::{Cause, ClientSegment, ResponseHeader};
use common::packet::{SeqNumber, TcpFlags};

/// Captured data is cut at this size where nothing tells the client's own segment size: the payload of
/// an Ethernet frame with timestamps.
const PIECE_BYTES: usize = 1448;
/// A captured RST is believed if it is this close to the stream: a forged or stray one is not.
const RESET_WINDOW: i32 = 1 << 20;

impl Session {
    /// A captured packet behind the SYN (or the SYN itself, for its payload).
    pub(crate) fn captured<O: Output>(&mut self, cx: &mut Context<'_, O>, seg: &ClientSegment<'_>) {
        let syn = seg.flags.has(TcpFlags::SYN);
        let (rst, fin) = (seg.flags.has(TcpFlags::RST), seg.flags.has(TcpFlags::FIN));
        self.active_at = cx.now;
        let seq = if syn { seg.seq + 1 } else { seg.seq };
        if let Phase::Ended(outcome) = self.phase {
            self.client_done |= rst || fin;
            let new = u64::from(self.stream.skip(seq, seg.payload_len));
            cx.totals.bytes_captured += new;
            cx.totals.lose(outcome, new);
            return;
        }
        if !syn && !rst && !self.adopted {
            self.client_window = seg.window;
        }
        let mut measured = false;
        if !syn && seg.flags.has(TcpFlags::ACK) {
            if self.turns.is_none() {
                self.turns = Some(Turns::new(seg.ack, cx.config.no_turns));
                self.measure_client(seg.at.since(self.syn_at));
                measured = true;
            }
            if let Some(turns) = self.turns.as_mut() {
                let became =
                    turns.observe(seg.at, seg.ack, !seg.payload.is_empty(), self.client_rtt);
                cx.totals.full_duplex += u64::from(became);
            }
        }
        if rst {
            let distance = seg.seq.since(self.stream.nxt());
            if (-RESET_WINDOW..=RESET_WINDOW).contains(&distance) {
                self.client_done = true;
                // Without ACK the client says nothing of what it read; the last it said counts.
                let ack = if seg.flags.has(TcpFlags::ACK) {
                    seg.ack
                } else {
                    self.last_ack()
                };
                self.reset = Some(CapturedReset {
                    ack,
                    seq: seg.seq,
                    arrived: cx.now,
                });
            }
        } else {
            self.client_done |= fin;
            self.store(cx, seg, seq, fin);
        }
        if let Phase::Ended(_) = self.phase {
            return;
        }
        let nothing_said = self.stream.queue().is_empty() && self.hole_since().is_none();
        if self.phase == Phase::Opening && self.reset.is_some() && nothing_said {
            // Cut off before anything was said: nothing to deliver, nothing to wait for.
            self.abort(cx, Outcome::ResetByClient);
            return;
        }
        // Only now, with the packet's data: it may end the session, behind a reset that came first.
        if measured && self.handshake_at.is_some() {
            self.wait_for_client(cx);
        }
        self.pump(cx);
    }

    fn last_ack(&self) -> SeqNumber {
        self.turns.as_ref().map_or(SeqNumber(0), Turns::highest_ack)
    }

    fn store<O: Output>(
        &mut self,
        cx: &mut Context<'_, O>,
        seg: &ClientSegment<'_>,
        seq: SeqNumber,
        fin: bool,
    ) {
        let cut_short = (seg.payload.len() as u64) < u64::from(seg.payload_len);
        if seg.payload.is_empty() && !fin {
            return;
        }
        let piece = match usize::from(seg.gso_size) {
            0 => PIECE_BYTES,
            size => size.min(PIECE_BYTES),
        };
        let ack = if seg.flags.has(TcpFlags::ACK) {
            seg.ack
        } else {
            self.last_ack()
        };
        let incoming = Incoming {
            seq,
            payload: seg.payload,
            psh: seg.flags.has(TcpFlags::PSH),
            // The FIN of a packet that was cut lies behind bytes that are missing.
            fin: fin && !cut_short,
            piece,
            stamp: Stamp {
                ack,
                at: seg.at,
                arrived: cx.now,
            },
        };
        let (bytes, full) = match self.stream.insert(cx.arena, &incoming) {
            Inserted::Taken { bytes, new } => {
                cx.totals.segments_duplicate += u64::from(!new);
                (bytes, false)
            }
            Inserted::Foreign => {
                // Of another connection on this tuple; its SYN was not captured.
                cx.totals.bytes_captured += u64::from(seg.payload_len);
                cx.totals
                    .lose(Outcome::CaptureGap, u64::from(seg.payload_len));
                (0, false)
            }
            Inserted::Full { bytes } => (bytes, true),
        };
        self.captured += u64::from(bytes);
        cx.totals.bytes_captured += u64::from(bytes);
        if full {
            self.abort(cx, Outcome::Shed);
            // What of it was not known before, and is not counted again when the client repeats it.
            let lost = u64::from(self.stream.skip(seq, seg.payload_len));
            cx.totals.bytes_captured += lost;
            cx.totals.lose(Outcome::Shed, lost);
        }
    }

    /// A response of the target.
    pub(crate) fn response<O: Output>(&mut self, cx: &mut Context<'_, O>, h: &ResponseHeader) {
        match self.phase {
            Phase::Ended(outcome) => self.late_response(cx, h, outcome),
            Phase::Opening => {
                self.active_at = cx.now;
                self.opening(cx, h);
            }
            Phase::Open => self.open_response(cx, h),
        }
    }

    /// The session is over. A late ACK is normal and never answered (least of all by a reset); data or
    /// a FIN tell that the target missed our last word.
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
        if outcome == Outcome::Completed {
            cx.totals.acks_sent += 1;
            let options = self.options(cx.now);
            self.send_control(cx, self.sender.nxt, TcpFlags::ACK, options, Cause::Own);
        } else {
            let options = self.options(cx.now);
            self.send_control(cx, h.ack, TcpFlags::RST, options, Cause::Own);
        }
    }

    fn open_response<O: Output>(&mut self, cx: &mut Context<'_, O>, h: &ResponseHeader) {
        if h.flags.has(TcpFlags::SYN) {
            // Our ACK of the SYN-ACK was lost, or a blind attack (RFC 5961 section 4): acknowledge,
            // unless the emulated client has not done so yet.
            self.ack_due |= self.handshake_at.is_none();
            return;
        }
        let full = self.full_response();
        let acceptable = self.receiver.acceptable(h.seq, self.client_window_bytes());
        if h.flags.has(TcpFlags::RST) {
            if acceptable {
                self.reset_by_target(cx, h);
            }
            return;
        }
        if !acceptable {
            self.ack_due = true;
            return;
        }
        let got = self.receiver.take(h, full, cx.now);
        cx.totals.response_bytes += u64::from(got.bytes);
        let delay = self.client_delay(cx.config);
        if delay.0 == 0 || self.receiver.visible == self.receiver.nxt {
            self.receiver.catch_up();
            self.ack_due |= got.ack_due;
        } else if got.ack_due {
            self.receiver.acknowledge_at(cx.now + delay);
        }
        if got.bytes > 0
            && let Some(sent) = self.request_sent_at.take()
        {
            cx.out.sample(Metric::Response, cx.now.since(sent));
        }
        let acked = self.sender.on_ack(h, cx.now);
        if got.bytes > 0 || got.fin || acked.advanced > 0 {
            // Only what brings something new keeps a session alive: a target that repeats itself for
            // ever (its acknowledgements are lost, or it was told of bytes that it never sent) does not.
            self.active_at = cx.now;
        }
        self.ack_due |= acked.unacceptable;
        if acked.advanced > 0 {
            let fin_acked = self.stream.finished() && self.sender.una == self.stream.nxt();
            let bytes = u64::from(acked.advanced - u32::from(fin_acked));
            self.delivered += bytes;
            cx.totals.bytes_delivered += bytes;
            let gone = self.stream.acknowledge(cx.arena, self.sender.una);
            self.cursor = self.cursor.saturating_sub(gone);
        }
        if acked.retransmit {
            self.recover(cx);
        }
        self.pump(cx);
        self.finish_if_done(cx);
    }

    /// Our FIN is sent and acknowledged.
    fn fin_acknowledged(&self) -> bool {
        self.fin_sent && self.sender.in_flight() == 0
    }

    fn finish_if_done<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        if self.phase == Phase::Open && self.receiver.answered.fin && self.fin_acknowledged() {
            if self.ack_due || self.receiver.visible != self.receiver.nxt {
                self.receiver.catch_up();
                self.send_ack(cx);
            }
            self.end(cx, Outcome::Completed);
        }
    }

    /// Sends the acknowledgement that is owed.
    pub(crate) fn send_ack<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        cx.totals.acks_sent += 1;
        let options = self.options(cx.now);
        self.send_control(cx, self.sender.nxt, TcpFlags::ACK, options, Cause::Own);
    }

    fn reset_by_target<O: Output>(&mut self, cx: &mut Context<'_, O>, h: &ResponseHeader) {
        if self.survives_reset() {
            self.peer_reset = true;
            self.receiver.answered.fin = true;
            self.pump(cx);
            return;
        }
        // Without ACK it is the answer to a segment for which there is no connection (RFC 9293 section 3.10.7.1);
        // who ends a connection that lives acknowledges in its reset what it has received.
        if !h.flags.has(TcpFlags::ACK) && self.came_too_late() {
            self.peer_reset = true;
            self.cursor = 0;
            self.wants_reopen = true;
            return;
        }
        let outcome = if self.all_delivered() && self.stream.finished() {
            // Everything arrived and the client is done: the target only skipped the last words.
            Outcome::Completed
        } else if self.all_delivered() && self.reset.is_some() {
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
        let (now, config) = (cx.now, cx.config);
        if let Phase::Ended(_) = self.phase {
            return;
        }
        if now >= self.active_at + config.idle_timeout {
            let done = self.fin_acknowledged() && self.all_delivered();
            self.client_done = true;
            self.abort(
                cx,
                if done {
                    Outcome::Completed
                } else {
                    Outcome::TimedOut
                },
            );
            return;
        }
        if self.phase == Phase::Opening && now >= self.opened_at + config.connect_timeout {
            self.abort(cx, Outcome::Unanswered);
            return;
        }
        if self
            .hole_since()
            .is_some_and(|t| now >= t + config.gap_timeout)
        {
            self.abort(cx, Outcome::CaptureGap);
            return;
        }
        if self.phase == Phase::Open
            && self.sender.in_flight() > 0
            && now >= self.sender.progress_at + config.response_timeout
        {
            self.abort(cx, Outcome::TimedOut);
            return;
        }
        if self.sender.rto_at.is_some_and(|t| now >= t) {
            if self.phase == Phase::Opening {
                if self.syn_sent_at.is_some() {
                    self.sender.back_off(now);
                } else {
                    self.sender.rto_at = None;
                }
                self.send_syn(cx);
            } else {
                self.retransmit_timeout(cx);
            }
        }
        if self.handshake_at.is_some_and(|t| now >= t) {
            self.handshake_at = None;
            self.ack_due = true;
            self.pump(cx);
        }
        if self.receiver.arrive(now) {
            self.ack_due = true;
        }
        if self.gate_until.is_some_and(|t| now >= t) {
            self.pump(cx);
            self.finish_if_done(cx);
        }
    }

    /// The client opened a new connection on the same ports: this one gets no more packets. It still
    /// delivers what it has.
    pub(crate) fn supersede<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        self.client_done = true;
        if !self.stream.finished() && self.reset.is_none() {
            self.reset = Some(CapturedReset {
                ack: self.last_ack(),
                seq: self.stream.nxt(),
                arrived: cx.now,
            });
        }
        if self.phase == Phase::Opening && self.stream.queue().is_empty() {
            self.abort(cx, Outcome::ResetByClient);
        }
        self.pump(cx);
    }
}
