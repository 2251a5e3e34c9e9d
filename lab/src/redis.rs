//! redis on a host of the lab: a server whose whole state can be compared.

use std::time::Duration;

use crate::{
    LabError,
    world::{Host, Lab, Process, run},
};

/// Binding a port takes milliseconds; the rest is for a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(20);

/// A running redis, in memory only.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    host: Host,
    port: u16,
}

impl Redis {
    /// Starts one on `host` and waits until it listens on `port`.
    pub fn start(lab: &Lab, host: Host, port: u16) -> Result<Self, LabError> {
        let name = format!("redis-{}", host.name());
        let mut command = lab.command(host, "redis-server");
        command
            .args(["--bind", &host.address().to_string()])
            .args(["--port", &port.to_string()])
            // The lab is a network of its own, and a digest of all data is a debug command.
            .args(["--protected-mode", "no", "--enable-debug-command", "yes"])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(lab.folder());
        let mut process = Process::start(&name, &mut command, lab.folder())?;
        process.wait_until("listening", READY_LIMIT, |process| {
            process.stdout().contains("Ready to accept connections")
        })?;
        Ok(Self {
            process,
            host,
            port,
        })
    }

    /// The process, for waits.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Answer to one command, asked on its own host: no capture sees that.
    pub fn ask(&self, lab: &Lab, command: &[&str]) -> Result<String, LabError> {
        let mut cli = lab.command(self.host, "redis-cli");
        cli.args(["-h", &self.host.address().to_string()])
            .args(["-p", &self.port.to_string()])
            .args(command);
        let output = run(&mut cli)?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// A digest of all keys and values, whatever order they came in.
    pub fn digest(&self, lab: &Lab) -> Result<String, LabError> {
        self.ask(lab, &["debug", "digest"])
    }

    /// How many keys there are.
    pub fn keys(&self, lab: &Lab) -> Result<String, LabError> {
        self.ask(lab, &["dbsize"])
    }
}
