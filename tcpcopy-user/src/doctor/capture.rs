//! The hop from clients to here: is anything captured, and if not, where does it pass.
//!
//! ```text
//!  counters of the capture program ─┐
//!  packets on any interface ── of a transfer? which way? ─┴─▶ CaptureFacts ─▶ judge
//! ```

use crate::cli::Config;
use crate::transfers::{Lookup, TransferTable};
use common::packet::{Addr, Endpoint, TcpFlags, decode_frame, decode_udp_frame};
use dataplane::bpf::Direction;
use dataplane::watch::{Seen, Way};
use doctor::Finding;
use doctor::look::{Names, packets};
use std::collections::BTreeMap;

/// What was seen in a look of some seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptureFacts {
    /// Interface that is captured on.
    pub iface: String,
    /// Captured there from what arrives; from what leaves.
    pub captures: Captures,
    /// Which packets are wanted, as in `-x`.
    pub wanted: String,
    /// By the program's counters.
    pub captured: u64,
    /// Rejected by `-F`.
    pub filtered: u64,
    /// SYNs of sessions that were left out, by the option that does so.
    pub left_out: BTreeMap<&'static str, u64>,
    /// Packets of a transfer, by interface, and whether they left by it.
    pub passing: BTreeMap<(String, bool), u64>,
    /// Any packets that arrived on the interface.
    pub arrived: u64,
    /// Ports to which connections were opened on the interface, with how many.
    pub ports: BTreeMap<u16, u64>,
    /// How long was looked, in seconds.
    pub seconds: u64,
}

/// Ways that are captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Captures {
    /// What arrives.
    pub arriving: bool,
    /// What leaves.
    pub leaving: bool,
}

impl From<Direction> for Captures {
    fn from(direction: Direction) -> Self {
        Self {
            arriving: direction != Direction::Out,
            leaving: direction != Direction::In,
        }
    }
}

/// Collects [`CaptureFacts`] from what passes.
pub struct Collector {
    /// So far.
    pub facts: CaptureFacts,
    /// The last client of whom a packet passed.
    pub client: Option<Addr>,
    tcp: TransferTable,
    udp: TransferTable,
    names: Names,
    iface: u32,
}

impl Collector {
    /// Nothing seen. `iface` is the index of the interface that is captured on.
    pub fn new(config: &Config, iface: u32) -> Self {
        let all = config.transfers.iter().map(ToString::to_string);
        let udp = config.udp_transfers.iter().map(|t| format!("udp:{t}"));
        Self {
            facts: CaptureFacts {
                iface: config.iface.clone(),
                captures: config.direction.into(),
                wanted: all.chain(udp).collect::<Vec<_>>().join(","),
                ..CaptureFacts::default()
            },
            client: None,
            tcp: TransferTable::new(&config.transfers),
            udp: TransferTable::new(&config.udp_transfers),
            names: Names::now(),
            iface,
        }
    }

    /// A packet that passed.
    pub fn see(&mut self, seen: &Seen<'_>) {
        let here = seen.ifindex == self.iface;
        let leaves = seen.way == Way::Out;
        if here && !leaves {
            self.facts.arrived += 1;
        }
        let (client, wanted) = match decode_frame(seen.frame) {
            Ok(p) => {
                let opens = p.tcp.flags.has(TcpFlags::SYN) && !p.tcp.flags.has(TcpFlags::ACK);
                if here && opens && seen.way == Way::In {
                    *self.facts.ports.entry(p.tcp.dport).or_default() += 1;
                }
                let to = Endpoint::new(p.ip.dst, p.tcp.dport);
                (p.ip.src, self.tcp.lookup(to))
            }
            Err(_) => match decode_udp_frame(seen.frame) {
                Ok(p) => {
                    let to = Endpoint::new(p.ip.dst, p.udp.dport);
                    (p.ip.src, self.udp.lookup(to))
                }
                Err(_) => return,
            },
        };
        if matches!(wanted, Lookup::Targets(_)) {
            self.client = Some(client);
            let place = (self.names.of(seen.ifindex), leaves);
            *self.facts.passing.entry(place).or_default() += 1;
        }
    }

    /// What the program counted during the look.
    pub fn count(&mut self, name: &str, value: u64) {
        let option = match name {
            "captured" => {
                self.facts.captured = value;
                return;
            }
            "filtered" => {
                self.facts.filtered = value;
                return;
            }
            "denied" => "--deny",
            "other_shard" => "--shard",
            "not_sampled" => "-r",
            _ => return,
        };
        if value > 0 {
            self.facts.left_out.insert(option, value);
        }
    }
}

