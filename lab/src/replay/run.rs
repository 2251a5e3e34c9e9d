//! One run of the demo's kind, in a lab of its own.

use std::{path::Path, time::Duration};

use super::{
    Capture, Copy, ExitReport, Intercept, PRODUCTION_PORT, Programs, RunResult, TARGET_PORT, stop,
};
use crate::{
    LabError,
    tool::Tool,
    traffic::{AccessLog, LoadOptions, LoadReport},
    world::{Host, Lab, LabOptions, Process},
};

/// Binding a port takes milliseconds; the rest is for a busy machine.
const SERVER_LIMIT: Duration = Duration::from_secs(20);
/// The target's last requests are on their way when tcpcopy has drained; the log is written as they are read.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);
/// A load that takes longer than its pace says, by this much, is stuck.
const LOAD_SLACK: Duration = Duration::from_mins(2);

/// What is run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// How tcpcopy is called.
    pub copy: Copy,
    /// How intercept is called, unless tcpcopy takes the answers itself.
    pub intercept: Intercept,
    /// How the lab is built.
    pub lab: LabOptions,
    /// Requests in all.
    pub requests: u64,
    /// Connections at a time.
    pub connections: u64,
    /// Requests started per second.
    pub rate: u64,
    /// Seed of the load.
    pub seed: u64,
}

impl RunOptions {
    /// The demo's defaults.
    pub fn new(capture: Capture) -> Self {
        Self {
            copy: Copy::new(capture),
            intercept: Intercept::default(),
            lab: LabOptions::default(),
            requests: 20_000,
            connections: 50,
            // Two thirds of what load, servers and replay reach together on two cores (2900 on a small VM).
            rate: 2_000,
            seed: 1,
        }
    }
}

/// Builds a lab, replays, compares. `progress` hears of each step; the lab is gone when this returns.
pub fn run(
    programs: &Programs,
    options: &RunOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<RunResult, LabError> {
    run_prepared(programs, options, &mut |_| Ok(()), progress)
}

/// The same, with something done to the lab before anything runs in it.
pub fn run_prepared(
    programs: &Programs,
    options: &RunOptions,
    prepare: &mut dyn FnMut(&Lab) -> Result<(), LabError>,
    progress: &mut dyn FnMut(&str),
) -> Result<RunResult, LabError> {
    progress("lab: building namespaces, switch and mirror");
    let mut lab = Lab::up(&options.lab)?;
    let result = prepare(&lab).and_then(|()| run_in(&lab, programs, options, progress));
    let failed = result.as_ref().map_or(true, |run| !run.faults().is_empty());
    if failed {
        lab.keep_files();
        progress(&format!("lab: logs are kept in {}", lab.folder().display()));
    }
    progress("lab: taking it down");
    result
}

fn run_in(
    lab: &Lab,
    programs: &Programs,
    options: &RunOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<RunResult, LabError> {
    let logs = [lab.file("production.log"), lab.file("target.log")];
    let _production = server(
        lab,
        &programs.tool,
        Host::Production,
        PRODUCTION_PORT,
        &logs[0],
    )?;
    let _target = server(lab, &programs.tool, Host::Target, TARGET_PORT, &logs[1])?;

    let capture = options.copy.capture.name();
    let host = options.copy.host.name();
    let mut intercept = if let Some(pool) = &options.copy.pool {
        progress(&format!(
            "{capture}: starting tcpcopy-user on {host}, which takes the answers to {pool}"
        ));
        None
    } else {
        progress(&format!(
            "{capture}: starting intercept-user on assistant and tcpcopy-user on {host}"
        ));
        Some(options.intercept.start(lab, programs)?)
    };
    let report = lab.file("report.json");
    let mut tcpcopy = options.copy.start(lab, programs, &report)?;

    progress(&format!(
        "{capture}: {} requests, {} a second, {} connections (about {} s)",
        options.requests,
        options.rate,
        options.connections,
        options.requests / options.rate.max(1) + 1
    ));
    let load = load(lab, &programs.tool, options)?;

    progress(&format!(
        "{capture}: load done, waiting for the exit report"
    ));
    stop(&mut tcpcopy)?;
    let report = ExitReport::read(&report)?;
    if let Some(intercept) = &mut intercept {
        stop(intercept)?;
    }
    Ok(RunResult {
        capture: options.copy.capture,
        topology: options.copy.topology(),
        load,
        comparison: compare(&logs[0], &logs[1])?,
        checksums: lab.checksum_faults()?,
        report,
    })
}

/// Starts the lab's server on `host` and waits until it listens.
fn server(lab: &Lab, tool: &Tool, host: Host, port: u16, log: &Path) -> Result<Process, LabError> {
    let name = format!("http-{}", host.name());
    let mut process = Process::start(&name, &mut tool.server(lab, host, port, log), lab.folder())?;
    process.wait_for_line("ready", SERVER_LIMIT)?;
    Ok(process)
}

fn load(lab: &Lab, tool: &Tool, options: &RunOptions) -> Result<LoadReport, LabError> {
    let load = LoadOptions {
        server: (Host::Production.address(), PRODUCTION_PORT),
        requests: options.requests,
        connections: options.connections,
        rate: options.rate,
        seed: options.seed,
    };
    let mut process = Process::start("load", &mut tool.load(lab, &load), lab.folder())?;
    process
        .wait_success(Duration::from_secs(options.requests / options.rate.max(1)) + LOAD_SLACK)?;
    let output = process.stdout();
    serde_json::from_str(&output)
        .ok()
        .as_ref()
        .and_then(LoadReport::from_json)
        .ok_or_else(|| LabError::Form {
            path: lab.file("load.out"),
            got: output,
            expected: "one JSON object".to_owned(),
        })
}

/// Compares the two logs, after giving the target's server the time to read what is already in its sockets.
fn compare(production: &Path, target: &Path) -> Result<crate::traffic::Comparison, LabError> {
    let deadline = std::time::Instant::now() + SETTLE_LIMIT;
    let production = AccessLog::read(production)?;
    loop {
        let comparison = production.compare(&AccessLog::read(target)?);
        if comparison.lost.count() == 0 || std::time::Instant::now() > deadline {
            return Ok(comparison);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
