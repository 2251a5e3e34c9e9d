//! One simulated replay: scripts, engine, network with faults, target. Time is simulated.
//!
//! ```text
//!  scripts ──capture──▶ engine ──to target──▶ target (smoltcp + application)
//!                         ▲──────responses──────┘
//! ```

use crate::client::scripts;
use crate::faults::Injected;
use crate::lockstep::Lockstep;
use crate::net::{Event, Net, flip};
use crate::rng::Rng;
use crate::sabotage::Sabotage;
use crate::setting::Setting;
use crate::target::{self, Target};
use crate::verdict::verdict;
use crate::watch::{Rule, Violation};
use common::flow::{ClientSegment, Nanos};
use common::packet::{Addr, Endpoint};
use session::{Engine, Totals};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// No session may outlive this: the last script ends within minutes, then come the engine's own limits.
const END: Nanos = Nanos::from_secs(60 * 60);
/// A run that needs more is going round in circles; the longest need a hundredth of it.
const MOST_STEPS: u64 = 20_000_000;

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub violations: Vec<Violation>,
    pub totals: Totals,
    pub injected: Injected,
    /// Bytes of all scripts.
    pub scripted_bytes: u64,
    pub steps: u64,
}

/// Runs a setting; a panic is a violation too.
pub fn run(setting: &Setting) -> Report {
    catch_unwind(AssertUnwindSafe(|| replay(setting))).unwrap_or_else(|cause| {
        let text = cause.downcast_ref::<String>().cloned();
        let text = text.or_else(|| cause.downcast_ref::<&str>().map(|t| (*t).to_owned()));
        Report {
            violations: vec![Violation {
                rule: Rule::Panic,
                text: text.unwrap_or_default(),
            }],
            ..Report::default()
        }
    })
}

fn replay(setting: &Setting) -> Report {
    let mut rng = Rng::new(setting.seed);
    let scripts = scripts(&mut rng, setting);
    let at = target::endpoint(setting.v6);
    let mut target = Target::new(at, setting.target.clone(), rng.next());
    let mut config = setting.engine.clone();
    match setting.sabotage {
        Some(Sabotage::OtherWorker) => (config.workers, config.worker) = (4, 2),
        Some(Sabotage::SendAsCaptured) => config.no_turns = true,
        _ => {}
    }
    let mut both = Lockstep::new(config);
    let mut net = Net::new(rng, setting, &scripts, at);
    if setting.sabotage == Some(Sabotage::OtherWorker) {
        net.watch.setting.engine.workers = 4;
        net.watch.setting.engine.worker = 1;
    }
    for (i, s) in scripts.iter().enumerate() {
        for (n, p) in s.packets.iter().enumerate() {
            net.capture(i, n, p);
        }
    }
    let online = online(setting.v6);
    let end = if setting.sabotage == Some(Sabotage::StopEarly) {
        Nanos::from_millis(1_500)
    } else {
        END
    };
    let mut steps = 0;
    while net.now < end && steps < MOST_STEPS {
        let next = [
            net.next_at(),
            both.engine.next_deadline(),
            target.poll_at(net.now),
        ];
        let Some(next) = next.into_iter().flatten().min() else {
            break;
        };
        net.now = next.max(net.now + Nanos::from_micros(1));
        while let Some(event) = net.pop() {
            steps += 1;
            let now = net.now;
            let mut client = None;
            match event {
                Event::Captured {
                    script,
                    packet,
                    len,
                    flip: bit,
                } => {
                    let mut p = scripts[script].packets[packet].clone();
                    if let Some(bit) = bit {
                        flip(&mut p, bit);
                    }
                    client = Some(scripts[script].client);
                    net.watch.captured(now, script, &p, len);
                    net.trace(|| {
                        format!(
                            "== {} {:?} seq {} len {}/{len} ack {}",
                            scripts[script].client,
                            p.flags,
                            p.seq.0,
                            p.payload.len(),
                            p.ack.0
                        )
                    });
                    let seg = ClientSegment {
                        client: scripts[script].client,
                        online,
                        target: at,
                        lane: 0,
                        seq: p.seq,
                        ack: p.ack,
                        flags: p.flags,
                        window: p.window,
                        options: p.options,
                        payload: &p.payload[..len],
                        payload_len: p.payload.len() as u32,
                        gso_size: p.gso_size,
                        at: p.at,
                    };
                    both.captured(now, &seg, &mut net);
                }
                Event::ToTarget(wire, packet, intact) => {
                    target.deliver(now, wire, packet, intact);
                    continue;
                }
                Event::Response(h) => {
                    net.watch.response(now, &h);
                    net.trace(|| {
                        format!(
                            "<- {} {:?} seq {} len {} ack {} win {}",
                            h.client, h.flags, h.seq.0, h.payload_len, h.ack.0, h.window
                        )
                    });
                    let stray = both.engine.totals().responses_stray;
                    both.response(now, &h, &mut net);
                    if both.engine.totals().responses_stray > stray {
                        net.trace(|| format!("   {} has no session", h.client));
                    }
                }
            }
            stepped(&mut net, client, &both.engine);
        }
        for (_, packet) in target.poll(net.now) {
            net.answer(&packet);
        }
        for wire in target.changed.drain(..) {
            if let Some(seen) = target.seen.get(&wire).and_then(|s| s.last()) {
                net.watch.answers.insert(wire, (seen.answers, seen.at_once));
            }
        }
        both.advance(net.now, &mut net);
        stepped(&mut net, None, &both.engine);
        steps += 1;
        if net.is_empty()
            && both.engine.open_sessions() == 0
            && both.engine.next_deadline().is_none()
        {
            break;
        }
    }
    let t = &setting.target;
    net.injected.crashes += u64::from(t.crash.is_some());
    net.injected.stalls += u64::from(t.stall.is_some());
    net.injected.closed_windows += u64::from(t.deaf.is_some());
    net.injected.outages += u64::from(setting.outage.is_some());
    let injected = net.injected.clone();
    Report {
        violations: verdict(&both.engine, &target, net),
        totals: both.engine.totals().clone(),
        injected,
        scripted_bytes: scripts.iter().map(|s| s.stream.len() as u64).sum(),
        steps,
    }
}

fn stepped(net: &mut Net, client: Option<Endpoint>, engine: &Engine) {
    let (open, memory) = (engine.open_sessions(), engine.buffered_bytes());
    net.watch.stepped(client, engine.totals(), open, memory);
}

fn online(v6: bool) -> Endpoint {
    let addr = if v6 {
        Addr([0x20, 1, 0xd, 0xb8, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2])
    } else {
        Addr::v4([10, 0, 0, 2])
    };
    Endpoint::new(addr, 80)
}
