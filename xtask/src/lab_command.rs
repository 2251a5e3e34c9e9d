//! `cargo xtask lab`: a lab that stays, to play with.

use std::{os::unix::process::CommandExt, process::Command};

use clap::Subcommand;
use lab::{
    Host, Lab, LabOptions,
    world::{CLIENT_SOURCE, HOSTS},
};

use crate::{Result, build, setup};

const NOT_UP: &str = "the lab is not up: run `cargo xtask lab up`";

/// What to do with the standing lab.
#[derive(Subcommand)]
pub enum LabCommand {
    /// Build it (again)
    Up {
        /// Receive and transmit queues of each interface
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
        queues: u32,
    },
    /// Take it down, and kill what runs in it
    Down,
    /// Say what is up and what runs where
    Status,
    /// Run a command on a host: client, production, target, assistant, capture or switch
    Exec {
        /// The host
        host: String,
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

impl LabCommand {
    /// Does it.
    pub fn run(&self) -> Result<()> {
        match self {
            Self::Up { queues } => {
                setup::install(&build::LAB_PACKAGES)?;
                Lab::up_standing(&LabOptions {
                    queues: *queues,
                    ..LabOptions::default()
                })?;
                status()
            }
            Self::Down => {
                Lab::standing().ok_or(NOT_UP)?.down();
                Ok(())
            }
            Self::Status => status(),
            Self::Exec { host, command } => exec(host, command),
        }
    }
}

fn status() -> Result<()> {
    let lab = Lab::standing().ok_or(NOT_UP)?;
    println!(
        "{:<11} {:<22} {:<13} processes",
        "host", "namespace", "address"
    );
    for host in HOSTS {
        let namespace = lab.host(host);
        let processes = namespace.programs().join(", ");
        println!(
            "{:<11} {:<22} {:<13} {processes}",
            host.name(),
            namespace.name(),
            host.address()
        );
    }
    println!("{:<11} {:<22} {:<13}", "switch", lab.switch().name(), "-");
    println!(
        "connections of the client come from {CLIENT_SOURCE}; run commands with `cargo xtask lab exec HOST COMMAND`"
    );
    Ok(())
}

fn exec(host: &str, command: &[String]) -> Result<()> {
    let lab = Lab::standing().ok_or(NOT_UP)?;
    let namespace = match Host::from_name(host) {
        Some(host) => lab.host(host),
        None if host == "switch" => lab.switch(),
        None => {
            let names: Vec<_> = HOSTS.iter().map(|host| host.name()).collect();
            return Err(format!(
                "got host {host:?}, expected one of {}, switch",
                names.join(", ")
            )
            .into());
        }
    };
    let mut inside: Command = namespace.command(&command[0]);
    // Replaces this process, so that signals and the exit code are the command's own.
    Err(format!("cannot run ip: {}", inside.args(&command[1..]).exec()).into())
}
