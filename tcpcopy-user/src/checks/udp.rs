//! What is refused of UDP transfers, alone and beside those of TCP.

use super::CheckError;
use super::targets::check_targets;
use crate::cli::Transfer;
use common::packet::Addr;

/// As with TCP, no target may be captured again or be production, whichever protocol makes it so.
pub fn check_udp_targets(
    tcp: &[Transfer],
    udp: &[Transfer],
    iface: &str,
    iface_addresses: &[Addr],
) -> Result<(), CheckError> {
    check_targets(udp, iface, iface_addresses)?;
    // A host that takes requests of one protocol is production for the other one as well.
    for (of, targets) in [(tcp, udp), (udp, tcp)] {
        for t in targets {
            let target = t.target;
            if let Some(of) = of.iter().find(|o| o.online.addr == target.addr) {
                return Err(CheckError::TargetOnline { target, of: *of });
            }
            let any = of.iter().any(|o| o.online.addr.is_any());
            if any && iface_addresses.contains(&target.addr) && !target.addr.to_ip().is_loopback() {
                return Err(CheckError::TargetIsHost {
                    target,
                    iface: iface.to_owned(),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::check_clients;
    use super::*;
    use crate::cli::parse_both;

    fn refused(list: &str) -> String {
        let own = [Addr::v4([10, 77, 0, 20])];
        let both = parse_both([list]).unwrap();
        check_udp_targets(&both.tcp, &both.udp, "eth0", &own)
            .map_or_else(|e| e.to_string(), |()| "accepted".to_owned())
    }

    #[test]
    fn loops_and_production_are_refused_across_protocols() {
        for (list, text) in [
            ("udp:53-10.77.0.30:5353", "accepted"),
            ("udp:53-10.77.0.30:53", "accepted"),
            ("80-10.77.0.30:80,udp:53-10.77.0.30:53", "accepted"),
            ("53-10.77.0.30:53,udp:53-10.77.0.31:53", "accepted"),
            ("udp:53-[2001:db8::2]:53", "accepted"),
            (
                "udp:53-10.77.0.30:54,udp:54-10.77.0.40:53",
                "target 10.77.0.30:54 would be captured again by the transfer 54-10.77.0.40:53",
            ),
            (
                "udp:10.77.0.20:53-10.77.0.20:54",
                "target 10.77.0.20:54 is on the online address",
            ),
            (
                "10.77.0.21:80-10.77.0.30:80,udp:53-10.77.0.21:53",
                "target 10.77.0.21:53 is on the online address of the transfer 10.77.0.21:80-",
            ),
            (
                "53-10.77.0.21:53,udp:10.77.0.21:53-10.77.0.30:53",
                "target 10.77.0.21:53 is on the online address of the transfer 10.77.0.21:53-",
            ),
            (
                "udp:53-10.77.0.20:54",
                "target 10.77.0.20:54 is an address of eth0",
            ),
            (
                "80-10.77.0.30:80,udp:10.77.0.21:53-10.77.0.20:53",
                "target 10.77.0.20:53 is an address of eth0",
            ),
        ] {
            let got = refused(list);
            assert!(got.starts_with(text), "{list}: {got}");
        }
    }

    #[test]
    fn pools_have_the_targets_family() {
        let check = |list: &str, pool: &str| {
            check_clients(&parse_both([list]).unwrap().udp, &pool.parse().unwrap())
        };
        assert_eq!(check("udp:53-10.77.1.30:53", "10.77.2.0/24"), Ok(()));
        assert_eq!(check("udp:53-[2001:db8::2]:53", "2001:db8:1::/120"), Ok(()));
        assert!(matches!(
            check("udp:53-10.77.1.30:53", "10.77.1.0/24"),
            Err(CheckError::ClientIsTarget { .. })
        ));
        let error = check("udp:53-[2001:db8::2]:53", "10.77.2.0/24").unwrap_err();
        assert_eq!(
            error.to_string(),
            "-c and the target [2001:db8::2]:53 are of different IP families; expected addresses of the target's family"
        );
    }
}
