//! What is particular to `--on-target`: this host is the server under test.

use crate::channel::{Announced, TargetSink};
use common::packet::Endpoint;
use dataplane::iface::Interface;

/// Entries of the kernel's map for `max_routes` routes, of which each of `workers` has a share: it makes room in its
/// table, then in the map, then inserts.
pub fn map_entries(max_routes: u32, workers: u32) -> u32 {
    max_routes.div_ceil(workers.max(1)) * workers.max(1)
}

/// Says so when a peer announces a target whose answers do not leave this host on `ifname`, or are not told from
/// others'.
pub fn check_targets(ifname: String) -> TargetSink {
    Box::new(move |announced| match announced {
        Announced::Tcp(target) => check_address(target, &ifname),
        // No session is announced, so that nothing tells a replayed client from a real one.
        Announced::Udp(target) => tracing::error!(
            %target,
            "answers to datagrams that are replayed to this target are not taken and go to real clients: with --on-target \
             nothing tells them from those to real clients; replay datagrams with an intercept on a host of its own"
        ),
    })
}

fn check_address(target: Endpoint, ifname: &str) {
    match Interface::local_addresses() {
        Ok(own) if !own.contains(&target.addr) => tracing::warn!(
            %target,
            "this target's address is none of this host's: its answers are taken only if they leave through {ifname}; \
             --on-target belongs on the target itself, and -s of tcpcopy names it there"
        ),
        Ok(_) => tracing::info!(%target, "taking responses of a new target"),
        Err(error) => {
            tracing::warn!(%target, %error, "cannot tell whether the target is this host");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_share_has_room_in_the_map() {
        assert_eq!(map_entries(1 << 20, 1), 1 << 20);
        assert_eq!(map_entries(10, 3), 12);
        assert_eq!(map_entries(1, 0), 1);
    }
}
