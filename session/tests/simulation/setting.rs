//! What one run is like: derived from its seed alone, printed when it fails.

use crate::faults::Faults;
use crate::rng::Rng;
use crate::sabotage::Sabotage;
use common::flow::{Nanos, Share};
use session::{EngineConfig, Rtt};

/// How much a run may demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// What networks do every day: up to 1 % loss between engine and target, everything but loss in the
    /// capture, pauses of seconds. Every fully captured session must be delivered whole.
    Gentle,
    /// Up to 10 % loss, incomplete captures, crashes, tight limits. What is sent must be right, what
    /// is not delivered must be in the books.
    Harsh,
    /// Headers with flipped bits reach the engine. It must survive and keep its books.
    Hostile,
}

/// Who the captured clients are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Request, answer, next request.
    Plain,
    /// All kinds.
    Mixed,
}

/// A stretch of simulated time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub at: Nanos,
    pub lasts: Nanos,
}

impl Span {
    fn random(rng: &mut Rng, most_ms: u64) -> Self {
        Self {
            at: Nanos::from_millis(rng.pick(900..6_000)),
            lasts: Nanos::from_millis(rng.pick(50..most_ms)),
        }
    }

    pub fn end(&self) -> Nanos {
        self.at + self.lasts
    }

    pub fn covers(&self, now: Nanos) -> bool {
        now >= self.at && now < self.end()
    }
}

/// The server under test.
#[derive(Clone, Debug)]
pub struct Behaviour {
    pub rx_window: usize,
    pub mtu: usize,
    /// Answers are this many permille of what the request wants.
    pub answer_permille: u64,
    /// How long the application works on a request.
    pub service: Nanos,
    /// Answers are written in so many pieces,
    pub pieces: usize,
    /// this far apart.
    pub pause: Nanos,
    /// Small pieces do not wait for acknowledgements of earlier ones (Nagle's algorithm is off).
    pub nodelay: bool,
    /// Bytes that the server says first, in production too.
    pub greeting: u32,
    /// Closes a connection after so many answers.
    pub close_after: Option<usize>,
    /// Reads and never answers.
    pub mute: bool,
    /// Connections are forgotten at the beginning, packets ignored (or refused) until the end.
    pub crash: Option<Span>,
    pub refuses_while_down: bool,
    /// The whole host does nothing.
    pub stall: Option<Span>,
    /// The application does not read: the window closes.
    pub deaf: Option<Span>,
}

#[derive(Clone, Debug)]
pub struct Setting {
    pub seed: u64,
    pub class: Class,
    pub sessions: u32,
    pub v6: bool,
    pub clients: Clients,
    pub capture: Faults,
    pub to_target: Faults,
    pub responses: Faults,
    /// One way between engine and target.
    pub latency: Nanos,
    pub target: Behaviour,
    /// The channel takes no announcements and brings no responses.
    pub outage: Option<Span>,
    /// Announcements that fail at other times, in permille.
    pub announce_fails: u64,
    pub engine: EngineConfig,
    /// A rule is broken on purpose, to see that it is noticed.
    pub sabotage: Option<Sabotage>,
}

impl Setting {
    pub fn clean(seed: u64) -> Self {
        Self {
            seed,
            class: Class::Gentle,
            sessions: 12,
            v6: false,
            clients: Clients::Plain,
            capture: Faults::default(),
            to_target: Faults::default(),
            responses: Faults::default(),
            latency: Nanos::from_micros(30 + seed % 7 * 700),
            target: Behaviour {
                rx_window: 64 * 1024,
                mtu: 1500,
                answer_permille: 1000,
                service: Nanos::from_millis(seed % 5 * 8),
                pieces: 1,
                pause: Nanos(0),
                nodelay: true,
                greeting: 0,
                close_after: None,
                mute: false,
                crash: None,
                refuses_while_down: false,
                stall: None,
                deaf: None,
            },
            outage: None,
            announce_fails: 0,
            engine: EngineConfig {
                idle_timeout: Nanos::from_secs(120),
                adopt: seed.is_multiple_of(2),
                ..EngineConfig::default()
            },
            sabotage: None,
        }
    }

    /// Nothing but the target decides when packets arrive.
    pub fn timely(&self) -> bool {
        let paths = [&self.capture, &self.to_target, &self.responses];
        let t = &self.target;
        paths.iter().all(|p| p.on_time())
            && t.stall.is_none()
            && t.deaf.is_none()
            && self.outage.is_none()
            && self.announce_fails == 0
            && t.rx_window > 60_000
            && t.nodelay
    }

    /// Anything that the simulator knows, as the seed says.
    pub fn everything(seed: u64) -> Self {
        let mut rng = Rng::new(seed.wrapping_mul(0x9e37_79b9) ^ 0xe7e7);
        let class = match rng.pick(0..100) {
            0..50 => Class::Gentle,
            50..88 => Class::Harsh,
            _ => Class::Hostile,
        };
        let mut s = Self::clean(seed);
        s.class = class;
        s.clients = Clients::Mixed;
        s.sessions = rng.pick(8..64) as u32;
        s.v6 = rng.chance(350);
        s.latency = Nanos::from_micros(rng.pick(5..10_000));
        s.capture = faults(&mut rng, class, true);
        s.to_target = faults(&mut rng, class, false);
        s.responses = faults(&mut rng, class, false);
        // What is corrupt in a header says something else.
        s.responses.corrupt = 0;
        if class == Class::Hostile {
            s.responses.corrupt = rng.pick(1..40);
            s.capture.corrupt = rng.pick(0..3) * 5;
        }
        behaviour(&mut rng, class, &mut s.target, s.v6);
        let outage_ms = if class == Class::Gentle {
            3_000
        } else {
            20_000
        };
        s.outage = rng.chance(150).then(|| Span::random(&mut rng, outage_ms));
        s.announce_fails = if rng.chance(150) { rng.pick(1..400) } else { 0 };
        limits(&mut rng, class, s.v6, &mut s.engine);
        s
    }
}

