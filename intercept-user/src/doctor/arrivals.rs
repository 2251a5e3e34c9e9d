//! The hop from the target to here: do responses arrive, where, and what becomes of them.
//!
//! A response is told by where it goes: to this host by its MAC address, but to an IP address that is not this host's.

use common::packet::{Addr, Endpoint, TcpFlags, decode_frame};
use dataplane::bpf::Filter;
use dataplane::watch::{Seen, Way};
use doctor::Finding;
use doctor::look::{Names, packets};
use std::collections::{BTreeMap, BTreeSet};

/// Targets that are named in a sentence.
const NAMED: usize = 3;

/// What was seen in a look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArrivalFacts {
    /// Interface of the responses.
    pub iface: String,
    /// The filter's text.
    pub filter: Option<String>,
    /// An intercept runs on the interface: what it takes by XDP is not seen beside it.
    pub running: bool,
    /// On the interface, passing the filter.
    pub matching: u64,
    /// On the interface, rejected by the filter.
    pub rejected: u64,
    /// Whence the rejected ones came.
    pub rejected_from: BTreeSet<Endpoint>,
    /// On other interfaces, by name.
    pub elsewhere: BTreeMap<String, u64>,
    /// Sent on by this host, by the interface that they left by.
    pub forwarded: BTreeMap<String, u64>,
    /// How long was looked, in seconds.
    pub seconds: u64,
}

/// Collects [`ArrivalFacts`].
pub struct Collector<'a> {
    /// So far.
    pub facts: ArrivalFacts,
    filter: Option<&'a Filter>,
    iface: u32,
    own: Vec<Addr>,
    /// Ends of what arrived, so that what leaves is known for the same.
    arrived: BTreeSet<(Endpoint, Endpoint)>,
    /// Only of these, if they are known.
    targets: Vec<Endpoint>,
    names: Names,
}

/// Most connections that are remembered: a look is short, and a router's traffic is not.
const MAX_ENDS: usize = 4096;

impl<'a> Collector<'a> {
    /// Nothing seen. `iface` is the index of the interface of the responses, `own` this host's addresses; with
    /// `targets` only what comes from them is a response.
    pub fn new(
        (name, iface): (&str, u32),
        filter: Option<&'a Filter>,
        own: Vec<Addr>,
        targets: Vec<Endpoint>,
    ) -> Self {
        Self {
            facts: ArrivalFacts {
                iface: name.to_owned(),
                filter: filter.map(|f| f.expression().to_owned()),
                ..ArrivalFacts::default()
            },
            filter,
            iface,
            own,
            arrived: BTreeSet::new(),
            targets,
            names: Names::now(),
        }
    }

    /// A packet that passed.
    pub fn see(&mut self, seen: &Seen<'_>) {
        let Ok(p) = decode_frame(seen.frame) else {
            return;
        };
        // Every segment of a target's answers has ACK; clients' first does not.
        let foreign = !self.own.contains(&p.ip.dst) && !self.own.contains(&p.ip.src);
        if !foreign || !p.tcp.flags.has(TcpFlags::ACK) {
            return;
        }
        let from = Endpoint::new(p.ip.src, p.tcp.sport);
        let to = Endpoint::new(p.ip.dst, p.tcp.dport);
        if !self.targets.is_empty() && !self.targets.contains(&from) {
            return;
        }
        match seen.way {
            Way::Passing => {}
            Way::Out => {
                if self.arrived.contains(&(from, to)) {
                    let name = self.names.of(seen.ifindex);
                    *self.facts.forwarded.entry(name).or_default() += 1;
                }
            }
            Way::In => {
                if self.arrived.len() < MAX_ENDS {
                    self.arrived.insert((from, to));
                }
                if seen.ifindex != self.iface {
                    let name = self.names.of(seen.ifindex);
                    *self.facts.elsewhere.entry(name).or_default() += 1;
                } else if self.filter.is_none_or(|f| f.matches(seen.frame)) {
                    self.facts.matching += 1;
                } else {
                    self.facts.rejected += 1;
                    self.facts.rejected_from.insert(from);
                }
            }
        }
    }
}

/// Judges them.
pub fn judge(f: &ArrivalFacts) -> Option<Finding> {
    let (iface, seconds) = (&f.iface, f.seconds);
    let most = f.elsewhere.iter().max_by_key(|(_, n)| **n);
    if f.rejected > f.matching {
        let from: Vec<String> = f
            .rejected_from
            .iter()
            .take(NAMED)
            .map(ToString::to_string)
            .collect();
        return Some(Finding::new(
            "filter_rejects",
            format!(
                "the filter '{}' rejected {} that arrived on {iface} for other hosts' addresses, from {}, expected it to let responses pass",
                f.filter.as_deref().unwrap_or_default(),
                packets(f.rejected),
                from.join(", ")
            ),
            "correct -F, or leave it out so that it is learned from tcpcopy",
        ));
    }
    if let Some((other, n)) = most.filter(|(_, n)| **n > f.matching) {
        return Some(Finding::new(
            "other_interface",
            format!(
                "responses arrive on {other} ({}), expected them on {iface}",
                packets(*n)
            ),
            format!("take them with --iface {other}, or change the target's route"),
        ));
    }
    if let Some((by, n)) = f.forwarded.iter().max_by_key(|(_, n)| **n) {
        return Some(Finding::new(
            "responses_forwarded",
            format!(
                "{} of targets were forwarded to the real clients by {by}, expected intercept-user to take them",
                packets(*n)
            ),
            "start intercept-user before tcpcopy, and set net.ipv4.ip_forward to 0",
        ));
    }
    (f.matching == 0 && !f.running).then(|| {
        Finding::new(
            "no_responses",
            format!("no response arrived on {iface} in {seconds} s, nor on another interface"),
            "while tcpcopy runs: on the target, `ip route get CLIENT` must name this host, and `intercept-user doctor --at-target CLIENT` there says whether requests arrive",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_by_what_arrives() {
        let facts = |change: &dyn Fn(&mut ArrivalFacts)| {
            let mut facts = ArrivalFacts {
                iface: "eth0".to_owned(),
                filter: Some("src port 80".to_owned()),
                seconds: 5,
                ..ArrivalFacts::default()
            };
            change(&mut facts);
            facts
        };
        let eth1 = || BTreeMap::from([("eth1".to_owned(), 4)]);
        let cases = [
            (facts(&|f| f.matching = 3), None),
            (facts(&|f| f.running = true), None),
            (facts(&|_| ()), Some("no_responses")),
            (facts(&|f| f.rejected = 3), Some("filter_rejects")),
            (
                facts(&|f| (f.rejected, f.running) = (3, true)),
                Some("filter_rejects"),
            ),
            // Other forwarded traffic beside the responses is none of ours.
            (facts(&|f| (f.rejected, f.matching) = (3, 5)), None),
            (facts(&|f| f.elsewhere = eth1()), Some("other_interface")),
            (facts(&|f| (f.elsewhere, f.matching) = (eth1(), 9)), None),
            (
                facts(&|f| (f.forwarded, f.matching) = (eth1(), 4)),
                Some("responses_forwarded"),
            ),
        ];
        for (facts, cause) in cases {
            assert_eq!(judge(&facts).map(|f| f.cause), cause, "{facts:?}");
        }
    }
}
