//! `cargo xtask simulate`: the session engine's simulator over many seeds, in a release build.

use std::process::Stdio;

use clap::Args;

use crate::{
    Result,
    progress::{Progress, cargo, succeed},
};

/// The one test that simulates everything at once, and prints the figures.
const TEST: &str = "everything_at_once";
/// What tells it which seeds to run.
const SEEDS: &str = "SIMULATION_SEEDS";
const FROM: &str = "SIMULATION_FROM";
/// Runs a single seed with a line for each packet.
const SEED: &str = "SIMULATION_SEED";

/// Which seeds.
#[derive(Args)]
pub struct Simulate {
    /// Number of runs; each has some fifty sessions
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// First seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this seed alone and print every packet
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
}

impl Simulate {
    /// Builds and runs; an error if any rule was broken.
    pub fn run(&self) -> Result<()> {
        Progress::start().say("simulator: building");
        let mut command = cargo(&["test", "--release", "--quiet", "-p", "session"]);
        command.args(["--test", "simulation", TEST, "--", "--exact", "--nocapture"]);
        command.env_remove(SEED).env_remove(SEEDS).env_remove(FROM);
        match self.seed {
            Some(seed) => command.env(SEED, seed.to_string()),
            None => command
                .env(SEEDS, self.seeds.to_string())
                .env(FROM, self.from.to_string()),
        };
        // Figures are results.
        succeed(command.stdout(Stdio::inherit()))
    }
}