fn faults(rng: &mut Rng, class: Class, capture: bool) -> Faults {
    if rng.chance(200) {
        return Faults::default();
    }
    let gentle = class == Class::Gentle;
    let (loss, rest) = if gentle { (11, 40) } else { (101, 120) };
    let mut rate = |most: u64| {
        if rng.chance(500) {
            rng.pick(0..most)
        } else {
            0
        }
    };
    Faults {
        loss: if gentle && capture { 0 } else { rate(loss) },
        duplicate: rate(rest),
        reorder: rate(rest),
        delay: rate(rest / 2),
        truncate: if gentle { 0 } else { rate(30) },
        corrupt: if gentle || capture { 0 } else { rate(30) },
    }
}

fn behaviour(rng: &mut Rng, class: Class, t: &mut Behaviour, v6: bool) {
    let gentle = class == Class::Gentle;
    t.rx_window = [700, 2_000, 9_000, 65_535, 65_535, 300_000][rng.pick(0..6) as usize];
    t.mtu = [if v6 { 1280 } else { 576 }, 1400, 1500, 1500, 9000][rng.pick(0..5) as usize];
    t.answer_permille = [1000, 1000, 1000, 1000, 100, 900, 1500, 3000][rng.pick(0..8) as usize];
    t.service = Nanos::from_micros(rng.pick(0..4) * rng.pick(0..15_000));
    if rng.chance(300) {
        t.pieces = rng.pick(2..6) as usize;
        // Shorter than the quiet time of turn-taking, or longer.
        t.pause = Nanos::from_micros(if rng.chance(600) {
            rng.pick(50..900)
        } else {
            rng.pick(3_000..30_000)
        });
    }
    t.nodelay = rng.chance(700);
    t.greeting = if rng.chance(150) {
        rng.pick(1..2_000) as u32
    } else {
        0
    };
    t.mute = rng.chance(30);
    let pause_ms = if gentle { 4_000 } else { 40_000 };
    t.stall = rng.chance(150).then(|| Span::random(rng, pause_ms));
    t.deaf = rng.chance(150).then(|| Span::random(rng, pause_ms));
    if !gentle {
        t.close_after = rng.chance(250).then(|| rng.pick(1..3) as usize);
        t.crash = rng.chance(250).then(|| Span::random(rng, 5_000));
        t.refuses_while_down = rng.chance(500);
    }
}

fn limits(rng: &mut Rng, class: Class, v6: bool, e: &mut EngineConfig) {
    e.workers = if rng.chance(700) {
        1
    } else {
        rng.pick(2..5) as u32
    };
    e.worker = rng.pick(0..u64::from(e.workers)) as u32;
    e.adopt = rng.chance(600);
    e.no_turns = rng.chance(80);
    e.rtt = match rng.pick(0..10) {
        0 => Rtt::Fixed(Nanos::from_millis(rng.pick(1..80))),
        1 | 2 => Rtt::None,
        _ => Rtt::Measured,
    };
    e.mss = [536, 1220, 1460, 8960][rng.pick(0..4) as usize];
    e.mtu = [if v6 { 1280 } else { 576 }, 1500, 1500, 4_000][rng.pick(0..4) as usize];
    if rng.chance(200) {
        e.replicas = rng.pick(2..5) as u16;
    }
    if rng.chance(250) {
        let pool = if v6 {
            "2001:db8:77::/124"
        } else {
            "10.77.0.0/28"
        };
        e.pool = Some(pool.parse().expect("a valid pool"));
    }
    e.port_shift = if rng.chance(100) {
        rng.pick(1..8) as u8
    } else {
        0
    };
    if rng.chance(120) {
        e.share = Share::percent(rng.pick(0..100) as u32);
        e.ramp = rng.chance(400);
    }
    if class == Class::Gentle {
        // Time for TCP to repair what a lost packet or a pause of seconds costs: with 2 % loss per
        // exchange the six tries of a minute fail once in 10^10.
        e.connect_timeout = Nanos::from_secs(60);
        e.response_timeout = Nanos::from_secs(60);
        return;
    }
    e.connect_timeout = Nanos::from_millis(rng.pick(500..12_000));
    e.response_timeout = Nanos::from_millis(rng.pick(1_000..60_000));
    e.idle_timeout = Nanos::from_millis(rng.pick(2_000..120_000));
    e.gap_timeout = Nanos::from_millis(rng.pick(50..10_000));
    e.syn_wait = Nanos::from_millis([0, 1, 30, 100, 400][rng.pick(0..5) as usize]);
    e.turn_limit = Nanos::from_millis(rng.pick(100..5_000));
    e.linger = Nanos::from_millis(rng.pick(100..5_000));
    if rng.chance(250) {
        e.session_bytes = rng.pick(2_000..80_000) as usize;
    }
    if rng.chance(250) {
        e.buffer_bytes = rng.pick(8_000..400_000) as usize;
    }
    if rng.chance(150) {
        e.max_sessions = rng.pick(1..30) as usize;
    }
}
