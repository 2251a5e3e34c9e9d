//! A run from start to report.
//!
//! ```text
//!  checks ─▶ channels ─▶ next hops ─▶ pool checked ─▶ capture, pool attached ─▶ egress ports ─▶ workers ─▶ "ready"
//!                                                                            │
//!      signal, --duration ─▶ stop: packets captured from now on do not count │
//!                            rings drained, tap detached, sessions go on     │ --drain at most
//!                            the rest is cut off, sockets closed, detached ◀─┘
//!                            report
//! ```
//! With `--read` the end of the files is the end of the capture; sessions go on as long as something moves.
//! This thread supervises: it waits for signals, writes the statistics line and notices dead workers.

mod assemble;
mod capture;
mod ending;
mod memory;
mod pool;
mod supervise;

pub use capture::Attached;

use crate::channel::ChannelError;
use crate::checks::CheckError;
use crate::cli::{Config, Deny};
use crate::report::Report;
use dataplane::bpf::BpfError;
use dataplane::cores::CoreError;
use dataplane::egress::EgressError;
use dataplane::hops::HopError;
use dataplane::iface::IfaceError;
use operator::signals::{Hangup, Signals};

/// Why a run did not start, or ended early. One line each.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Refused.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// The interface.
    #[error(transparent)]
    Interface(#[from] IfaceError),
    /// `--cores`.
    #[error("--cores: {0}")]
    Cores(#[from] CoreError),
    /// `--read`.
    #[error(transparent)]
    File(#[from] crate::offline::FileError),
    /// `--write`.
    #[error(transparent)]
    Record(#[from] crate::record::RecordError),
    /// `-m`.
    #[error(transparent)]
    Memory(#[from] memory::TooSmall),
    /// An intercept.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The way to a target.
    #[error(transparent)]
    Hops(#[from] HopError),
    /// Transmit ports.
    #[error(transparent)]
    Egress(#[from] EgressError),
    /// The kernel programs.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// A file or a resource of the system.
    #[error("cannot {what}: {source}")]
    System {
        /// What failed.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// A worker ended by itself.
    #[error("worker {worker} ended by itself: a bug, please report it with the log")]
    WorkerDied {
        /// Its number.
        worker: usize,
    },
}

impl RunError {
    fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}

/// Runs until a signal or the end of `--duration`. `object` is the BPF object.
pub fn run(config: &Config, object: &[u8]) -> Result<Report, RunError> {
    // Handlers first: a Ctrl-C during start-up ends the run after it, in order.
    let denied = config.deny.as_ref().is_some_and(Deny::reloads);
    let hangup = if denied || config.filter_file.is_some() {
        Hangup::Reloads
    } else {
        Hangup::Ends
    };
    let signals = Signals::install(hangup).map_err(RunError::system("install signal handlers"))?;
    let assembled = assemble::assemble(config, object)?;
    supervise::supervise(config, assembled, signals)
}
