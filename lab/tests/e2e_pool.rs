//! Topology B: the target answers to addresses, or ports, for which tcpcopy-user itself takes the answers. No intercept, no
//! route on the target, nothing set there.

use std::{
    net::{Ipv4Addr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use lab::{
    Host, Lab, LabOptions, Process,
    nginx::Nginx,
    replay::{Capture, Copy, RunOptions, RunResult, run_prepared},
    testing::{programs, require_root},
    world::{BpfObjects, run},
};
use rustix::process::Signal;

/// On the target's link.
const POOL: &str = "10.77.0.128/25";
const OWN_PORTS: &str = "self:61000-65535";
/// The figure is 30,000: set this to run it.
const REQUESTS: &str = "REPLAY_POOL_REQUESTS";
const LIMIT: Duration = Duration::from_mins(1);
/// Detached programs and their maps are freed after RCU grace periods.
const FREE_LIMIT: Duration = Duration::from_secs(10);
/// The kernel gives up on a neighbour after three questions, one a second.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A server on the target beside the one under test.
const OTHER_PORT: u16 = 8081;

fn options(capture: Capture, seed: u64, pool: &str) -> RunOptions {
    let mut options = RunOptions::new(capture);
    options.requests = std::env::var(REQUESTS).map_or(4000, |n| n.parse().unwrap());
    options.seed = seed;
    options.copy.pool = Some(pool.to_owned());
    options
}

/// Replays while the host on which tcpcopy runs talks to the target itself. Nothing may be lost, of either.
fn replay(options: &RunOptions) -> RunResult {
    require_root();
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let mut own = None;
    let mut prepare = |lab: &Lab| {
        // The routes that the assistant needs.
        for network in ["10.77.1.0/24", "10.77.2.0/24"] {
            run(lab
                .command(Host::Target, "ip")
                .args(["route", "del", network]))?;
        }
        let listen = format!("{}:{OTHER_PORT}", Host::Target.address());
        let server = Nginx::start_named(lab, "own", Host::Target, &listen, "")?;
        let mut curl = lab.command(options.copy.host, "curl");
        curl.args(["-sS", "-f", "-o", "/dev/null", "--rate", "6000/m"]);
        curl.arg(format!("http://{listen}/?id=own-[1-200]"));
        let curl = Process::start("own", &mut curl, lab.folder())?;
        own = Some((server, curl));
        Ok(())
    };
    let result = run_prepared(&programs, options, &mut prepare, &mut |text| {
        eprintln!("{text}");
    })
    .unwrap();
    eprintln!("{}{}", result.table(), result.report.json["counters"]);
    let (_, mut curl) = own.unwrap();
    curl.wait_success(LIMIT).unwrap();
    assert_eq!(result.faults(), Vec::<String>::new());
    assert_eq!(result.comparison.production_requests, options.requests);
    assert_eq!(result.report.imbalance(), Vec::<String>::new());
    assert_eq!(
        result.report.dropped(),
        0,
        "{}",
        result.report.json["packets"]
    );
    let outcomes = result.report.outcomes();
    let sessions = options.requests / 2 + options.connections;
    assert_eq!(outcomes.get("completed"), Some(&sessions), "{outcomes:?}");
    let pool = result.report.numbers("counters/pool");
    assert_eq!(pool["captured"], pool["tap_frames"], "{pool:?}");
    assert_eq!(
        (pool["other_dropped"], pool["conflict"]),
        (0, 0),
        "{pool:?}"
    );
    result
}

/// Two workers, whose sessions' answers come by two queues.
#[test]
fn addresses_on_the_targets_link() {
    let mut options = options(Capture::Tap, 31, POOL);
    options.copy.cores = "0,1".to_owned();
    options.lab.queues = 2;
    let result = replay(&options);
    let pool = result.report.numbers("counters/pool");
    assert!(pool["arp_answered"] > 0, "{pool:?}");
}

/// The mirror port is one interface, the way to the target another.
#[test]
fn a_mirror_on_a_host_of_its_own() {
    let mut options = options(Capture::Mirror, 32, POOL);
    options.copy.cores = "0,1".to_owned();
    replay(&options);
}

#[test]
fn ports_of_the_host_itself() {
    let result = replay(&options(Capture::Tap, 33, OWN_PORTS));
    let pool = result.report.numbers("counters/pool");
    assert_eq!(pool["arp_answered"], 0, "{pool:?}");
}

/// Nothing of a killed process stays: no program, no answer to who asks.
#[test]
fn a_killed_pool_leaves_nothing() {
    require_root();
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let lab = Lab::up(&LabOptions::default()).unwrap();
    let address = "10.77.0.200";
    let mut copy = Copy::new(Capture::Tap);
    copy.pool = Some(POOL.to_owned());
    let report = lab.file("report.json");
    let mut tcpcopy = copy.start(&lab, &programs, &report).unwrap();
    let log = tcpcopy.stderr();
    let capacity = format!("capacity={}", 126 * 64_512);
    assert!(log.contains(&capacity), "{log}");
    let heard = answered(&lab, address);
    assert!(heard, "nobody answers for {address}: {log}");
    // The tap's and the pool's.
    let ours = BpfObjects::links_of_process(tcpcopy.id()).unwrap();
    let remaining = ours.remaining().unwrap();
    assert_eq!((ours.count("link"), &remaining), (2, &ours));
    tcpcopy.signal(Signal::KILL).unwrap();
    tcpcopy.wait(LIMIT).unwrap();
    assert_eq!(
        ours.remaining_after(FREE_LIMIT).unwrap(),
        BpfObjects::default()
    );
    run(lab
        .command(Host::Target, "ip")
        .args(["neigh", "flush", "dev", "eth0"]))
    .unwrap();
    let heard = answered(&lab, address);
    assert!(!heard, "{address} lives on");
}

/// True if somebody tells the target where the address is, once it has a datagram for it.
fn answered(lab: &Lab, address: &str) -> bool {
    // Port 9, discard.
    let send = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.send_to(b"who has this?", (address, 9))
    };
    lab.host(Host::Target).enter(send).unwrap().unwrap();
    let deadline = Instant::now() + ANSWER_LIMIT;
    loop {
        let shown = run(lab
            .command(Host::Target, "ip")
            .args(["neigh", "show", address]))
        .unwrap();
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let asking = shown.is_empty() || shown.contains("INCOMPLETE");
        if !asking || Instant::now() > deadline {
            return shown.contains("lladdr");
        }
        thread::sleep(LOOK_EVERY);
    }
}
