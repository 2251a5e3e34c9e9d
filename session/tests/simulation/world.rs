//! One simulated replay: scripts, engine, network with faults, target. Time is simulated.

use crate::client::{Leave, Packet, Script, script};
use crate::rng::Rng;
use crate::target::{TARGET, Target};
use common::flow::{ClientSegment, Nanos, ResponseHeader, Segment};
use common::packet::{
    Addr, Endpoint, FrameAddresses, TcpFlags, TcpFrame, build_tcp_frame, decode_from_ip,
};
use session::{Engine, EngineConfig, Metric, Outcome, Output};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Fault rates in permille, per path.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub loss: u64,
    pub duplicate: u64,
    pub reorder: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub seed: u64,
    pub sessions: u32,
    pub capture: Faults,
    pub to_target: Faults,
    pub responses: Faults,
    pub answer_permille: u64,
    pub rx_window: usize,
    /// One way between engine and target.
    pub latency: Nanos,
    /// How long the target works on a request.
    pub service: Nanos,
    /// Send as captured (`-W`).
    pub no_turns: bool,
    /// Join sessions in the middle.
    pub adopt: bool,
    /// Announcements that fail, in permille (channel outage).
    pub announce_fails: u64,
}

impl Setting {
    pub fn clean(seed: u64) -> Self {
        Self {
            seed,
            sessions: 12,
            capture: Faults::default(),
            to_target: Faults::default(),
            responses: Faults::default(),
            answer_permille: 1000,
            rx_window: 64 * 1024,
            latency: Nanos::from_micros(30 + seed % 7 * 700),
            service: Nanos::from_millis(seed % 5 * 8),
            no_turns: false,
            adopt: seed.is_multiple_of(2),
            announce_fails: 0,
        }
    }
}

enum Event {
    Captured(usize, Packet),
    ToTarget(Endpoint, Vec<u8>),
    Response(ResponseHeader),
}

/// The network and what it has seen; the engine's surroundings.
struct Net {
    rng: Rng,
    setting: Setting,
    now: Nanos,
    queue: BinaryHeap<(Reverse<Nanos>, Reverse<u64>, usize)>,
    events: Vec<Option<Event>>,
    violations: Vec<String>,
    scripts: HashMap<Endpoint, Script>,
    /// Requests answered by the target's application, by client.
    answers: HashMap<Endpoint, usize>,
    overtakes: Vec<String>,
    tracing: bool,
}

impl Net {
    fn push(&mut self, delay: Nanos, event: Event) {
        let n = self.events.len();
        self.queue
            .push((Reverse(self.now + delay), Reverse(n as u64), n));
        self.events.push(Some(event));
    }

    /// One line per packet with SIMULATION_SEED set, to read what happened.
    fn trace(&self, line: impl Fn() -> String) {
        if self.tracing {
            println!("{:>12.6} {}", self.now.0 as f64 / 1e9, line());
        }
    }

    /// Sends along a path with faults; `event` makes each copy.
    fn send(&mut self, faults: Faults, event: impl Fn() -> Event) {
        if self.rng.chance(faults.loss) {
            return;
        }
        let copies = 1 + u32::from(self.rng.chance(faults.duplicate));
        for _ in 0..copies {
            let extra = if self.rng.chance(faults.reorder) {
                self.rng.pick(100..5_000)
            } else {
                0
            };
            self.push(self.setting.latency + Nanos::from_micros(extra), event());
        }
    }
}

impl Output for Net {
    fn transmit(&mut self, s: &Segment<'_>) {
        assert_eq!(s.dst, TARGET);
        if let Some(script) = self.scripts.get(&s.src) {
            let from = s.seq.since(script.iss + 1);
            let to = from + s.payload.len() as i32;
            if !s.payload.is_empty()
                && script.stream.get(from.max(0) as usize..to.max(0) as usize) != Some(s.payload)
            {
                self.violations.push(format!(
                    "{} sent bytes that were not captured at {from}",
                    s.src
                ));
            }
            let begun = script.starts.iter().filter(|at| (**at as i32) < to).count();
            let answered = self.answers.get(&s.src).copied().unwrap_or(0);
            if !s.payload.is_empty() && begun > answered + 1 {
                self.overtakes.push(format!(
                    "{}: request {begun} overtook answer {}",
                    s.src,
                    answered + 1
                ));
            }
        }
        self.trace(|| {
            format!(
                "-> {} {:?} seq {} len {} ack {}",
                s.src,
                s.flags,
                s.seq.0,
                s.payload.len(),
                s.ack.0
            )
        });
        let mut buf = [0u8; 2048];
        let frame = TcpFrame {
            src: s.src,
            dst: s.dst,
            seq: s.seq,
            ack: s.ack,
            flags: s.flags,
            window: s.window,
            options: s.options,
            payload: s.payload,
            ip_id: 1,
        };
        let n = build_tcp_frame(&mut buf, FrameAddresses::default(), &frame).unwrap();
        let packet = buf[14..n].to_vec();
        self.send(self.setting.to_target, || {
            Event::ToTarget(s.src, packet.clone())
        });
    }

    fn announce(&mut self, _: Endpoint, target: Endpoint) -> bool {
        assert_eq!(target, TARGET);
        !self.rng.chance(self.setting.announce_fails)
    }

    fn retire(&mut self, _: Endpoint, _: Endpoint) {}

    fn sample(&mut self, _: Metric, _: Nanos) {}
}

/// What came of a run.
pub struct Report {
    pub violations: Vec<String>,
    pub totals: session::Totals,
    pub expected_bytes: u64,
}

const ONLINE: Endpoint = Endpoint::new(Addr::v4([10, 0, 0, 2]), 80);
/// No session may outlive this: the last script ends within 10 s, then come the engine's own limits.
const END: Nanos = Nanos::from_secs(10 * 60);

