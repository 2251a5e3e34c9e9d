//! Starting and stopping `tcpcopy-user` and `intercept-user` on the hosts of a lab.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::process::Signal;

use super::{PRODUCTION_PORT, TARGET_PORT};
use crate::{
    LabError,
    tool::Tool,
    world::{Host, Lab, Process},
};

/// Loading and verifying programs takes well under a second; the rest is for a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// The drain at the end takes at most 5 s by default.
const STOP_LIMIT: Duration = Duration::from_secs(40);

/// The programs under test.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `tcpcopy-user`.
    pub tcpcopy: PathBuf,
    /// `intercept-user`.
    pub intercept: PathBuf,
    /// The lab's own server and load generator.
    pub tool: Tool,
}

impl Programs {
    /// Those in `folder`, usually `target/release`.
    pub fn in_folder(folder: &Path, tool: Tool) -> Self {
        Self {
            tcpcopy: folder.join("tcpcopy-user"),
            intercept: folder.join("intercept-user"),
            tool,
        }
    }
}

/// Where and how packets are captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capture {
    /// On production itself.
    Tap,
    /// The same by packet sockets, as where there is no tcx.
    Packet,
    /// On the mirror port.
    Mirror,
}

impl Capture {
    /// As on the command line and in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tap => "tap",
            Self::Packet => "packet",
            Self::Mirror => "mirror",
        }
    }

    /// The host on which tcpcopy runs.
    pub const fn host(self) -> Host {
        match self {
            Self::Tap | Self::Packet => Host::Production,
            Self::Mirror => Host::Capture,
        }
    }

    const fn interface(self) -> &'static str {
        match self {
            Self::Tap | Self::Packet => "eth0",
            Self::Mirror => "mir0",
        }
    }
}

/// How tcpcopy is called; the defaults are the demo's.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Of its log, and of the process in messages: several may run in one lab.
    pub name: String,
    /// Where it runs.
    pub host: Host,
    /// Interface to capture on.
    pub interface: String,
    /// Capture method.
    pub capture: Capture,
    /// Worker cores.
    pub cores: String,
    /// What goes where.
    pub transfer: String,
    /// Address of intercept.
    pub intercept: String,
    /// Addresses of the clients at the target, whose answers tcpcopy takes itself: there is no intercept then.
    pub pool: Option<String>,
    /// Further arguments.
    pub more: Vec<String>,
}

impl Copy {
    /// The demo's call.
    pub fn new(capture: Capture) -> Self {
        Self {
            name: "tcpcopy-user".to_owned(),
            host: capture.host(),
            interface: capture.interface().to_owned(),
            capture,
            cores: "0".to_owned(),
            transfer: format!("{PRODUCTION_PORT}-{}:{TARGET_PORT}", Host::Target.address()),
            intercept: Host::Assistant.address().to_string(),
            pool: None,
            // A veth from another namespace looks like a container's own interface, which a mirror would cut off;
            // here it is the cable of a switch's mirror port, and only the operator can know that.
            more: if capture == Capture::Mirror {
                vec!["--force".to_owned()]
            } else {
                Vec::new()
            },
        }
    }

    /// Where the target's responses go, in reports.
    pub const fn topology(&self) -> &'static str {
        if self.pool.is_some() {
            "pool"
        } else {
            "assistant"
        }
    }

    /// The command line, on its host.
    pub fn command(&self, lab: &Lab, programs: &Programs, report: &Path) -> Command {
        let mut command = lab.command(self.host, &programs.tcpcopy);
        command
            .args([
                "--iface",
                &self.interface,
                "--cores",
                &self.cores,
                "-x",
                &self.transfer,
            ])
            .args(match &self.pool {
                Some(pool) => ["--pool", pool],
                None => ["-s", &self.intercept],
            })
            .args(["--capture", self.capture.name(), "--report"])
            .arg(report)
            .args(&self.more);
        command
    }

    /// Starts it and waits until it captures.
    pub fn start(
        &self,
        lab: &Lab,
        programs: &Programs,
        report: &Path,
    ) -> Result<Process, LabError> {
        start(&self.name, &mut self.command(lab, programs, report), lab)
    }
}

/// How intercept is called; the defaults are the demo's.
#[derive(Clone, Debug)]
pub struct Intercept {
    /// Where it runs.
    pub host: Host,
    /// Worker cores.
    pub cores: String,
    /// Which responses it takes; `None`: those of the targets that tcpcopy announces.
    pub filter: Option<String>,
    /// Further arguments.
    pub more: Vec<String>,
}

impl Default for Intercept {
    fn default() -> Self {
        Self {
            host: Host::Assistant,
            cores: if cpus() > 1 { "1" } else { "0" }.to_owned(),
            filter: Some(format!("tcp and src port {TARGET_PORT}")),
            more: Vec::new(),
        }
    }
}

impl Intercept {
    /// On the target itself, of which it takes the sessions that tcpcopy announces.
    pub fn on_target() -> Self {
        Self {
            host: Host::Target,
            filter: None,
            more: vec!["--on-target".to_owned()],
            ..Self::default()
        }
    }

    /// The command line, on its host.
    pub fn command(&self, lab: &Lab, programs: &Programs) -> Command {
        let mut command = lab.command(self.host, &programs.intercept);
        command
            .args(["--iface", "eth0", "--cores", &self.cores])
            .args(self.filter.iter().flat_map(|filter| ["-F", filter]))
            .args(&self.more);
        command
    }

    /// Starts it and waits until it takes responses.
    pub fn start(&self, lab: &Lab, programs: &Programs) -> Result<Process, LabError> {
        start("intercept-user", &mut self.command(lab, programs), lab)
    }
}

/// Asks a program to end, as Ctrl-C does, and waits until it has, with success.
pub fn stop(process: &mut Process) -> Result<(), LabError> {
    process.signal(Signal::INT)?;
    process.wait_success(STOP_LIMIT)
}

fn start(name: &str, command: &mut Command, lab: &Lab) -> Result<Process, LabError> {
    let mut process = Process::start(name, command, lab.folder())?;
    process.wait_for_line("ready", READY_LIMIT)?;
    Ok(process)
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
