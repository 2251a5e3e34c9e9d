//! The engine: finds the session of each input, keeps tables and timers.
//!
//! ```text
//!  captured: client, online ──┐
//!                             ├──▶ index ──▶ sessions[n]    wheel: n ──▶ when to look again
//!  response: client, target ──┘                             acks: sessions that owe an acknowledgement
//!  paths: pairs of online address and target                strangers: connections that are not replayed
//!  early: packets in front of their SYN
//! ```
//! Which connections become sessions is decided in `admission.rs` and, without a SYN, in `without_syn.rs`.

mod admission;
mod batch;
mod without_syn;

use crate::early::Early;
use crate::index::{Hash, Index};
use crate::paths::Paths;
use crate::rare::RarePool;
use crate::reserve::Reserve;
use crate::slab::Slab;
use crate::state::{Context, Flags, Limits, Session, Shared};
use crate::strangers::Strangers;
use crate::stream::Arena;
use crate::table::{CaptureKey, Pair};
use crate::time::{Clock, Tick};
use crate::timer::Wheel;
use crate::wire_tuple::TupleAllocator;
use crate::{EngineConfig, Outcome, Output, Totals};
use common::flow::{ClientSegment, Nanos, ResponseHeader};
use common::packet::{Endpoint, TcpFlags};

/// Makes the timer of session `id` fire at `due` at the latest.
#[inline(always)]
fn keep_time(wheel: &mut Wheel, id: u32, session: &mut Session, due: Option<Tick>) {
    if let Some(due) = due
        && session.timer_at.is_none_or(|at| due.since(at) < 0)
    {
        session.timer_at = Some(due);
        wheel.set(id, due);
    }
}

/// What the session that came first into question did with a packet.
enum Likely {
    /// The packet is dealt with.
    Done,
    /// It is its packet, but not a usual one; nothing has happened.
    Declined(u32),
    /// It is not its packet.
    Another,
}

