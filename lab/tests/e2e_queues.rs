//! Four receive queues, two cores, and flows whose packets come by changing CPUs and queues: every queue is served,
//! nothing is lost, and nobody takes one flow for two.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
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
const QUEUES: u32 = 4;
/// Several times during each kept connection of the load, which lasts four seconds.
const STEER_EVERY: Duration = Duration::from_millis(50);
const REQUESTS: u64 = 200;
const RATE: u32 = 50;
/// What reaches the target's log late.
const SETTLE: Duration = Duration::from_secs(10);

#[test]
fn tap_serves_four_queues_on_two_cores() {
    replay(Capture::Tap);
}

#[test]
fn mirror_serves_four_queues_on_two_cores() {
    replay(Capture::Mirror);
}

/// Writes a mask of CPUs to that file of each queue, such as `rps_cpus` of `rx`.
fn steer(namespace: &Namespace, interface: &str, queues: [&str; 2], masks: [&str; 4]) {
    let [prefix, file] = queues;
    let script = format!(
        "i=0; for mask in {}; do echo $mask > /sys/class/net/{interface}/queues/{prefix}-$i/{file}; i=$((i+1)); done",
        masks.join(" ")
    );
    run(namespace.command("sh").args(["-ec", &script])).unwrap();
}

/// One flow's packets go to another CPU on production (RPS), to another queue on the mirror port (XPS), again and
/// again, until `done`.
fn steer_to_and_fro(lab: &Lab, done: &AtomicBool) {
    let (production, switch) = (lab.host(Host::Production), lab.switch());
    while !done.load(Ordering::Relaxed) {
        for (rps, xps) in [
            (["1"; 4], ["1", "1", "2", "2"]),
            (["2"; 4], ["2", "2", "1", "1"]),
        ] {
            steer(&production, "eth0", ["rx", "rps_cpus"], rps);
            steer(&switch, "mirror", ["tx", "xps_cpus"], xps);
            thread::sleep(STEER_EVERY);
        }
    }
}

#[allow(unused)]
fn replay(capture: Capture) {
    require_root();
    assert!(
        thread::available_parallelism().unwrap().get() >= 2,
        "this test needs two cores"
    );
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let lab = Lab::up(&LabOptions {
        queues: QUEUES,
        ..LabOptions::default()
    })
    .unwrap();
    let _production = Nginx::start(&lab, Host::Production, PRODUCTION_PORT).unwrap();
    let _target = Nginx::start(&lab, Host::Target, TARGET_PORT).unwrap();
    let mut intercept = Intercept {
        cores: "0-1".to_owned(),
        ..Intercept::default()
    }
    .start(&lab, &programs)
    .unwrap();
    let path = lab.file("report.json");
    let mut copy = Copy::new(capture);
    copy.cores = "0-1".to_owned();
    let mut tcpcopy = copy.start(&lab, &programs, &path).unwrap();

    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| steer_to_and_fro(&lab, &done));
        let kept = ["k1", "k2", "k3", "k4", "k5", "k6"];
        let curls = kept
            .map(|name| Curl::kept(name, REQUESTS).paced(RATE).posting_bytes(4000))
            .into_iter()
            .chain([Curl::short("short", REQUESTS).paced(RATE)]);
        let mut curls: Vec<_> = curls.map(|curl| curl.start(&lab).unwrap()).collect();
        let ended: Vec<_> = curls.iter_mut().map(|c| c.wait_success(LIMIT)).collect();
        done.store(true, Ordering::Relaxed);
        for result in ended {
            result.unwrap();
        }
    });
    let produced = Nginx::log_of(&lab, Host::Production).unwrap();
    let deadline = std::time::Instant::now() + SETTLE;
    while Nginx::log_of(&lab, Host::Target).unwrap().requests() < produced.requests()
        && std::time::Instant::now() < deadline
    {
        thread::sleep(STEER_EVERY);
    }
    if capture == Capture::Mirror {
        every_queue_had_packets(&lab);
    }
    stop(&mut tcpcopy).unwrap();
    stop(&mut intercept).unwrap();

    let log = tcpcopy.stderr();
    eprintln!("{:#}", ExitReport::read(&path).unwrap().json);
    std::fs::write("/tmp/q-dbg.log", &log).unwrap();
    let comparison = produced.compare(&Nginx::log_of(&lab, Host::Target).unwrap());
    assert_eq!(comparison.production_requests, 7 * REQUESTS);
    assert_eq!(comparison.faults(), Vec::<String>::new(), "{log}");
    let report = ExitReport::read(&path).unwrap();
    assert_eq!(report.imbalance(), Vec::<String>::new());
    assert_eq!(report.dropped(), 0, "{}", report.json["packets"]);
    // One connection is one session, whichever CPUs and queues its packets came by.
    assert_eq!(
        report.number("sessions/total"),
        6 + REQUESTS,
        "{:?}",
        report.outcomes()
    );
    let responses = intercept.stderr();
    assert_placed(&responses, "receive queue", QUEUES);
    match capture {
        Capture::Mirror => assert_placed(&log, "receive queue", QUEUES),
        Capture::Tap => {
            assert_eq!(log.matches("worker takes its share").count(), 2, "{log}");
        }
    }
}

/// The log says of each queue which worker on which core serves it.
fn assert_placed(log: &str, message: &str, queues: u32) {
    for queue in 0..queues {
        let (worker, words) = (queue % 2, format!("queue={queue} "));
        let line = log
            .lines()
            .find(|line| line.contains(message) && line.contains(&words))
            .unwrap_or_else(|| panic!("no line of queue {queue}: {log}"));
        assert!(
            line.contains(&format!("worker={worker} core=\"{worker}\""))
                || line.contains(&format!("worker={worker} core={worker}")),
            "{line}"
        );
    }
}

/// The driver counted frames for the XDP program on each queue: the test did what it says.
fn every_queue_had_packets(lab: &Lab) {
    let output = run(lab.command(Host::Capture, "ethtool").args(["-S", "mir0"])).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for queue in 0..QUEUES {
        let name = format!("rx_queue_{queue}_xdp_packets:");
        let packets: u64 = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(&name)?.trim().parse().ok())
            .unwrap_or(0);
        assert!(packets > 0, "queue {queue}: {text}");
    }
}
