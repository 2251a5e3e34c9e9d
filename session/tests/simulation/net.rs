//! The network between capture, engine and target, with its faults and everything on its way.

use crate::client::{Packet, Script};
use crate::faults::{Damage, Faults, Injected, Path, fate};
use crate::rng::Rng;
use crate::sabotage::Sabotage;
use crate::setting::{Class, Setting};
use crate::watch::Watch;
use common::flow::{Cause, Nanos, ResponseHeader, Segment};
use common::packet::{
    ETH_HEADER_BYTES, Endpoint, FrameAddresses, SeqNumber, TcpFlags, build_tcp_frame,
    decode_from_ip,
};
use session::{Metric, Output, SessionEnd};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Room for the largest MTU of the settings.
const FRAME_BYTES: usize = 16 * 1024;
/// What comes by another queue overtakes a SYN, but by no more than the engine waits.
const SYN_LATE_AT_MOST: Nanos = Nanos::from_millis(90);

pub enum Event {
    /// A packet of a script: which, how many bytes of its payload, and a bit to flip.
    Captured {
        script: usize,
        packet: usize,
        len: usize,
        flip: Option<u64>,
    },
    /// Client, packet, and whether nothing happened to it.
    ToTarget(Endpoint, Vec<u8>, bool),
    Response(ResponseHeader),
}

pub struct Net {
    pub rng: Rng,
    pub now: Nanos,
    pub watch: Watch,
    pub injected: Injected,
    target: Endpoint,
    queue: BinaryHeap<(Reverse<Nanos>, Reverse<u64>)>,
    events: Vec<Option<Event>>,
    tracing: bool,
    data_segments: u64,
}

impl Net {
    pub fn new(rng: Rng, setting: &Setting, scripts: &[Script], target: Endpoint) -> Self {
        Self {
            rng,
            now: Nanos(0),
            watch: Watch::new(setting, scripts),
            injected: Injected::default(),
            target,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            tracing: std::env::var_os("SIMULATION_SEED").is_some(),
            data_segments: 0,
        }
    }

    fn setting(&self) -> &Setting {
        &self.watch.setting
    }

    /// One line per packet with SIMULATION_SEED set, to read what happened.
    pub fn trace(&self, line: impl Fn() -> String) {
        if self.tracing {
            println!("{:>12.6} {}", self.now.0 as f64 / 1e9, line());
        }
    }

    fn push(&mut self, at: Nanos, event: Event) {
        let n = self.events.len() as u64;
        self.queue.push((Reverse(at), Reverse(n)));
        self.events.push(Some(event));
    }

