//! `cargo xtask demo`: a live replay from nothing to a report.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use lab::{
    LabOptions,
    replay::{Capture, Programs, RunOptions, RunResult, run},
    tool::Tool,
};
use serde_json::json;

use crate::{
    Result, build_ebpf, paths,
    progress::{Progress, cargo, succeed},
    setup,
};

/// Packages for the lab itself; build-ebpf and the programs' build ask for theirs.
const LAB_PACKAGES: [&str; 2] = ["iproute2", "ethtool"];
/// What the user programs' C parts are built with: libxdp (whose configure script asks for libpcap and
/// llc too, though nothing of them is used) and its bindings.
const BUILD_PACKAGES: [&str; 8] = [
    "clang",
    "libelf-dev",
    "libpcap-dev",
    "llvm",
    "m4",
    "make",
    "pkg-config",
    "zlib1g-dev",
];
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
        let programs = build(&progress)?;
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
        options.requests = self.requests;
        options.connections = self.connections;
        options.rate = self.rate;
        options.seed = self.seed;
        options
    }
}

/// Everything that has to be there before a run.
fn build(progress: &Progress) -> Result<Programs> {
    progress.say("packages: installing what is missing");
    setup::install(&LAB_PACKAGES)?;
    build_programs(progress)?;
    let tool = Tool::new(
        std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe")),
        &[TOOL_COMMAND],
    );
    Ok(Programs::in_folder(&release_folder(), tool))
}

/// BPF objects, then the two programs that embed them.
pub fn build_programs(progress: &Progress) -> Result<()> {
    setup::install(&BUILD_PACKAGES)?;
    progress.say("build: BPF objects (the first time this builds the BPF linker too: minutes)");
    build_ebpf::run()?;
    progress.say("build: tcpcopy-user and intercept-user, release (the first time: minutes)");
    succeed(&mut cargo(&[
        "build",
        "--release",
        "-p",
        "tcpcopy-user",
        "-p",
        "intercept-user",
    ]))
}

/// Where the programs are then.
pub fn release_folder() -> PathBuf {
    paths::target().join("release")
}
