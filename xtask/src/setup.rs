//! Installs Debian packages that a step needs.

/// Installs the packages that are missing (Debian/Ubuntu, root), or says the exact command.
pub fn install(packages: &[&str]) -> crate::Result<()> {
    Err(format!("setup: not there yet: {packages:?}").into())
}
