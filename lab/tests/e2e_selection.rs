//! Which sessions are replayed, and to whom: shards behind one mirrored stream, a share, denied clients, and one
//! source with several targets.

use std::{
    thread,
    time::{Duration, Instant},
};

use lab::{
    Host, Lab, LabOptions, Process,
    nginx::Nginx,
    replay::{Capture, Copy, ExitReport, Intercept, PRODUCTION_PORT, Programs, TARGET_PORT, stop},
    testing::{programs, require_root},
    traffic::{AccessLog, Curl},
    world::CLIENT_SOURCE,
};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_mins(1);
/// What is on its way when the clients are done reaches the target's log within this.
const SETTLE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Connections with one request each.
const SHORT: u64 = 300;
/// Requests on one connection.
const KEPT: u64 = 50;
/// Connections in all.
const SESSIONS: u64 = SHORT + 1;

struct Servers {
    lab: Lab,
    programs: Programs,
    _production: Nginx,
    _target: Nginx,
    intercept: Process,
}

impl Servers {
    fn start(intercept: &Intercept) -> Self {
        require_root();
        let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
        let lab = Lab::up(&LabOptions::default()).unwrap();
        Self {
            _production: Nginx::start(&lab, Host::Production, PRODUCTION_PORT).unwrap(),
            _target: Nginx::start(&lab, Host::Target, TARGET_PORT).unwrap(),
            intercept: intercept.start(&lab, &programs).unwrap(),
            programs,
            lab,
        }
    }

    fn copy(&self, copy: &Copy) -> Process {
        let report = self.lab.file(&format!("{}.json", copy.name));
        copy.start(&self.lab, &self.programs, &report).unwrap()
    }

    /// Ends one and reads its report, which must balance.
    fn end(&self, copy: &Copy, mut process: Process) -> ExitReport {
        stop(&mut process).unwrap();
        let report = self.lab.file(&format!("{}.json", copy.name));
        let report = ExitReport::read(&report).unwrap();
        assert_eq!(report.imbalance(), Vec::<String>::new());
        assert_eq!(self.lab.checksum_faults().unwrap(), Vec::<String>::new());
        eprintln!(
            "{}: {:?} {}",
            copy.name,
            report.outcomes(),
            report.json["counters"]["engine"]
        );
        report
    }

    /// The clients.
    fn load(&self) {
        for curl in [Curl::short("short", SHORT), Curl::kept("kept", KEPT)] {
            curl.start(&self.lab).unwrap().wait_success(LIMIT).unwrap();
        }
    }

    fn produced(&self) -> AccessLog {
        Nginx::log_of(&self.lab, Host::Production).unwrap()
    }

    /// Waits until the target's log of that name has so many requests, and reads it.
    fn target(&self, name: &str, requests: u64) -> AccessLog {
        let read = || Nginx::log_named(&self.lab, name).unwrap();
        let deadline = Instant::now() + SETTLE;
        while read().requests() < requests && Instant::now() < deadline {
            thread::sleep(LOOK_EVERY);
        }
        read()
    }
}

fn engine(report: &ExitReport, counter: &str) -> u64 {
    report.number(&format!("counters/engine/{counter}"))
}

/// The mirror program of shard 0 lets the sessions of shard 1 go on to the tap of the second instance behind it, on
/// the same interface: one mirrored stream, both programs.
#[test]
fn two_shards_replay_each_session_once() {
    let mut servers = Servers::start(&Intercept::default());
    let mut copies = [Capture::Mirror, Capture::Tap].map(|capture| {
        let mut copy = Copy::new(capture);
        copy.host = Host::Capture;
        "mir0".clone_into(&mut copy.interface);
        copy
    });
    for (shard, copy) in copies.iter_mut().enumerate() {
        copy.name = format!("shard-{shard}");
        copy.more
            .extend(["--shard".to_owned(), format!("{shard}/2")]);
    }
    let processes = [0, 1].map(|shard| servers.copy(&copies[shard]));
    servers.load();
    let produced = servers.produced();
    let target = servers.target("target", produced.requests());
    let mut reports = Vec::new();
    for (copy, process) in copies.iter().zip(processes) {
        reports.push(servers.end(copy, process));
    }
    stop(&mut servers.intercept).unwrap();

    assert_eq!(produced.requests(), SHORT + KEPT);
    assert_eq!(produced.compare(&target).faults(), Vec::<String>::new());
    assert_eq!(target.requests(), produced.requests());
    let sessions: Vec<u64> = reports.iter().map(|r| r.number("sessions/total")).collect();
    assert_eq!(sessions.iter().sum::<u64>(), SESSIONS, "{sessions:?}");
    assert!(sessions.iter().all(|n| *n > SESSIONS / 4), "{sessions:?}");
    // The first sees everything; the second what the first leaves.
    assert_eq!(engine(&reports[0], "sessions_other_shard"), sessions[1]);
    assert_eq!(engine(&reports[1], "sessions_other_shard"), 0);
}

