//! Debian packages that a step needs: what is missing is installed as root, else the exact command is
//! the error.
//!
//! Only the package manager's own state is asked (`dpkg-query`), so a step whose packages are there
//! costs one process and needs neither root nor network.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Installs those of `packages` that are missing (Debian and Ubuntu, root). Without root, or on
/// another distribution, the error says what to do by hand.
pub fn install(packages: &[&str]) -> crate::Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !is_root()? {
        return Err(format!(
            "packages missing: {list}; got no root to install them, run: \
             sudo apt-get update && sudo apt-get install -y --no-install-recommends {list}"
        )
        .into());
    }
    eprintln!("setup: installing {list}");
    // An image's package lists may be old or empty: try what is known, else fetch the lists once.
    if apt_get_install(&missing)? {
        return Ok(());
    }
    eprintln!("setup: updating the package lists");
    if !apt_get(&["update"])? || !apt_get_install(&missing)? {
        return Err(format!(
            "apt-get could not install: {list}; its messages are above, this step needs them all"
        )
        .into());
    }
    Ok(())
}

/// Those of `packages` that are not installed.
fn missing<'a>(packages: &[&'a str]) -> crate::Result<Vec<&'a str>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${db:Status-Status} ${Package}\n"])
        .args(packages)
        .stderr(Stdio::null())
        .output()
        .map_err(|e| {
            format!(
                "cannot run dpkg-query ({e}): not Debian or Ubuntu? install what these packages \
                 contain by hand: {}",
                packages.join(" ")
            )
        })?;
    let listing = String::from_utf8_lossy(&output.stdout);
    let there: Vec<&str> = listing
        .lines()
        .filter_map(|line| line.strip_prefix("installed "))
        .collect();
    Ok(packages
        .iter()
        .copied()
        .filter(|p| !there.contains(p))
        .collect())
}

fn apt_get_install(packages: &[&str]) -> crate::Result<bool> {
    let _no_services = NoServices::start()?;
    let mut args = vec!["install", "--yes", "--no-install-recommends"];
    args.extend(packages);
    apt_get(&args)
}

/// Keeps packages from starting their services (nginx would listen on the machine's port 80): Debian's
/// policy-rc.d interface (invoke-rc.d(8)), 101 means "not allowed". A policy that is there already stays.
struct NoServices {
    ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn start() -> crate::Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        fs::write(POLICY, "#!/bin/sh\nexit 101\n")
            .and_then(|()| fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755)))
            .map_err(|e| format!("cannot write {POLICY}: {e}"))?;
        Ok(Self { ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}

/// Its output goes to stderr: stdout belongs to the step's result.
fn apt_get(args: &[&str]) -> crate::Result<bool> {
    let output = Command::new("apt-get")
        .args(["-q", "-o", "Dpkg::Use-Pty=0"])
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("cannot run apt-get: {e}"))?;
    if !output.status.success() {
        eprint!("{}", String::from_utf8_lossy(&output.stdout));
    }
    Ok(output.status.success())
}

/// By the effective user id, from the kernel: xtask has no unsafe and no libc.
fn is_root() -> crate::Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|e| format!("cannot read /proc/self/status: {e}"))?;
    let ids = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .unwrap_or_default();
    Ok(ids.split_whitespace().nth(1) == Some("0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_not_missing() {
        // Every Debian has dpkg itself; nobody has the other.
        assert_eq!(
            missing(&["dpkg", "no-such-package-xyz"]).unwrap(),
            ["no-such-package-xyz"]
        );
    }
}
