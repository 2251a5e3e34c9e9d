//! Sending what was captured: new data when turn and window allow, lost data again.

use crate::state::{Context, Phase, Session};
use crate::turn::Gate;
use crate::{Metric, Outcome, Output};
use common::flow::{Cause, Segment};
use common::packet::{SeqNumber, TcpFlags};

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
        if self.phase != Phase::Open {
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
            if !self.gate_open(cx, ack) {
                break;
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
                // A FIN that came with this data leaves with it.
                stretch.fin =
                    stretch.len == rest && next.is_some_and(|c| c.fin && c.stamp.at == at);
            }
            self.send_new(cx, stretch);
            if stretch.len == rest {
                self.cursor += 1 + usize::from(stretch.fin && !is_fin);
            }
        }
        self.pump_reset(cx);
    }

    /// The turn of data that the client sent with acknowledgement number `ack` has come.
    fn gate_open<O: Output>(&mut self, cx: &mut Context<'_, O>, ack: SeqNumber) -> bool {
        let Some(turns) = self.turns.as_mut() else {
            return true;
        };
        let (gate, events) = turns.gate(
            cx.now,
            ack,
            &self.receiver.answered,
            self.sender.rtt(),
            cx.config.turn_limit,
        );
        cx.totals.turns_expired += u64::from(events.expired);
        cx.totals.full_duplex += u64::from(events.became_duplex);
        match gate {
            Gate::Go => true,
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
        if all_sent && self.stream.hole_since().is_none() && self.gate_open(cx, reset.ack) {
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
        if let Some(sent) = self.syn_sent_at {
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

    /// Sends the oldest unacknowledged segment again.
    pub(crate) fn retransmit<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        let una = self.sender.una;
        let in_flight = self.sender.in_flight();
        let Some(chunk) = self.stream.queue().front() else {
            return;
        };
        let from = una.since(chunk.seq).max(0) as u32;
        let rest = chunk.len().saturating_sub(from);
        // Into a closed window one byte is enough to ask for its state (RFC 9293 section 3.8.6.1).
        let most = if self.sender.wnd == 0 {
            1
        } else {
            u32::from(self.sender.mss)
        };
        let len = rest.min(most).min(in_flight);
        let sent_to_end = self.sender.nxt == self.stream.nxt() && self.fin_sent;
        let fin_next = self.stream.queue().get(1).is_some_and(|c| c.fin);
        let fin = chunk.fin || (len == rest && fin_next && sent_to_end);
        if len == 0 && !fin {
            return;
        }
        self.sender.sent_again();
        cx.totals.segments_retransmitted += 1;
        self.send_stretch(
            cx,
            Stretch {
                chunk: 0,
                from,
                len,
                fin,
            },
            Cause::Retransmit,
        );
    }

    /// The retransmission timer fired while the connection is open: send again, or probe a closed
    /// window with one new byte.
    pub(crate) fn retransmit_timeout<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        if self.sender.in_flight() > 0 {
            self.sender.back_off(cx.now);
            self.retransmit(cx);
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
            ack: self.receiver.nxt,
            flags,
            window: self.window_field(flags),
            options: self.options(cx.now),
            payload,
            cause,
        });
        end
    }
}
