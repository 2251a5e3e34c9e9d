//! The engine: finds the session of each input, keeps tables and timers.
//!
//! ```text
//!  by_capture: (client, online) ──┐
//!                                 ├──▶ sessions[n]      wheel: n ──▶ when to look again
//!  by_wire: (wire client, target) ┘                     acks: sessions that owe an acknowledgement
//!  strangers: connections seen in the capture that are not replayed
//! ```
//! Which connections become sessions is decided in `admission.rs`.

mod admission;

use crate::reserve::{RESERVED, Reserve};
use crate::state::{Context, Phase, Session};
use crate::strangers::Strangers;
use crate::stream::Arena;
use crate::table::{CaptureKey, Pair, Table, table};
use crate::timer::Wheel;
use crate::wire_tuple::TupleAllocator;
use crate::{EngineConfig, Outcome, Output, Totals};
use common::flow::{ClientSegment, Nanos, ResponseHeader};
use common::packet::TcpFlags;

/// All sessions of one worker.
pub struct Engine {
    config: EngineConfig,
    sessions: Vec<Option<Session>>,
    free: Vec<u32>,
    /// Sessions without an outcome yet.
    open: usize,
    by_capture: Table<CaptureKey>,
    by_wire: Table,
    strangers: Strangers,
    tuples: TupleAllocator,
    reserve: Reserve,
    /// When the first packet came: the beginning of a ramp.
    started_at: Option<Nanos>,
    arena: Arena,
    wheel: Wheel,
    fired: Vec<u32>,
    acks: Vec<u32>,
    totals: Totals,
    /// New sessions are opened: until the shutdown.
    accepting: bool,
}

impl Engine {
    /// An engine without sessions.
    pub fn new(config: EngineConfig) -> Self {
        Self {
            arena: Arena::new(config.buffer_bytes),
            strangers: Strangers::default(),
            config,
            sessions: Vec::new(),
            free: Vec::new(),
            open: 0,
            by_capture: table(),
            by_wire: table(),
            tuples: TupleAllocator::default(),
            reserve: Reserve::default(),
            started_at: None,
            wheel: Wheel::new(),
            fired: Vec::new(),
            acks: Vec::new(),
            totals: Totals::default(),
            accepting: true,
        }
    }

    /// Sessions that have no outcome yet.
    pub fn open_sessions(&self) -> usize {
        self.open
    }

    /// What happened so far.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Bytes of memory that hold captured data.
    pub fn buffered_bytes(&self) -> usize {
        self.arena.used()
    }

    /// A captured packet from a client to production.
    pub fn captured<O: Output>(&mut self, now: Nanos, seg: &ClientSegment<'_>, out: &mut O) {
        self.wheel.start_at(now);
        self.totals.segments_captured += 1;
        if !self.selected(now, seg) {
            let opens = seg.flags.has(TcpFlags::SYN) && !seg.flags.has(TcpFlags::ACK);
            self.totals.not_sampled += u64::from(opens);
            return;
        }
        for replica in 0..self.config.replicas.max(1) {
            let key = CaptureKey {
                pair: Pair {
                    client: seg.client,
                    server: seg.online,
                },
                replica,
            };
            self.captured_by(now, key, seg, out);
        }
    }

    fn captured_by<O: Output>(
        &mut self,
        now: Nanos,
        key: CaptureKey,
        seg: &ClientSegment<'_>,
        out: &mut O,
    ) {
        let mut known = self.by_capture.get(&key).copied();
        if known.is_some_and(|id| self.may_join_again(id, now)) {
            known = None;
        }
        if !seg.flags.has(TcpFlags::SYN) {
            match known {
                Some(id) => self.run(id, now, out, |s, cx| s.captured(cx, seg)),
                None if self.may_adopt() && self.strangers.adopt(&mut self.totals, &key, seg) => {
                    self.open(now, key, seg, out);
                }
                None => self
                    .strangers
                    .see(&mut self.totals, key, seg, Outcome::SkippedNoSyn),
            }
            return;
        }
        if seg.flags.has(TcpFlags::ACK.with(TcpFlags::RST)) {
            // A SYN-ACK: this "client" is the server of a connection that production opened.
            return;
        }
        if let Some(id) = known {
            let session = self.sessions.get(id as usize).and_then(Option::as_ref);
            if session.is_some_and(|s| s.captured_iss == seg.seq) {
                self.totals.segments_duplicate += 1;
                return;
            }
            self.run(id, now, out, Session::supersede);
            if self.ended(id) {
                self.remove(id, now);
            } else {
                // It goes on by itself: what is captured is the new connection's, opened or not.
                self.by_capture.remove(&key);
            }
        }
        if self.strangers.has_data_of(&key, seg.seq) {
            self.totals.segments_duplicate += 1;
            return;
        }
        self.strangers.forget(&mut self.totals, &key, seg.seq);
        self.open(now, key, seg, out);
    }

