//! Pairs of online address and target: few, and the same for many sessions, which keep a number.

use crate::slab::Slab;
use crate::table::{Pair, PairHasherBuilder};
use common::packet::Endpoint;
use std::collections::HashMap;

/// Paths that are found without hashing: transfer lists are short.
const CACHED: usize = 16;

/// Number of a path, valid while it has users.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PathId(u32);

/// Where a connection went, and where it goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    pub(crate) online: Endpoint,
    pub(crate) target: Endpoint,
    /// Sessions on it. Without any it is forgotten: a wildcard transfer may match any number of
    /// online addresses.
    users: u32,
}

#[derive(Default)]
pub(crate) struct Paths {
    list: Slab<Path>,
    known: HashMap<Pair, u32, PairHasherBuilder>,
    /// By the lower bits of address and port; may be out of date.
    cache: [u32; CACHED],
}

/// Both ends, as a key.
fn key(online: Endpoint, target: Endpoint) -> Pair {
    Pair {
        client: online,
        server: target,
    }
}

impl Paths {
    #[inline]
    fn cached(&mut self, online: Endpoint) -> Option<&mut u32> {
        let [.., last] = online.addr.0;
        let at = (usize::from(last) ^ usize::from(online.port)) % CACHED;
        self.cache.get_mut(at)
    }

    /// The path of a captured packet, if a session uses it.
    #[inline]
    pub(crate) fn find(&mut self, online: Endpoint, target: Endpoint) -> Option<PathId> {
        let id = *self.cached(online)?;
        match self.list.get(id) {
            Some(p) if p.online == online && p.target == target => Some(PathId(id)),
            _ => self.look_up(online, target),
        }
    }

    fn look_up(&mut self, online: Endpoint, target: Endpoint) -> Option<PathId> {
        let id = self.known.get(&key(online, target)).copied()?;
        if let Some(cached) = self.cached(online) {
            *cached = id;
        }
        Some(PathId(id))
    }

    /// Another session uses the path.
    pub(crate) fn enter(&mut self, online: Endpoint, target: Endpoint) -> PathId {
        let id = if let Some(PathId(id)) = self.find(online, target) {
            id
        } else {
            let id = self.list.insert(Path {
                online,
                target,
                users: 0,
            });
            self.known.insert(key(online, target), id);
            id
        };
        if let Some(p) = self.list.get_mut(id) {
            p.users += 1;
        }
        PathId(id)
    }

    /// A session does not use it any more.
    pub(crate) fn leave(&mut self, PathId(id): PathId) {
        let Some(p) = self.list.get_mut(id) else {
            return;
        };
        p.users -= 1;
        if p.users == 0 {
            let key = key(p.online, p.target);
            self.known.remove(&key);
            self.list.remove(id);
        }
    }

    #[inline]
    pub(crate) fn online(&self, PathId(id): PathId) -> Endpoint {
        self.list.get(id).map_or(Endpoint::ANY, |p| p.online)
    }

    #[inline]
    pub(crate) fn target(&self, PathId(id): PathId) -> Endpoint {
        self.list.get(id).map_or(Endpoint::ANY, |p| p.target)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::packet::Addr;

    #[test]
    fn paths_live_as_long_as_their_sessions() {
        let at = |n: u8, port| Endpoint::new(Addr::v4([10, 0, 0, n]), port);
        let mut p = Paths::default();
        assert_eq!(p.find(at(1, 80), at(9, 80)), None);
        let first = p.enter(at(1, 80), at(9, 80));
        // The same place in the cache.
        let second = p.enter(at(17, 80), at(9, 80));
        assert_ne!(first, second);
        for _ in 0..2 {
            assert_eq!(p.find(at(1, 80), at(9, 80)), Some(first));
            assert_eq!(p.find(at(17, 80), at(9, 80)), Some(second));
            assert_eq!(p.find(at(1, 80), at(9, 81)), None);
        }
        assert_eq!((p.online(first), p.target(first)), (at(1, 80), at(9, 80)));
        assert_eq!(p.enter(at(1, 80), at(9, 80)), first);
        p.leave(first);
        p.leave(second);
        assert_eq!(p.find(at(17, 80), at(9, 80)), None);
        assert_eq!(p.find(at(1, 80), at(9, 80)), Some(first));
        p.leave(first);
        assert!(p.is_empty());
    }
}
