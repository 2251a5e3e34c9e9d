//! The transfer list as workers look it up: exact address first, then the port on any address, as the
//! kernel programs do it with the same list. What matches must not go to a target.

use crate::cli::Transfer;
use common::packet::{Addr, Endpoint};
use hashbrown::HashMap;

/// Lookup table, the same time for any number of entries.
#[derive(Clone, Debug)]
pub struct TransferTable {
    /// By online endpoint: where its targets stand in `lanes`.
    entries: HashMap<Endpoint, (u32, u32)>,
    /// Targets of each online endpoint, in the order of the list.
    lanes: Vec<Endpoint>,
    /// Some entry has an address; some has none.
    exact: bool,
    any: bool,
    /// Targets, sorted, each once.
    targets: Vec<Endpoint>,
}

/// What the list says about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// Replay it to each of these; there is at least one.
    Targets(&'a [Endpoint]),
    /// It is in the list, but on its way to a target: our own output, or somebody who uses the target
    /// directly.
    ToTarget,
    /// Not in the list.
    Miss,
}

impl TransferTable {
    /// From a parsed list.
    pub fn new(transfers: &[Transfer]) -> Self {
        let mut sorted: Vec<_> = transfers.iter().collect();
        // Stable: targets of one source stay in order.
        sorted.sort_by_key(|t| t.online);
        let mut entries: HashMap<Endpoint, (u32, u32)> = HashMap::new();
        for (at, transfer) in (0u32..).zip(&sorted) {
            entries.entry(transfer.online).or_insert((at, at)).1 = at + 1;
        }
        let lanes = sorted.iter().map(|t| t.target).collect();
        let mut targets: Vec<_> = transfers.iter().map(|t| t.target).collect();
        targets.sort_unstable();
        targets.dedup();
        Self {
            exact: entries.keys().any(|e| !e.addr.is_any()),
            any: entries.keys().any(|e| e.addr.is_any()),
            entries,
            lanes,
            targets,
        }
    }

    /// Looks up where a packet was going. Whatever else the list says, what goes to a target is never
    /// replayed: it may be what we sent.
    pub fn lookup(&self, dst: Endpoint) -> Lookup<'_> {
        let exact = self.exact.then(|| self.get(dst)).flatten();
        let any = || self.get(Endpoint::new(Addr::ANY, dst.port));
        let found = exact.or_else(|| self.any.then(any).flatten());
        match found {
            None => Lookup::Miss,
            Some(_) if self.targets.binary_search(&dst).is_ok() => Lookup::ToTarget,
            Some(targets) => Lookup::Targets(targets),
        }
    }

    /// The targets, sorted, each once.
    pub fn targets(&self) -> &[Endpoint] {
        &self.targets
    }

    fn get(&self, key: Endpoint) -> Option<&[Endpoint]> {
        let (from, to) = *self.entries.get(&key)?;
        self.lanes.get(from as usize..to as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse_transfers;

    fn at(text: &str) -> Endpoint {
        text.parse::<std::net::SocketAddr>().unwrap().into()
    }

    fn look(list: &str, dst: &str) -> Vec<Endpoint> {
        let table = TransferTable::new(&parse_transfers([list]).unwrap());
        match table.lookup(at(dst)) {
            Lookup::Targets(targets) => targets.to_vec(),
            other => panic!("{dst}: {other:?}"),
        }
    }

    #[test]
    fn exact_before_any_and_never_to_a_target() {
        let list = "80-10.0.0.30:8080,10.0.0.20:80-10.0.0.31:8081,[2001:db8::1]:80-[2001:db8::2]:80,8080-10.0.0.30:8080";
        let table = TransferTable::new(&parse_transfers([list]).unwrap());
        for (dst, target) in [
            ("10.0.0.20:80", "10.0.0.31:8081"),
            ("10.0.0.21:80", "10.0.0.30:8080"),
            ("[2001:db8::1]:80", "[2001:db8::2]:80"),
            ("[2001:db8::9]:80", "10.0.0.30:8080"),
            ("10.0.0.20:8080", "10.0.0.30:8080"),
        ] {
            assert_eq!(look(list, dst), [at(target)], "{dst}");
        }
        assert_eq!(table.lookup(at("10.0.0.21:81")), Lookup::Miss);
        // The wildcard for 8080 does not catch what goes to the target on 8080.
        assert_eq!(table.lookup(at("10.0.0.30:8080")), Lookup::ToTarget);
        // No transfer would catch this: not worth a word.
        assert_eq!(table.lookup(at("10.0.0.31:8081")), Lookup::Miss);
        assert_eq!(table.targets().len(), 3);
    }

    #[test]
    fn a_source_has_as_many_targets_as_the_list_gives_it() {
        let list = "80-10.0.0.31:80,81-10.0.0.30:81,80-10.0.0.30:80,10.0.0.20:80-10.0.0.32:80,80-10.0.0.30:8080";
        assert_eq!(
            look(list, "10.0.0.21:80"),
            ["10.0.0.31:80", "10.0.0.30:80", "10.0.0.30:8080"].map(at)
        );
        assert_eq!(look(list, "10.0.0.21:81"), [at("10.0.0.30:81")]);
        // An exact entry is not added to the wildcard, it takes its place.
        assert_eq!(look(list, "10.0.0.20:80"), [at("10.0.0.32:80")]);
    }

    #[test]
    fn long_lists() {
        let list: Vec<String> = (1..=5000)
            .map(|port| format!("10.0.0.20:{port}-10.0.0.30:{port}"))
            .collect();
        let table = TransferTable::new(&parse_transfers([list.join(",").as_str()]).unwrap());
        for port in 1..=5000 {
            let dst = Endpoint::new(Addr::v4([10, 0, 0, 20]), port);
            let target = Endpoint::new(Addr::v4([10, 0, 0, 30]), port);
            assert_eq!(table.lookup(dst), Lookup::Targets(&[target]));
        }
        assert_eq!(table.lookup(at("10.0.0.20:5001")), Lookup::Miss);
    }
}
