//! A whole replay: programs, load, comparison, report.
//!
//! ```text
//!  client ── load ──▶ production ◀── tap: tcpcopy-user here
//!                         ┊ mirror: tcpcopy-user on capture, mir0
//!                         ▼
//!                      target ── answers ──▶ assistant: intercept-user, or tcpcopy-user itself (a pool)
//!
//!  load report ─┐
//!  two access logs ─┼──▶ RunResult ──▶ JSON, table, faults
//!  exit report ─┘
//! ```

mod exit_report;
mod programs;
mod result;
mod run;
mod stage;

pub use exit_report::ExitReport;
pub use programs::{Capture, Copy, Intercept, Programs, stop};
pub use result::RunResult;
pub use run::{RunOptions, run, run_prepared};
pub use stage::{Played, Stage, StageOptions};

/// Port of production's server.
pub const PRODUCTION_PORT: u16 = 80;
/// Port of the target's server.
pub const TARGET_PORT: u16 = 8080;
