//! Progress lines on standard error: standard output belongs to results.

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use crate::{Result, paths};

/// Numbered by the time since the start, so that a reader sees what takes long.
pub struct Progress(Instant);

impl Progress {
    /// Starts the clock.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// One line.
    pub fn say(&self, text: &str) {
        eprintln!("[{:>4} s] {text}", self.0.elapsed().as_secs());
    }
}

/// A cargo command in the workspace, with the cargo that runs us. Its standard output goes to our standard error.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(arguments)
        .current_dir(paths::workspace())
        .stdin(Stdio::null())
        .stdout(std::io::stderr());
    // Cargo sets these for us, about this package; they would mislead build scripts that look at them.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs it to a successful end.
pub fn succeed(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .map_err(|error| format!("cannot start {}: {error}", command.get_program().display()))?;
    if status.success() {
        return Ok(());
    }
    let words: Vec<_> = command
        .get_args()
        .map(|word| word.to_string_lossy())
        .collect();
    Err(format!(
        "{} {}: {status}",
        command.get_program().display(),
        words.join(" ")
    )
    .into())
}