#[test]
fn a_share_of_the_sessions() {
    let mut servers = Servers::start(&Intercept::default());
    let mut copy = Copy::new(Capture::Tap);
    copy.more.extend(["-r", "12.5"].map(str::to_owned));
    let process = servers.copy(&copy);
    servers.load();
    let report = servers.end(&copy, process);
    stop(&mut servers.intercept).unwrap();
    let (replayed, left) = (
        report.number("sessions/total"),
        engine(&report, "sessions_not_sampled"),
    );
    assert_eq!(replayed + left, SESSIONS);
    assert!((15..=70).contains(&replayed), "{replayed} of {SESSIONS}");
    // Left out in the kernel: no packet of them was captured, and they stand in the report once.
    assert_eq!(report.number("counters/kernel/not_sampled"), 0);
    let comparison = servers.produced().compare(&servers.target("target", 0));
    assert_eq!(comparison.unexpected + comparison.duplicates, 0);
    assert_eq!(comparison.corrupt.count(), 0);
    assert_eq!(report.outcomes().get("completed"), Some(&replayed));
}

#[test]
fn denied_clients_come_from_a_file_that_is_read_again() {
    let mut servers = Servers::start(&Intercept::default());
    let file = servers.lab.file("deny");
    std::fs::write(&file, format!("# everybody\n{CLIENT_SOURCE}/24\n")).unwrap();
    let mut copy = Copy::new(Capture::Tap);
    copy.more
        .extend(["--deny-file".to_owned(), file.display().to_string()]);
    let mut process = servers.copy(&copy);
    let curl = |name: &str| {
        let mut curl = Curl::short(name, SHORT).start(&servers.lab).unwrap();
        curl.wait_success(LIMIT).unwrap();
    };
    curl("denied");
    // What is wrong changes nothing.
    for (text, said) in [
        ("10.0.0.0/40\n", "denied clients stay as they were"),
        ("# nobody\n", "denied clients read again"),
    ] {
        std::fs::write(&file, text).unwrap();
        process.signal(Signal::HUP).unwrap();
        process.wait_for_line(said, LIMIT).unwrap();
        if text.starts_with("10") {
            curl("still-denied");
        }
    }
    curl("welcome");
    let target = servers.target("target", SHORT);
    let report = servers.end(&copy, process);
    stop(&mut servers.intercept).unwrap();
    assert_eq!(engine(&report, "sessions_denied"), 2 * SHORT);
    assert_eq!(report.number("sessions/total"), SHORT);
    assert_eq!(report.outcomes().get("completed"), Some(&SHORT));
    let comparison = servers.produced().compare(&target);
    assert_eq!(
        (target.requests(), comparison.replayed_ids),
        (SHORT, SHORT),
        "{comparison:?}"
    );
    assert_eq!(comparison.duplicates + comparison.unexpected, 0);
}

#[test]
fn one_source_to_three_targets_by_tap() {
    one_source_to_three_targets(Capture::Tap);
}

#[test]
fn one_source_to_three_targets_by_mirror() {
    one_source_to_three_targets(Capture::Mirror);
}

/// Two servers that answer, and a port where nobody listens.
fn one_source_to_three_targets(capture: Capture) {
    let ports = [TARGET_PORT, TARGET_PORT + 1, TARGET_PORT + 2];
    // Sources are learned from what tcpcopy announces.
    let mut servers = Servers::start(&Intercept {
        filter: None,
        ..Intercept::default()
    });
    let listen = format!("{}:{}", Host::Target.address(), ports[1]);
    let _second = Nginx::start_named(&servers.lab, "second", Host::Target, &listen, "").unwrap();
    let mut copy = Copy::new(capture);
    let address = Host::Target.address();
    copy.transfer = ports
        .map(|port| format!("{PRODUCTION_PORT}-{address}:{port}"))
        .join(",");
    let process = servers.copy(&copy);
    servers.load();
    let produced = servers.produced();
    let logs = ["target", "second"].map(|name| servers.target(name, SHORT + KEPT));
    let report = servers.end(&copy, process);
    stop(&mut servers.intercept).unwrap();

    for log in &logs {
        assert_eq!(produced.compare(log).faults(), Vec::<String>::new());
        assert_eq!(log.requests(), SHORT + KEPT);
    }
    assert_eq!(report.number("sessions/total"), 3 * SESSIONS);
    for (at, (port, outcome)) in ports
        .iter()
        .zip(["completed", "completed", "refused"])
        .enumerate()
    {
        let target = &report.json["targets"][at];
        assert_eq!(target["address"], format!("{address}:{port}"));
        assert_eq!(target["sessions"], SESSIONS, "{target}");
        assert_eq!(target["by_outcome"][outcome], SESSIONS, "{target}");
    }
}
