//! The hop from here to the target's link: route, interface, neighbour.

use crate::cli::Config;
use common::packet::{Addr, MacAddr};
use dataplane::hops::{HopError, HopOptions, Hops, NextHop};
use doctor::Finding;

/// The way to one target's address.
#[derive(Debug)]
pub struct Way {
    /// The target.
    pub target: Addr,
    /// As a run would go, a MAC address given by hand included.
    pub hop: Result<NextHop, HopError>,
    /// The MAC address that the network says, if one was given by hand: `None` if it says nothing.
    pub asked: Option<MacAddr>,
}

/// Finds the ways to all targets.
pub fn find(config: &Config) -> Vec<Way> {
    let mut addresses: Vec<Addr> = config.all_targets().iter().map(|t| t.addr).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
        .into_iter()
        .map(|target| {
            let by_hand = config.target_macs.iter().any(|(addr, _)| *addr == target);
            Way {
                target,
                hop: one(target, &config.target_macs),
                asked: by_hand
                    .then(|| one(target, &[]).ok())
                    .flatten()
                    .map(|hop| hop.macs.dst),
            }
        })
        .collect()
}

fn one(target: Addr, macs: &[(Addr, MacAddr)]) -> Result<NextHop, HopError> {
    let hops = Hops::start_with(HopOptions {
        targets: vec![target],
        macs: macs.to_vec(),
        patient: false,
    })?;
    let table = hops.load();
    let hop = table.get(target).cloned();
    hop.ok_or_else(|| HopError::Unreachable {
        target,
        reason: "it went away while it was looked at".to_owned(),
    })
}

/// Judges one.
pub fn judge(error: &HopError) -> Finding {
    let (cause, fix) = match error {
        HopError::Unreachable { target, .. } => (
            "no_route_to_target",
            format!("add a route to {target}, or correct -x"),
        ),
        HopError::Down { ifname, .. } => ("way_down", format!("`ip link set {ifname} up`")),
        HopError::Unresolved { via, .. } => (
            "no_neighbour",
            format!("if {via} answers no ARP on purpose, give its address with --target-mac"),
        ),
        HopError::Netlink(_) => ("no_route_to_target", "look at `ip route`".to_owned()),
    };
    Finding::new(cause, error.to_string(), fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_cause() {
        let target = Addr::v4([192, 0, 2, 1]);
        let ifname = || "eth0".to_owned();
        let cases = [
            (
                HopError::Unreachable {
                    target,
                    reason: "none".into(),
                },
                "no_route_to_target",
            ),
            (
                HopError::Down {
                    target,
                    ifname: ifname(),
                },
                "way_down",
            ),
            (
                HopError::Unresolved {
                    target,
                    via: target,
                    ifname: ifname(),
                    protocol: "ARP",
                    waited_s: 3,
                },
                "no_neighbour",
            ),
        ];
        for (error, cause) in cases {
            let found = judge(&error);
            assert_eq!(found.cause, cause);
            assert!(found.what.contains("192.0.2.1"), "{found}");
        }
    }
}