pub fn run(setting: Setting) -> Report {
    let mut rng = Rng::new(setting.seed);
    let scripts: Vec<Script> = (0..setting.sessions).map(|i| script(&mut rng, i)).collect();
    let mut target = Target::new(setting.rx_window, setting.answer_permille, setting.service);
    let config = EngineConfig {
        idle_timeout: Nanos::from_secs(120),
        no_turns: setting.no_turns,
        adopt: setting.adopt,
        ..EngineConfig::default()
    };
    let mut engine = Engine::new(config);
    let mut net = Net {
        rng,
        setting,
        now: Nanos(0),
        queue: BinaryHeap::new(),
        events: Vec::new(),
        violations: Vec::new(),
        scripts: scripts.iter().map(|s| (s.client, s.clone())).collect(),
        answers: HashMap::new(),
        overtakes: Vec::new(),
        tracing: std::env::var_os("SIMULATION_SEED").is_some(),
    };
    for (i, s) in scripts.iter().enumerate() {
        for p in &s.packets {
            net.now = p.at;
            // One queue keeps the order of a flow, so nothing overtakes its SYN.
            let syn = p.flags.has(TcpFlags::SYN);
            let reorder = if syn { 0 } else { setting.capture.reorder };
            let faults = Faults {
                reorder,
                ..setting.capture
            };
            net.send(faults, || Event::Captured(i, p.clone()));
        }
    }
    net.now = Nanos(0);

    while net.now < END {
        let next = [
            net.queue.peek().map(|(Reverse(t), ..)| *t),
            engine.next_deadline(),
            target.poll_at(net.now),
        ];
        let Some(next) = next.into_iter().flatten().min() else {
            break;
        };
        net.now = next.max(net.now + Nanos(1000));
        while net
            .queue
            .peek()
            .is_some_and(|(Reverse(t), ..)| *t <= net.now)
        {
            let Some((.., n)) = net.queue.pop() else {
                break;
            };
            let now = net.now;
            match net.events[n].take() {
                Some(Event::Captured(i, p)) => {
                    let seg = ClientSegment {
                        client: scripts[i].client,
                        online: ONLINE,
                        target: TARGET,
                        seq: p.seq,
                        ack: p.ack,
                        flags: p.flags,
                        window: 501,
                        options: p.options,
                        payload: &p.payload,
                        payload_len: p.payload.len() as u32,
                        gso_size: p.gso_size,
                        at: p.at,
                    };
                    engine.captured(now, &seg, &mut net);
                }
                Some(Event::ToTarget(client, packet)) => target.deliver(client, packet),
                Some(Event::Response(h)) => engine.response(now, &h, &mut net),
                None => {}
            }
        }
        for packet in target.poll(net.now) {
            let decoded = decode_from_ip(&packet[..], 0).unwrap();
            let h = ResponseHeader::from_packet(&packet, &decoded, packet.len());
            let faults = setting.responses;
            net.trace(|| {
                format!(
                    "<- {} {:?} seq {} len {} ack {} win {}",
                    h.client, h.flags, h.seq.0, h.payload_len, h.ack.0, h.window
                )
            });
            net.send(faults, || Event::Response(h));
        }
        for (client, seen) in &target.seen {
            net.answers
                .insert(*client, seen.iter().map(|s| s.answers).sum());
        }
        engine.advance(net.now, &mut net);
        let done = net.queue.is_empty() && engine.open_sessions() == 0;
        if done && engine.next_deadline().is_none() {
            break;
        }
    }
    check(&scripts, &engine, &target, net)
}

/// What one connection of the target read is the beginning of one client's stream; with adopted
/// sessions it may begin at any request, never elsewhere.
fn legitimate(scripts: &[Script], read: &[u8], adopted: bool) -> bool {
    scripts.iter().any(|s| {
        let starts = s
            .starts
            .iter()
            .take(if adopted { s.starts.len() } else { 1 });
        starts
            .into_iter()
            .any(|at| s.stream[*at..].starts_with(read))
    })
}

fn check(scripts: &[Script], engine: &Engine, target: &Target, mut net: Net) -> Report {
    let totals = engine.totals().clone();
    let mut bad = std::mem::take(&mut net.violations);
    // A turn that ran into its limit, or a session taken for full-duplex, goes on as captured.
    if totals.turns_expired == 0 && totals.full_duplex == 0 && totals.adopted == 0 {
        bad.append(&mut net.overtakes);
    }
    if engine.open_sessions() > 0 {
        bad.push(format!(
            "{} sessions outlived their timeouts",
            engine.open_sessions()
        ));
    }
    if engine.buffered_bytes() > 0 {
        bad.push(format!(
            "{} bytes of memory not returned",
            engine.buffered_bytes()
        ));
    }
    if !totals.balanced() {
        bad.push(format!("books do not balance: {totals:?}"));
    }
    for (client, connections) in &target.seen {
        for c in connections {
            if !legitimate(scripts, &c.bytes, totals.adopted > 0) {
                bad.push(format!(
                    "{client}: the target read what no client sent in this order"
                ));
            }
        }
    }
    let finished = totals.outcome(Outcome::Completed) + totals.outcome(Outcome::ResetByClient);
    let resets = scripts.iter().filter(|s| s.leave == Leave::Reset).count() as u64;
    if finished == scripts.len() as u64 && totals.outcome(Outcome::ResetByClient) > resets {
        bad.push("more sessions reset than clients that did".to_owned());
    }
    let expected_bytes = scripts.iter().map(|s| s.stream.len() as u64).sum();
    Report {
        violations: bad,
        totals,
        expected_bytes,
    }
}
