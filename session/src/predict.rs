//! The usual packets, in few steps.
//!
//! Nearly all packets of an established session are the next request, an acknowledgement, or the next
//! piece of an answer, with nothing lost and nothing waiting. They are told by a handful of comparisons
//! (header prediction, as 4.3BSD has it for its receiver) and do exactly what `input.rs` would do with
//! them; whatever is not as expected goes there. `Engine::without_prediction` is for tests that compare.

use crate::input::PIECE_BYTES;
use crate::state::{Context, Flags, Phase, Session, Shared};
use crate::stream::Chunk;
use crate::time::Brief;
use crate::{Metric, Output};
use common::flow::{Cause, ClientSegment, Nanos, ResponseHeader};
use common::packet::TcpFlags;

/// With one of these nothing is usual.
const UNUSUAL: Flags = Flags::HANDSHAKE
    .with(Flags::PEER_RESET)
    .with(Flags::WANTS_REOPEN)
    .with(Flags::FIN_SENT)
    .with(Flags::CLIENT_DONE)
    .with(Flags::SUPERSEDED);

/// ACK, perhaps with PSH, and nothing else.
#[inline(always)]
fn is_plain(flags: TcpFlags) -> bool {
    flags.0 | TcpFlags::PSH.0 == TcpFlags::ACK.with(TcpFlags::PSH).0
}

impl Session {
    /// Open, nothing is waiting to be sent, and nothing rare is going on: no usual packet changes that,
    /// so it is looked at after the others only, and remembered.
    #[inline]
    pub(crate) fn settle(&mut self) {
        self.set_if(Flags::AT_EASE, self.nothing_is_unusual());
    }

    fn nothing_is_unusual(&self) -> bool {
        self.phase == Phase::Open
            && !self.has(UNUSUAL)
            && self.rare.get().is_none()
            && self.stream.cursor.is_none()
            && !self.stream.finished()
            && !self.receiver.answered.fin
            && self.turns.is_known()
    }

    /// A captured packet of a session at ease that may be the next one: an acknowledgement, or data that
    /// goes out at once. False: not as expected, nothing has happened.
    #[inline(always)]
    pub(crate) fn captured_as_expected<O: Output>(
        &mut self,
        cx: &mut Context<'_, O>,
        seg: &ClientSegment<'_>,
    ) -> bool {
        debug_assert!(self.nothing_is_unusual());
        if !is_plain(seg.flags) {
            return false;
        }
        let len = seg.payload.len();
        if len == 0 {
            if seg.payload_len > 0 || seg.seq.after(self.stream.nxt()) {
                return false;
            }
            self.expect_captured(cx, seg);
            return true;
        }
        let one_piece = seg.payload_len as usize == len
            && len <= PIECE_BYTES.min(usize::from(self.sender.mss))
            // Merged of one piece only; 0 is none.
            && len - 1 <= usize::from(seg.gso_size.wrapping_sub(1))
            && self.sender.in_flight() + len as u32 <= self.sender.wnd;
        if !one_piece || !self.stream.expects(seg.seq, cx.all.limits.session_bytes) {
            return false;
        }
        let answered = &self.receiver.answered;
        let begins = self.turns.begins(seg.ack);
        if begins && !self.turns.is_released(seg.ack, answered) {
            return false;
        }
        let now = cx.all.now;
        let mut chunk = Chunk::new(seg.seq, seg.ack, seg.at, now.brief);
        chunk.psh = seg.flags.has(TcpFlags::PSH);
        chunk.sent_at = Some(now.brief);
        if !self
            .stream
            .append_sent(&mut cx.all.arena, chunk, seg.payload)
        {
            return false;
        }
        self.expect_captured(cx, seg);
        cx.all.totals.bytes_captured += len as u64;
        if begins {
            self.turns
                .released(seg.ack, seg.seq, &self.receiver.answered);
            self.receiver.visible = self.receiver.nxt;
        } else {
            self.turns.goes_on();
        }
        self.transmit_expected(cx, seg);
        true
    }

    /// What every packet of the client tells.
    #[inline(always)]
    fn expect_captured<O: Output>(&mut self, cx: &mut Context<'_, O>, seg: &ClientSegment<'_>) {
        self.active_at = cx.all.now.from;
        if !self.has(Flags::ADOPTED) {
            self.client_window = seg.window;
        }
        let rtt = self.client_rtt();
        let data = !seg.payload.is_empty();
        let became = self.turns.observe(Brief::of(seg.at), seg.ack, data, rtt);
        cx.all.totals.full_duplex += u64::from(became);
    }

    #[inline(always)]
    fn transmit_expected<O: Output>(&mut self, cx: &mut Context<'_, O>, seg: &ClientSegment<'_>) {
        let now = cx.all.now;
        self.sample_lag(cx, seg.at);
        self.asked_at = Some(now.brief);
        self.sender
            .sent_new(seg.seq + seg.payload.len() as u32, now);
        if let Some(at) = self.sender.rto_at {
            cx.wake(at.min(self.sender.progress_at.plus(cx.all.limits.response)));
        }
        // As long as a session lives its path does: without a branch for the rest the address need not
        // be put together.
        let Some(path) = cx.all.paths.get(self.path) else {
            return;
        };
        let (target, options) = (path.target, self.options(now.tick));
        let mut segment = self.segment_to(target, cx.all, seg.seq, seg.flags, options);
        segment.payload = seg.payload;
        let cause = Cause::Captured {
            at: seg.at,
            held: Nanos(0),
        };
        cx.out.transmit(&segment, cause);
    }

    /// A response to a session at ease that may be the next one: it acknowledges something, or continues the answer. False:
    /// not as expected, nothing has happened.
    #[inline(always)]
    pub(crate) fn response_as_expected<O: Output>(
        &mut self,
        cx: &mut Context<'_, O>,
        h: &ResponseHeader,
    ) -> bool {
        let advanced = h.ack.since(self.sender.una);
        debug_assert!(self.nothing_is_unusual());
        let expected = is_plain(h.flags)
            && h.sack.is_empty()
            && h.seq == self.receiver.nxt
            && advanced >= 0
            && !h.ack.after(self.sender.nxt)
            && (h.payload_len > 0 || advanced > 0)
            && self.receiver.visible == self.receiver.nxt;
        if !expected {
            return false;
        }
        if h.payload_len > 0 {
            if self.client_delay(&cx.all.config).0 > 0 {
                return false;
            }
            let full = self.full_response(cx);
            self.receiver.take_next(h, full, cx.all.now);
            cx.all.totals.response_bytes += u64::from(h.payload_len);
            self.set(Flags::ACK_DUE);
            if let Some(sent) = self.asked_at.take() {
                let took = cx.all.now.brief.since(sent);
                cx.out.sample(Metric::Response, took.nanos());
            }
        } else {
            self.receiver.note_timestamp(h);
        }
        self.active_at = cx.all.now.from;
        self.sender.take_next(h, cx.all.now.from);
        if advanced > 0 {
            let sent_at = self.stream.acknowledge_sent(&mut cx.all.arena, h.ack);
            self.delivers(cx, advanced as u32, sent_at);
        }
        true
    }

    /// Sends the acknowledgement that is owed, at the end of a batch.
    #[inline(always)]
    pub(crate) fn send_owed<O: Output>(&mut self, all: &mut Shared, out: &mut O) {
        if !self.has(Flags::ACK_DUE) {
            return;
        }
        all.totals.acks_sent += 1;
        let options = self.options(all.now.tick);
        let segment = self.segment(all, self.sender.nxt, TcpFlags::ACK, options);
        out.transmit(&segment, Cause::Own);
    }
}
