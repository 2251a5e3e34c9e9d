//! Two engines side by side, one without header prediction and batches: whatever one does, the other must do.
//!
//! ```text
//!  input ─┬─▶ engine ──Output──▶ Recorder ──▶ the test's own Output
//!         └─▶ twin ────Output──▶ Player: the same calls in the same order?
//! ```

use common::flow::{Cause, ClientSegment, Nanos, ResponseHeader, Segment};
use common::packet::{Endpoint, SeqNumber, TcpFlags, TcpOptions};
use session::{Engine, EngineConfig, Metric, Output, SessionEnd};

/// A call of [`Output`] with what was answered.
#[derive(Debug, PartialEq)]
enum Call {
    Transmit(Box<Sent>),
    Announce(Endpoint, Endpoint, bool),
    Retire(Endpoint, Endpoint),
    Ended(Box<SessionEnd>),
    Sample(Metric, Nanos),
}

#[derive(Debug, PartialEq)]
struct Sent {
    ends: (Endpoint, Endpoint),
    numbers: (SeqNumber, SeqNumber, TcpFlags, u16, u16),
    options: TcpOptions,
    payload: Vec<u8>,
    cause: Cause,
}

fn sent(s: &Segment<'_>, cause: Cause) -> Call {
    Call::Transmit(Box::new(Sent {
        ends: (s.src, s.dst),
        numbers: (s.seq, s.ack, s.flags, s.window, s.ip_id),
        options: s.options,
        payload: s.payload.to_vec(),
        cause,
    }))
}

struct Recorder<'a, O> {
    out: &'a mut O,
    calls: Vec<Call>,
}

impl<O: Output> Output for Recorder<'_, O> {
    fn transmit(&mut self, segment: &Segment<'_>, cause: Cause) {
        self.calls.push(sent(segment, cause));
        self.out.transmit(segment, cause);
    }
    fn announce(&mut self, client: Endpoint, target: Endpoint) -> bool {
        let taken = self.out.announce(client, target);
        self.calls.push(Call::Announce(client, target, taken));
        taken
    }
    fn retire(&mut self, client: Endpoint, target: Endpoint) {
        self.calls.push(Call::Retire(client, target));
        self.out.retire(client, target);
    }
    fn ended(&mut self, end: &SessionEnd) {
        self.calls.push(Call::Ended(Box::new(*end)));
        self.out.ended(end);
    }
    fn sample(&mut self, metric: Metric, value: Nanos) {
        self.calls.push(Call::Sample(metric, value));
        self.out.sample(metric, value);
    }
}

struct Player(std::vec::IntoIter<Call>);

impl Player {
    fn expect(&mut self, call: &Call) {
        let first = self.0.next();
        assert_eq!(first.as_ref(), Some(call), "prediction changes this");
    }
}

impl Output for Player {
    fn transmit(&mut self, segment: &Segment<'_>, cause: Cause) {
        self.expect(&sent(segment, cause));
    }
    fn announce(&mut self, client: Endpoint, target: Endpoint) -> bool {
        let next = self.0.next();
        let Some(Call::Announce(c, t, taken)) = next else {
            panic!("announcement of {client} to {target}, prediction has {next:?}");
        };
        assert_eq!((c, t), (client, target));
        taken
    }
    fn retire(&mut self, client: Endpoint, target: Endpoint) {
        self.expect(&Call::Retire(client, target));
    }
    fn ended(&mut self, end: &SessionEnd) {
        self.expect(&Call::Ended(Box::new(*end)));
    }
    fn sample(&mut self, metric: Metric, value: Nanos) {
        self.expect(&Call::Sample(metric, value));
    }
}

/// An engine and its twin.
pub struct Lockstep {
    pub engine: Engine,
    twin: Engine,
}

impl Lockstep {
    pub fn new(config: EngineConfig) -> Self {
        Self {
            engine: Engine::new(config.clone()),
            twin: Engine::new(config).without_prediction(),
        }
    }

    pub fn captured(&mut self, now: Nanos, seg: &ClientSegment<'_>, out: &mut impl Output) {
        let mut recorder = recorder(out);
        let batch = std::slice::from_ref(seg);
        self.engine.captured_batch(now, batch, &mut recorder);
        let mut player = Player(recorder.calls.into_iter());
        self.twin.captured(now, seg, &mut player);
        self.compare(player);
    }

    pub fn response(&mut self, now: Nanos, h: &ResponseHeader, out: &mut impl Output) {
        let mut recorder = recorder(out);
        let batch = std::slice::from_ref(h);
        self.engine.response_batch(now, batch, &mut recorder);
        let mut player = Player(recorder.calls.into_iter());
        self.twin.response(now, h, &mut player);
        self.compare(player);
    }

    pub fn advance(&mut self, now: Nanos, out: &mut impl Output) {
        let mut recorder = recorder(out);
        self.engine.advance(now, &mut recorder);
        let mut player = Player(recorder.calls.into_iter());
        self.twin.advance(now, &mut player);
        self.compare(player);
    }

    pub fn shutdown(&mut self, now: Nanos, out: &mut impl Output) {
        let mut recorder = recorder(out);
        self.engine.shutdown(now, &mut recorder);
        let mut player = Player(recorder.calls.into_iter());
        self.twin.shutdown(now, &mut player);
        self.compare(player);
    }

    fn compare(&self, mut rest: Player) {
        let (a, b) = (&self.engine, &self.twin);
        assert_eq!(rest.0.next(), None, "only with prediction");
        assert_eq!(a.totals(), b.totals());
        assert_eq!(a.next_deadline(), b.next_deadline());
        assert_eq!(a.open_sessions(), b.open_sessions());
        assert_eq!(a.buffered_bytes(), b.buffered_bytes());
    }
}

fn recorder<O: Output>(out: &mut O) -> Recorder<'_, O> {
    Recorder {
        out,
        calls: Vec::new(),
    }
}
