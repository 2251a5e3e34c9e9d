//! Run on the target: do clients' requests arrive, are they answered, and which way do the answers go.

use common::flow::Block;
use common::packet::{Addr, TcpFlags, decode_frame};
use dataplane::watch::{Seen, Way};
use doctor::Finding;
use doctor::look::{Names, packets};
use std::collections::BTreeMap;
use std::path::Path;

/// What was seen in a look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetFacts {
    /// As they were given.
    pub clients: String,
    /// A client whose packets came, or the first of those given.
    pub client: Option<Addr>,
    /// SYNs of clients, by interface.
    pub requests: BTreeMap<String, u64>,
    /// SYN-ACKs to them, by interface.
    pub answers: BTreeMap<String, u64>,
    /// Resets to them.
    pub refused: u64,
    /// Resets of clients that were answered.
    pub client_resets: u64,
    /// Interface and neighbour of the way to the client, or why there is none.
    pub way: Option<Result<(String, String), String>>,
    /// `rp_filter` of the interface by which requests come: the larger of its own and that of all.
    pub rp_filter: u8,
    /// How long was looked, in seconds.
    pub seconds: u64,
}

/// Collects [`TargetFacts`].
pub struct Collector {
    /// So far.
    pub facts: TargetFacts,
    clients: Vec<Block>,
    names: Names,
}

impl Collector {
    /// Nothing seen.
    pub fn new(clients: &Clients) -> Self {
        Self {
            facts: TargetFacts {
                clients: clients.text.clone(),
                client: clients.blocks.first().map(|block| block.addr()),
                ..TargetFacts::default()
            },
            clients: clients.blocks.clone(),
            names: Names::now(),
        }
    }

    /// A packet that passed.
    pub fn see(&mut self, seen: &Seen<'_>) {
        let Ok(p) = decode_frame(seen.frame) else {
            return;
        };
        let is_client = |addr: &Addr| self.clients.iter().any(|block| block.contains(*addr));
        let flags = p.tcp.flags;
        let f = &mut self.facts;
        if seen.way == Way::In && is_client(&p.ip.src) {
            if flags.has(TcpFlags::SYN) && !flags.has(TcpFlags::ACK) {
                f.client = Some(p.ip.src);
                *f.requests.entry(self.names.of(seen.ifindex)).or_default() += 1;
            } else if flags.has(TcpFlags::RST) {
                f.client_resets += 1;
            }
        } else if seen.way == Way::Out && is_client(&p.ip.dst) {
            if flags.has(TcpFlags::SYN) {
                *f.answers.entry(self.names.of(seen.ifindex)).or_default() += 1;
            } else if flags.has(TcpFlags::RST) {
                f.refused += 1;
            }
        }
    }

    /// Looks the way to the client up, and the setting that may refuse it.
    pub fn finish(&mut self, proc: &Path) {
        let f = &mut self.facts;
        f.way = f.client.map(|client| {
            let way = dataplane::hops::way_to(client);
            way.map(|(name, via)| (name, via.to_string()))
                .map_err(|e| e.to_string())
        });
        let arrives = f.requests.keys().next();
        let of = |name: &str| {
            let path = proc.join(format!("sys/net/ipv4/conf/{name}/rp_filter"));
            let text = std::fs::read_to_string(path).ok();
            text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
        };
        // ip-sysctl: the maximum of both is used.
        f.rp_filter = arrives.map_or(0, |name| of(name).max(of("all")));
    }
}

