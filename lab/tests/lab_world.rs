//! The lab itself: built, used and taken down without any replay.

use std::{
    collections::BTreeSet,
    process::Command,
    time::{Duration, Instant},
};

use lab::{
    Host, Lab, LabOptions, Process,
    testing::require_root,
    tool::Tool,
    traffic::{AccessLog, Flood, LoadOptions, LoadReport},
    world::{CLIENT_SOURCE, HOSTS, InterfaceCounters, Namespace, run},
};

const TOOL: &str = env!("CARGO_BIN_EXE_lab-tool");
const LIMIT: Duration = Duration::from_mins(1);

fn names(lab: &Lab) -> BTreeSet<String> {
    HOSTS
        .iter()
        .map(|&host| lab.host(host))
        .chain([lab.switch()])
        .map(|space| space.name().to_owned())
        .collect()
}

#[test]
fn two_labs_live_side_by_side_and_leave_nothing() {
    require_root();
    let first = Lab::up(&LabOptions::default()).unwrap();
    let second = Lab::up(&LabOptions {
        queues: 4,
        ..LabOptions::default()
    })
    .unwrap();
    assert!(names(&first).is_disjoint(&names(&second)));

    let queues = run(second
        .command(Host::Production, "ls")
        .arg("/sys/class/net/eth0/queues"))
    .unwrap();
    let queues = String::from_utf8_lossy(&queues.stdout).into_owned();
    assert_eq!(
        queues
            .lines()
            .filter(|line| line.starts_with("rx-"))
            .count(),
        4,
        "{queues}"
    );
    assert_eq!(
        queues
            .lines()
            .filter(|line| line.starts_with("tx-"))
            .count(),
        4,
        "{queues}"
    );

    let spaces: Vec<Namespace> = HOSTS
        .iter()
        .flat_map(|&host| [first.host(host), second.host(host)])
        .collect();
    let folders = [first.folder().to_owned(), second.folder().to_owned()];
    drop((first, second));
    assert!(spaces.iter().all(|space| !space.exists()));
    assert!(folders.iter().all(|folder| !folder.exists()));
}