/// Judges them.
pub fn judge(f: &CaptureFacts) -> Option<Finding> {
    if f.captured > 0 {
        return None;
    }
    let (iface, wanted, seconds) = (&f.iface, &f.wanted, f.seconds);
    if f.filtered > 0 {
        return Some(Finding::new(
            "filter_rejects",
            format!(
                "the filter rejected all {} of -x {wanted} on {iface} in {seconds} s, expected some to pass",
                packets(f.filtered)
            ),
            "correct -F, for example by trying it with `tcpdump -i`",
        ));
    }
    if let Some((option, n)) = f.left_out.iter().max_by_key(|(_, n)| **n) {
        return Some(Finding::new(
            "sessions_left_out",
            format!(
                "{option} left out all {n} sessions of -x {wanted} that began on {iface} in {seconds} s"
            ),
            format!("correct {option}"),
        ));
    }
    let here = |leaves: bool| {
        let at = f.passing.get(&(iface.clone(), leaves));
        at.copied().unwrap_or(0)
    };
    for (leaves, captured, does, option) in [
        (true, f.captures.leaving, "leave by", "out"),
        (false, f.captures.arriving, "arrive on", "in"),
    ] {
        let n = here(leaves);
        if n > 0 && !captured {
            return Some(Finding::new(
                "wrong_direction",
                format!(
                    "{} of -x {wanted} {does} {iface}, which --direction leaves out",
                    packets(n)
                ),
                format!("capture with --direction {option}"),
            ));
        }
        if n > 0 {
            return Some(Finding::new(
                "capture_sees_nothing",
                format!(
                    "{} of -x {wanted} {does} {iface}, and the capture program took none of them",
                    packets(n)
                ),
                "look at the counters of the group kernel in the report for why, and for another program in front of it (`bpftool net`)",
            ));
        }
    }
    let elsewhere = f.passing.iter().max_by_key(|(_, n)| **n);
    if let Some(((other, leaves), n)) = elsewhere {
        let (does, more) = if *leaves {
            ("leave by", " --direction out")
        } else {
            ("arrive on", "")
        };
        return Some(Finding::new(
            "other_interface",
            format!(
                "no packet of -x {wanted} came by {iface} in {seconds} s, but {} {does} {other}",
                packets(*n)
            ),
            format!("capture with --iface {other}{more}"),
        ));
    }
    let others: Vec<String> = f.ports.iter().take(5).map(|(p, _)| p.to_string()).collect();
    if !others.is_empty() {
        return Some(Finding::new(
            "other_port",
            format!(
                "no packet of -x {wanted} came by {iface} in {seconds} s; connections were opened there to port {}",
                others.join(", ")
            ),
            "correct the port in -x, or wait for clients",
        ));
    }
    if f.arrived == 0 {
        return Some(Finding::new(
            "nothing_arrives",
            format!("no packet at all arrived on {iface} in {seconds} s"),
            "look at its cable, at the mirror's port, and whether --iface is the right one",
        ));
    }
    Some(Finding::new(
        "no_requests",
        format!(
            "{} arrived on {iface} in {seconds} s, none of -x {wanted}, and none passed another interface",
            packets(f.arrived)
        ),
        "let clients send requests, or correct -x",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(change: impl FnOnce(&mut CaptureFacts)) -> CaptureFacts {
        let mut facts = CaptureFacts {
            iface: "eth0".to_owned(),
            captures: Direction::In.into(),
            wanted: "80-10.0.0.30:8080".to_owned(),
            arrived: 7,
            seconds: 5,
            ..CaptureFacts::default()
        };
        change(&mut facts);
        facts
    }

    fn pass(name: &str, leaves: bool) -> impl FnOnce(&mut CaptureFacts) {
        let place = (name.to_owned(), leaves);
        move |f| {
            f.passing.insert(place, 3);
        }
    }

    #[test]
    fn causes_by_what_was_seen() {
        let cases = [
            (facts(|f| f.captured = 1), None),
            (facts(|f| f.filtered = 1), Some("filter_rejects")),
            (
                facts(|f| {
                    f.left_out.insert("--deny", 2);
                }),
                Some("sessions_left_out"),
            ),
            (facts(pass("eth0", true)), Some("wrong_direction")),
            (facts(pass("eth0", false)), Some("capture_sees_nothing")),
            (facts(pass("lo", false)), Some("other_interface")),
            (
                facts(|f| {
                    f.ports.insert(81, 1);
                }),
                Some("other_port"),
            ),
            (facts(|f| f.arrived = 0), Some("nothing_arrives")),
            (facts(|_| ()), Some("no_requests")),
        ];
        for (facts, cause) in cases {
            assert_eq!(judge(&facts).map(|f| f.cause), cause, "{facts:?}");
        }
        let out = facts(|f| {
            f.captures = Direction::Out.into();
            f.passing.insert(("eth0".to_owned(), false), 3);
        });
        let found = judge(&out).expect("found");
        assert!(found.fix.contains("--direction in"), "{found}");
    }
}
