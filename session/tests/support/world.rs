//! An engine, its clock, and the checks around every input.

use super::books;
use super::content::{ends, payload};
use super::lockstep::Lockstep;
use super::watch::{Sent, Watch};
use common::flow::{ClientSegment, Nanos, ResponseHeader};
use common::packet::{SeqNumber, TcpFlags, TcpOptions};
use session::EngineConfig;

/// Segments without payload that one input may cause in one session: closing a connection, opening the
/// next one, a reset and an acknowledgement.
const CONTROL_PER_SESSION: usize = 4;
/// Segments sent again per input and session: two during recovery.
const AGAIN_PER_SESSION: usize = 2;
/// Times a session may be looked at because of its timers while nothing arrives, beside those that its
/// timeouts explain: retransmissions back off to 60 s, so these are few.
const WAKES_PER_SESSION: u64 = 200;
/// The finest regular wait of a session: an announcement that no channel takes is repeated.
const RETRY: Nanos = Nanos::from_millis(200);
/// The timer wheel may wake its caller once in this time without need.
const FAR_SLOT: Nanos = Nanos::from_millis(1024);

/// What a captured packet says; the bytes follow from stream and sequence number.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub stream: usize,
    pub seq: SeqNumber,
    pub ack: SeqNumber,
    pub flags: TcpFlags,
    pub window: u16,
    pub options: TcpOptions,
    /// Bytes it had, and how many of them were captured.
    pub len: u32,
    pub kept: usize,
    pub gso_size: u16,
    pub at: Nanos,
}

pub struct World {
    /// With a twin that must do the same.
    both: Lockstep,
    pub watch: Watch,
    pub now: Nanos,
    config: EngineConfig,
    /// Tell what goes in and what comes out: `FUZZ_TRACE=1`.
    trace: bool,
}

impl World {
    pub fn new(config: EngineConfig) -> Self {
        let trace = std::env::var_os("FUZZ_TRACE").is_some();
        if trace {
            eprintln!("{config:?}");
        }
        Self {
            both: Lockstep::new(config.clone()),
            watch: Watch::new(config.mtu, trace),
            now: Nanos::from_secs(1_000),
            config,
            trace,
        }
    }

    fn tell(&self, what: &dyn std::fmt::Debug) {
        if self.trace {
            eprintln!("{:?} {what:?}", self.now);
        }
    }

    pub fn captured(&mut self, p: &Packet) {
        self.tell(p);
        let (client, online, target) = ends(p.stream);
        let pool = self.config.pool.as_ref();
        if pool.is_some_and(|pool| pool.is_v4() != target.addr.is_v4()) {
            // The intake does not let it in.
            return;
        }
        let first = p.seq + u32::from(p.flags.has(TcpFlags::SYN));
        let payload = payload(p.stream, first, p.kept);
        self.watch.captured.add(p.stream, first, p.kept as u32);
        let seg = ClientSegment {
            client,
            online,
            target,
            lane: 0,
            seq: p.seq,
            ack: p.ack,
            flags: p.flags,
            window: p.window,
            options: p.options,
            payload: &payload,
            payload_len: p.len.max(p.kept as u32),
            gso_size: p.gso_size,
            at: p.at,
        };
        self.both.captured(self.now, &seg, &mut self.watch);
        // Each replica may end a session, open one and open one again.
        self.checked(3 * usize::from(self.config.replicas.max(1)));
    }

    pub fn response(&mut self, h: &ResponseHeader) {
        self.tell(h);
        self.watch.responded(h);
        self.both.response(self.now, h, &mut self.watch);
        self.checked(1);
    }

    pub fn advance(&mut self) {
        let most = self.open_and_ended() + self.let_go();
        self.both.advance(self.now, &mut self.watch);
        self.checked(most);
        let next = self.both.engine.next_deadline();
        assert!(
            next.is_none_or(|t| t > self.now),
            "due at {next:?}, now {:?}",
            self.now
        );
    }

    /// Time passes, with a call of `advance` whenever the engine asks for it.
    pub fn pass(&mut self, time: Nanos) {
        let until = self.now + time;
        self.advance();
        let mut wakes = self.wakes(time);
        while let Some(due) = self.both.engine.next_deadline().filter(|t| *t <= until) {
            self.now = due;
            self.advance();
            assert!(wakes > 0, "timers fire again and again");
            wakes -= 1;
        }
        self.now = until;
        self.advance();
    }

    pub fn shutdown(&mut self) {
        self.tell(&"shutdown");
        let most = self.open_and_ended() + self.let_go();
        self.both.shutdown(self.now, &mut self.watch);
        self.checked(most);
        assert_eq!(self.both.engine.open_sessions(), 0);
    }

    /// Nothing comes any more: every session ends by itself, the books balance, nothing is left.
    pub fn settle(&mut self) {
        // What waits for its SYN may begin a session after that.
        let mut idle = self.config.idle_timeout + self.config.syn_wait;
        // And a session that ends with a capture gap meanwhile leaves what is behind it to another one, which nobody
        // answers.
        idle += self.config.gap_timeout.min(self.config.idle_timeout);
        // An idle session ends; it is kept for as long again in case its client goes on.
        self.pass(idle + Nanos::from_millis(2));
        assert_eq!(
            self.both.engine.open_sessions(),
            0,
            "open beyond idle timeout"
        );
        self.pass(idle + self.config.linger + Nanos::from_millis(2));
        assert_eq!(self.both.engine.next_deadline(), None, "a timer is left");
        assert!(
            self.watch.routes.is_empty(),
            "routes left: {:?}",
            self.watch.routes
        );
    }

    /// Sessions there may be.
    fn open_and_ended(&self) -> usize {
        self.both.engine.totals().sessions as usize + self.watch.connections.len()
    }

    /// Sessions that what waited for its SYN concerns once its wait is over: as many for each packet as in
    /// [`Self::captured`], and the engine counts a packet for each replica.
    fn let_go(&self) -> usize {
        3 * self.both.engine.totals().segments_early as usize
    }

    fn wakes(&self, time: Nanos) -> u64 {
        let retries = time.0.min(self.config.connect_timeout.0) / RETRY.0;
        let waits = self.both.engine.totals().segments_early;
        self.open_and_ended() as u64 * (WAKES_PER_SESSION + retries)
            + waits
            + time.0 / FAR_SLOT.0
            + 2
    }

    /// Checks after an input that concerns at most `sessions` sessions.
    fn checked(&mut self, sessions: usize) {
        books::check(&self.both.engine, &self.config, &self.watch.ended);
        let sent = std::mem::take(&mut self.watch.sent);
        assert!(
            sent.control <= CONTROL_PER_SESSION * sessions
                && sent.again <= AGAIN_PER_SESSION * sessions,
            "{sent:?} for {sessions} sessions"
        );
        // New data is bounded by the captured bytes: each goes out once, see `Watch`.
        let Sent { fresh, .. } = sent;
        let most = self.both.engine.totals().bytes_captured as usize + 3 * sessions;
        assert!(fresh <= most, "{fresh} segments of {most} bytes");
    }
}
