//! SYNs that wait for intercepts on targets to say that they take the answers.
//!
//! ```text
//!  announced ─▶ awaits? ── due: 1 ─┬─ confirmed by each ─▶ complete: the engine sends the SYN
//!                 │ none confirms  └─ a second later ─▶ asked again: not any more
//!                 ▼
//!          the SYN goes at once
//! ```

use common::packet::Endpoint;
use std::collections::HashMap;

/// By session, as many at most as the engine has in their handshakes: each is completed, asked for again, or forgotten.
#[derive(Debug, Default)]
pub struct Confirmations {
    /// How many are still to come.
    due: HashMap<(Endpoint, Endpoint), usize>,
    awaited: u64,
    complete: u64,
}

impl Confirmations {
    /// True if a session waits from now on for `due` confirmations. False if that is none, or it waited before.
    pub fn awaits(&mut self, client: Endpoint, target: Endpoint, due: usize) -> bool {
        if due == 0 || self.due.remove(&(client, target)).is_some() {
            return false;
        }
        self.due.insert((client, target), due);
        self.awaited += 1;
        true
    }

    /// One has come: true if that was the last that a session waits for.
    pub fn complete(&mut self, client: Endpoint, target: Endpoint) -> bool {
        let Some(due) = self.due.get_mut(&(client, target)) else {
            return false;
        };
        *due -= 1;
        if *due > 0 {
            return false;
        }
        self.due.remove(&(client, target));
        self.complete += 1;
        true
    }

    /// The session is over.
    pub fn forget(&mut self, client: Endpoint, target: Endpoint) {
        self.due.remove(&(client, target));
    }

    /// Sessions that waited, and those of them that did not have to give up.
    pub fn totals(&self) -> (u64, u64) {
        (self.awaited, self.complete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::packet::Addr;

    const CLIENT: Endpoint = Endpoint::new(Addr::v4([10, 9, 9, 1]), 41_439);
    const TARGET: Endpoint = Endpoint::new(Addr::v4([10, 9, 0, 2]), 8001);

    #[test]
    fn all_that_confirm_must_and_others_need_not() {
        let mut c = Confirmations::default();
        assert!(!c.awaits(CLIENT, TARGET, 0));
        assert!(!c.complete(CLIENT, TARGET));
        assert!(c.awaits(CLIENT, TARGET, 2));
        assert!(!c.complete(TARGET, CLIENT));
        assert!(!c.complete(CLIENT, TARGET));
        assert!(c.complete(CLIENT, TARGET));
        assert!(!c.complete(CLIENT, TARGET));
        assert_eq!(c.totals(), (1, 1));
    }

    #[test]
    fn who_has_waited_once_goes_and_who_is_over_leaves_nothing() {
        let mut c = Confirmations::default();
        assert!(c.awaits(CLIENT, TARGET, 1));
        assert!(!c.awaits(CLIENT, TARGET, 1));
        assert!(!c.complete(CLIENT, TARGET), "too late");
        assert!(c.awaits(CLIENT, TARGET, 1), "a new session on the tuple");
        c.forget(CLIENT, TARGET);
        assert!(c.due.is_empty());
        assert_eq!(c.totals(), (2, 0));
    }
}
