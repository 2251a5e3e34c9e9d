//! Which captured connections become sessions, on which wire tuple, and how they leave the tables.

use super::Engine;
use crate::gap::Salvage;
use crate::handshake::{OWN_WINDOW_FIELD, OWN_WINDOW_SHIFT};
use crate::index::{Entry, Hash, Index, MAX_SESSIONS};
use crate::slab::Slab;
use crate::state::{Beginning, Flags, Offered, Session};
use crate::table::{CaptureKey, Pair};
use crate::wire_tuple::Wire;
use crate::{EngineConfig, Outcome, Output};
use common::flow::{ClientSegment, Nanos, Share, flow_hash};
use common::packet::{Endpoint, TcpFlags, TcpOptions};

/// Under what an entry of the index stands.
fn hash_of(index: &Index, sessions: &Slab<Session>, config: &EngineConfig, e: Entry) -> Hash {
    let session = sessions.get(e.id());
    index.hash(session.map_or(Endpoint::ANY, |s| {
        if e.is_wire() {
            s.wire.endpoint(config, s.client)
        } else {
            s.client
        }
    }))
}

/// A ramp adds one percent per second.
const RAMP_STEP: Nanos = Nanos::from_secs(1);

impl Engine {
    /// Share of sessions that is replayed at this time.
    fn share(&self) -> Share {
        let wanted = self.all.config.share;
        match self.started_at {
            Some(start) if self.all.config.ramp => {
                let steps = self.all.now.at.since(start).0 / RAMP_STEP.0;
                wanted.min(Share::percent(steps.min(100) as u32 + 1))
            }
            _ => wanted,
        }
    }

    /// The packet belongs to a connection that is replayed by `-r` and `-g`: a choice by the client's
    /// endpoint alone, so that it is the same for every packet.
    #[cold]
    pub(super) fn selected(&mut self, seg: &ClientSegment<'_>) -> bool {
        self.started_at.get_or_insert(self.all.now.at);
        let share = self.share();
        share.is_all() || share.takes(flow_hash(seg.client))
    }

    pub(super) fn ramping(&self) -> bool {
        self.all.config.ramp && self.share() < self.all.config.share
    }

    pub(super) fn may_adopt(&self) -> bool {
        self.all.config.adopt && self.accepting && self.has_room()
    }

    /// A new session would not be shed for want of memory.
    pub fn has_room(&self) -> bool {
        self.open < self.all.config.max_sessions
            && self.sessions.len() < MAX_SESSIONS
            && self.all.arena.has_room_for_sessions()
    }

    fn choose(&mut self, client: Endpoint, target: Endpoint, replica: u16) -> Option<Wire> {
        let mut tuples = std::mem::take(&mut self.tuples);
        let used = |pair: &Pair| {
            let hash = self.index.hash(pair.client);
            self.find_wire(hash, pair).is_some() || self.reserve.holds(pair)
        };
        let replica = self.all.config.replica_of(replica);
        let wire = tuples.choose(&self.all.config, used, client, target, replica);
        self.tuples = tuples;
        wire
    }

    /// Begins a session with a captured SYN, or in the middle with the first data of a request.
    pub(super) fn open<O: Output>(
        &mut self,
        key: CaptureKey,
        seg: &ClientSegment<'_>,
        out: &mut O,
    ) {
        let room = self.accepting && self.has_room();
        let wire = room
            .then(|| self.choose(seg.client, seg.target, key.replica))
            .flatten();
        let Some(wire) = wire else {
            let why = if self.accepting {
                Outcome::Shed
            } else {
                Outcome::Shutdown
            };
            self.strangers.see(&mut self.all.totals, key, seg, why);
            return;
        };
        let beginning = self.beginning(key.replica, wire, seg);
        self.all.totals.adopted += u64::from(beginning.adopted);
        let id = self.enter(&beginning);
        self.run(id, out, |s, cx| {
            cx.wake(s.deadline(&cx.all.limits));
            s.send_syn(cx);
            // Data in the SYN (RFC 7413) is sent after the handshake, like that of an adopted session.
            if !seg.payload.is_empty() {
                s.captured(cx, seg);
            }
        });
    }

    /// Puts a new session into the tables.
    fn enter(&mut self, beginning: &Beginning) -> u32 {
        let session = Session::new(&self.all.config, self.all.now, beginning);
        let wire = beginning.wire.endpoint(&self.all.config, beginning.client);
        let id = self.sessions.insert(session);
        self.open += 1;
        self.all.totals.begin(self.all.paths.target(beginning.path));
        self.index_insert(beginning.client, Entry::captured(id));
        if wire != beginning.client {
            self.index_insert(wire, Entry::wire(id));
        }
        id
    }