    /// A response of a target, whoever received it.
    pub fn response<O: Output>(&mut self, now: Nanos, h: &ResponseHeader, out: &mut O) {
        self.wheel.start_at(now);
        self.totals.responses += 1;
        let wire = Pair {
            client: h.client,
            server: h.target,
        };
        match self.by_wire.get(&wire).copied() {
            Some(id) if id != RESERVED => self.run(id, now, out, |s, cx| s.response(cx, h)),
            _ => self.totals.responses_stray += 1,
        }
    }

    /// Runs due timers and sends the acknowledgements owed since the last call. Once per loop.
    pub fn advance<O: Output>(&mut self, now: Nanos, out: &mut O) {
        self.reserve
            .release(&mut self.by_wire, now, |pair| self.tuples.freed(pair));
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.advance(now, &mut fired);
        for id in fired.drain(..) {
            if let Some(session) = self.sessions.get_mut(id as usize).and_then(Option::as_mut) {
                session.timer_at = Nanos(u64::MAX);
            }
            self.run(id, now, out, Session::timer);
            let session = self.sessions.get(id as usize).and_then(Option::as_ref);
            let due = session.is_some_and(|s| now >= s.deadline(&self.config));
            if due && self.ended(id) {
                self.remove(id, now);
            }
        }
        self.fired = fired;
        let mut acks = std::mem::take(&mut self.acks);
        for id in acks.drain(..) {
            self.run(id, now, out, |s, cx| {
                if s.ack_due {
                    s.send_ack(cx);
                }
            });
        }
        self.acks = acks;
    }

    /// When [`Engine::advance`] should be called at the latest; `None` without sessions.
    pub fn next_deadline(&self) -> Option<Nanos> {
        if self.acks.is_empty() {
            self.wheel.next_due()
        } else {
            Some(Nanos(0))
        }
    }

    /// Ends every open session with a reset towards the target and outcome shutdown.
    pub fn shutdown<O: Output>(&mut self, now: Nanos, out: &mut O) {
        self.accepting = false;
        for id in 0..self.sessions.len() as u32 {
            self.run(id, now, out, |s, cx| s.abort(cx, Outcome::Shutdown));
        }
    }

    /// A session that failed while its client goes on becomes a stranger, to be joined again at the
    /// client's next request.
    fn may_join_again(&mut self, id: u32, now: Nanos) -> bool {
        let Some(s) = self.sessions.get(id as usize).and_then(Option::as_ref) else {
            return false;
        };
        let Phase::Ended(outcome) = s.phase else {
            return false;
        };
        let passing = matches!(
            outcome,
            Outcome::CaptureGap | Outcome::ResetByTarget | Outcome::ClosedByTarget
        );
        if !passing || s.client_done || !self.config.adopt {
            return false;
        }
        self.strangers.take_over(s.capture, outcome, s.stream.nxt());
        self.remove(id, now);
        true
    }

    fn ended(&self, id: u32) -> bool {
        let session = self.sessions.get(id as usize).and_then(Option::as_ref);
        session.is_some_and(|s| matches!(s.phase, Phase::Ended(_)))
    }

    /// Calls `act` on a session and keeps timers, acknowledgement list and counts in step with it.
    fn run<O: Output>(
        &mut self,
        id: u32,
        now: Nanos,
        out: &mut O,
        act: impl FnOnce(&mut Session, &mut Context<'_, O>),
    ) {
        let Some(session) = self.sessions.get_mut(id as usize).and_then(Option::as_mut) else {
            return;
        };
        let was_open = !matches!(session.phase, Phase::Ended(_));
        let owed = session.ack_due;
        let mut cx = Context {
            now,
            config: &self.config,
            arena: &mut self.arena,
            totals: &mut self.totals,
            out,
        };
        act(session, &mut cx);
        if session.ack_due && !owed {
            self.acks.push(id);
        }
        if was_open && matches!(session.phase, Phase::Ended(_)) {
            self.open -= 1;
        }
        let due = session.deadline(&self.config);
        if due < session.timer_at {
            session.timer_at = due;
            self.wheel.set(id, due);
        }
        if session.wants_reopen {
            session.wants_reopen = false;
            self.reopen(id, now, out);
        }
    }
}

#[cfg(test)]
mod tests;