    pub fn next_at(&self) -> Option<Nanos> {
        self.queue.peek().map(|(Reverse(at), _)| *at)
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The next event that is due.
    pub fn pop(&mut self) -> Option<Event> {
        self.next_at().filter(|at| *at <= self.now)?;
        let (_, Reverse(n)) = self.queue.pop()?;
        self.events[n as usize].take()
    }

    /// Puts a packet on the capture's path.
    pub fn capture(&mut self, script: usize, packet: usize, p: &Packet) {
        let faults = self.setting().capture;
        let most_late = if p.flags.has(TcpFlags::SYN) && self.setting().class == Class::Gentle {
            SYN_LATE_AT_MOST
        } else {
            Nanos(u64::MAX)
        };
        let at = p.at + self.setting().latency;
        for (late, damage) in fate(&mut self.rng, &faults, Path::Capture, &mut self.injected) {
            let len = p.payload.len();
            let event = Event::Captured {
                script,
                packet,
                len: match damage {
                    Damage::Truncate => self.rng.pick(0..len as u64 + 1) as usize,
                    _ => len,
                },
                flip: (damage == Damage::Corrupt).then(|| self.rng.next()),
            };
            self.push(at + late.min(most_late), event);
        }
    }

    fn fate(
        &mut self,
        faults: Faults,
        path: Path,
    ) -> impl Iterator<Item = (Nanos, Damage)> + use<> {
        fate(&mut self.rng, &faults, path, &mut self.injected)
    }

    fn send(&mut self, client: Endpoint, packet: &[u8]) {
        let (faults, at) = (self.setting().to_target, self.now + self.setting().latency);
        for (late, damage) in self.fate(faults, Path::ToTarget) {
            let copy = self.damaged(packet, damage, packet.len());
            self.push(
                at + late,
                Event::ToTarget(client, copy, damage == Damage::None),
            );
        }
    }

    /// A packet of the target goes to whoever sends us its header.
    pub fn answer(&mut self, packet: &[u8]) {
        let (faults, at) = (self.setting().responses, self.now + self.setting().latency);
        for (late, damage) in self.fate(faults, Path::Responses) {
            let arrives = at + late;
            if self.setting().outage.is_some_and(|o| o.covers(arrives)) {
                self.injected
                    .count(Path::Responses, crate::faults::Kind::Loss);
                continue;
            }
            let Ok(whole) = decode_from_ip(packet, 0) else {
                continue;
            };
            let copy = self.damaged(packet, damage, whole.tcp.payload);
            // Headers that make no sense are not sent to us.
            let Ok(decoded) = decode_from_ip(&copy[..], 0) else {
                continue;
            };
            let h = ResponseHeader::from_packet(&copy, &decoded, packet.len());
            self.push(arrives, Event::Response(h));
        }
    }

    /// A copy with a flipped bit among its first `header` bytes, or cut there.
    fn damaged(&mut self, packet: &[u8], damage: Damage, header: usize) -> Vec<u8> {
        let mut copy = packet.to_vec();
        match damage {
            Damage::None => {}
            Damage::Truncate => copy.truncate(self.rng.pick(20..header as u64) as usize),
            Damage::Corrupt => {
                let bit = self.rng.pick(0..header as u64 * 8) as usize;
                copy[bit / 8] ^= 1 << (bit % 8);
            }
        }
        copy
    }
}

/// Flips one bit of what the engine reads of a captured packet.
pub fn flip(p: &mut Packet, n: u64) {
    let bit = n >> 8 & 31;
    match n % 6 {
        0 => p.seq = SeqNumber(p.seq.0 ^ 1 << bit),
        1 => p.ack = SeqNumber(p.ack.0 ^ 1 << bit),
        2 => p.flags = TcpFlags(p.flags.0 ^ 1 << (bit % 8)),
        3 => p.window ^= 1 << (bit % 16),
        4 => p.gso_size ^= 1 << (bit % 16),
        _ => {
            p.options.mss = p.options.mss.map(|mss| mss ^ 1 << (bit % 16));
            p.options.window_scale = p.options.window_scale.map(|s| s ^ 1 << (bit % 4));
        }
    }
}

impl Output for Net {
    fn transmit(&mut self, s: &Segment<'_>, cause: Cause) {
        assert_eq!(s.dst, self.target);
        self.trace(|| {
            format!(
                "-> {} {:?} seq {} len {} ack {} win {}",
                s.src,
                s.flags,
                s.seq.0,
                s.payload.len(),
                s.ack.0,
                s.window
            )
        });
        if !s.payload.is_empty() {
            self.data_segments += 1;
            assert!(
                !(self.watch.sabotaged(Sabotage::Panic) && self.data_segments == 9),
                "sabotage"
            );
        }
        let mut flipped = s.payload.to_vec();
        let mut seen = *s;
        if self.watch.sabotaged(Sabotage::FlipByte)
            && let Some(byte) = flipped.last_mut()
        {
            *byte ^= 4;
            seen.payload = &flipped;
        }
        let missed = self.data_segments.is_multiple_of(5) && cause != Cause::Retransmit;
        if !(self.watch.sabotaged(Sabotage::MissSegment) && missed && !s.payload.is_empty()) {
            self.watch.sent(self.now, &seen, cause);
        }
        if self.watch.swallowed(s) {
            return;
        }
        let mut buf = [0u8; FRAME_BYTES];
        let n = build_tcp_frame(&mut buf, FrameAddresses::default(), s)
            .expect("segments fit a frame and have one family");
        self.send(s.src, &buf[ETH_HEADER_BYTES..n]);
    }

    fn announce(&mut self, client: Endpoint, target: Endpoint) -> bool {
        assert_eq!(target, self.target);
        let fails = self.setting().announce_fails;
        let out = self.setting().outage.is_some_and(|o| o.covers(self.now));
        if out || self.rng.chance(fails) {
            self.injected.failed_announcements += 1;
            return false;
        }
        self.watch.announced(client);
        true
    }

    fn retire(&mut self, client: Endpoint, _: Endpoint) {
        self.watch.retired(self.now, client);
    }

    fn ended(&mut self, end: &SessionEnd) {
        self.trace(|| format!("** {} as {}: {end:?}", end.client, end.wire));
        self.watch.ended(self.now, end);
    }

    fn sample(&mut self, _: Metric, _: Nanos) {}
}
