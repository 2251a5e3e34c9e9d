//! What can go wrong in the lab.

use std::{io, path::PathBuf, time::Duration};

/// An error of the lab, in words that a user of `cargo xtask` can act on.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A child process could not be started.
    #[error("cannot start {program}: {source}; is it installed, and is this root?")]
    Spawn {
        /// The program as it was called.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A command ended with a failure.
    #[error("`{command}` failed ({status}): {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// Exit status or signal.
        status: String,
        /// What it said, its last lines.
        stderr: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {} s; {detail}", .after.as_secs_f32())]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        after: Duration,
        /// What the process said last.
        detail: String,
    },
    /// A process ended while something was waited for.
    #[error("{name} ended early ({status}): {detail}")]
    EndedEarly {
        /// The process.
        name: String,
        /// Exit status or signal.
        status: String,
        /// What it said last.
        detail: String,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not have the form that was expected.
    #[error("{}: got {got}, expected {expected}", .path.display())]
    Form {
        /// Which.
        path: PathBuf,
        /// What was found.
        got: String,
        /// What should be there.
        expected: String,
    },
    /// A socket or namespace call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Hosts of a lab received packets with wrong checksums, one sentence each.
    #[error("wrong checksums arrived, expected none: {}", .0.join(", "))]
    Checksums(Vec<String>),
    /// An argument of a lab tool.
    #[error("lab-tool: {0}")]
    Argument(String),
    /// The lab needs root.
    #[error("the lab needs root for network namespaces: run it as root")]
    NotRoot,
}

impl LabError {
    /// For `map_err` on file operations.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }

    /// For `map_err` on system calls.
    pub fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}
