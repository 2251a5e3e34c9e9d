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
