//! One source, several targets: a session of its own towards each, with its own outcome.

use super::*;
use crate::TargetTotals;

const SECOND: Endpoint = Endpoint::new(Addr::v4([10, 0, 0, 10]), 8081);
const LANES: [Endpoint; 2] = [TARGET, SECOND];

/// What was sent: to whom, from whom, flags, sequence number, payload.
type Seen = (Endpoint, Endpoint, TcpFlags, u32, usize);

#[derive(Default)]
struct Wires {
    seen: Vec<Seen>,
    announced: Vec<(Endpoint, Endpoint)>,
    ended: Vec<(Endpoint, Outcome)>,
}

impl Output for Wires {
    fn transmit(&mut self, s: &Segment<'_>, _: Cause) {
        let seq = s.seq.since(ISS) as u32;
        self.seen
            .push((s.dst, s.src, s.flags, seq, s.payload.len()));
    }
    fn announce(&mut self, client: Endpoint, target: Endpoint) -> bool {
        self.announced.push((client, target));
        true
    }
    fn retire(&mut self, _: Endpoint, _: Endpoint) {}
    fn ended(&mut self, end: &crate::SessionEnd) {
        self.ended.push((end.target, end.outcome));
    }
    fn sample(&mut self, _: Metric, _: Nanos) {}
}

struct Rig2 {
    engine: Engine,
    wires: Wires,
    ms: u64,
}

impl Rig2 {
    fn new(config: EngineConfig) -> Self {
        Self {
            engine: Engine::new(config),
            wires: Wires::default(),
            ms: 1000,
        }
    }

    fn now(&self) -> Nanos {
        Nanos::from_millis(self.ms)
    }

    /// A captured packet, as a worker hands it over: once for each target.
    fn client(&mut self, seq: u32, flags: TcpFlags, payload: &[u8]) {
        let segments: Vec<_> = (0..)
            .zip(LANES)
            .map(|(lane, target)| ClientSegment {
                client: CLIENT,
                online: ONLINE,
                target,
                lane,
                seq: ISS + seq,
                ack: if flags.has(ACK) {
                    PROD + 1
                } else {
                    SeqNumber(0)
                },
                flags,
                window: 501,
                options: TcpOptions::default(),
                payload,
                payload_len: payload.len() as u32,
                gso_size: 0,
                at: self.now(),
            })
            .collect();
        let now = self.now();
        self.engine.captured_batch(now, &segments, &mut self.wires);
        self.engine.advance(now, &mut self.wires);
    }

    fn answer(&mut self, target: Endpoint, seq: u32, ack: u32, flags: TcpFlags, len: u32) {
        let h = ResponseHeader {
            target,
            client: CLIENT,
            seq: IRS + seq,
            ack: ISS + ack,
            flags,
            window: 60_000,
            payload_len: len,
            options: TcpOptions::default(),
            sack: SackBlocks::default(),
        };
        let now = self.now();
        self.engine.response(now, &h, &mut self.wires);
        self.engine.advance(now, &mut self.wires);
    }

    fn seen(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.wires.seen)
    }

    fn settle(&mut self) {
        for _ in 0..3600 {
            self.ms += 1000;
            let now = self.now();
            self.engine.advance(now, &mut self.wires);
        }
        let totals = self.engine.totals();
        assert!(totals.balanced(), "{totals:?}");
        assert_eq!(self.engine.open_sessions(), 0);
        assert_eq!(self.engine.buffered_bytes(), 0);
        assert!(self.engine.index.is_empty() && self.engine.all.paths.is_empty());
    }

    fn of(&self, target: Endpoint) -> TargetTotals {
        let of = self.engine.totals().by_target.get(target);
        of.cloned().unwrap_or_default()
    }
}

