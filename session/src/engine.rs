//! The engine: finds the session of each input, keeps tables and timers.
//!
//! ```text
//!  by_capture: (client, online) ──┐
//!                                 ├──▶ sessions[n]      wheel: n ──▶ when to look again
//!  by_wire: (wire client, target) ┘                     acks: sessions that owe an acknowledgement
//!  strangers: connections seen in the capture that are not replayed
//! ```

use crate::receiver::Receiver;
use crate::sender::Sender;
use crate::state::{Context, Phase, Session};
use crate::strangers::Strangers;
use crate::stream::{Arena, Stream};
use crate::table::{Pair, Table, table};
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
    by_capture: Table,
    by_wire: Table,
    strangers: Strangers,
    tuples: TupleAllocator,
    arena: Arena,
    wheel: Wheel,
    fired: Vec<u32>,
    acks: Vec<u32>,
    totals: Totals,
    /// New sessions are opened.
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

    /// From now on no session is opened; open ones go on. For draining.
    pub fn stop_accepting(&mut self) {
        self.accepting = false;
    }

    /// A captured packet from a client to production.
    pub fn captured<O: Output>(&mut self, now: Nanos, seg: &ClientSegment<'_>, out: &mut O) {
        self.wheel.start_at(now);
        self.totals.segments_captured += 1;
        let key = Pair {
            client: seg.client,
            server: seg.online,
        };
        let known = self.by_capture.get(&key).copied();
        if !seg.flags.has(TcpFlags::SYN) {
            match known {
                Some(id) => self.run(id, now, out, |s, cx| s.captured(cx, seg)),
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
            if session.is_some_and(|s| s.iss == seg.seq && !matches!(s.phase, Phase::Ended(_))) {
                self.totals.segments_duplicate += 1;
                return;
            }
            self.run(id, now, out, super::state::Session::supersede);
            self.remove(id);
        }
        self.strangers.forget(&key);
        self.open(now, key, seg, out);
    }

    /// A response of a target, whoever received it.
    pub fn response<O: Output>(&mut self, now: Nanos, h: &ResponseHeader, out: &mut O) {
        self.wheel.start_at(now);
        self.totals.responses += 1;
        match self
            .by_wire
            .get(&Pair {
                client: h.client,
                server: h.target,
            })
            .copied()
        {
            Some(id) => self.run(id, now, out, |s, cx| s.response(cx, h)),
            None => self.totals.responses_stray += 1,
        }
    }

    /// Runs due timers and sends the acknowledgements owed since the last call. Once per loop.
    pub fn advance<O: Output>(&mut self, now: Nanos, out: &mut O) {
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.advance(now, &mut fired);
        for id in fired.drain(..) {
            self.run(id, now, out, super::state::Session::timer);
            let session = self.sessions.get(id as usize).and_then(Option::as_ref);
            if session.is_some_and(|s| {
                matches!(s.phase, Phase::Ended(_)) && now >= s.deadline(&self.config)
            }) {
                self.remove(id);
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
        self.wheel.set(id, session.deadline(&self.config));
    }

    fn open<O: Output>(&mut self, now: Nanos, key: Pair, seg: &ClientSegment<'_>, out: &mut O) {
        let room = self.accepting
            && self.open < self.config.max_sessions
            && self.arena.has_room_for_sessions();
        let wire = room
            .then(|| {
                self.tuples
                    .choose(&self.config, &self.by_wire, seg.client, seg.target)
            })
            .flatten();
        let Some(wire) = wire else {
            let why = if self.accepting {
                Outcome::Shed
            } else {
                Outcome::Shutdown
            };
            self.strangers.see(&mut self.totals, key, seg, why);
            return;
        };
        let wire = Pair {
            client: wire,
            server: seg.target,
        };
        let first = seg.seq + 1;
        let session = Session {
            phase: Phase::Opening,
            capture: key,
            wire,
            stream: Stream::new(first, self.config.session_bytes),
            sender: Sender::new(seg.seq, self.config.mtu, now),
            receiver: Receiver::default(),
            turns: None,
            iss: seg.seq,
            offered: seg.options,
            client_window: seg.window,
            cursor: 0,
            syn_at: seg.at,
            opened_at: now,
            syn_sent_at: None,
            client_rtt: None,
            timestamps: false,
            fin_sent: false,
            reset: None,
            request_sent_at: None,
            gate_until: None,
            active_at: now,
            client_done: false,
            ack_due: false,
            captured: 0,
            delivered: 0,
        };
        let id = if let Some(id) = self.free.pop() {
            id
        } else {
            self.sessions.push(None);
            self.sessions.len() as u32 - 1
        };
        if let Some(slot) = self.sessions.get_mut(id as usize) {
            *slot = Some(session);
        }
        self.open += 1;
        self.totals.sessions += 1;
        self.by_capture.insert(key, id);
        self.by_wire.insert(wire, id);
        self.run(id, now, out, |s, cx| {
            s.send_syn(cx);
            if !seg.payload.is_empty() {
                // Data in the SYN (RFC 7413) is sent after the handshake.
                s.captured(cx, seg);
            }
        });
    }

    fn remove(&mut self, id: u32) {
        let Some(session) = self.sessions.get_mut(id as usize).and_then(Option::take) else {
            return;
        };
        // Both entries may belong to a later session by now.
        for (map, key) in [
            (&mut self.by_capture, session.capture),
            (&mut self.by_wire, session.wire),
        ] {
            if map.get(&key) == Some(&id) {
                map.remove(&key);
            }
        }
        self.wheel.cancel(id);
        self.free.push(id);
    }
}

#[cfg(test)]
mod tests;
