//! Two production hosts with a tcpcopy each, two intercepts, one target, whose replies are spread over both intercepts.
//!
//! ```text
//!  client ─┬─▶ production: tcpcopy A, clients 10.77.1.0/25   ─┐             ┌─▶ assistant: intercept 1 (XDP)
//!          └─▶ capture:    tcpcopy B, clients 10.77.1.128/25 ─┴─▶ target ──┤ two next hops
//!                                                                           └─▶ client: intercept 2 (tcx)
//! ```
//! In the middle intercept 2 is killed and started again, later tcpcopy B is killed: A's requests all arrive once.

use std::{fs, path::Path, process::Command, time::Duration};

use lab::{
    Host, Lab, LabOptions, Process,
    replay::{Capture, Copy, ExitReport, PRODUCTION_PORT, Programs, TARGET_PORT, stop},
    testing::{programs, require_root},
    traffic::{AccessLog, LoadOptions, LoadReport},
};
use rustix::process::Signal;
use serde_json::Value;

const LIMIT: Duration = Duration::from_mins(1);
const REQUESTS: u64 = 2400;
const CONNECTIONS: u64 = 20;
const SEEDS: [u64; 2] = [0xa1, 0xb2];
const INTERCEPTS: [(Host, &str); 2] = [(Host::Assistant, "xdp"), (Host::Client, "tcx")];

fn ip(lab: &Lab, host: Host, words: &str) {
    let mut command = lab.command(host, "ip");
    assert!(
        command.args(words.split(' ')).status().unwrap().success(),
        "{words}"
    );
}

fn intercept(
    lab: &Lab,
    programs: &Programs,
    life: u32,
    (host, capture): (Host, &str),
) -> (Process, std::path::PathBuf) {
    let name = format!("intercept-{}-{life}", host.name());
    let report = lab.file(&format!("{name}.json"));
    let mut command = lab.command(host, &programs.intercept);
    command
        .args(["--iface", "eth0", "--capture", capture, "--report"])
        .arg(&report);
    command.args(["-F", &format!("tcp and src port {TARGET_PORT}")]);
    (started(lab, &name, &mut command, "ready"), report)
}

fn started(lab: &Lab, name: &str, command: &mut Command, word: &str) -> Process {
    let mut process = Process::start(name, command, lab.folder()).unwrap();
    process.wait_for_line(word, LIMIT).unwrap();
    process
}

/// The lines of one load in the target's log, as a log of its own.
fn of_seed(lab: &Lab, log: &Path, seed: u64) -> AccessLog {
    let text = fs::read_to_string(log).unwrap();
    let prefix = format!("{seed:x}/");
    let lines: String = text
        .split_inclusive('\n')
        .filter(|line| line.starts_with(&prefix) && line.ends_with('\n'))
        .collect();
    let part = lab.file(&format!("target-{seed:x}.log"));
    fs::write(&part, lines).unwrap();
    AccessLog::read(&part).unwrap()
}

