//! Ports of the clients in later rounds.
//!
//! In the first round clients have the ports of the file. In each later one every client endpoint gets
//! another port of its address, from the top down, that neither the file nor an earlier round has used:
//! to the engine, to intercept and to the target it is another connection, whatever became of the one
//! before. When an address has no such port left, the ones used longest ago come again, and that is
//! counted.

use common::packet::{Addr, Endpoint};
use std::collections::{HashMap, HashSet};

/// Below are system services.
const FIRST_PORT: u16 = 1024;
const PORTS: usize = 65_536 - FIRST_PORT as usize;

#[derive(Clone, Copy, Debug)]
struct Cursor {
    /// The port given out last; 0: none yet.
    port: u16,
    /// All were given out once.
    around: bool,
}

/// Which port a client has in the current round.
#[derive(Debug, Default)]
pub(super) struct RoundPorts {
    /// Of the file: known when the first round is over.
    of_file: HashSet<Endpoint>,
    cursors: HashMap<Addr, Cursor>,
    /// Of this round.
    chosen: HashMap<Endpoint, u16>,
    used: HashSet<Endpoint>,
    reused: u64,
}

impl RoundPorts {
    /// Takes note of a client of the file. Rounds after the first must not use its port.
    pub(super) fn note(&mut self, client: Endpoint) {
        self.of_file.insert(client);
    }

    /// A round begins in which everyone gets another port.
    pub(super) fn begin_round(&mut self) {
        self.chosen.clear();
        self.used.clear();
    }

    /// Ports that an earlier round had as well.
    pub(super) const fn reused(&self) -> u64 {
        self.reused
    }

    /// The port of `client` in this round.
    pub(super) fn port(&mut self, client: Endpoint) -> u16 {
        if let Some(port) = self.chosen.get(&client) {
            return *port;
        }
        let port = self.next(client.addr).unwrap_or(client.port);
        self.chosen.insert(client, port);
        self.used.insert(Endpoint::new(client.addr, port));
        port
    }

    fn next(&mut self, addr: Addr) -> Option<u16> {
        let cursor = self.cursors.entry(addr).or_insert(Cursor {
            port: 0,
            around: false,
        });
        // Once around at most for what is left of the first time, and once for the second.
        for _ in 0..2 * PORTS {
            cursor.port = if cursor.port <= FIRST_PORT {
                cursor.around |= cursor.port == FIRST_PORT;
                u16::MAX
            } else {
                cursor.port - 1
            };
            let candidate = Endpoint::new(addr, cursor.port);
            let taken = self.used.contains(&candidate)
                || (!cursor.around && self.of_file.contains(&candidate));
            if !taken {
                self.reused += u64::from(cursor.around);
                return Some(cursor.port);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(host: u8, port: u16) -> Endpoint {
        Endpoint::new(Addr::v4([10, 0, 0, host]), port)
    }

    #[test]
    fn a_client_keeps_its_port_for_a_round() {
        let mut ports = RoundPorts::default();
        let (a, b) = (at(1, 40_000), at(1, 65_535));
        ports.note(a);
        ports.note(b);
        ports.begin_round();
        assert_eq!(
            (ports.port(a), ports.port(b), ports.port(a)),
            (65_534, 65_533, 65_534)
        );
        ports.begin_round();
        assert_eq!(ports.port(a), 65_532);
        assert_eq!(ports.port(at(2, 7)), 65_535, "each address has its own");
        assert_eq!(ports.reused(), 0);
    }

    #[test]
    fn when_all_are_used_the_oldest_come_again_but_none_twice_in_a_round() {
        let mut ports = RoundPorts::default();
        let clients: Vec<_> = (20_000..=60_000).map(|port| at(1, port)).collect();
        for client in &clients {
            ports.note(*client);
        }
        for round in 0..3 {
            ports.begin_round();
            let got: HashSet<_> = clients.iter().map(|c| ports.port(*c)).collect();
            assert_eq!(got.len(), clients.len(), "round {round}");
        }
        assert!(ports.reused() > 0);
    }

    proptest! {
        #[test]
        fn no_tuple_of_an_earlier_round_is_used(
            clients in prop::collection::hash_set((0u8..3, any::<u16>()), 1..200),
            rounds in 1..20usize,
        ) {
            let mut ports = RoundPorts::default();
            let clients: Vec<_> = clients.iter().map(|(h, p)| at(*h, *p)).collect();
            let mut seen: HashSet<Endpoint> = clients.iter().copied().collect();
            for client in &clients {
            ports.note(*client);
        }
            for _ in 0..rounds {
                ports.begin_round();
                for client in &clients {
                    let got = Endpoint::new(client.addr, ports.port(*client));
                    prop_assert!(seen.insert(got), "{got} again");
                    prop_assert!(got.port >= FIRST_PORT);
                }
            }
        }
    }
}
