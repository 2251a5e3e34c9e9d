//! The flows: found by client and online address, kept in the order in which they fell idle.
//!
//! ```text
//!  index: (client, online) ─▶ number ─▶ places[number]   wires[number * replicas ..]
//!                                          │ older/newer: a list, the idlest first
//!  held: (wire, target) of every live flow
//! ```
//! All idle equally long, so a list in order of last use is a timer: no wheel, no scan. Places of ended
//! flows are used again; memory grows to the most flows at a time and stays there.

use crate::EngineConfig;
use crate::table::{Pair, PairHasherBuilder};
use crate::wire_tuple::Wire;
use common::flow::Nanos;
use common::packet::Endpoint;
use std::collections::{HashMap, HashSet};

/// No flow.
const NONE: u32 = u32::MAX;

struct Flow {
    key: Pair,
    target: Endpoint,
    last: Nanos,
    older: u32,
    newer: u32,
}

pub(super) struct Flows {
    replicas: usize,
    index: HashMap<Pair, u32, PairHasherBuilder>,
    held: HashSet<Pair, PairHasherBuilder>,
    places: Vec<Flow>,
    wires: Vec<Wire>,
    free: Vec<u32>,
    oldest: u32,
    newest: u32,
}

impl Flows {
    pub(super) fn new(replicas: usize) -> Self {
        Self {
            replicas,
            index: HashMap::default(),
            held: HashSet::default(),
            places: Vec::new(),
            wires: Vec::new(),
            free: Vec::new(),
            oldest: NONE,
            newest: NONE,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    #[inline]
    pub(super) fn find(&self, key: &Pair) -> Option<u32> {
        self.index.get(key).copied()
    }

    /// A live flow has this wire endpoint towards this target.
    pub(super) fn holds(&self, pair: &Pair) -> bool {
        self.held.contains(pair)
    }

    pub(super) fn hold(&mut self, client: Endpoint, server: Endpoint) {
        self.held.insert(Pair { client, server });
    }

    pub(super) fn give_back(&mut self, client: Endpoint, server: Endpoint) -> Pair {
        let pair = Pair { client, server };
        self.held.remove(&pair);
        pair
    }

    pub(super) fn target(&self, id: u32) -> Option<Endpoint> {
        self.places.get(id as usize).map(|flow| flow.target)
    }

    /// The wire endpoints of a flow, one for each replica.
    pub(super) fn wires(&self, id: u32) -> &[Wire] {
        let start = id as usize * self.replicas;
        self.wires
            .get(start..start + self.replicas)
            .unwrap_or_default()
    }

    /// Adds a flow whose `wires` are held already. It must be touched next.
    pub(super) fn insert(&mut self, key: Pair, target: Endpoint, wires: &[Wire]) -> u32 {
        let flow = Flow {
            key,
            target,
            last: Nanos(0),
            older: NONE,
            newer: NONE,
        };
        let id = if let Some(id) = self.free.pop() {
            if let Some(place) = self.places.get_mut(id as usize) {
                *place = flow;
            }
            let start = id as usize * self.replicas;
            if let Some(to) = self.wires.get_mut(start..start + self.replicas) {
                for (to, wire) in to.iter_mut().zip(wires) {
                    *to = *wire;
                }
            }
            id
        } else {
            self.places.push(flow);
            self.wires.extend_from_slice(wires);
            (self.places.len() - 1) as u32
        };
        self.index.insert(key, id);
        self.append(id);
        id
    }

    /// The flow was used: it is the last to fall idle.
    #[inline]
    pub(super) fn touch(&mut self, id: u32, now: Nanos) {
        if self.newest != id {
            self.unlink(id);
            self.append(id);
        }
        if let Some(flow) = self.places.get_mut(id as usize) {
            flow.last = now;
        }
    }

    /// A flow that has been idle for `idle`.
    pub(super) fn idle(&self, now: Nanos, idle: Nanos) -> Option<u32> {
        let flow = self.places.get(self.oldest as usize)?;
        (now.since(flow.last) >= idle).then_some(self.oldest)
    }

    /// Ends a flow; `freed` is told of each of its wire endpoints.
    pub(super) fn remove(&mut self, id: u32, config: &EngineConfig, mut freed: impl FnMut(&Pair)) {
        let Some(flow) = self.places.get(id as usize) else {
            return;
        };
        let (key, target) = (flow.key, flow.target);
        let start = id as usize * self.replicas;
        for at in start..start + self.replicas {
            if let Some(wire) = self.wires.get(at).copied() {
                freed(&self.give_back(wire.endpoint(config, key.client), target));
            }
        }
        self.unlink(id);
        self.index.remove(&key);
        self.free.push(id);
    }

    fn unlink(&mut self, id: u32) {
        let Some(flow) = self.places.get(id as usize) else {
            return;
        };
        let (older, newer) = (flow.older, flow.newer);
        match self.places.get_mut(older as usize) {
            Some(flow) => flow.newer = newer,
            None => self.oldest = newer,
        }
        match self.places.get_mut(newer as usize) {
            Some(flow) => flow.older = older,
            None => self.newest = older,
        }
    }

    fn append(&mut self, id: u32) {
        let last = self.newest;
        if let Some(flow) = self.places.get_mut(id as usize) {
            flow.older = last;
            flow.newer = NONE;
        }
        match self.places.get_mut(last as usize) {
            Some(flow) => flow.newer = id,
            None => self.oldest = id,
        }
        self.newest = id;
    }

    /// Bytes allocated, for the test that holds the budget to its word.
    #[cfg(test)]
    pub(super) fn allocated_bytes(&self) -> usize {
        // A slot of a table of the standard library has a byte of control beside it.
        self.places.capacity() * size_of::<Flow>()
            + self.wires.capacity() * size_of::<Wire>()
            + self.free.capacity() * 4
            + self.index.capacity() * 8 / 7 * (size_of::<(Pair, u32)>() + 1)
            + self.held.capacity() * 8 / 7 * (size_of::<Pair>() + 1)
    }
}
