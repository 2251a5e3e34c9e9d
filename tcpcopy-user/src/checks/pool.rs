//! Whether a pool's addresses, or ports of this host, are free.

use crate::cli::Transfer;
use common::packet::{Addr, Endpoint, MacAddr};
use operator::sockets::{self, Entry};
use session::AddressPool;
use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::path::Path;

/// Of this network namespace.
const SETTINGS: &str = "/proc/sys/net/ipv4";

/// Why a pool is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// It contains an address of this host.
    #[error(
        "--pool contains {addr}, an address of this host, which would lose its traffic; expected addresses of no host, or self:61000-65535 for ports of this one"
    )]
    Host {
        /// The address.
        addr: Addr,
    },
    /// It contains a target.
    #[error(
        "--pool contains {addr}, the address of target {target}; expected addresses of no host"
    )]
    Target {
        /// The address.
        addr: Addr,
        /// The target.
        target: Endpoint,
    },
    /// It contains an online address.
    #[error(
        "--pool contains {addr}, the online address of the transfer {transfer}; expected addresses of no host"
    )]
    Online {
        /// The address.
        addr: Addr,
        /// The transfer.
        transfer: Transfer,
    },
    /// It is of another family than a target.
    #[error(
        "--pool and the target {target} are of different IP families; expected addresses of the target's family"
    )]
    Family {
        /// The target.
        target: Endpoint,
    },
    /// Somebody has an address of it.
    #[error(
        "--pool contains {addr}, which is in use: {mac} answered for it on {iface}; expected addresses of no host"
    )]
    InUse {
        /// The address.
        addr: Addr,
        /// Who answered.
        mac: MacAddr,
        /// Where.
        iface: String,
    },
    /// Another program of ours on this host serves an overlapping pool.
    #[error(
        "--pool overlaps that of {holder}, which takes {first} to {last}: one of both would get the other's responses; expected a pool for each"
    )]
    Shared {
        /// Name and number of the process.
        holder: String,
        /// Its first endpoint.
        first: Endpoint,
        /// Its last.
        last: Endpoint,
    },
    /// The target's answers come by no Ethernet interface.
    #[error(
        "target {target} is reached by {iface} without Ethernet frames (this host itself, or a tunnel), where no answers to a pool arrive; use intercept and -s"
    )]
    NotOnEthernet {
        /// The target.
        target: Addr,
        /// The interface.
        iface: String,
    },
    /// Where its answers come by is not known.
    #[error(
        "target {target} cannot be reached yet, so that it is not known on which interface its answers would arrive; with --pool all targets must be reachable at start"
    )]
    NoWay {
        /// The target.
        target: Addr,
    },
    /// `self` means two addresses.
    #[error(
        "--pool self: targets {a_target} and {b_target} are reached from different addresses of this host, {a} and {b}; expected targets with one, or run a tcpcopy-user for each"
    )]
    TwoAddresses {
        /// A target.
        a_target: Addr,
        /// Its address of this host.
        a: Addr,
        /// Another target.
        b_target: Addr,
        /// The other address.
        b: Addr,
    },
    /// The kernel gives the ports to connections.
    #[error(
        "--pool self: port {port} is one that the kernel gives to this host's own connections (net.ipv4.ip_local_port_range is {first}-{last}); expected ports outside, or reserve them: sysctl -w net.ipv4.ip_local_reserved_ports={}-{}",
        wanted.start(),
        wanted.end()
    )]
    Ephemeral {
        /// The first port of both.
        port: u16,
        /// The kernel's range.
        first: u16,
        /// Its end.
        last: u16,
        /// What was asked for.
        wanted: RangeInclusive<u16>,
    },
    /// A socket of this host has one of the ports.
    #[error(
        "--pool self: port {port} of this host is in use{holder}; expected ports that no program uses"
    )]
    PortInUse {
        /// The port.
        port: u16,
        /// " by NAME (pid N)" as far as it could be found out.
        holder: String,
    },
}

/// Checks addresses against what this host and the transfer lists know: its own, targets, production.
pub fn check_pool_addresses(
    transfers: &[&[Transfer]],
    pool: &AddressPool,
    own: &[Addr],
) -> Result<(), PoolError> {
    // Sorted, as the pool itself.
    let contains = |addr: &Addr| pool.addresses().binary_search(addr).is_ok();
    if let Some(addr) = own.iter().copied().find(contains) {
        return Err(PoolError::Host { addr });
    }
    for transfer in transfers.iter().copied().flatten() {
        let (target, online) = (transfer.target, transfer.online.addr);
        if pool.is_v4() != target.addr.is_v4() {
            return Err(PoolError::Family { target });
        }
        if contains(&target.addr) {
            let addr = target.addr;
            return Err(PoolError::Target { addr, target });
        }
        if contains(&online) {
            return Err(PoolError::Online {
                addr: online,
                transfer: *transfer,
            });
        }
    }
    Ok(())
}

