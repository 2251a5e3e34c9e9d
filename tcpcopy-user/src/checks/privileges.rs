//! Capabilities of this process.

use super::CheckError;

/// Numbers of linux/capability.h, and what each is needed for.
const NEEDED: [(u32, &str, &str); 3] = [
    (12, "CAP_NET_ADMIN", "attach to the interface"),
    (13, "CAP_NET_RAW", "open packet sockets"),
    (39, "CAP_BPF", "load programs into the kernel"),
];
/// Includes what `CAP_BPF` allows (capabilities(7)).
const CAP_SYS_ADMIN: u32 = 21;

/// Fails with the first capability that is missing.
pub fn check_privileges() -> Result<(), CheckError> {
    match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => check(effective(&status)),
        // Without /proc nothing can be told beforehand; the kernel will say what it refuses.
        Err(_) => Ok(()),
    }
}

/// The effective set out of `/proc/self/status`; all of them if it is not there.
fn effective(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(u64::MAX)
}

fn check(effective: u64) -> Result<(), CheckError> {
    let has = |bit: u32| effective >> bit & 1 == 1;
    for (bit, missing, purpose) in NEEDED {
        let covered = missing == "CAP_BPF" && has(CAP_SYS_ADMIN);
        if !has(bit) && !covered {
            return Err(CheckError::MissingCapability { missing, purpose });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_capability_is_named() {
        let all = 1 << 12 | 1 << 13 | 1 << 39;
        assert_eq!(check(all), Ok(()));
        assert_eq!(check(1 << 12 | 1 << 13 | 1 << 21), Ok(()));
        for (bit, name, _) in NEEDED {
            let text = check(all & !(1 << bit)).unwrap_err().to_string();
            assert!(
                text.starts_with(&format!("missing {name}: needed to ")),
                "{text}"
            );
            assert!(!text.contains('\n'));
        }
    }

    #[test]
    fn the_set_is_read_from_the_status_file() {
        assert_eq!(
            effective("Name:\tx\nCapPrm:\tffff\nCapEff:\t0000000000003000\n"),
            0x3000
        );
        assert_eq!(effective("Name:\tx\n"), u64::MAX);
    }
}
