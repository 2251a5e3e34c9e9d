//! Routes that the kernel's program must know, on the target itself: it takes the responses of these and of no others.

use super::RouteKey;
use crate::channel::Throttle;
use dataplane::bpf::RouteWriter;
use std::time::Instant;

/// The kernel's side of a worker's routes.
pub trait KernelRoutes: Send {
    /// From now on the session's responses are taken; false if that failed.
    fn insert(&mut self, key: &RouteKey) -> bool;

    /// They go to the client again.
    fn remove(&mut self, key: &RouteKey);
}

/// In the map of the attached program: a system call each, 1 µs, once per session.
pub struct KernelMap {
    map: RouteWriter,
    log: Throttle,
}

impl KernelMap {
    /// Writes to `map`.
    pub fn new(map: RouteWriter) -> Self {
        Self {
            map,
            log: Throttle::default(),
        }
    }

    fn report<E: std::fmt::Display>(&mut self, done: Result<(), E>) -> bool {
        let Err(error) = done else {
            return true;
        };
        if let Some(more) = self.log.pass(Instant::now()) {
            tracing::error!(%error, suppressed = more, "a route is not in the kernel as it should be");
        }
        false
    }
}

impl KernelRoutes for KernelMap {
    fn insert(&mut self, key: &RouteKey) -> bool {
        let done = self.map.insert(key.client, key.target);
        self.report(done)
    }

    fn remove(&mut self, key: &RouteKey) {
        let done = self.map.remove(key.client, key.target);
        self.report(done);
    }
}