#[test]
fn processes_end_with_their_guard_and_with_the_lab() {
    require_root();
    let lab = Lab::up(&LabOptions::default()).unwrap();
    let guarded = Process::start(
        "sleep",
        lab.command(Host::Client, "sleep").arg("1000"),
        lab.folder(),
    )
    .unwrap();
    let alive = |pid: u32| std::path::Path::new(&format!("/proc/{pid}")).exists();
    let pid = guarded.id();
    assert!(alive(pid));
    drop(guarded);
    assert!(!alive(pid));

    // One that nobody guards.
    let mut stray = lab
        .command(Host::Target, "sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let inside = lab.host(Host::Target);
    let deadline = Instant::now() + LIMIT;
    while inside.programs().is_empty() {
        assert!(
            Instant::now() < deadline,
            "the stray process never showed up"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(lab);
    assert!(!stray.wait().unwrap().success());
}

#[test]
fn load_reaches_production_and_the_mirror_sees_both_directions() {
    require_root();
    let lab = Lab::up(&LabOptions::default()).unwrap();
    let tool = Tool::new(TOOL, &[]);
    let log = lab.file("access.log");
    let mut server = Process::start(
        "server",
        &mut tool.server(&lab, Host::Production, 80, &log),
        lab.folder(),
    )
    .unwrap();
    server.wait_for_line("ready", LIMIT).unwrap();

    let before = InterfaceCounters::of(&lab.host(Host::Capture), "mir0").unwrap();
    let port = InterfaceCounters::of(&lab.host(Host::Production), "eth0").unwrap();
    let options = LoadOptions {
        server: (Host::Production.address(), 80),
        requests: 400,
        connections: 10,
        rate: 2000,
        seed: 9,
    };
    let mut load = Process::start("load", &mut tool.load(&lab, &options), lab.folder()).unwrap();
    load.wait_success(LIMIT).unwrap();
    let report = LoadReport::from_json(&load.stdout().parse().unwrap()).unwrap();
    assert_eq!((report.requests, report.errors), (400, 0), "{report:?}");

    let log = AccessLog::read(&log).unwrap();
    assert_eq!(log.compare(&log).faults(), Vec::<String>::new());
    assert_eq!(log.compare(&log).production_ids, 400);

    // GSO packets count once at production and by segment on the mirror: at least as many there.
    let mirrored = InterfaceCounters::of(&lab.host(Host::Capture), "mir0")
        .unwrap()
        .rx_packets
        - before.rx_packets;
    let now = InterfaceCounters::of(&lab.host(Host::Production), "eth0").unwrap();
    let carried = now.rx_packets - port.rx_packets + now.tx_packets - port.tx_packets;
    assert!(
        mirrored >= carried && carried > 1000,
        "mirrored {mirrored}, production's port carried {carried}"
    );
}

#[test]
fn a_flood_arrives_packet_for_packet() {
    require_root();
    let lab = Lab::up(&LabOptions::default()).unwrap();
    let production = lab.host(Host::Production);
    let before = lab::world::StackCounters::of(&production).unwrap();
    let flood = Flood {
        from: CLIENT_SOURCE,
        to: (Host::Production.address(), 80),
        duration: Duration::from_millis(200),
        rate: Some(20_000),
    };
    let report = flood.run(&lab.host(Host::Client)).unwrap();
    let after = lab::world::StackCounters::of(&production).unwrap();
    assert!(report.sent > 1000, "{report:?}");
    assert_eq!(after.since(&before, "TcpInSegs"), report.sent);
    assert_eq!(after.since(&before, "TcpInErrs"), 0, "checksums are right");
    assert_eq!(
        after.since(&before, "TcpOutSegs"),
        0,
        "nobody answers a reset"
    );
}

/// The lab as a process of its own: this test's second half.
const AS_CHILD: &str = "LAB_WORLD_CHILD";

#[test]
fn child_builds_a_lab_and_waits() {
    require_root();
    if std::env::var_os(AS_CHILD).is_none() {
        // Run by the harness among the others: show at least that a lab can be built again and again.
        drop(Lab::up(&LabOptions::default()).unwrap());
        return;
    }
    let lab = Lab::up(&LabOptions::default()).unwrap();
    eprintln!("up {}", lab.switch().name());
    std::thread::sleep(LIMIT);
}

fn child(folder: &std::path::Path) -> (Process, String) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child_builds_a_lab_and_waits", "--nocapture"])
        .env(AS_CHILD, "1");
    let mut child = Process::start("child", &mut command, folder).unwrap();
    child.wait_for_line("up lab-", LIMIT).unwrap();
    let text = child.stderr();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("up "))
        .unwrap()
        .to_owned();
    (child, name)
}

fn exists(namespace: &str) -> bool {
    std::path::Path::new("/run/netns").join(namespace).exists()
}

#[test]
fn signals_take_a_lab_down_and_the_next_run_what_a_kill_left() {
    require_root();
    let folder = std::env::temp_dir().join(format!("lab-world-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for (signal, status) in [
        (rustix::process::Signal::INT, 130),
        (rustix::process::Signal::TERM, 143),
    ] {
        let (mut process, name) = child(&folder);
        assert!(exists(&name));
        process.signal(signal).unwrap();
        assert_eq!(process.wait(LIMIT).unwrap().code(), Some(status));
        assert!(!exists(&name), "{name} is left after {signal:?}");
    }

    let (mut process, name) = child(&folder);
    process.signal(rustix::process::Signal::KILL).unwrap();
    process.wait(LIMIT).unwrap();
    assert!(exists(&name), "nobody could clean up");
    let next = Lab::up(&LabOptions::default()).unwrap();
    assert!(!exists(&name), "{name} is left after the next run began");
    drop(next);
    std::fs::remove_dir_all(&folder).unwrap();
}
