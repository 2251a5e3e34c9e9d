//! The server under test: a real TCP stack (smoltcp) a connection, with an application that keeps what it
//! reads, and ways to misbehave.

mod app;
mod stack;

pub use app::Seen;

use crate::setting::Behaviour;
use common::flow::Nanos;
use common::packet::{Addr, Endpoint};
use stack::Stack;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Packets that wait while the host is stalled; a NIC's ring has no more.
const STALLED_PACKETS: usize = 2048;
const PORT: u16 = 8080;

pub fn endpoint(v6: bool) -> Endpoint {
    let addr = if v6 {
        Addr([0x20, 1, 0xd, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9])
    } else {
        Addr::v4([10, 0, 0, 9])
    };
    Endpoint::new(addr, PORT)
}

pub struct Target {
    endpoint: Endpoint,
    behaviour: Behaviour,
    seed: u64,
    stacks: BTreeMap<Endpoint, Stack>,
    /// When each stack wants to run next.
    due: BTreeSet<(Nanos, Endpoint)>,
    crashed: bool,
    /// By client, its connections in order.
    pub seen: HashMap<Endpoint, Vec<Seen>>,
    /// Clients whose connections did something since this was last emptied.
    pub changed: Vec<Endpoint>,
}

impl Target {
    pub fn new(endpoint: Endpoint, behaviour: Behaviour, seed: u64) -> Self {
        Self {
            endpoint,
            behaviour,
            seed,
            stacks: BTreeMap::new(),
            due: BTreeSet::new(),
            crashed: false,
            seen: HashMap::new(),
            changed: Vec::new(),
        }
    }

    fn down(&self, now: Nanos) -> bool {
        self.behaviour.crash.is_some_and(|c| c.covers(now))
    }

    fn stalled(&self, now: Nanos) -> bool {
        self.behaviour.stall.is_some_and(|s| s.covers(now))
    }

    /// A packet of `client` arrives.
    pub fn deliver(&mut self, now: Nanos, client: Endpoint, packet: Vec<u8>, intact: bool) {
        self.crash_if_due(now);
        let listening = !self.down(now);
        if !listening && !self.behaviour.refuses_while_down {
            return;
        }
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let stack = self
            .stacks
            .entry(client)
            .or_insert_with(|| Stack::new(self.endpoint, &self.behaviour, self.seed, listening));
        if stack.receive(packet, intact, STALLED_PACKETS) {
            self.due.remove(&(stack.due, client));
            stack.due = now;
            self.due.insert((now, client));
        }
    }

    /// Forgets every connection when the crash begins; what refused while it was down listens again
    /// when it is over.
    fn crash_if_due(&mut self, now: Nanos) {
        let Some(crash) = self.behaviour.crash else {
            return;
        };
        let begins = now >= crash.at && !self.crashed;
        let ends = now >= crash.end() && self.stacks.values().any(|s| !s.listening);
        if begins || ends {
            self.crashed = true;
            self.stacks.retain(|_, s| !begins && s.listening);
            let stacks = &self.stacks;
            self.due.retain(|(_, client)| stacks.contains_key(client));
            for connections in self.seen.values_mut() {
                if begins {
                    connections.push(Seen::default());
                }
            }
        }
    }

    /// Runs stacks and application; returns the packets sent.
    pub fn poll(&mut self, now: Nanos) -> Vec<(Endpoint, Vec<u8>)> {
        let mut sent = Vec::new();
        self.crash_if_due(now);
        if self.stalled(now) {
            return sent;
        }
        while let Some((at, client)) = self.due.first().copied() {
            if at > now {
                break;
            }
            self.due.pop_first();
            let Some(stack) = self.stacks.get_mut(&client) else {
                continue;
            };
            let seen = self.seen.entry(client).or_default();
            stack.run(now, seen, &self.behaviour);
            sent.extend(stack.sent().map(|p| (client, p)));
            stack.due = stack.next(now, seen, &self.behaviour);
            if stack.due < Nanos(u64::MAX) {
                self.due.insert((stack.due, client));
            }
            self.changed.push(client);
        }
        sent
    }

    pub fn poll_at(&self, now: Nanos) -> Option<Nanos> {
        let (at, _) = self.due.first()?;
        let stall = self.behaviour.stall.filter(|s| s.covers(now.max(*at)));
        Some(stall.map_or(*at, |s| s.end()))
    }
}