fn report_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn two_tcpcopys_two_intercepts_one_target() {
    require_root();
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let lab = Lab::up(&LabOptions::default()).unwrap();
    // Answers of capture's server find the client as production's do, and the target's go two ways, session by session.
    ip(&lab, Host::Capture, "route add 10.77.2.0/24 dev eth0");
    let [one, two] = INTERCEPTS.map(|(host, _)| host.address());
    let hops = format!("route replace 10.77.1.0/24 nexthop via {one} nexthop via {two}");
    ip(&lab, Host::Target, &hops);

    let productions = [Host::Production, Host::Capture];
    let logs = ["a.log", "b.log", "target.log"].map(|name| lab.file(name));
    let serve = |host: Host, port, log: &Path| {
        started(
            &lab,
            host.name(),
            &mut programs.tool.server(&lab, host, port, log),
            "ready",
        )
    };
    let _servers = [0, 1].map(|n| serve(productions[n], PRODUCTION_PORT, &logs[n]));
    let mut target = serve(Host::Target, TARGET_PORT, &logs[2]);

    let (mut first, first_report) = intercept(&lab, &programs, 1, INTERCEPTS[0]);
    let (mut second, _) = intercept(&lab, &programs, 1, INTERCEPTS[1]);
    let reports = ["a.json", "b.json"].map(|name| lab.file(name));
    let mut tcpcopys = [0, 1].map(|n| {
        let mut copy = Copy::new(Capture::Tap);
        copy.name = format!("tcpcopy-{n}");
        copy.host = productions[n];
        copy.intercept = format!("{one},{two}");
        let pool = ["10.77.1.0/25", "10.77.1.128/25"][n];
        copy.more = ["-c", pool, "--drain", "30s"].map(str::to_owned).into();
        copy.start(&lab, &programs, &reports[n]).unwrap()
    });

    let mut loads = [0, 1].map(|n| {
        let options = LoadOptions {
            server: (productions[n].address(), PRODUCTION_PORT),
            requests: REQUESTS,
            connections: CONNECTIONS,
            rate: 300,
            seed: SEEDS[n],
        };
        let mut command = programs.tool.load(&lab, &options);
        Process::start(&format!("load-{n}"), &mut command, lab.folder()).unwrap()
    });
    let seen = |log: &Path| AccessLog::read(log).map_or(0, |log| log.requests());
    let mut reach = |what: &str, count: u64| {
        target
            .wait_until(what, LIMIT, |_| seen(&logs[2]) >= count)
            .unwrap();
    };

    reach("a part of both loads", REQUESTS / 2);
    second.signal(Signal::KILL).unwrap();
    second.wait(LIMIT).unwrap();
    let at_kill = seen(&logs[0]);
    loads[0]
        .wait_until("more load with one intercept", LIMIT, |_| {
            seen(&logs[0]) >= at_kill + REQUESTS / 10
        })
        .unwrap();
    let (mut second, second_report) = intercept(&lab, &programs, 2, INTERCEPTS[1]);
    reach("more of both loads", REQUESTS * 5 / 4);
    let replayed_before = of_seed(&lab, &logs[2], SEEDS[1]).requests();
    tcpcopys[1].signal(Signal::KILL).unwrap();
    tcpcopys[1].wait(LIMIT).unwrap();

    for load in &mut loads {
        load.wait_success(LIMIT).unwrap();
        let load = LoadReport::from_json(&load.stdout().parse().unwrap()).unwrap();
        assert_eq!((load.requests, load.errors), (REQUESTS, 0), "{load:?}");
    }
    let _ = target.wait_until("all of A", LIMIT, |_| {
        of_seed(&lab, &logs[2], SEEDS[0]).requests() >= REQUESTS
    });
    stop(&mut tcpcopys[0]).unwrap();
    for intercept in [&mut first, &mut second] {
        stop(intercept).unwrap();
    }

    // All of A's, once and whole.
    let [a, b] = [&logs[0], &logs[1]].map(|log| AccessLog::read(log).unwrap());
    let faults = a.compare(&of_seed(&lab, &logs[2], SEEDS[0])).faults();
    assert_eq!(faults, Vec::<String>::new(), "{}", tcpcopys[0].stderr());
    let report = ExitReport::read(&reports[0]).unwrap();
    assert_eq!(report.imbalance(), Vec::<String>::new());
    let outcomes = report.outcomes();
    let sessions = CONNECTIONS + REQUESTS / 2;
    assert_eq!(outcomes.get("completed"), Some(&sessions), "{outcomes:?}");
    assert!(
        report.number("counters/channel/losses") >= 1,
        "{}",
        report.json["counters"]["channel"]
    );
    assert!(report.number("counters/channel/routes_announced_again") > 0);

    // B's until its end, each once at most and none damaged.
    let of_b = b.compare(&of_seed(&lab, &logs[2], SEEDS[1]));
    assert_eq!(
        (of_b.duplicates, of_b.unexpected, of_b.corrupt.count()),
        (0, 0, 0)
    );
    assert!(
        of_b.replayed_ids >= replayed_before && of_b.lost.count() > 0,
        "{of_b:?}"
    );

    // Both intercepts had their share, and say what became of B.
    let [first, second] = [&first_report, &second_report].map(|path| report_of(path));
    for report in [&first, &second] {
        assert!(report["records"]["sent"].as_u64() > Some(100), "{report:#}");
        assert!(report["routes"]["closed"].as_u64() > Some(0), "{report:#}");
        assert_eq!(report["unaccounted"]["packets"], 0, "{report:#}");
    }
    eprintln!(
        "A: {outcomes:?}, channel {}; B replayed {} of {REQUESTS}; intercepts sent {} and {}",
        report.json["counters"]["channel"],
        of_b.replayed_ids,
        first["records"]["sent"],
        second["records"]["sent"]
    );
}
