//! No loops, no production.

use super::CheckError;
use crate::cli::Transfer;
use common::packet::Addr;
use session::AddressPool;

/// Checks every target against the list and against the capture interface's own addresses.
///
/// The one overlap that is allowed is the commonest use of all, `80-10.0.0.30:80`: its own target on the
/// port that it captures on any address. Programs and workers skip what goes to a target before they
/// look at transfers. Two transfers that lead into each other are somebody's mistake all the same.
pub fn check_targets(
    transfers: &[Transfer],
    iface: &str,
    iface_addresses: &[Addr],
) -> Result<(), CheckError> {
    for t in transfers {
        let target = t.target;
        let is_target_of = |online| {
            let mut own = transfers.iter().filter(|o| o.target == target);
            own.any(|o| o.online == online)
        };
        let captures = |o: &&Transfer| {
            o.online == target
                || (o.online.addr.is_any()
                    && o.online.port == target.port
                    && !is_target_of(o.online))
        };
        if let Some(by) = transfers.iter().find(captures) {
            return Err(CheckError::TargetCaptured { target, by: *by });
        }
        if let Some(of) = transfers.iter().find(|o| o.online.addr == target.addr) {
            return Err(CheckError::TargetOnline { target, of: *of });
        }
        let any = transfers.iter().any(|o| o.online.addr.is_any());
        if any && iface_addresses.contains(&target.addr) && !target.addr.to_ip().is_loopback() {
            return Err(CheckError::TargetIsHost {
                target,
                iface: iface.to_owned(),
            });
        }
    }
    Ok(())
}

/// Checks the addresses that stand in for clients'.
pub fn check_clients(transfers: &[Transfer], pool: &AddressPool) -> Result<(), CheckError> {
    for t in transfers {
        let (addr, target) = (t.target.addr, t.target);
        if pool.addresses().contains(&addr) {
            return Err(CheckError::ClientIsTarget { addr, target });
        }
        if pool.is_v4() != addr.is_v4() {
            return Err(CheckError::ClientFamily { target });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse_transfers;

    fn refused(list: &str) -> String {
        let own = [Addr::v4([10, 77, 0, 20]), Addr::v4([127, 0, 0, 1])];
        check_targets(&parse_transfers([list]).unwrap(), "eth0", &own)
            .map_or_else(|e| e.to_string(), |()| "accepted".to_owned())
    }

    #[test]
    fn loops_and_production_are_refused() {
        for (list, text) in [
            ("80-10.77.0.30:8080", "accepted"),
            ("80-10.77.0.30:80", "accepted"),
            ("80-10.77.0.30:80,8080-10.77.0.30:8080", "accepted"),
            ("80-10.77.0.30:80,80-10.77.0.40:80", "accepted"),
            (
                "80-10.77.0.30:8080,80-10.77.0.40:81,81-10.77.0.30:80",
                "target 10.77.0.40:81 would be captured again by the transfer 81-10.77.0.30:80",
            ),
            (
                "80-10.77.0.30:8080,8080-10.77.0.40:9090",
                "target 10.77.0.30:8080 would be captured again by the transfer 8080-10.77.0.40:9090",
            ),
            ("80-127.0.0.1:8080", "accepted"),
            (
                "10.77.0.20:80-10.77.0.30:80,10.77.0.21:80-10.77.0.30:80",
                "accepted",
            ),
            (
                "10.77.0.30:80-10.77.0.30:80",
                "target 10.77.0.30:80 would be captured again",
            ),
            (
                "80-10.77.0.30:80,10.77.0.30:80-10.77.0.40:80",
                "target 10.77.0.30:80 would be captured again by the transfer 10.77.0.30:80-10.77.0.40:80",
            ),
            (
                "10.77.0.20:80-10.77.0.20:8080",
                "target 10.77.0.20:8080 is on the online address",
            ),
            (
                "80-10.77.0.20:8080",
                "target 10.77.0.20:8080 is an address of eth0",
            ),
        ] {
            let got = refused(list);
            assert!(got.starts_with(text), "{list}: {got}");
            assert!(!got.contains('\n'), "{got}");
        }
    }

    #[test]
    fn clients_must_be_no_host() {
        let transfers = parse_transfers(["80-10.77.1.30:8080"]).unwrap();
        let check = |list: &str| check_clients(&transfers, &list.parse().unwrap());
        assert_eq!(check("10.77.2.0/24"), Ok(()));
        assert!(matches!(
            check("10.77.1.0/24"),
            Err(CheckError::ClientIsTarget { .. })
        ));
        assert!(matches!(
            check("2001:db8::/120"),
            Err(CheckError::ClientFamily { .. })
        ));
    }
}
