//! `cargo xtask bench`: speed of what can be measured alone.
//!
//! ```text
//!   engine    the session engine: instructions, judged against a baseline, and time
//!   capture   capture and transmit, beside what they could be replaced by
//!   intercept the way of a response through intercept to tcpcopy's end of the channel
//! ```

mod capture;
mod engine;
mod figures;
mod intercept;
mod requirements;

use std::path::PathBuf;
use std::process::Stdio;

use clap::Subcommand;
use serde_json::Value;

use crate::{Result, progress::cargo};

pub use engine::Engine;

/// What to measure.
#[derive(Subcommand)]
pub enum Bench {
    /// The session engine alone: prepared packets in, frames out into memory, one core
    Engine(Engine),
    /// Tap, mirror and transmit beside AF_PACKET and bare AF_XDP, on veth pairs; needs root
    Capture(capture::Capture),
    /// Responses through intercept-user to a reading peer, in network namespaces; needs root
    Intercept(intercept::Intercept),
}

impl Bench {
    /// Measures.
    pub fn run(&self) -> Result<()> {
        match self {
            Self::Engine(engine) => engine.run(),
            Self::Capture(capture) => capture.run(),
            Self::Intercept(intercept) => intercept.run(),
        }
    }
}

/// Builds a benchmark for the processor that every build is for.
fn build(package: &str, bench: &str) -> Result<PathBuf> {
    let mut command = cargo(&["bench", "--quiet", "-p", package, "--bench", bench]);
    command.args(["--no-run", "--message-format=json"]);
    command.env_remove("RUSTFLAGS").stdout(Stdio::piped());
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("cannot run cargo: {e}"))?;
    if !output.status.success() {
        return Err(format!("the {bench} benchmark does not build; its messages are above").into());
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|m| m["target"]["name"] == bench)
        .and_then(|m| m["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| format!("cargo named no program for the {bench} benchmark").into())
}
