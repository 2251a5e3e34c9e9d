//! Pairs of online address and target: few, and the same for many sessions, which keep a number.

use crate::table::{Pair, PairHasherBuilder};
use common::packet::Endpoint;
use std::collections::HashMap;

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
    list: Vec<Path>,
    free: Vec<u32>,
    known: HashMap<Pair, u32, PairHasherBuilder>,
    /// The one entered last: most likely the next one, too.
    last: u32,
}

impl Paths {
    /// The path of one more session.
    pub(crate) fn enter(&mut self, online: Endpoint, target: Endpoint) -> PathId {
        if let Some(path) = self.list.get_mut(self.last as usize)
            && path.users > 0
            && path.online == online
            && path.target == target
        {
            path.users += 1;
            return PathId(self.last);
        }
        let key = Pair {
            client: online,
            server: target,
        };
        if let Some(&id) = self.known.get(&key)
            && let Some(path) = self.list.get_mut(id as usize)
        {
            path.users += 1;
            self.last = id;
            return PathId(id);
        }
        let path = Path {
            online,
            target,
            users: 1,
        };
        let id = self.free.pop().unwrap_or_else(|| {
            self.list.push(path);
            self.list.len() as u32 - 1
        });
        if let Some(slot) = self.list.get_mut(id as usize) {
            *slot = path;
        }
        self.known.insert(key, id);
        self.last = id;
        PathId(id)
    }

    /// A session does not use it any more.
    pub(crate) fn leave(&mut self, PathId(id): PathId) {
        let Some(path) = self.list.get_mut(id as usize) else {
            return;
        };
        path.users -= 1;
        if path.users == 0 {
            self.known.remove(&Pair {
                client: path.online,
                server: path.target,
            });
            self.free.push(id);
        }
    }

    /// A path, as long as it has users.
    #[inline(always)]
    pub(crate) fn get(&self, PathId(id): PathId) -> Option<&Path> {
        self.list.get(id as usize)
    }

    #[inline(always)]
    pub(crate) fn online(&self, PathId(id): PathId) -> Endpoint {
        let path = self.list.get(id as usize);
        path.map_or(Endpoint::ANY, |p| p.online)
    }

    #[inline(always)]
    pub(crate) fn target(&self, PathId(id): PathId) -> Endpoint {
        let path = self.list.get(id as usize);
        path.map_or(Endpoint::ANY, |p| p.target)
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
        let first = p.enter(at(1, 80), at(9, 80));
        let second = p.enter(at(1, 80), at(9, 81));
        assert_ne!(first, second);
        assert_eq!(p.enter(at(1, 80), at(9, 80)), first);
        assert_eq!((p.online(second), p.target(second)), (at(1, 80), at(9, 81)));
        p.leave(first);
        assert_eq!((p.online(first), p.target(first)), (at(1, 80), at(9, 80)));
        p.leave(first);
        assert_eq!(
            p.enter(at(2, 80), at(9, 80)),
            first,
            "the number comes back"
        );
        assert_eq!(p.online(first), at(2, 80));
        p.leave(first);
        p.leave(second);
        assert!(p.is_empty());
    }
}
