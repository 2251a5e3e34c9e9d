//! tcpcopy-user is killed with SIGKILL in the middle of production's load: production does not notice, and nothing
//! of ours stays in the kernel.

use std::time::Duration;

use lab::{
    Host, Lab, LabOptions, Process,
    replay::{Capture, Copy, Intercept, PRODUCTION_PORT, TARGET_PORT},
    testing::{programs, require_root},
    traffic::{AccessLog, LoadOptions, LoadReport},
    world::BpfObjects,
};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_mins(1);
/// Detached programs and their maps are freed after RCU grace periods, milliseconds each on an idle machine.
const FREE_LIMIT: Duration = Duration::from_secs(10);
const REQUESTS: u64 = 8000;

#[test]
fn a_killed_tap_fails_no_request_and_leaves_nothing() {
    kill_under_load(Capture::Tap);
}

#[test]
fn a_killed_mirror_fails_no_request_and_leaves_nothing() {
    kill_under_load(Capture::Mirror);
}

fn kill_under_load(capture: Capture) {
    require_root();
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let lab = Lab::up(&LabOptions::default()).unwrap();
    let log = lab.file("production.log");
    let _servers: Vec<Process> = [
        (Host::Production, PRODUCTION_PORT, log.clone()),
        (Host::Target, TARGET_PORT, lab.file("target.log")),
    ]
    .into_iter()
    .map(|(host, port, log)| {
        let mut command = programs.tool.server(&lab, host, port, &log);
        let mut server = Process::start(host.name(), &mut command, lab.folder()).unwrap();
        server.wait_for_line("ready", LIMIT).unwrap();
        server
    })
    .collect();
    let _intercept = Intercept::default().start(&lab, &programs).unwrap();
    let mut tcpcopy = Copy::new(capture)
        .start(&lab, &programs, &lab.file("report.json"))
        .unwrap();
    let ours = BpfObjects::of_process(tcpcopy.id()).unwrap();
    assert!(
        ours.count("link") > 0 && ours.count("prog") > 0 && ours.count("map") > 0,
        "{ours:?}"
    );
    assert_eq!(
        ours.remaining().unwrap(),
        ours,
        "bpftool sees what the process holds"
    );

    let server = (Host::Production.address(), PRODUCTION_PORT);
    let options = LoadOptions {
        server,
        requests: REQUESTS,
        connections: 50,
        rate: 2000,
        seed: 21,
    };
    let mut load = Process::start(
        "load",
        &mut programs.tool.load(&lab, &options),
        lab.folder(),
    )
    .unwrap();
    let seen = |log: &std::path::Path| AccessLog::read(log).map_or(0, |log| log.requests());
    load.wait_until("a quarter of the load", LIMIT, |_| {
        seen(&log) > REQUESTS / 4
    })
    .unwrap();
    tcpcopy.signal(Signal::KILL).unwrap();
    tcpcopy.wait(LIMIT).unwrap();
    assert!(
        seen(&log) < REQUESTS * 3 / 4,
        "the kill came in the middle of the load"
    );
    load.wait_success(LIMIT).unwrap();

    let report = LoadReport::from_json(&load.stdout().parse().unwrap()).unwrap();
    assert_eq!(
        (report.requests, report.errors),
        (REQUESTS, 0),
        "{report:?}"
    );
    assert_eq!(
        ours.remaining_after(FREE_LIMIT).unwrap(),
        BpfObjects::default()
    );
}
