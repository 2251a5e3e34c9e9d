//! Either of our programs with the other C program: in its place is an emulator in Python (`lab/c-programs`), written
//! from the byte layouts and sharing nothing with our codec.

use std::{
    path::Path,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lab::{
    Host, Lab, LabOptions, Process,
    replay::{Capture, Copy, ExitReport, Intercept, PRODUCTION_PORT, TARGET_PORT, stop},
    testing::{programs, require_root},
    traffic::{AccessLog, LoadOptions, LoadReport},
};
use rustix::process::Signal;
use serde_json::Value;

const LIMIT: Duration = Duration::from_mins(1);
const CHANNEL_PORT: u16 = 36_524;

fn emulator(lab: &Lab, host: Host, script: &str, arguments: &[String]) -> Command {
    let mut command = lab.command(host, "python3");
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("c-programs");
    command.arg("-u").arg(scripts.join(script)).args(arguments);
    command
}

/// What an emulator prints at its end.
fn printed(process: &mut Process) -> Value {
    process.wait_success(LIMIT).unwrap();
    let line = process.stdout();
    serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
}

fn number(seen: &Value, name: &str) -> u64 {
    seen[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{name} in {seen}"))
}

/// The emulators take a core each: one test at a time, else packets never grow.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All four builds of intercept, one after the other; tcpcopy is told nothing of them.
#[test]
fn our_tcpcopy_with_every_build_of_c_intercept() {
    const REQUESTS: u64 = 600;
    const CONNECTIONS: u64 = 20;
    let _alone = alone();
    require_root();
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let lab = Lab::up(&LabOptions::default()).unwrap();
    let logs = [lab.file("production.log"), lab.file("target.log")];
    let serve = |host: Host, port, log| {
        let mut command = programs.tool.server(&lab, host, port, log);
        let mut server = Process::start(host.name(), &mut command, lab.folder()).unwrap();
        server.wait_for_line("ready", LIMIT).unwrap();
        server
    };
    let _production = serve(Host::Production, PRODUCTION_PORT, &logs[0]);
    let mut target = serve(Host::Target, TARGET_PORT, &logs[1]);

    let builds: [&[&str]; 4] = [
        &["cut"],
        &["not-combined", "cut"],
        &["payload", "cut"],
        &["not-combined", "payload", "cut"],
    ];
    for (number_of, words) in (1..).zip(builds) {
        let name = format!("c-intercept-{number_of}");
        let port = CHANNEL_PORT + number_of;
        let mut arguments = vec!["eth0".to_owned(), TARGET_PORT.to_string(), port.to_string()];
        arguments.extend(words.iter().map(|&word| word.to_owned()));
        let mut command = emulator(&lab, Host::Assistant, "intercept.py", &arguments);
        let mut intercept = Process::start(&name, &mut command, lab.folder()).unwrap();
        intercept.wait_for_line("ready", LIMIT).unwrap();

        let mut copy = Copy::new(Capture::Tap);
        copy.name = format!("tcpcopy-{number_of}");
        copy.intercept = format!("{}:{port}", Host::Assistant.address());
        copy.more.extend(["--drain".to_owned(), "20s".to_owned()]);
        let report = lab.file(&format!("report-{number_of}.json"));
        let mut tcpcopy = copy.start(&lab, &programs, &report).unwrap();
        let options = LoadOptions {
            server: (Host::Production.address(), PRODUCTION_PORT),
            requests: REQUESTS,
            connections: CONNECTIONS,
            rate: 600,
            seed: 300 + u64::from(number_of),
        };
        let mut command = programs.tool.load(&lab, &options);
        let mut load = Process::start("load", &mut command, lab.folder()).unwrap();
        load.wait_success(LIMIT).unwrap();
        let load = LoadReport::from_json(&load.stdout().parse().unwrap()).unwrap();
        assert_eq!((load.requests, load.errors), (REQUESTS, 0), "{load:?}");
        let wanted = REQUESTS * u64::from(number_of);
        let seen = |log: &Path| AccessLog::read(log).map_or(0, |log| log.requests());
        let _ = target.wait_until("all requests", LIMIT, |_| seen(&logs[1]) >= wanted);
        let said = tcpcopy.stderr();
        stop(&mut tcpcopy).unwrap();
        intercept.signal(Signal::INT).unwrap();
        let at_intercept = printed(&mut intercept);

        eprintln!("{words:?}: {at_intercept}");
        let [produced, replayed] = [&logs[0], &logs[1]].map(|log| AccessLog::read(log).unwrap());
        let faults = produced.compare(&replayed).faults();
        assert_eq!(faults, Vec::<String>::new(), "{words:?}\n{said}");
        let report = ExitReport::read(&report).unwrap();
        assert_eq!(report.imbalance(), Vec::<String>::new());
        let sessions = CONNECTIONS + REQUESTS / 2;
        let outcomes = report.outcomes();
        assert_eq!(
            outcomes.get("completed"),
            Some(&sessions),
            "{words:?} {outcomes:?}"
        );
        // Nothing that C does not know was sent, and everything that it sent was understood.
        assert_eq!(
            (
                number(&at_intercept, "unknown"),
                number(&at_intercept, "dels")
            ),
            (0, 0)
        );
        assert!(number(&at_intercept, "adds") >= sessions, "{at_intercept}");
        assert_eq!(report.number("counters/channel/responses_bad"), 0);
        assert_eq!(report.number("counters/channel/losses"), 0, "{said}");
        let records = number(&at_intercept, "records");
        assert_eq!(
            report.number("counters/channel/responses"),
            records,
            "{at_intercept}"
        );
        let counts = if words.contains(&"not-combined") {
            "without"
        } else {
            "with"
        };
        let bytes = if words.contains(&"payload") { 192 } else { 64 };
        let build = format!("records of {bytes} bytes, {counts} counts");
        assert!(said.contains(&build), "{build} not in {said}");
    }
}

/// Clients that only the emulator plays; what our intercept returns must be C's records, and their lengths the
/// answers'.
#[test]
fn our_intercept_with_c_tcpcopy() {
    const SESSIONS: u64 = 180;
    const ROUNDS: u8 = 6;
    let _alone = alone();
    require_root();
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let lab = Lab::up(&LabOptions::default()).unwrap();
    let address = Host::Target.address().to_string();
    let port = TARGET_PORT.to_string();
    let mut command = emulator(
        &lab,
        Host::Target,
        "answers.py",
        &[address.clone(), port.clone()],
    );
    let mut target = Process::start("answers", &mut command, lab.folder()).unwrap();
    target.wait_for_line("ready", LIMIT).unwrap();

    // Answers in packets of up to 200 KiB: IPv4 BIG TCP, whose total length is 0.
    let limit = |command: &mut Command, device: &str, bytes: u32| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("c-programs/big_tcp.py");
        let status = command
            .arg(script)
            .args([device, &bytes.to_string()])
            .status();
        assert!(status.unwrap().success(), "{device} {bytes}");
    };
    for device in [Host::Target.name(), Host::Assistant.name(), "br0"] {
        limit(&mut lab.switch().command("python3"), device, 200_000);
    }
    // Whether the target makes packets of more than 64 KiB depends on how fast it is answered: some rounds, if need be.
    let rounds = (1..=ROUNDS).map(|round| ("tcx", 200_000, round));
    let mut split_by_tcx = false;
    for (capture, bytes, round) in rounds.chain([("xdp", 65_536, 0)]) {
        if capture == "tcx" && split_by_tcx {
            continue;
        }
        // A veth with XDP takes no packet that its pages cannot hold.
        limit(&mut lab.command(Host::Target, "python3"), "eth0", bytes);
        let report = lab.file(&format!("{capture}{round}.json"));
        let mut intercept = Intercept::default();
        intercept
            .more
            .extend(["--capture".to_owned(), capture.to_owned()]);
        intercept
            .more
            .extend(["--report".to_owned(), report.display().to_string()]);
        let mut intercept = intercept.start(&lab, &programs).unwrap();
        // Addresses of ours that the target routes to the assistant; a run of its own each, for ports in TIME-WAIT.
        let first = format!("10.77.1.{}", 1 + 40 * round);
        let arguments = [
            Host::Assistant.address().to_string(),
            CHANNEL_PORT.to_string(),
            address.clone(),
            port.clone(),
            first,
            SESSIONS.to_string(),
        ];
        let mut command = emulator(&lab, Host::Production, "tcpcopy.py", &arguments);
        let mut tcpcopy = Process::start(
            &format!("c-tcpcopy-{capture}{round}"),
            &mut command,
            lab.folder(),
        )
        .unwrap();
        let seen = printed(&mut tcpcopy);
        stop(&mut intercept).unwrap();
        let report: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        eprintln!("{capture}: {seen}");
        assert!(
            number(&seen, "payload") >= number(&seen, "answered"),
            "{seen}"
        );
        assert_eq!(report["channel"]["adds"], SESSIONS, "{report:#}");
        assert_eq!(report["channel"]["unknown"], 1);
        let sent = report["records"]["sent"].as_u64().unwrap();
        assert!(sent >= number(&seen, "records"), "{seen} {report:#}");
        let split = report["packets"]["split"].as_u64() > Some(0);
        assert!(!split || bytes > 65_536, "{capture}: {report:#}");
        split_by_tcx |= split;
    }
    assert!(
        split_by_tcx,
        "no packet of more than 64 KiB in {ROUNDS} rounds"
    );
}
