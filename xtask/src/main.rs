//! `cargo xtask`: everything that is done to the workspace rather than by it.
//!
//! ```text
//!   build-ebpf   BPF toolchain ─▶ target/bpf/{tcpcopy,intercept}-ebpf
//!   setup        packages of build and tests ─▶ build-ebpf
//!   demo         packages ─▶ build-ebpf ─▶ programs ─▶ lab ─▶ load ─▶ report
//!   test         setup ─▶ programs ─▶ every test
//!   vm-test      QEMU guests ─▶ real drivers, other kernels
//!   bench        what can be measured alone: session engine, capture and transmit, intercept
//!   simulate     session engine against thousands of simulated worlds
//!   lab          a standing lab to play with
//! ```
#![forbid(unsafe_code)]

mod bench;
mod build;
mod build_ebpf;
mod demo;
mod lab_command;
mod paths;
mod progress;
mod setup;
mod simulate;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What a step ends with: errors are printed once, by `main`.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Builds, demonstrates and tests the workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Replay live traffic in a lab and report: sets up everything it needs
    Demo(demo::Demo),
    /// Run all tests: sets up everything they need
    Test(test::Test),
    /// Run the programs on real drivers and other kernels, in virtual machines
    VmTest(vm::VmTest),
    /// Run the session engine's simulator over many seeds
    Simulate(simulate::Simulate),
    /// Measure how fast something is alone
    Bench {
        #[command(subcommand)]
        what: bench::Bench,
    },
    /// Install what build and tests need, and build the BPF objects
    Setup,
    /// Build both BPF objects into target/bpf
    BuildEbpf,
    /// A lab that stays: network namespaces to try the programs in
    Lab {
        #[command(subcommand)]
        command: lab_command::LabCommand,
    },
    /// The lab's HTTP server and load generator; started inside its namespaces
    #[command(name = demo::TOOL_COMMAND, hide = true)]
    Tool {
        #[arg(trailing_var_arg = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(demo) => demo.run(),
        Command::Test(test) => test.run(),
        Command::VmTest(vm) => vm.run(),
        Command::Simulate(simulate) => simulate.run(),
        Command::Bench { what } => what.run(),
        Command::Setup => test::setup(&progress::Progress::start()),
        Command::BuildEbpf => build_ebpf::run(),
        Command::Lab { command } => command.run(),
        Command::Tool { arguments } => lab::tool::main(&arguments).map_err(Into::into),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
