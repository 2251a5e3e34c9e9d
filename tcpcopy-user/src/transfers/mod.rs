//! The transfer list as workers look it up: exact address first, then the port on any address, as the
//! kernel programs do it with the same list.

use crate::cli::Transfer;
use common::packet::{Addr, Endpoint};

/// Lookup table. Lists are short (mostly one entry), so a sorted array beats a hash map; a list of
/// hundreds costs eight comparisons.
#[derive(Clone, Debug)]
pub struct TransferTable {
    /// Online endpoint to target, sorted by the former.
    entries: Vec<(Endpoint, Endpoint)>,
    /// Targets, sorted, each once.
    targets: Vec<Endpoint>,
}

/// What the list says about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Replay it there.
    Target(Endpoint),
    /// It is on its way to a target: our own output, or somebody who uses the target directly.
    ToTarget,
    /// Not in the list.
    Miss,
}

impl TransferTable {
    /// From a parsed list.
    pub fn new(transfers: &[Transfer]) -> Self {
        let mut entries: Vec<_> = transfers.iter().map(|t| (t.online, t.target)).collect();
        entries.sort_unstable();
        let mut targets: Vec<_> = transfers.iter().map(|t| t.target).collect();
        targets.sort_unstable();
        targets.dedup();
        Self { entries, targets }
    }

    /// Looks up where a packet was going. Targets come first: whatever else the list says, what we
    /// send is never captured again.
    pub fn lookup(&self, dst: Endpoint) -> Lookup {
        if self.targets.binary_search(&dst).is_ok() {
            return Lookup::ToTarget;
        }
        self.get(dst)
            .or_else(|| self.get(Endpoint::new(Addr::ANY, dst.port)))
            .map_or(Lookup::Miss, Lookup::Target)
    }

    /// The targets, sorted, each once.
    pub fn targets(&self) -> &[Endpoint] {
        &self.targets
    }

    fn get(&self, key: Endpoint) -> Option<Endpoint> {
        let at = self
            .entries
            .binary_search_by_key(&key, |(online, _)| *online)
            .ok()?;
        self.entries.get(at).map(|(_, target)| *target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse_transfers;

    fn at(text: &str) -> Endpoint {
        text.parse::<std::net::SocketAddr>().unwrap().into()
    }

    #[test]
    fn exact_before_any_and_targets_before_all() {
        let list = "80-10.0.0.30:8080,10.0.0.20:80-10.0.0.31:8081,[2001:db8::1]:80-[2001:db8::2]:80,8080-10.0.0.30:8080";
        let table = TransferTable::new(&parse_transfers([list]).unwrap());
        assert_eq!(
            table.lookup(at("10.0.0.20:80")),
            Lookup::Target(at("10.0.0.31:8081"))
        );
        assert_eq!(
            table.lookup(at("10.0.0.21:80")),
            Lookup::Target(at("10.0.0.30:8080"))
        );
        assert_eq!(
            table.lookup(at("[2001:db8::1]:80")),
            Lookup::Target(at("[2001:db8::2]:80"))
        );
        assert_eq!(
            table.lookup(at("[2001:db8::9]:80")),
            Lookup::Target(at("10.0.0.30:8080"))
        );
        assert_eq!(table.lookup(at("10.0.0.21:81")), Lookup::Miss);
        // The wildcard for 8080 does not catch what goes to the target on 8080.
        assert_eq!(table.lookup(at("10.0.0.30:8080")), Lookup::ToTarget);
        assert_eq!(
            table.lookup(at("10.0.0.20:8080")),
            Lookup::Target(at("10.0.0.30:8080"))
        );
        assert_eq!(table.targets().len(), 3);
    }
}
