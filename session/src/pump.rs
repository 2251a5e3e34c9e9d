//! Sending what was captured: new data when turn and window allow, lost data again.

use crate::sender::Sender;
use crate::state::{Context, Flags, Phase, Session, transmit};
use crate::stream::{Arena, Chunk, ChunkId};
use crate::time::Brief;
use crate::turn::Gate;
use crate::{Metric, Outcome, Output};
use common::flow::{Cause, Nanos};
use common::packet::{SeqNumber, TcpFlags};

/// Segments sent again per acknowledgement during recovery: two, as slow start does.
const RECOVERY_SEGMENTS: usize = 2;

/// A stretch of one chunk that goes out as one segment.
#[derive(Clone, Copy)]
struct Stretch {
    id: ChunkId,
    /// First byte within the chunk.
    from: u32,
    /// Payload bytes; 0 in a bare FIN.
    len: u32,
    fin: bool,
}

impl Session {
    /// Sends new data as far as turn and window allow.
    #[inline]
    pub(crate) fn pump<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        if self.phase != Phase::Open || self.has(Flags::HANDSHAKE) {
            return;
        }
        self.wake_at = None;
        while let Some(&chunk) = cx.all.arena.chunk(self.stream.cursor) {
            if !self.send_next(cx, chunk) {
                break;
            }
        }
        if self.phase == Phase::Open && self.reset().is_some() {
            self.pump_reset(cx);
        }
    }

    /// Sends (a part of) the chunk at the cursor; false if that has to wait.
    #[inline]
    fn send_next<O: Output>(&mut self, cx: &mut Context<'_, O>, chunk: Chunk) -> bool {
        let begins = self.turns.begins(chunk.ack);
        if self.receiver.answered.fin && !chunk.is_fin() && begins {
            // The target closed, the client has another request: on a new connection, once it is
            // known that nothing of the last one is lost.
            self.set_if(Flags::WANTS_REOPEN, self.sender.in_flight() == 0);
            return false;
        }
        if self.has(Flags::PEER_RESET) {
            // Only the client's FIN is left, and nobody to send it to.
            self.end(cx, Outcome::ResetByTarget);
            return false;
        }
        if begins || chunk.is_fin() {
            if !self.gate_open(cx, chunk.ack, chunk.is_fin()) {
                return false;
            }
            if begins {
                self.turns.begun(chunk.seq);
            }
        } else {
            self.turns.goes_on();
        }
        let from = self.sender.nxt.since(chunk.seq).max(0) as u32;
        let rest = chunk.len().saturating_sub(from);
        let mut stretch = Stretch {
            id: self.stream.cursor,
            from,
            len: 0,
            fin: chunk.is_fin(),
        };
        if chunk.is_fin() {
            self.send_new(cx, &chunk, stretch);
            self.stream.cursor = chunk.next;
            return true;
        }
        let want = rest.min(u32::from(self.sender.mss));
        stretch.len = want.min(self.sender.room());
        // Silly window avoidance (RFC 9293 section 3.8.6.2.1): no small piece of a segment while an
        // acknowledgement will open the window.
        if stretch.len == 0 || (stretch.len < want && self.sender.in_flight() > 0) {
            self.sender.watch_window(cx.all.now.from);
            if let Some(at) = self.sender.rto_at {
                cx.wake(at);
            }
            return false;
        }
        let mut next = chunk.next;
        if stretch.len == rest && !next.is_none() {
            // A FIN that came with this data leaves with it, unless it may have to wait.
            let fin = cx.all.arena.chunk_mut(next).filter(|c| {
                c.is_fin() && c.at == chunk.at && c.ack == chunk.ack && !self.turns.full_duplex()
            });
            if let Some(fin) = fin {
                fin.sent_at = Some(cx.all.now.brief);
                next = fin.next;
                stretch.fin = true;
            }
        }
        self.send_new(cx, &chunk, stretch);
        if stretch.len == rest {
            self.stream.cursor = next;
        }
        true
    }

    /// The target reset the connection, but nothing of the client's is lost.
    pub(crate) fn survives_reset(&self, arena: &Arena) -> bool {
        let next = arena.chunk(self.stream.cursor);
        self.sender.in_flight() == 0
            && self.reset().is_none()
            && next.map_or(!self.stream.finished(), |c| {
                !c.is_fin() && self.turns.begins(c.ack)
            })
    }

    /// The target did not know the connection any more when the turn that is under way came: it had closed, and its
    /// FIN was late or lost. A real client's library tries such a request again on a new connection.
    pub(crate) fn came_too_late(&self, arena: &Arena) -> bool {
        let says_something = arena.chunk(self.stream.head()).is_some_and(|c| !c.is_fin());
        self.reset().is_none()
            && says_something
            && self.sender.in_flight() > 0
            && self
                .turns
                .without_effect(self.sender.una, &self.receiver.answered)
    }

    /// The turn of what the client sent with acknowledgement number `ack` has come: data, or its close.
    fn gate_open<O: Output>(
        &mut self,
        cx: &mut Context<'_, O>,
        ack: SeqNumber,
        closes: bool,
    ) -> bool {
        let begins = self.turns.begins(ack);
        let (answered, rtt, limit) = (
            &self.receiver.answered,
            self.sender.rtt(),
            cx.all.limits.turn,
        );
        let (gate, events) = if closes {
            self.turns.gate_close(cx.all.now, ack, answered, rtt, limit)
        } else {
            self.turns.gate(cx.all.now, ack, answered, rtt, limit)
        };
        cx.all.totals.turns_expired += u64::from(events.expired);
        cx.all.totals.full_duplex += u64::from(events.became_duplex);
        match gate {
            Gate::Go => {
                if begins {
                    // The client had read the answer when it sent this.
                    self.receiver.catch_up(&mut self.rare);
                }
                true
            }
            Gate::Wait(until) => {
                self.wake_at = Some(until);
                cx.wake(until);
                false
            }
        }
    }

    /// The client was cut off: so is the target, once it has everything that came before and has
    /// answered what the client had read.
    fn pump_reset<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        let Some(reset) = self.reset() else { return };
        let all_sent = self.stream.cursor.is_none() && self.sender.in_flight() == 0;
        if all_sent && self.hole_since().is_none() && self.gate_open(cx, reset.ack, true) {
            self.abort(cx, Outcome::ResetByClient);
        }
    }

    #[inline]
    fn send_new<O: Output>(&mut self, cx: &mut Context<'_, O>, chunk: &Chunk, stretch: Stretch) {
        let now = cx.all.now;
        let held = now.brief.since(chunk.arrived).nanos();
        if held.0 > 0 {
            cx.out.sample(Metric::Hold, held);
        }
        self.sample_lag(cx, chunk.at);
        if stretch.len > 0 {
            self.asked_at = Some(now.brief);
        }
        let cause = Cause::Captured { at: chunk.at, held };
        let end = self.send_stretch(cx, chunk, stretch, cause);
        if let Some(chunk) = cx.all.arena.chunk_mut(stretch.id) {
            chunk.sent_at = Some(now.brief);
        }
        self.sender.sent_new(end, now);
        self.set_if(Flags::FIN_SENT, stretch.fin);
        if let Some(at) = self.sender.rto_at {
            cx.wake(at.min(self.sender.progress_at.plus(cx.all.limits.response)));
        }
    }

    /// How far behind its schedule something is sent that was captured at `at`.
    #[inline]
    pub(crate) fn sample_lag<O: Output>(&self, cx: &mut Context<'_, O>, at: Nanos) {
        if self.has(Flags::SCHEDULED) {
            let schedule = Brief::of(at).skewed(self.skew);
            let lag = cx.all.now.brief.since(schedule);
            cx.out.sample(Metric::Lag, lag.nanos());
        }
    }

    /// Sends again what is known to be lost, a little per acknowledgement: as the target takes
    /// packets off the network others may enter it (RFC 5681 section 3.2).
    #[cold]
    pub(crate) fn recover<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        for _ in 0..RECOVERY_SEGMENTS {
            if !self.resend(cx) {
                break;
            }
        }
    }

    /// Sends the next lost segment again; false if none is known to be lost.
    fn resend<O: Output>(&mut self, cx: &mut Context<'_, O>) -> bool {
        let Some((start, end)) = self.sender.lost(&self.rare) else {
            return false;
        };
        let mut id = self.stream.head();
        let chunk = loop {
            match cx.all.arena.chunk_mut(id) {
                Some(c) if !c.end().after(start) => id = c.next,
                Some(c) => {
                    // Karn's rule: its acknowledgement is ambiguous from now on.
                    c.sent_at = None;
                    break *c;
                }
                None => return false,
            }
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
        let mut fin = chunk.is_fin();
        if len == rest && self.has(Flags::FIN_SENT) && end.after(chunk.end()) {
            let next = cx.all.arena.chunk_mut(chunk.next).filter(|c| c.is_fin());
            if let Some(next) = next {
                next.sent_at = None;
                fin = true;
            }
        }
        if len == 0 && !fin {
            return false;
        }
        cx.all.totals.segments_retransmitted += 1;
        let stretch = Stretch { id, from, len, fin };
        let end = self.send_stretch(cx, &chunk, stretch, Cause::Retransmit);
        Sender::sent_again(end, &mut self.rare);
        true
    }

    /// The retransmission timer fired while the connection is open: send again, or probe a closed
    /// window with one new byte.
    pub(crate) fn retransmit_timeout<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        if self.sender.in_flight() > 0 {
            self.sender
                .back_off(cx.all.now.from, &mut self.rare, &mut cx.all.pool);
            self.resend(cx);
            return;
        }
        self.sender.rto_at = None;
        let id = self.stream.cursor;
        let Some(&chunk) = cx.all.arena.chunk(id) else {
            return;
        };
        let from = self.sender.nxt.since(chunk.seq).max(0) as u32;
        if self.sender.room() > 0 || chunk.is_fin() {
            self.pump(cx);
        } else if from < chunk.len() {
            let stretch = Stretch {
                id,
                from,
                len: 1,
                fin: false,
            };
            self.send_new(cx, &chunk, stretch);
            if from + 1 == chunk.len() {
                self.stream.cursor = chunk.next;
            }
        }
    }

    /// Sends `stretch` of `chunk`; returns the sequence number behind it.
    #[inline]
    fn send_stretch<O: Output>(
        &mut self,
        cx: &mut Context<'_, O>,
        chunk: &Chunk,
        stretch: Stretch,
        cause: Cause,
    ) -> SeqNumber {
        let to = stretch.from + stretch.len;
        let mut flags = TcpFlags::ACK;
        if chunk.psh && to == chunk.len() {
            flags = flags.with(TcpFlags::PSH);
        }
        if stretch.fin {
            flags = flags.with(TcpFlags::FIN);
        }
        let seq = chunk.seq + stretch.from;
        let options = self.options(cx.all.now.tick);
        let mut segment = self.segment(cx.all, seq, flags, options);
        let range = stretch.from as usize..to as usize;
        let bytes = cx.all.arena.bytes(stretch.id);
        segment.payload = bytes.get(range).unwrap_or_default();
        transmit(cx.out, &segment, cause);
        seq + stretch.len + u32::from(stretch.fin)
    }
}
