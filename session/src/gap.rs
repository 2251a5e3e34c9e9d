//! Holes in the capture that were not filled in time.
//!
//! ```text
//!   sent, acknowledged │ hole │ rest of a request │ request │ request …     captured
//!   ── CaptureGap ──────────────────────────────▶ └── Salvage: a session of its own ──▶
//! ```
//! Nothing behind a hole is ever sent as if it followed what lies before it. But where the client began
//! another request behind it, a new connection can begin, too: what was captured from there on is not
//! lost with the session.

use crate::state::{Beginning, Context, Flags, Limits, Phase, Session};
use crate::stream::{Ahead, Chunk};
use crate::time::Tick;
use crate::wire_tuple::Wire;
use crate::{Outcome, Output};
use common::packet::SeqNumber;

/// What a session that ends with a capture gap leaves to the next one of its client.
pub(crate) struct Salvage {
    pub(crate) ahead: Ahead,
    /// The client goes on as it was: options, window, round trip, the end if it was seen.
    beginning: Beginning,
    measured: Option<crate::time::Span>,
    reset: Option<crate::state::CapturedReset>,
    client_done: bool,
    ack: SeqNumber,
}

impl Salvage {
    /// The session that begins with it, on `wire`.
    pub(crate) fn beginning(&self, wire: Wire) -> Beginning {
        Beginning {
            wire,
            ..self.beginning
        }
    }
}

impl Session {
    /// When the hole is given up, if there is one. What lies before it comes first: as long as that is
    /// not acknowledged its own limits count; then the target gets as long as any turn to answer it.
    pub(crate) fn hole_due(&self, limits: &Limits) -> Option<Tick> {
        let due = self.hole_since()?.plus(limits.gap);
        let sent = self.stream.cursor.is_none() && self.sender.in_flight() == 0;
        if self.phase != Phase::Open || !sent {
            return None;
        }
        let answered = &self.receiver.answered;
        let read = self.turns.highest_ack();
        if answered.fin || self.turns.answered(read, answered) {
            return Some(due);
        }
        let answer = self.sender.progress_at.plus(limits.turn);
        Some(if answer.since(due) > 0 { answer } else { due })
    }

    /// The time for the hole to be filled is over.
    pub(crate) fn give_up_hole<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        if self.stream.misses_one(&self.rare) && self.reset().is_none() {
            // One number, behind all data, and silence: that was the client's FIN. Bytes come with
            // more of them.
            self.infer_fin(cx);
            return;
        }
        if cx.all.config.adopt {
            cx.salvage = self.salvage(cx).map(Box::new);
        }
        self.abort(cx, Outcome::CaptureGap);
    }

    fn infer_fin<O: Output>(&mut self, cx: &mut Context<'_, O>) {
        cx.all.totals.fins_inferred += 1;
        let now = cx.all.now;
        let ack = self.turns.highest_ack();
        let fin = Chunk::new(self.stream.nxt(), ack, now.at, now.brief);
        self.stream
            .infer_fin(&mut cx.all.arena, &mut self.rare, fin);
        self.set(Flags::CLIENT_DONE);
        self.pump(cx);
    }

    fn salvage<O: Output>(&mut self, cx: &mut Context<'_, O>) -> Option<Salvage> {
        let all = &mut *cx.all;
        let behind = &mut self.rare.get_mut()?.ahead;
        let ahead = behind.cut_at_request(&mut all.arena)?;
        let first = *ahead.first(&all.arena)?;
        Some(Salvage {
            ahead,
            beginning: Beginning {
                client: self.client,
                replica: self.replica,
                path: self.path,
                wire: self.wire,
                iss: first.seq - 1,
                offered: self.offered,
                ts_val: self.ts_val(all.now.tick),
                window: self.client_window,
                at: first.at,
                adopted: self.has(Flags::ADOPTED),
            },
            measured: self.client_rtt(),
            reset: self.rare.get_mut().and_then(|r| r.reset.take()),
            client_done: self.has(Flags::CLIENT_DONE),
            ack: first.ack,
        })
    }

    /// Takes over what another session of the client left.
    pub(crate) fn go_on_with<O: Output>(&mut self, cx: &mut Context<'_, O>, left: Salvage) {
        let now = cx.all.now;
        self.turns.begin(left.ack);
        if let Some(rtt) = left.measured {
            self.client_rtt = rtt;
            self.set(Flags::MEASURED);
        }
        self.set_if(Flags::CLIENT_DONE, left.client_done);
        let all = &mut *cx.all;
        self.stream.begin_with(
            &mut all.arena,
            &mut self.rare,
            &mut all.pool,
            now,
            left.ahead,
        );
        if let Some(reset) = left.reset {
            self.rare.need(&mut all.pool).reset = Some(reset);
        }
        cx.wake(self.deadline(&cx.all.limits));
    }
}
