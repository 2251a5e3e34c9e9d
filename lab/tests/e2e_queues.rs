//! Queues and workers in every proportion, and flows whose packets come by changing CPUs and queues: every queue
//! is served, nothing is lost, and nobody takes one flow for two.
//!
//! ```text
//!  production: RPS ──CPU 0 or 1──▶ tap rings ──▶ owner
//!  mirror port: XPS ──queue 0 to 3──▶ worker of the queue ──▶ owner, by a hand-over ring
//! ```
//! Packets of a flow overtake each other on the way, the SYN too.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use lab::{
    Host, Lab, LabOptions,
    nginx::Nginx,
    replay::{Capture, Copy, ExitReport, Intercept, PRODUCTION_PORT, TARGET_PORT, stop},
    testing::{programs, require_root},
    traffic::Curl,
    world::{Namespace, run},
};

const LIMIT: Duration = Duration::from_mins(1);
/// Several times during each kept connection of the load, which lasts two seconds.
const STEER_EVERY: Duration = Duration::from_millis(50);
const KEPT: [&str; 6] = ["k1", "k2", "k3", "k4", "k5", "k6"];
const REQUESTS: u64 = 100;
const RATE: u32 = 50;
/// What reaches the target's log late.
const SETTLE: Duration = Duration::from_secs(10);

/// Receive queues, and the cores of the workers.
#[derive(Clone, Copy)]
struct Shape {
    queues: u32,
    cores: &'static str,
    workers: u32,
}

/// Fewer cores than queues, one of them and two, and more cores than queues.
const SHAPES: [Shape; 3] = [
    Shape {
        queues: 4,
        cores: "0",
        workers: 1,
    },
    Shape {
        queues: 4,
        cores: "0-1",
        workers: 2,
    },
    Shape {
        queues: 1,
        cores: "0,1",
        workers: 2,
    },
];

#[test]
fn tap_serves_all_queues_whatever_the_number_of_cores() {
    for shape in SHAPES {
        replay(Capture::Tap, shape);
    }
}

#[test]
fn mirror_serves_all_queues_whatever_the_number_of_cores() {
    for shape in SHAPES {
        replay(Capture::Mirror, shape);
    }
}

/// Writes a mask of CPUs to that file of each queue, such as `rps_cpus` of `rx`.
fn steer(namespace: &Namespace, interface: &str, [prefix, file]: [&str; 2], masks: &[&str]) {
    let script = format!(
        "i=0; for mask in {}; do echo $mask > /sys/class/net/{interface}/queues/{prefix}-$i/{file}; i=$((i+1)); done",
        masks.join(" ")
    );
    run(namespace.command("sh").args(["-ec", &script])).unwrap();
}

/// One flow's packets go to another CPU on production (RPS), to another queue on the mirror port (XPS), again and
/// again, until `done`.
fn steer_to_and_fro(lab: &Lab, queues: u32, done: &AtomicBool) {
    let (production, switch) = (lab.host(Host::Production), lab.switch());
    let queues = queues as usize;
    while !done.load(Ordering::Relaxed) {
        for (rps, xps) in [
            (["1"; 4], ["1", "1", "2", "2"]),
            (["2"; 4], ["2", "2", "1", "1"]),
        ] {
            steer(&production, "eth0", ["rx", "rps_cpus"], &rps[..queues]);
            if queues > 1 {
                steer(&switch, "mirror", ["tx", "xps_cpus"], &xps[..queues]);
            }
            thread::sleep(STEER_EVERY);
        }
    }
}

/// Kept connections that post, and short ones, while flows are moved; until the target's log has them all.
fn talk(lab: &Lab, queues: u32) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| steer_to_and_fro(lab, queues, &done));
        let kept = KEPT.map(|name| Curl::kept(name, REQUESTS).posting_bytes(4000));
        let curls = kept.into_iter().chain([Curl::short("short", REQUESTS)]);
        let mut curls: Vec<_> = curls
            .map(|curl| curl.paced(RATE).start(lab).unwrap())
            .collect();
        let ended: Vec<_> = curls.iter_mut().map(|c| c.wait_success(LIMIT)).collect();
        done.store(true, Ordering::Relaxed);
        for result in ended {
            result.unwrap();
        }
    });
    let expected = Nginx::log_of(lab, Host::Production).unwrap().requests();
    let deadline = Instant::now() + SETTLE;
    while Nginx::log_of(lab, Host::Target).unwrap().requests() < expected
        && Instant::now() < deadline
    {
        thread::sleep(STEER_EVERY);
    }
}

