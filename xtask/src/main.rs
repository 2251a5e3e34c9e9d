//! `cargo xtask`: everything that is done to the workspace rather than by it.
//!
//! ```text
//!   setup        packages, BPF toolchain          (Debian/Ubuntu, root)
//!   build-ebpf   target/bpf/{tcpcopy,intercept}-ebpf
//!   demo         setup ─▶ build ─▶ lab ─▶ load ─▶ report
//!   lab          a standing lab to play with
//!   test         setup ─▶ build ─▶ every test
//! ```
#![forbid(unsafe_code)]

mod build_ebpf;
mod setup;

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
    /// Build both BPF objects into target/bpf
    BuildEbpf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::BuildEbpf => build_ebpf::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
