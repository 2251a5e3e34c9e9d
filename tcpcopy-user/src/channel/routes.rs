//! The routes that live sessions need from one intercept.

use common::packet::Endpoint;
use std::collections::HashMap;

/// Which connection a route was announced on. Reconnecting makes a new generation, so that losing a
/// connection invalidates its routes without touching them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carrier {
    /// Index of the connection.
    pub link: usize,
    /// Its generation at the time.
    pub generation: u32,
}

/// One route.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Client as the target sees it.
    pub client: Endpoint,
    /// Target.
    pub target: Endpoint,
    /// Where it was announced last; `None` if it never could be.
    pub carrier: Option<Carrier>,
}

/// Live routes in slots that can be walked in steps while routes come and go. As many entries as the
/// engine has sessions, which bounds it.
#[derive(Debug, Default)]
pub struct RouteTable {
    slots: Vec<Option<Route>>,
    free: Vec<u32>,
    index: HashMap<(Endpoint, Endpoint), u32>,
}

impl RouteTable {
    /// The route of a pair, made if it is new.
    pub fn entry(&mut self, client: Endpoint, target: Endpoint) -> &mut Route {
        let (slots, free) = (&mut self.slots, &mut self.free);
        let at = *self.index.entry((client, target)).or_insert_with(|| {
            free.pop().unwrap_or_else(|| {
                slots.push(None);
                (slots.len() - 1) as u32
            })
        }) as usize;
        if at >= self.slots.len() {
            self.slots.resize(at + 1, None);
        }
        self.slots[at].get_or_insert(Route {
            client,
            target,
            carrier: None,
        })
    }

    /// Forgets a route; says where it was announced.
    pub fn remove(&mut self, client: Endpoint, target: Endpoint) -> Option<Carrier> {
        let at = self.index.remove(&(client, target))?;
        let route = self.slots.get_mut(at as usize)?.take();
        self.free.push(at);
        route?.carrier
    }

    /// The route in a slot; `None` if the slot is empty or beyond the end.
    pub fn slot(&mut self, at: usize) -> Option<&mut Route> {
        self.slots.get_mut(at)?.as_mut()
    }

    /// Number of slots, for walking.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Number of live routes.
    pub fn len(&self) -> usize {
        self.index.len()
    }
}