/// Calls `act` on a session at ease, which it stays; false if it is not or `act` did nothing.
#[inline(always)]
fn expected<O: Output>(
    id: u32,
    session: &mut Session,
    all: &mut Shared,
    wheel: &mut Wheel,
    out: &mut O,
    act: impl FnOnce(&mut Session, &mut Context<'_, O>) -> bool,
) -> bool {
    if !session.has(Flags::AT_EASE) {
        return false;
    }
    let mut cx = Context {
        all,
        out,
        due: None,
        salvage: None,
    };
    if !act(session, &mut cx) {
        return false;
    }
    keep_time(wheel, id, session, cx.due);
    debug_assert!(session.timer_is_in_time(&cx.all.limits));
    true
}

/// All sessions of one worker.
pub struct Engine {
    all: Shared,
    sessions: Slab<Session>,
    index: Index,
    /// Sessions without an outcome yet.
    open: usize,
    strangers: Strangers,
    early: Early,
    tuples: TupleAllocator,
    reserve: Reserve,
    /// When the first packet came: the beginning of a ramp.
    started_at: Option<Nanos>,
    /// Not every session is replayed.
    sampling: bool,
    wheel: Wheel,
    fired: Vec<u32>,
    acks: Vec<u32>,
    /// New sessions are opened: until the shutdown.
    accepting: bool,
    /// Usual packets take the short way.
    predicts: bool,
}

impl Engine {
    /// An engine without sessions.
    pub fn new(config: EngineConfig) -> Self {
        Self {
            index: Index::new(config.max_sessions),
            sampling: !config.share.is_all() || config.ramp,
            all: Shared {
                limits: Limits::new(&config),
                now: Clock::at(Nanos(0)),
                paths: Paths::default(),
                arena: Arena::new(config.buffer_bytes),
                pool: RarePool::default(),
                totals: Totals::default(),
                config,
            },
            sessions: Slab::default(),
            strangers: Strangers::default(),
            early: Early::default(),
            open: 0,
            tuples: TupleAllocator::default(),
            reserve: Reserve::default(),
            started_at: None,
            wheel: Wheel::new(),
            fired: Vec::new(),
            acks: Vec::new(),
            accepting: true,
            predicts: true,
        }
    }

    /// An engine that treats all packets alike: for tests that compare both ways.
    #[doc(hidden)]
    #[must_use]
    pub fn without_prediction(mut self) -> Self {
        self.predicts = false;
        self
    }

    /// Sessions that have no outcome yet.
    pub fn open_sessions(&self) -> usize {
        self.open
    }

    /// Packets wait for the SYN of their connection; [`Engine::advance`] ends their wait.
    pub fn awaits_syn(&self) -> bool {
        !self.early.is_empty()
    }

    /// What happened so far.
    pub fn totals(&self) -> &Totals {
        &self.all.totals
    }

    /// Bytes of memory that hold captured data.
    pub fn buffered_bytes(&self) -> usize {
        self.all.arena.used()
    }

    /// The clock is read once per batch, so this changes something once per batch.
    #[inline]
    fn set_time(&mut self, now: Nanos) {
        if now != self.all.now.at {
            self.all.now = Clock::at(now);
            self.wheel.start_at(now);
        }
    }

    /// A captured packet from a client to production.
    pub fn captured<O: Output>(&mut self, now: Nanos, seg: &ClientSegment<'_>, out: &mut O) {
        self.set_time(now);
        let hash = self.index.hash(seg.client);
        self.captured_hashed(hash, seg, out);
    }

    /// `hash` is that of the client.
    #[inline(never)]
    fn captured_hashed<O: Output>(&mut self, hash: Hash, seg: &ClientSegment<'_>, out: &mut O) {
        self.all.totals.segments_captured += 1;
        if self.sampling && !self.selected(seg) {
            let opens = seg.flags.has(TcpFlags::SYN) && !seg.flags.has(TcpFlags::ACK);
            // Once for all targets.
            self.all.totals.not_sampled += u64::from(opens && seg.lane == 0);
            return;
        }
        let first = self.all.config.first_copy(seg.lane);
        match self.captured_by_likely(hash, first, seg, out) {
            Likely::Done => {}
            Likely::Declined(id) => self.captured_in_full(Some(id), first, seg, out),
            Likely::Another => self.captured_by(hash, first, seg, out),
        }
        if self.all.config.replicas > 1 {
            self.captured_by_copies(hash, seg, out);
        }
    }

    #[cold]
    #[inline(never)]
    fn captured_by_copies<O: Output>(&mut self, hash: Hash, seg: &ClientSegment<'_>, out: &mut O) {
        for replica in self.all.config.copies(seg.lane).skip(1) {
            self.captured_by(hash, replica, seg, out);
        }
    }

    /// The first session that comes into question takes the packet if it is the right one, and the
    /// packet is a usual one.
    #[inline(always)]
    fn captured_by_likely<O: Output>(
        &mut self,
        hash: Hash,
        replica: u16,
        seg: &ClientSegment<'_>,
        out: &mut O,
    ) -> Likely {
        let Some(entry) = self.index.likely::<false>(hash) else {
            return Likely::Another;
        };
        let id = entry.id();
        let session = match self.sessions.get_mut(id) {
            Some(s) if s.is_of(&self.all.paths, seg, replica) => s,
            _ => return Likely::Another,
        };
        let all = &mut self.all;
        let took = expected(id, session, all, &mut self.wheel, out, |s, cx| {
            s.captured_as_expected(cx, seg)
        });
        if took {
            Likely::Done
        } else {
            Likely::Declined(id)
        }
    }

    /// A packet for one copy of its connection.
    #[cold]
    #[inline(never)]
    fn captured_by<O: Output>(
        &mut self,
        hash: Hash,
        replica: u16,
        seg: &ClientSegment<'_>,
        out: &mut O,
    ) {
        let known = self.find(hash, seg, replica);
        if let Some(id) = known
            && let Some(session) = self.sessions.get_mut(id)
        {
            let all = &mut self.all;
            let took = expected(id, session, all, &mut self.wheel, out, |s, cx| {
                s.captured_as_expected(cx, seg)
            });
            if took {
                return;
            }
        }
        self.captured_in_full(known, replica, seg, out);
    }

    /// What is not as expected.
    #[cold]
    #[inline(never)]
    fn captured_in_full<O: Output>(
        &mut self,
        known: Option<u32>,
        replica: u16,
        seg: &ClientSegment<'_>,
        out: &mut O,
    ) {
        match known {
            Some(id) if !seg.flags.has(TcpFlags::SYN) && self.goes_on_with(id, seg) => {
                self.run(id, out, |s, cx| s.captured(cx, seg));
            }
            _ => self.captured_rarely(known, replica, seg, out),
        }
    }

    /// Of no session that goes on: a SYN, of a session that is over, or of a stranger.
    fn captured_rarely<O: Output>(
        &mut self,
        mut known: Option<u32>,
        replica: u16,
        seg: &ClientSegment<'_>,
        out: &mut O,
    ) {
        let key = CaptureKey {
            pair: Pair {
                client: seg.client,
                server: seg.online,
            },
            replica,
        };
        if known.is_some_and(|id| self.may_join_again(id, key)) {
            known = None;
        }
        if !seg.flags.has(TcpFlags::SYN) {
            self.captured_in_front(known, key, seg, out);
            return;
        }
        if seg.flags.has(TcpFlags::ACK.with(TcpFlags::RST)) {
            // A SYN-ACK: this "client" is the server of a connection that production opened.
            return;
        }
        let again = |s: &Session| s.captured_iss == seg.seq;
        if known.is_some_and(|id| self.sessions.get(id).is_some_and(again)) {
            self.all.totals.segments_duplicate += 1;
            return;
        }
        let early = if self.early.is_empty() {
            Vec::new()
        } else {
            self.take_early(&mut known, key, seg, out)
        };
        if let Some(id) = known {
            self.run(id, out, Session::supersede);
            if self.ended(id) {
                self.remove(id);
            } else if let Some(s) = self.sessions.get_mut(id) {
                // It goes on by itself: what is captured is the new connection's, opened or not.
                s.set(Flags::SUPERSEDED);
                s.unset(Flags::AT_EASE);
            }
        }
        if self.strangers.has_data_of(&key, seg.seq) {
            self.all.totals.segments_duplicate += 1;
            self.let_go(early, key, out);
            return;
        }
        self.strangers.forget(&mut self.all.totals, &key, seg);
        self.open(key, seg, out);
        if !early.is_empty() {
            self.let_go(early, key, out);
        }
    }

    /// The session of a captured packet.
    #[inline(never)]
    fn find(&self, hash: Hash, seg: &ClientSegment<'_>, replica: u16) -> Option<u32> {
        self.index.find(hash, |e| {
            let session = self.sessions.get(e.id());
            session.is_some_and(|s| s.is_of(&self.all.paths, seg, replica) && !e.is_wire())
        })
    }

    /// The session that has `wire` towards the target.
    #[inline(never)]
    fn find_wire(&self, hash: Hash, wire: &Pair) -> Option<u32> {
        self.index.find(hash, |e| {
            let session = self.sessions.get(e.id());
            session.is_some_and(|s| s.has_wire(&self.all, &wire.client, &wire.server))
        })
    }

    /// Responses of `target` to `client` are taken from now on ([`Output::awaits`]).
    pub fn route_ready<O: Output>(
        &mut self,
        now: Nanos,
        client: Endpoint,
        target: Endpoint,
        out: &mut O,
    ) {
        self.set_time(now);
        let wire = Pair {
            client,
            server: target,
        };
        if let Some(id) = self.find_wire(self.index.hash(client), &wire) {
            self.run(id, out, Session::route_ready);
        }
    }

    /// A response of a target, whoever received it.
    pub fn response<O: Output>(&mut self, now: Nanos, h: &ResponseHeader, out: &mut O) {
        self.set_time(now);
        self.response_hashed(self.index.hash(h.client), h, out);
    }

    /// `hash` is that of the client.
    #[inline(never)]
    fn response_hashed<O: Output>(&mut self, hash: Hash, h: &ResponseHeader, out: &mut O) {
        self.all.totals.responses += 1;
        match self.response_to_likely(hash, h, out) {
            Likely::Done => {}
            Likely::Declined(id) => self.response_in_full(id, h, out),
            Likely::Another => self.response_to(hash, h, out),
        }
    }

    /// As [`Engine::captured_by_likely`].
    #[inline(always)]
    fn response_to_likely<O: Output>(
        &mut self,
        hash: Hash,
        h: &ResponseHeader,
        out: &mut O,
    ) -> Likely {
        let Some(entry) = self.index.likely::<true>(hash) else {
            return Likely::Another;
        };
        let id = entry.id();
        let session = match self.sessions.get_mut(id) {
            Some(s) if s.has_wire(&self.all, &h.client, &h.target) => s,
            _ => return Likely::Another,
        };
        let all = &mut self.all;
        let owed = session.has(Flags::ACK_DUE);
        let took = expected(id, session, all, &mut self.wheel, out, |s, cx| {
            s.response_as_expected(cx, h)
        });
        if h.payload_len > 0 && !owed && session.has(Flags::ACK_DUE) {
            self.acks.push(id);
        }
        if took {
            Likely::Done
        } else {
            Likely::Declined(id)
        }
    }

    #[cold]
    #[inline(never)]
    fn response_to<O: Output>(&mut self, hash: Hash, h: &ResponseHeader, out: &mut O) {
        let wire = Pair {
            client: h.client,
            server: h.target,
        };
        match self.find_wire(hash, &wire) {
            Some(id) => self.response_in_full(id, h, out),
            None => self.all.totals.responses_stray += 1,
        }
    }

    #[cold]
    #[inline(never)]
    fn response_in_full<O: Output>(&mut self, id: u32, h: &ResponseHeader, out: &mut O) {
        self.run(id, out, |s, cx| s.response(cx, h));
    }

    /// Runs due timers and sends the acknowledgements owed since the last call. Once per loop.
    pub fn advance<O: Output>(&mut self, now: Nanos, out: &mut O) {
        self.set_time(now);
        if !self.early.is_empty() {
            self.end_waits(now, out);
        }
        self.reserve.release(now, |pair| self.tuples.freed(pair));
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.advance(now, &mut fired);
        for id in fired.drain(..) {
            self.fire(id, out);
        }
        self.fired = fired;
        let mut acks = std::mem::take(&mut self.acks);
        for id in acks.drain(..) {
            if let Some(session) = self.sessions.get_mut(id) {
                session.send_owed(&mut self.all, out);
            }
        }
        self.acks = acks;
    }

    /// The timer of a session is due.
    fn fire<O: Output>(&mut self, id: u32, out: &mut O) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        session.timer_at = None;
        self.run(id, out, |s, cx| {
            s.timer(cx);
            cx.wake(s.deadline(&cx.all.limits));
        });
        let session = self.sessions.get(id);
        if session.is_some_and(|s| {
            s.outcome().is_some() && s.deadline(&self.all.limits).due(self.all.now.tick)
        }) {
            self.remove(id);
        }
    }

    /// When [`Engine::advance`] should be called at the latest; `None` without sessions.
    pub fn next_deadline(&self) -> Option<Nanos> {
        if self.acks.is_empty() {
            match (self.wheel.next_due(), self.early.next_due()) {
                (Some(timer), Some(wait)) => Some(timer.min(wait)),
                (timer, wait) => timer.or(wait),
            }
        } else {
            Some(Nanos(0))
        }
    }

    /// Ends every open session with a reset towards the target and outcome shutdown.
    pub fn shutdown<O: Output>(&mut self, now: Nanos, out: &mut O) {
        self.set_time(now);
        self.accepting = false;
        self.end_waits(Nanos(u64::MAX), out);
        for id in self.sessions.ids() {
            self.run(id, out, |s, cx| s.abort(cx, Outcome::Shutdown));
        }
    }

    /// A session that failed while its client goes on becomes a stranger, to be joined again at the
    /// client's next request.
    fn may_join_again(&mut self, id: u32, key: CaptureKey) -> bool {
        let Some(s) = self.sessions.get(id) else {
            return false;
        };
        let Some(outcome) = s.outcome() else {
            return false;
        };
        let passing = matches!(
            outcome,
            Outcome::CaptureGap | Outcome::ResetByTarget | Outcome::ClosedByTarget
        );
        if !passing || s.has(Flags::CLIENT_DONE) || !self.all.config.adopt {
            return false;
        }
        self.strangers.take_over(key, outcome, s.stream.nxt());
        self.remove(id);
        true
    }

    /// The session has no outcome yet, and the packet may be of it.
    #[inline]
    fn goes_on_with(&self, id: u32, seg: &ClientSegment<'_>) -> bool {
        let session = self.sessions.get(id);
        let limits = &self.all.limits;
        session.is_none_or(|s| s.outcome().is_none() && !s.is_over_before(seg.seq, limits))
    }

    #[inline]
    fn ended(&self, id: u32) -> bool {
        self.sessions.get(id).is_some_and(|s| s.outcome().is_some())
    }

    /// Calls `act` on a session and keeps timers, acknowledgement list and counts in step with it.
    #[inline]
    fn run<O: Output>(
        &mut self,
        id: u32,
        out: &mut O,
        act: impl FnOnce(&mut Session, &mut Context<'_, O>),
    ) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let was_open = session.outcome().is_none();
        let owed = session.has(Flags::ACK_DUE);
        // Nobody knows what it is until it has settled again.
        session.unset(Flags::AT_EASE);
        let mut cx = Context {
            all: &mut self.all,
            out,
            due: None,
            salvage: None,
        };
        act(session, &mut cx);
        if session.rare.get().is_some() {
            // Rare things have many deadlines, which depend on each other.
            cx.wake(session.deadline(&cx.all.limits));
        }
        let (due, salvage) = (cx.due, cx.salvage);
        if !owed && session.has(Flags::ACK_DUE) {
            self.acks.push(id);
        }
        if was_open && session.outcome().is_some() {
            self.open -= 1;
        }
        session.rare.tidy(&mut self.all.pool);
        if self.predicts {
            session.settle();
        }
        keep_time(&mut self.wheel, id, session, due);
        debug_assert!(session.timer_is_in_time(&self.all.limits));
        if session.has(Flags::WANTS_REOPEN) {
            self.reopen(id, out);
        }
        if let Some(left) = salvage {
            self.succeed(id, *left, out);
        }
    }
}

#[cfg(test)]
mod tests;
