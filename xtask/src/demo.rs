//! `cargo xtask demo`: a live replay from nothing to a report.

use clap::{Args, ValueEnum};
use lab::{
    LabOptions,
    replay::{Capture, Programs, RunOptions, RunResult, run},
    tool::Tool,
};
use serde_json::json;

use crate::{Result, build, progress::Progress};

/// Name of the hidden subcommand under which this program serves and loads.
pub const TOOL_COMMAND: &str = "lab-tool";

/// What to show.
#[derive(Args)]
pub struct Demo {
    /// Print one JSON object on standard output, last and alone; progress goes to standard error
    #[arg(long)]
    json: bool,
    /// Requests in each run: half on keep-alive connections, half on connections of their own
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(2..=10_000_000))]
    requests: u64,
    /// Connections at a time
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    connections: u64,
    /// Requests started per second
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    /// Seed from which every request follows
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Queues of each interface
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    queues: u32,
    /// Cores of tcpcopy-user
    #[arg(long, value_name = "LIST", default_value = "0")]
    cores: String,
    /// Run only this capture; both, one after the other, without it
    #[arg(long)]
    capture: Option<CaptureArg>,
    /// Who takes the target's answers
    #[arg(long, value_enum, default_value_t = Topology::Pool)]
    topology: Topology,
}

/// Addresses of the target's network that no host of the lab has.
const POOL: &str = "10.77.0.128/25";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Topology {
    /// tcpcopy-user itself, which answers for addresses of the target's network that no host has
    Pool,
    /// intercept-user on a host of its own, to which the target routes them
    Assistant,
}

#[derive(Clone, Copy, ValueEnum)]
enum CaptureArg {
    /// On production's interface, which keeps every packet
    Tap,
    /// On the switch's mirror port
    Mirror,
}

impl From<CaptureArg> for Capture {
    fn from(argument: CaptureArg) -> Self {
        match argument {
            CaptureArg::Tap => Self::Tap,
            CaptureArg::Mirror => Self::Mirror,
        }
    }
}

impl Demo {
    /// Sets up, builds, runs, reports; an error if a run does not show what it must.
    pub fn run(&self) -> Result<()> {
        let progress = Progress::start();
        let programs = prepare(&progress)?;
        let captures = match self.capture {
            Some(capture) => vec![capture.into()],
            None => vec![Capture::Tap, Capture::Mirror],
        };
        let mut runs = Vec::new();
        for capture in captures {
            let result = run(&programs, &self.options(capture), &mut |text| {
                progress.say(text);
            })?;
            eprintln!("\n{}", result.table());
            runs.push(result);
        }
        if self.json {
            println!(
                "{}",
                json!({ "runs": runs.iter().map(RunResult::to_json).collect::<Vec<_>>() })
            );
        }
        let faults: usize = runs.iter().map(|run| run.faults().len()).sum();
        if faults > 0 {
            return Err("the replay is not complete, see FAULT above".into());
        }
        progress.say(
            "done: every request reached the target once and unchanged, production noticed nothing",
        );
        Ok(())
    }

    fn options(&self, capture: Capture) -> RunOptions {
        let mut options = RunOptions::new(capture);
        options.lab = LabOptions {
            queues: self.queues,
            ..LabOptions::default()
        };
        options.copy.cores.clone_from(&self.cores);
        options.copy.pool = (self.topology == Topology::Pool).then(|| POOL.to_owned());
        options.requests = self.requests;
        options.connections = self.connections;
        options.rate = self.rate;
        options.seed = self.seed;
        options
    }
}

/// Everything that has to be there before a run.
fn prepare(progress: &Progress) -> Result<Programs> {
    build::prepare(progress, &build::LAB_PACKAGES)?;
    build::programs(progress)?;
    let own =
        std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let tool = Tool::new(own, &[TOOL_COMMAND]);
    Ok(Programs::in_folder(&build::programs_folder(), tool))
}
