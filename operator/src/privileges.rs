//! Capabilities of this process.

use rustix::thread::CapabilitySet;

/// A capability that is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "missing {missing}, needed to {purpose}: run as root, or give the program \
     CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW and CAP_PERFMON"
)]
pub struct MissingCapability {
    missing: &'static str,
    purpose: &'static str,
}

/// Fails with the first capability that is missing. `CAP_SYS_ADMIN` includes `CAP_BPF` and
/// `CAP_PERFMON` (capabilities(7)).
pub fn check_privileges() -> Result<(), MissingCapability> {
    match rustix::thread::capabilities(None) {
        Ok(sets) => check(sets.effective),
        // Nothing can be told beforehand; the kernel will say what it refuses.
        Err(_) => Ok(()),
    }
}

/// The same for a program that only sends: it captures nothing and loads nothing.
pub fn check_transmit_privileges() -> Result<(), MissingToSend> {
    match rustix::thread::capabilities(None) {
        Ok(sets) => check_transmit(sets.effective),
        Err(_) => Ok(()),
    }
}

/// A capability that is not there, needed to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "missing CAP_NET_RAW, needed to send packets: run as root, or give the program CAP_NET_RAW"
)]
pub struct MissingToSend;

fn check_transmit(effective: CapabilitySet) -> Result<(), MissingToSend> {
    if effective.contains(CapabilitySet::NET_RAW) {
        Ok(())
    } else {
        Err(MissingToSend)
    }
}

fn check(effective: CapabilitySet) -> Result<(), MissingCapability> {
    let admin = effective.contains(CapabilitySet::SYS_ADMIN);
    for (set, missing, purpose, covered) in [
        (
            CapabilitySet::NET_ADMIN,
            "CAP_NET_ADMIN",
            "attach a program to the interface",
            false,
        ),
        (
            CapabilitySet::NET_RAW,
            "CAP_NET_RAW",
            "open AF_XDP sockets",
            false,
        ),
        (
            CapabilitySet::BPF,
            "CAP_BPF",
            "load programs into the kernel",
            admin,
        ),
        (
            CapabilitySet::PERFMON,
            "CAP_PERFMON",
            "read packet bytes in the program",
            admin,
        ),
    ] {
        if !effective.contains(set) && !covered {
            return Err(MissingCapability { missing, purpose });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sending_needs_one() {
        assert_eq!(check_transmit(CapabilitySet::NET_RAW), Ok(()));
        let text = check_transmit(CapabilitySet::BPF)
            .expect_err("no")
            .to_string();
        assert!(text.starts_with("missing CAP_NET_RAW"), "{text}");
    }

    #[test]
    fn each_missing_capability_is_named() {
        let all = CapabilitySet::NET_ADMIN
            | CapabilitySet::NET_RAW
            | CapabilitySet::BPF
            | CapabilitySet::PERFMON;
        assert_eq!(check(all), Ok(()));
        let old = CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW | CapabilitySet::SYS_ADMIN;
        assert_eq!(check(old), Ok(()));
        for (set, name) in [
            (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
            (CapabilitySet::NET_RAW, "CAP_NET_RAW"),
            (CapabilitySet::BPF, "CAP_BPF"),
            (CapabilitySet::PERFMON, "CAP_PERFMON"),
        ] {
            let text = check(all - set).expect_err(name).to_string();
            assert!(
                text.starts_with(&format!("missing {name}, needed to ")),
                "{text}"
            );
        }
    }
}
