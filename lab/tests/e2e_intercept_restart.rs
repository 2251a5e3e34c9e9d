//! intercept is killed in the middle of a replay and started again: the target's answers are seen by nobody for a
//! while, which is a loss like any other to the sessions that were open, and new sessions wait for their route.

use std::time::Duration;

use lab::{
    Host, Process,
    faults::Class,
    replay::{Capture, PRODUCTION_PORT, Stage, StageOptions, TARGET_PORT},
    testing::{programs, require_root},
    traffic::{AccessLog, LoadOptions, LoadReport},
};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_mins(1);
const REQUESTS: u64 = 4000;
const CONNECTIONS: u64 = 20;

#[test]
fn sessions_survive_a_killed_intercept_and_new_ones_work_after_it() {
    require_root();
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let mut stage = Stage::set(&programs, StageOptions::new(Capture::Tap)).unwrap();
    let logs = [
        stage.lab.file("production.log"),
        stage.lab.file("target.log"),
    ];
    let serve = |stage: &Stage, host: Host, port, log| {
        let mut command = programs.tool.server(&stage.lab, host, port, log);
        let mut server = Process::start(host.name(), &mut command, stage.lab.folder()).unwrap();
        server.wait_for_line("ready", LIMIT).unwrap();
        server
    };
    let _production = serve(&stage, Host::Production, PRODUCTION_PORT, &logs[0]);
    let mut target = serve(&stage, Host::Target, TARGET_PORT, &logs[1]);
    let seen = |log: &std::path::Path| AccessLog::read(log).map_or(0, |log| log.requests());

    let options = LoadOptions {
        server: (Host::Production.address(), PRODUCTION_PORT),
        requests: REQUESTS,
        connections: CONNECTIONS,
        rate: 600,
        seed: 71,
    };
    let mut command = programs.tool.load(&stage.lab, &options);
    let mut load = Process::start("load", &mut command, stage.lab.folder()).unwrap();

    // The first half of the load is on kept connections: those are open when intercept dies the first time. The
    // second time it is in the middle of the short ones.
    for part in [1, 3] {
        target
            .wait_until("a part of the load", LIMIT, |_| {
                seen(&logs[1]) >= REQUESTS * part / 5
            })
            .unwrap();
        stage.intercept.signal(Signal::KILL).unwrap();
        stage.intercept.wait(LIMIT).unwrap();
        let at_kill = seen(&logs[0]);
        load.wait_until("more load without intercept", LIMIT, |_| {
            seen(&logs[0]) >= at_kill + REQUESTS / 20
        })
        .unwrap();
        stage.restart_intercept().unwrap();
    }
    load.wait_success(LIMIT).unwrap();
    let load = LoadReport::from_json(&load.stdout().parse().unwrap()).unwrap();
    assert_eq!((load.requests, load.errors), (REQUESTS, 0), "{load:?}");

    let _ = target.wait_until("all requests", LIMIT, |_| seen(&logs[1]) >= REQUESTS);
    let (_lab, played) = stage.finish().unwrap();
    let [produced, replayed] = logs.map(|log| AccessLog::read(&log).unwrap());
    assert_eq!(produced.compare(&replayed).faults(), Vec::<String>::new());
    assert_eq!(played.report.imbalance(), Vec::<String>::new());
    let outcomes = played.report.outcomes();
    let sessions = CONNECTIONS + REQUESTS / 2;
    assert_eq!(outcomes.get("completed"), Some(&sessions), "{outcomes:?}");
    assert_eq!(outcomes.len(), 1, "{outcomes:?}");
    assert_eq!(played.target.inward.count(Class::Reset), 0, "{played:?}");
}