/// Checks that no socket of this host has one of the ports, and that the kernel gives none of them to one.
pub fn check_own_ports(ports: &RangeInclusive<u16>) -> Result<(), PoolError> {
    let setting =
        |name| std::fs::read_to_string(Path::new(SETTINGS).join(name)).unwrap_or_default();
    check_ephemeral(
        ports,
        &setting("ip_local_port_range"),
        &setting("ip_local_reserved_ports"),
    )?;
    let entries = sockets::entries(&["tcp", "tcp6", "udp", "udp6"]);
    if let Some(entry) = in_use(&entries, ports) {
        return Err(PoolError::PortInUse {
            port: entry.port,
            holder: sockets::holder(&[entry.inode]).unwrap_or_default(),
        });
    }
    Ok(())
}

/// The settings as the kernel writes them: "32768\t60999" and "8080,61000-65535".
fn check_ephemeral(
    ports: &RangeInclusive<u16>,
    range: &str,
    reserved: &str,
) -> Result<(), PoolError> {
    let mut numbers = range.split_whitespace().filter_map(|n| n.parse().ok());
    let (Some(first), Some(last)) = (numbers.next(), numbers.next()) else {
        return Ok(());
    };
    let reserved: HashSet<u16> = reserved
        .trim()
        .split(',')
        .filter_map(|item| {
            let (from, to) = item.split_once('-').unwrap_or((item, item));
            Some(from.parse().ok()?..=to.parse().ok()?)
        })
        .flatten()
        .collect();
    let mut shared = ports.clone().filter(|port| (first..=last).contains(port));
    match shared.find(|port| !reserved.contains(port)) {
        Some(port) => Err(PoolError::Ephemeral {
            port,
            first,
            last,
            wanted: ports.clone(),
        }),
        None => Ok(()),
    }
}

/// A socket that has one of the ports, and will be used again.
fn in_use<'a>(entries: &'a [Entry], ports: &RangeInclusive<u16>) -> Option<&'a Entry> {
    entries
        .iter()
        .find(|e| ports.contains(&e.port) && e.state != sockets::TIME_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse_transfers;

    #[test]
    fn addresses_that_somebody_has_are_refused() {
        let transfers = parse_transfers(["10.0.0.20:80-10.0.0.30:8080"]).unwrap();
        let own = [Addr::v4([127, 0, 0, 1]), Addr::v4([10, 0, 0, 21])];
        for (list, text) in [
            ("10.0.0.128/25", "fine"),
            (
                "10.0.0.0/24",
                "--pool contains 10.0.0.21, an address of this host",
            ),
            (
                "10.0.0.24/29",
                "--pool contains 10.0.0.30, the address of target 10.0.0.30:8080",
            ),
            (
                "10.0.0.20",
                "--pool contains 10.0.0.20, the online address of the transfer 10.0.0.20:80-10.0.0.30:8080",
            ),
            (
                "2001:db8::/120",
                "--pool and the target 10.0.0.30:8080 are of different",
            ),
        ] {
            let pool = list.parse().unwrap();
            let got = check_pool_addresses(&[&transfers], &pool, &own)
                .map_or_else(|e| e.to_string(), |()| "fine".to_owned());
            assert!(got.starts_with(text), "{list}: {got}");
        }
    }

    #[test]
    fn ports_of_the_kernel_are_refused_unless_reserved() {
        let check = |ports, reserved| check_ephemeral(&ports, "32768\t60999\n", reserved);
        assert_eq!(check(61_000..=65_535, "\n"), Ok(()));
        assert_eq!(check(1024..=32_767, ""), Ok(()));
        let error = check(60_000..=65_535, "").unwrap_err().to_string();
        assert!(
            error.contains("port 60000")
                && error.contains("32768-60999")
                && error.contains("ip_local_reserved_ports=60000-65535"),
            "{error}"
        );
        assert_eq!(check(60_000..=65_535, "8080,60000-61000\n"), Ok(()));
        assert!(matches!(
            check(59_999..=65_535, "60000-61000"),
            Err(PoolError::Ephemeral { port: 59_999, .. })
        ));
        assert_eq!(check_ephemeral(&(1..=2), "", ""), Ok(()));
    }

    #[test]
    fn sockets_that_are_only_remembered_do_not_count() {
        let entry = |port, state| Entry {
            port,
            state,
            inode: 1,
        };
        let all = [
            entry(61_000, sockets::TIME_WAIT),
            entry(61_001, sockets::LISTEN),
        ];
        assert_eq!(in_use(&all, &(61_000..=61_000)), None);
        assert_eq!(in_use(&all, &(61_000..=61_001)), Some(&all[1]));
    }
}