/// Judges them.
pub fn judge(f: &TargetFacts) -> Option<Finding> {
    let clients = &f.clients;
    let asked: u64 = f.requests.values().sum();
    let Some((arrives, _)) = f.requests.iter().max_by_key(|(_, n)| **n) else {
        return Some(Finding::new(
            "requests_lost",
            format!(
                "no connection was opened from {clients} in {} s, expected the replay's SYNs to arrive here",
                f.seconds
            ),
            "look whether tcpcopy runs and sends, and for what drops foreign sources between: anti-spoofing of clouds and switches, firewalls",
        ));
    };
    if !f.answers.is_empty() {
        return (f.client_resets > 0).then(|| {
            Finding::new(
                "client_resets",
                format!("clients {clients} reset connections that this host had answered ({} resets): the real clients get the answers", f.client_resets),
                "route them to intercept's host, more specifically than any other route to them",
            )
        });
    }
    if f.refused > 0 {
        return Some(Finding::new(
            "port_closed",
            format!(
                "this host refused {} of {clients} with a reset: nothing listens on that port",
                packets(asked)
            ),
            "start the server, or correct -x of tcpcopy",
        ));
    }
    match &f.way {
        Some(Err(why)) => Some(Finding::new(
            "no_route_to_clients",
            format!(
                "{} of {clients} arrived and none was answered: {why}",
                packets(asked)
            ),
            "`ip route add CLIENTS via ADDRESS-OF-INTERCEPT` on this host",
        )),
        Some(Ok((leaves, _))) if f.rp_filter == 1 && leaves != arrives => Some(Finding::new(
            "rp_filter",
            format!(
                "{} of {clients} arrived on {arrives} and none was answered: the route to them goes by {leaves}, and rp_filter 1 refuses that",
                packets(asked)
            ),
            format!(
                "`sysctl -w net.ipv4.conf.{arrives}.rp_filter=2`, or let the route go by {arrives}"
            ),
        )),
        _ => Some(Finding::new(
            "target_drops",
            format!(
                "{} of {clients} arrived on {arrives} and none was answered, though there is a route to them",
                packets(asked)
            ),
            "look at this host's firewall (`nft list ruleset`), and at the server's backlog (`ss -lnt`)",
        )),
    }
}

/// Clients that are followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clients {
    text: String,
    blocks: Vec<Block>,
}

impl std::str::FromStr for Clients {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let items = text.split(',').map(str::trim);
        let blocks = items
            .map(|item| {
                item.parse::<Block>().map_err(|_| {
                    format!("'{item}' is no address or block, expected the addresses of -c of tcpcopy such as 10.1.0.0/24")
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            text: text.to_owned(),
            blocks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(name: &str) -> BTreeMap<String, u64> {
        BTreeMap::from([(name.to_owned(), 3)])
    }

    /// SYNs came by eth0, and the route leads back there.
    fn facts(change: impl FnOnce(&mut TargetFacts)) -> TargetFacts {
        let mut facts = TargetFacts {
            clients: "10.1.0.0/24".to_owned(),
            requests: on("eth0"),
            way: Some(Ok(("eth0".to_owned(), "10.0.0.40".to_owned()))),
            rp_filter: 1,
            seconds: 5,
            ..TargetFacts::default()
        };
        change(&mut facts);
        facts
    }

    #[test]
    fn causes_by_what_happens_here() {
        let other = || Some(Ok(("eth1".to_owned(), "10.0.1.1".to_owned())));
        let cases = [
            (facts(|f| f.answers = on("eth0")), None),
            (
                facts(|f| (f.answers, f.client_resets) = (on("eth0"), 1)),
                Some("client_resets"),
            ),
            (facts(|f| f.requests.clear()), Some("requests_lost")),
            (facts(|f| f.refused = 2), Some("port_closed")),
            (
                facts(|f| f.way = Some(Err("none".into()))),
                Some("no_route_to_clients"),
            ),
            (facts(|f| f.way = other()), Some("rp_filter")),
            (
                facts(|f| (f.way, f.rp_filter) = (other(), 2)),
                Some("target_drops"),
            ),
            (facts(|_| ()), Some("target_drops")),
        ];
        for (facts, cause) in cases {
            assert_eq!(judge(&facts).map(|f| f.cause), cause, "{facts:?}");
        }
    }

    #[test]
    fn clients_are_addresses_and_blocks() {
        assert!("10.1.0.0/24, 2001:db8::1".parse::<Clients>().is_ok());
        for bad in ["", "x", "10.1.0.0/33", "10.1.0.0/x"] {
            let error = bad.parse::<Clients>().expect_err(bad);
            assert!(error.contains(&format!("'{bad}'")), "{error}");
        }
    }
}
