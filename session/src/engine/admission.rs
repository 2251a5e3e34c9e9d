//! Which captured connections become sessions, on which wire tuple, and how they leave the tables.

use super::Engine;
use crate::handshake::{OWN_WINDOW_FIELD, OWN_WINDOW_SHIFT};
use crate::receiver::Receiver;
use crate::sender::Sender;
use crate::state::{Phase, Session};
use crate::stream::Stream;
use crate::table::{CaptureKey, Pair};
use crate::{EngineConfig, Outcome, Output};
use common::flow::{ClientSegment, Nanos, flow_hash, shard};
use common::packet::{Endpoint, TcpFlags, TcpOptions};

/// A ramp adds one percent per second.
const RAMP_STEP: Nanos = Nanos::from_secs(1);

impl Engine {
    /// Percentage of sessions that is replayed at this time.
    fn percent(&self, now: Nanos) -> u32 {
        let wanted = u32::from(self.config.percent);
        match self.started_at {
            Some(start) if self.config.ramp => {
                let steps = now.since(start).0 / RAMP_STEP.0;
                wanted.min(steps.min(100) as u32 + 1)
            }
            _ => wanted,
        }
    }

    /// The packet belongs to a connection that is replayed by `-r` and `-g`: a choice by the client's
    /// endpoint alone, so that it is the same for every packet. A connection that began before the
    /// ramp reached it stays out until the ramp is over.
    pub(super) fn selected(&mut self, now: Nanos, seg: &ClientSegment<'_>) -> bool {
        self.started_at.get_or_insert(now);
        let percent = self.percent(now);
        if percent >= 100 {
            return true;
        }
        if shard(flow_hash(seg.client), 100) >= percent {
            return false;
        }
        !self.ramping(now) || seg.flags.has(TcpFlags::SYN) || self.takes_part(seg)
    }

    /// A copy of this connection is a session, or was one and may be joined again.
    fn takes_part(&self, seg: &ClientSegment<'_>) -> bool {
        let pair = Pair {
            client: seg.client,
            server: seg.online,
        };
        (0..self.config.replicas.max(1)).any(|replica| {
            let key = CaptureKey { pair, replica };
            self.by_capture.contains_key(&key) || self.strangers.knows(&key)
        })
    }

    fn ramping(&self, now: Nanos) -> bool {
        self.config.ramp && self.percent(now) < u32::from(self.config.percent.min(100))
    }

    pub(super) fn may_adopt(&self) -> bool {
        self.config.adopt && self.accepting && self.room()
    }

    fn room(&self) -> bool {
        self.open < self.config.max_sessions && self.arena.has_room_for_sessions()
    }

    fn choose(&mut self, client: Endpoint, target: Endpoint, replica: u16) -> Option<Pair> {
        let client = self
            .tuples
            .choose(&self.config, &self.by_wire, client, target, replica)?;
        Some(Pair {
            client,
            server: target,
        })
    }

    /// Begins a session with a captured SYN, or in the middle with the first data of a request.
    pub(super) fn open<O: Output>(
        &mut self,
        now: Nanos,
        key: CaptureKey,
        seg: &ClientSegment<'_>,
        out: &mut O,
    ) {
        let room = self.accepting && self.room();
        let wire = room
            .then(|| self.choose(seg.client, seg.target, key.replica))
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
        let session = begin(&self.config, now, key, wire, seg);
        let adopted = session.adopted;
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
        self.totals.adopted += u64::from(adopted);
        self.by_capture.insert(key, id);
        self.by_wire.insert(wire, id);
        self.run(id, now, out, |s, cx| {
            s.send_syn(cx);
            // Data in the SYN (RFC 7413) is sent after the handshake, like that of an adopted session.
            if !seg.payload.is_empty() {
                s.captured(cx, seg);
            }
        });
    }

    /// Gives a session whose target closed too early a new tuple: the old one is in the target's
    /// TIME-WAIT.
    pub(super) fn reopen<O: Output>(&mut self, id: u32, now: Nanos, out: &mut O) {
        let Some(session) = self.sessions.get(id as usize).and_then(Option::as_ref) else {
            return;
        };
        let (key, old) = (session.capture, session.wire);
        self.reserve
            .hold(&mut self.by_wire, old, now + self.config.tuple_reuse);
        let Some(wire) = self.choose(key.pair.client, old.server, key.replica) else {
            self.run(id, now, out, |s, cx| s.end(cx, Outcome::ClosedByTarget));
            return;
        };
        self.by_wire.insert(wire, id);
        self.run(id, now, out, |s, cx| s.reopen(cx, wire));
        out.retire(old.client, old.server);
    }

    pub(super) fn remove(&mut self, id: u32, now: Nanos) {
        let Some(session) = self.sessions.get_mut(id as usize).and_then(Option::take) else {
            return;
        };
        // Both entries may belong to a later session by now.
        if self.by_capture.get(&session.capture) == Some(&id) {
            self.by_capture.remove(&session.capture);
        }
        if self.by_wire.get(&session.wire) == Some(&id) {
            if session.wire.client == session.capture.pair.client {
                // The client's own endpoint: it knows itself when it may come back.
                self.by_wire.remove(&session.wire);
                self.tuples.freed(&session.wire);
            } else {
                let until = now + self.config.tuple_reuse;
                self.reserve.hold(&mut self.by_wire, session.wire, until);
            }
        }
        self.wheel.cancel(id);
        self.free.push(id);
    }
}

/// A session that begins with `seg`.
fn begin(
    config: &EngineConfig,
    now: Nanos,
    capture: CaptureKey,
    wire: Pair,
    seg: &ClientSegment<'_>,
) -> Session {
    let adopted = !seg.flags.has(TcpFlags::SYN);
    let iss = if adopted { seg.seq - 1 } else { seg.seq };
    let (offered, client_window) = if adopted {
        let own = TcpOptions {
            mss: Some(config.mss),
            window_scale: Some(OWN_WINDOW_SHIFT),
            sack_permitted: true,
            // Offered only if the captured client uses them.
            timestamps: seg.options.timestamps,
            ..TcpOptions::default()
        };
        (own, OWN_WINDOW_FIELD)
    } else {
        (seg.options, seg.window)
    };
    Session {
        phase: Phase::Opening,
        capture,
        wire,
        stream: Stream::new(iss + 1, config.session_bytes),
        sender: Sender::new(iss, config.mtu, now),
        receiver: Receiver::default(),
        turns: None,
        captured_iss: iss,
        iss,
        offered,
        adopted,
        client_window,
        cursor: 0,
        syn_at: seg.at,
        begun_at: now,
        opened_at: now,
        syn_sent_at: None,
        schedule_at: None,
        established_at: now,
        peer_reset: false,
        handshake_at: None,
        wants_reopen: false,
        client_rtt: None,
        timestamps: false,
        fin_sent: false,
        reset: None,
        request_sent_at: None,
        gate_until: None,
        active_at: now,
        timer_at: Nanos(u64::MAX),
        client_done: false,
        ack_due: false,
        captured: 0,
        delivered: 0,
    }
}