#[test]
fn each_target_gets_the_session_and_has_its_own_outcome() {
    let mut r = Rig2::new(EngineConfig::default());
    r.client(0, SYN, b"");
    // The client keeps its endpoint towards both: the tuples differ by the target.
    assert_eq!(r.seen(), LANES.map(|target| (target, CLIENT, SYN, 0, 0)));
    assert_eq!(r.wires.announced, LANES.map(|target| (CLIENT, target)));
    r.client(1, ACK, b"");
    r.client(1, PSH_ACK, b"request");
    assert!(r.seen().is_empty());

    // The second refuses, the first goes on as if it were alone.
    r.answer(SECOND, 0, 1, RST.with(ACK), 0);
    assert_eq!(r.wires.ended, [(SECOND, Outcome::Refused)]);
    r.answer(TARGET, 0, 1, SYN_ACK, 0);
    let seen = r.seen();
    assert!(seen.iter().all(|s| s.0 == TARGET), "{seen:?}");
    assert_eq!(seen.last(), Some(&(TARGET, CLIENT, PSH_ACK, 1, 7)));
    r.answer(TARGET, 1, 8, PSH_ACK, 10);
    r.client(8, FIN_ACK, b"");
    r.answer(TARGET, 11, 9, FIN_ACK, 0);
    assert_eq!(r.wires.ended.last(), Some(&(TARGET, Outcome::Completed)));
    r.settle();

    let t = r.engine.totals();
    assert_eq!(
        (t.sessions, t.bytes_captured, t.bytes_delivered),
        (2, 14, 7)
    );
    let (first, second) = (r.of(TARGET), r.of(SECOND));
    assert_eq!((first.sessions, first.outcome(Outcome::Completed)), (1, 1));
    assert_eq!((first.bytes_delivered, first.bytes_undelivered), (7, 0));
    assert_eq!((second.sessions, second.outcome(Outcome::Refused)), (1, 1));
    assert_eq!((second.bytes_delivered, second.bytes_undelivered), (0, 7));
}

#[test]
fn a_slow_target_does_not_hold_back_the_other() {
    let mut r = Rig2::new(EngineConfig::default());
    r.client(0, SYN, b"");
    r.client(1, ACK, b"");
    for target in LANES {
        r.answer(target, 0, 1, SYN_ACK, 0);
    }
    r.client(1, PSH_ACK, b"one");
    r.seen();
    // Only the second answers; the next request waits for the first target alone.
    r.answer(SECOND, 1, 4, PSH_ACK, 5);
    let segment = |target, lane, at| ClientSegment {
        client: CLIENT,
        online: ONLINE,
        target,
        lane,
        seq: ISS + 4,
        ack: PROD + 6,
        flags: PSH_ACK,
        window: 501,
        options: TcpOptions::default(),
        payload: b"two",
        payload_len: 3,
        gso_size: 0,
        at,
    };
    let now = r.now();
    for (lane, target) in (0..).zip(LANES) {
        let seg = segment(target, lane, now);
        r.engine.captured(now, &seg, &mut r.wires);
    }
    assert_eq!(r.seen().last(), Some(&(SECOND, CLIENT, PSH_ACK, 4, 3)));
    r.answer(TARGET, 1, 4, PSH_ACK, 5);
    assert_eq!(r.seen().last(), Some(&(TARGET, CLIENT, PSH_ACK, 4, 3)));
    r.settle();
}

#[test]
fn replicas_of_each_target() {
    let mut r = Rig2::new(EngineConfig {
        replicas: 3,
        ..EngineConfig::default()
    });
    r.client(0, SYN, b"");
    let seen = r.seen();
    let tuples: std::collections::HashSet<_> = seen.iter().map(|s| (s.0, s.1)).collect();
    assert_eq!((seen.len(), tuples.len()), (6, 6), "{seen:?}");
    for target in LANES {
        assert_eq!(seen.iter().filter(|s| s.0 == target).count(), 3);
        assert!(
            tuples.contains(&(target, CLIENT)),
            "the original keeps its ports"
        );
    }
    r.client(1, PSH_ACK, b"x");
    assert_eq!(r.engine.totals().bytes_captured, 6);
    r.settle();
    for target in LANES {
        assert_eq!(r.of(target).outcome(Outcome::Unanswered), 3);
    }
}

#[test]
fn connections_that_are_not_replayed_are_booked_for_each_target() {
    let mut r = Rig2::new(EngineConfig {
        adopt: false,
        ..EngineConfig::default()
    });
    r.client(1, PSH_ACK, b"abc");
    r.client(1, PSH_ACK, b"abc");
    r.ms += SYN_WAIT_MS;
    r.client(1, PSH_ACK, b"abc");
    let t = r.engine.totals();
    assert_eq!((t.sessions, t.bytes_captured), (2, 6));
    for target in LANES {
        let of = r.of(target);
        assert_eq!(of.outcome(Outcome::SkippedNoSyn), 1);
        assert_eq!(of.bytes_undelivered, 3);
    }
    r.settle();
}

#[test]
fn a_session_that_is_not_sampled_is_counted_once() {
    let mut r = Rig2::new(EngineConfig {
        share: common::flow::Share::NONE,
        ..EngineConfig::default()
    });
    r.client(0, SYN, b"");
    r.client(1, PSH_ACK, b"abc");
    let t = r.engine.totals();
    assert_eq!((t.not_sampled, t.sessions), (1, 0));
}
