//! Sending what was captured: new data when turn and window allow, lost data again.

use crate::state::{Context, Phase, Session};
use crate::turn::{Gate, Turns};
use crate::{Metric, Outcome, Output};
use common::flow::{Cause, Segment};
use common::packet::{SeqNumber, TcpFlags};

/// Segments sent again per acknowledgement during recovery: two, as slow start does.
const RECOVERY_SEGMENTS: usize = 2;

/// A stretch of one chunk that goes out as one segment.
#[derive(Clone, Copy)]
struct Stretch {
    /// Position of the chunk in the queue.
    chunk: usize,
    /// First byte within the chunk.
    from: u32,
    /// Payload bytes; 0 in a bare FIN.
    len: u32,
    fin: bool,
}

impl Session {
    /// Sends new data as far as turn and window allow.
    pub(crate) fn pump<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        if self.phase != Phase::Open || self.handshake_at.is_some() {
            return;
        }
        self.gate_until = None;
        while let Some(chunk) = self.stream.queue().get(self.cursor) {
            let (ack, seq, len, is_fin, at) = (
                chunk.stamp.ack,
                chunk.seq,
                chunk.len(),
                chunk.fin,
                chunk.stamp.at,
            );
            if self.receiver.answered.fin && !is_fin && self.begins_turn(ack) {
                // The target closed, the client has another request: on a new connection, once it is
                // known that nothing of the last one is lost.
                self.wants_reopen = self.sender.in_flight() == 0;
                break;
            }
            if self.peer_reset {
                // Only the client's FIN is left, and nobody to send it to.
                self.end(cx, Outcome::ResetByTarget);
                return;
            }
            let begins = self.begins_turn(ack);
            if !self.gate_open(cx, ack, is_fin) {
                break;
            }
            if let (true, Some(turns)) = (begins, self.turns.as_mut()) {
                turns.begun(seq);
            }
            let from = self.sender.nxt.since(seq).max(0) as u32;
            let rest = len.saturating_sub(from);
            let mut stretch = Stretch {
                chunk: self.cursor,
                from,
                len: 0,
                fin: is_fin,
            };
            if !is_fin {
                let want = rest.min(u32::from(self.sender.mss));
                stretch.len = want.min(self.sender.room());
                // Silly window avoidance (RFC 9293 section 3.8.6.2.1): no small piece of a segment
                // while an acknowledgement will open the window.
                if stretch.len == 0 || (stretch.len < want && self.sender.in_flight() > 0) {
                    self.sender.watch_window(cx.now);
                    break;
                }
                let next = self.stream.queue().get(self.cursor + 1);
                // A FIN that came with this data leaves with it, unless it may have to wait.
                stretch.fin = stretch.len == rest
                    && next.is_some_and(|c| c.fin && c.stamp.at == at && c.stamp.ack == ack)
                    && !self.turns.as_ref().is_some_and(Turns::full_duplex);
            }
            self.send_new(cx, stretch);
            if stretch.len == rest {
                self.cursor += 1 + usize::from(stretch.fin && !is_fin);
            }
        }
        self.pump_reset(cx);
    }

    fn begins_turn(&self, ack: SeqNumber) -> bool {
        self.turns.as_ref().is_some_and(|t| t.begins(ack))
    }

    /// The target reset the connection, but nothing of the client's is lost.
    pub(crate) fn survives_reset(&self) -> bool {
        let next = self.stream.queue().get(self.cursor);
        self.sender.in_flight() == 0
            && self.reset.is_none()
            && next.map_or(!self.stream.finished(), |c| {
                !c.fin && self.begins_turn(c.stamp.ack)
            })
    }

    /// The target did not know the connection any more when the turn that is under way came: it had closed, and its
    /// FIN was late or lost. A real client's library tries such a request again on a new connection.
    pub(crate) fn came_too_late(&self) -> bool {
        let turns = self.turns.as_ref();
        let says_something = self.stream.queue().front().is_some_and(|c| !c.fin);
        self.reset.is_none()
            && says_something
            && self.sender.in_flight() > 0
            && turns.is_some_and(|t| t.without_effect(self.sender.una, &self.receiver.answered))
    }

    /// The turn of what the client sent with acknowledgement number `ack` has come: data, or its close.
    fn gate_open<O: Output>(
        &mut self,
        cx: &mut Context<'_, O>,
        ack: SeqNumber,
        closes: bool,
    ) -> bool {
        let Some(turns) = self.turns.as_mut() else {
            return true;
        };
        let begins = turns.begins(ack);
        let (answered, rtt) = (&self.receiver.answered, self.sender.rtt());
        let (gate, events) = if closes {
            turns.gate_close(cx.now, ack, answered, rtt, cx.config.turn_limit)
        } else {
            turns.gate(cx.now, ack, answered, rtt, cx.config.turn_limit)
        };
        cx.totals.turns_expired += u64::from(events.expired);
        cx.totals.full_duplex += u64::from(events.became_duplex);
        match gate {
            Gate::Go => {
                if begins {
                    // The client had read the answer when it sent this.
                    self.receiver.catch_up();
                }
                true
            }
            Gate::Wait(until) => {
                self.gate_until = Some(until);
                false
            }
        }
    }

    /// The client was cut off: so is the target, once it has everything that came before and has
    /// answered what the client had read.
    fn pump_reset<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        let Some(reset) = self.reset else { return };
        let all_sent = self.cursor >= self.stream.queue().len() && self.sender.in_flight() == 0;
        if all_sent && self.hole_since().is_none() && self.gate_open(cx, reset.ack, true) {
            self.abort(cx, Outcome::ResetByClient);
        }
    }

    fn send_new<O: Output>(&mut self, cx: &mut Context<'_, O>, stretch: Stretch) {
        let Some(chunk) = self.stream.queue().get(stretch.chunk) else {
            return;
        };
        let stamp = chunk.stamp;
        let held = cx.now.since(stamp.arrived);
        if held.0 > 0 {
            cx.out.sample(Metric::Hold, held);
        }
        if let Some(sent) = self.schedule_at {
            let schedule = sent + stamp.at.since(self.syn_at);
            cx.out.sample(Metric::Lag, cx.now.since(schedule));
        }
        if stretch.len > 0 {
            self.request_sent_at = Some(cx.now);
        }
        let end = self.send_stretch(cx, stretch, Cause::Captured { at: stamp.at, held });
        self.sender.sent_new(end, cx.now);
        self.fin_sent |= stretch.fin;
    }

    /// Sends again what is known to be lost, a little per acknowledgement: as the target takes
    /// packets off the network others may enter it (RFC 5681 section 3.2).
    pub(crate) fn recover<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        for _ in 0..RECOVERY_SEGMENTS {
            if !self.resend(cx) {
                break;
            }
        }
    }

    /// Sends the next lost segment again; false if none is known to be lost.
    fn resend<O: Output>(&mut self, cx: &mut Context<'_, O>) -> bool {
        let Some((start, end)) = self.sender.lost() else {
            return false;
        };
        let queue = self.stream.queue();
        let at = queue.partition_point(|c| !c.end().after(start));
        let Some(chunk) = queue.get(at) else {
            return false;
        };
        let from = start.since(chunk.seq).max(0) as u32;
        let rest = chunk.len().saturating_sub(from);
        // Into a closed window one byte is enough to ask for its state (RFC 9293 section 3.8.6.1).
        let most = if self.sender.wnd == 0 {
            1
        } else {
            u32::from(self.sender.mss)
        };
        let len = rest.min(most).min(end.since(start).max(0) as u32);
        let fin_follows = queue.get(at + 1).is_some_and(|c| c.fin) && end.after(chunk.end());
        let fin = chunk.fin || (len == rest && fin_follows && self.fin_sent);
        if len == 0 && !fin {
            return false;
        }
        cx.totals.segments_retransmitted += 1;
        let end = self.send_stretch(
            cx,
            Stretch {
                chunk: at,
                from,
                len,
                fin,
            },
            Cause::Retransmit,
        );
        self.sender.sent_again(end);
        true
    }

    /// The retransmission timer fired while the connection is open: send again, or probe a closed
    /// window with one new byte.
    pub(crate) fn retransmit_timeout<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        if self.sender.in_flight() > 0 {
            self.sender.back_off(cx.now);
            self.resend(cx);
            return;
        }
        self.sender.rto_at = None;
        let Some(chunk) = self.stream.queue().get(self.cursor) else {
            return;
        };
        let from = self.sender.nxt.since(chunk.seq).max(0) as u32;
        if self.sender.room() > 0 || chunk.fin {
            self.pump(cx);
        } else if from < chunk.len() {
            let last = from + 1 == chunk.len();
            self.send_new(
                cx,
                Stretch {
                    chunk: self.cursor,
                    from,
                    len: 1,
                    fin: false,
                },
            );
            self.cursor += usize::from(last);
        }
    }

    /// Sends `stretch`; returns the sequence number behind it.
    fn send_stretch<O: Output>(
        &mut self,
        cx: &mut Context<'_, O>,
        stretch: Stretch,
        cause: Cause,
    ) -> SeqNumber {
        let Some(chunk) = self.stream.queue().get(stretch.chunk) else {
            return self.sender.nxt;
        };
        let (from, to) = (stretch.from as usize, (stretch.from + stretch.len) as usize);
        let payload = chunk.bytes(cx.arena).get(from..to).unwrap_or_default();
        let mut flags = TcpFlags::ACK;
        if chunk.psh && stretch.from + stretch.len == chunk.len() {
            flags = flags.with(TcpFlags::PSH);
        }
        if stretch.fin {
            flags = flags.with(TcpFlags::FIN);
        }
        let seq = chunk.seq + stretch.from;
        let end = seq + stretch.len + u32::from(stretch.fin);
        self.ack_due = false;
        cx.totals.segments_sent += 1;
        cx.out.transmit(&Segment {
            src: self.wire.client,
            dst: self.wire.server,
            seq,
            ack: self.receiver.visible,
            flags,
            window: self.window_field(flags),
            options: self.options(cx.now),
            payload,
            cause,
        });
        end
    }
}