    fn index_insert(&mut self, endpoint: Endpoint, entry: Entry) {
        let hash = self.index.hash(endpoint);
        let (sessions, config) = (&self.sessions, &self.all.config);
        self.index
            .insert(hash, entry, |index, e| hash_of(index, sessions, config, e));
    }

    fn index_remove(&mut self, endpoint: Endpoint, entry: Entry) {
        let hash = self.index.hash(endpoint);
        let (sessions, config) = (&self.sessions, &self.all.config);
        self.index
            .remove(hash, entry, |index, e| hash_of(index, sessions, config, e));
    }

    /// Gives a session whose target closed too early a new tuple: the old one is in the target's
    /// TIME-WAIT.
    #[cold]
    pub(super) fn reopen<O: Output>(&mut self, id: u32, out: &mut O) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        session.unset(Flags::WANTS_REOPEN);
        let (client, replica) = (session.client, session.replica);
        let old = session.wire_pair(&self.all.config, &self.all.paths);
        let until = self.all.now.at + self.all.config.tuple_reuse;
        self.reserve.hold(old, until);
        let Some(wire) = self.choose(client, old.server, replica) else {
            self.run(id, out, |s, cx| s.end(cx, Outcome::ClosedByTarget));
            return;
        };
        if old.client != client {
            self.index_remove(old.client, Entry::wire(id));
        }
        self.run(id, out, |s, cx| s.reopen(cx, wire));
        let new = wire.endpoint(&self.all.config, client);
        if new != client {
            self.index_insert(new, Entry::wire(id));
        }
        out.retire(old.client, old.server);
    }

    /// Begins a session with what another one of the same client left behind a gap.
    #[cold]
    pub(super) fn succeed<O: Output>(&mut self, id: u32, left: Salvage, out: &mut O) {
        let Some(old) = self.sessions.get(id) else {
            return;
        };
        let superseded = old.has(Flags::SUPERSEDED);
        let (client, replica) = (old.client, old.replica);
        let online = self.all.paths.online(old.path);
        let target = self.all.paths.target(old.path);
        // The path must outlive the old session, which makes room for the new one.
        let path = self.all.paths.enter(online, target);
        self.remove(id);
        let room = self.accepting && self.has_room();
        let wire = room.then(|| self.choose(client, target, replica)).flatten();
        let Some(wire) = wire else {
            self.all.paths.leave(path);
            let bytes = u64::from(left.ahead.bytes());
            self.all.totals.lose(target, Outcome::CaptureGap, bytes);
            left.ahead.release(&mut self.all.arena);
            return;
        };
        let beginning = Beginning {
            path,
            ..left.beginning(wire)
        };
        self.all.totals.adopted += 1;
        let id = self.enter(&beginning);
        self.run(id, out, |s, cx| {
            s.set_if(Flags::SUPERSEDED, superseded);
            s.go_on_with(cx, left);
            s.send_syn(cx);
        });
    }

    pub(super) fn remove(&mut self, id: u32) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let (client, path) = (session.client, session.path);
        let wire = session.wire_pair(&self.all.config, &self.all.paths);
        self.index_remove(client, Entry::captured(id));
        if wire.client == client {
            // The client's own endpoint: it knows itself when it may come back.
            self.tuples.freed(&wire);
        } else {
            self.index_remove(wire.client, Entry::wire(id));
            let until = self.all.now.at + self.all.config.tuple_reuse;
            self.reserve.hold(wire, until);
        }
        self.sessions.remove(id);
        self.all.paths.leave(path);
        self.wheel.cancel(id);
    }

    /// A session that begins with `seg`.
    fn beginning(&mut self, replica: u16, wire: Wire, seg: &ClientSegment<'_>) -> Beginning {
        let adopted = !seg.flags.has(TcpFlags::SYN);
        let own = TcpOptions {
            mss: Some(self.all.config.mss),
            window_scale: Some(OWN_WINDOW_SHIFT),
            sack_permitted: true,
            // Offered only if the captured client uses them.
            timestamps: seg.options.timestamps,
        };
        let (options, window) = if adopted {
            (&own, OWN_WINDOW_FIELD)
        } else {
            (&seg.options, seg.window)
        };
        Beginning {
            client: seg.client,
            replica,
            path: self.all.paths.enter(seg.online, seg.target),
            wire,
            iss: if adopted { seg.seq - 1 } else { seg.seq },
            offered: Offered::new(options),
            ts_val: options.timestamps.map_or(0, |t| t.val),
            window,
            at: seg.at,
            adopted,
        }
    }
}