fn replay(capture: Capture, shape: Shape) {
    require_root();
    assert!(
        thread::available_parallelism().unwrap().get() >= 2,
        "this test needs two cores"
    );
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let lab = Lab::up(&LabOptions {
        queues: shape.queues,
        ..LabOptions::default()
    })
    .unwrap();
    let _production = Nginx::start(&lab, Host::Production, PRODUCTION_PORT).unwrap();
    let _target = Nginx::start(&lab, Host::Target, TARGET_PORT).unwrap();
    let mut intercept = Intercept {
        cores: shape.cores.to_owned(),
        ..Intercept::default()
    }
    .start(&lab, &programs)
    .unwrap();
    let path = lab.file("report.json");
    let mut copy = Copy::new(capture);
    shape.cores.clone_into(&mut copy.cores);
    let mut tcpcopy = copy.start(&lab, &programs, &path).unwrap();

    talk(&lab, shape.queues);
    if capture == Capture::Mirror {
        every_queue_had_packets(&lab, shape.queues);
    }
    stop(&mut tcpcopy).unwrap();
    stop(&mut intercept).unwrap();

    let log = tcpcopy.stderr();
    let report = ExitReport::read(&path).unwrap();
    eprintln!("{} {}", report.json["sessions"], report.json["counters"]);
    let produced = Nginx::log_of(&lab, Host::Production).unwrap();
    let comparison = produced.compare(&Nginx::log_of(&lab, Host::Target).unwrap());
    assert_eq!(comparison.production_requests, 7 * REQUESTS);
    assert_eq!(comparison.faults(), Vec::<String>::new(), "{log}");
    assert_eq!(lab.checksum_faults().unwrap(), Vec::<String>::new());
    assert_eq!(report.imbalance(), Vec::<String>::new());
    assert_eq!(report.dropped(), 0, "{}", report.json["packets"]);
    // One connection is one session from its SYN on, whichever CPUs and queues its packets came by.
    let sessions = KEPT.len() as u64 + REQUESTS;
    assert_eq!(report.outcomes()["completed"], sessions, "{log}");
    assert_eq!(report.number("sessions/total"), sessions);
    assert_eq!(report.number("counters/engine/sessions_adopted"), 0);
    let early = report.number("counters/engine/segments_early");
    if capture == Capture::Mirror && shape.queues > 1 && shape.workers > 1 {
        assert!(early > 0, "nothing overtook a SYN: flows were not moved");
    }
    assert_placed(&intercept.stderr(), shape);
    if capture == Capture::Mirror {
        assert_placed(&log, shape);
    } else {
        let shares = log.matches("worker takes its share").count();
        assert_eq!(shares, shape.workers as usize, "{log}");
    }
}

/// The log says of each queue which worker on which core serves it.
fn assert_placed(log: &str, shape: Shape) {
    for queue in 0..shape.queues {
        let (worker, words) = (queue % shape.workers, format!("queue={queue} "));
        let line = log
            .lines()
            .find(|line| line.contains("receive queue") && line.contains(&words))
            .unwrap_or_else(|| panic!("no line of queue {queue}: {log}"));
        let served = format!("worker={worker} core=\"{worker}\"");
        assert!(line.contains(&served), "{line}");
    }
}

/// The driver counted frames for the XDP program on each queue: the test did what it says.
fn every_queue_had_packets(lab: &Lab, queues: u32) {
    let output = run(lab.command(Host::Capture, "ethtool").args(["-S", "mir0"])).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for queue in 0..queues {
        let name = format!("rx_queue_{queue}_xdp_packets:");
        let packets: u64 = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(&name)?.trim().parse().ok())
            .unwrap_or(0);
        assert!(packets > 0, "queue {queue}: {text}");
    }
}
