//! Real servers and clients: nginx twice, curl, ab and wrk; the two access logs must say the same.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use lab::{
    Host, Lab, LabOptions, Process,
    nginx::Nginx,
    replay::{Capture, Copy, ExitReport, Intercept, PRODUCTION_PORT, TARGET_PORT, stop},
    testing::{programs, require_root},
    traffic::Curl,
};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_mins(3);
/// What is on its way when the clients are done reaches the target's log within this.
const SETTLE: Duration = Duration::from_secs(20);

/// About 3500 answers of 3 KB a second: half of what two nginx, the clients and the replay reach together on two
/// cores. What is tested is that nothing is lost, not how much a busy machine can do.
const CLIENT_MEGABITS: u32 = 100;
/// How often a growing log is read.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// From the line in the log to the answer at the client, with much to spare.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

const WRK_REQUESTS: u64 = 15_000;
const AB_KEPT_REQUESTS: u64 = 5000;
const AB_REQUESTS: u64 = 9000;
const CURL_REQUESTS: u64 = 1000;
const ALL_REQUESTS: u64 = WRK_REQUESTS + AB_KEPT_REQUESTS + AB_REQUESTS + CURL_REQUESTS;

/// Unique ids from two threads, a steady pace, and no request left open at the end: a thread stops when all its
/// requests are answered. A connection that has no more to send waits for an hour instead.
const WRK_SCRIPT: &str = r#"
local quota = PER_THREAD
local next_thread = 0
function setup(thread) next_thread = next_thread + 1; thread:set("thread_id", next_thread) end
local issued, done = 0, 0
function delay()
  if issued >= quota then return 3600000 end
  issued = issued + 1
  return 15
end
local number = 0
function request()
  number = number + 1
  local size = number % 7 == 0 and 3000 or 0
  local path = "/wrk?id=wrk-" .. thread_id .. "-" .. number
  if size > 0 then return wrk.format("POST", path, {["Content-Length"] = size}, string.rep("x", size)) end
  return wrk.format("GET", path)
end
function response()
  done = done + 1
  if done == quota then wrk.thread:stop() end
end
"#;

#[test]
fn nginx_gets_what_nginx_got_by_tap() {
    replay_to_nginx(Capture::Tap);
}

#[test]
fn nginx_gets_what_nginx_got_by_mirror() {
    replay_to_nginx(Capture::Mirror);
}

fn replay_to_nginx(capture: Capture) {
    require_root();
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let options = LabOptions {
        client_megabits: Some(CLIENT_MEGABITS),
        ..LabOptions::default()
    };
    let lab = Lab::up(&options).unwrap();
    let mut production = Nginx::start(&lab, Host::Production, PRODUCTION_PORT).unwrap();
    let mut target = Nginx::start(&lab, Host::Target, TARGET_PORT).unwrap();
    let mut intercept = Intercept::default().start(&lab, &programs).unwrap();
    let report = lab.file("report.json");
    let mut tcpcopy = Copy::new(capture).start(&lab, &programs, &report).unwrap();

    wrk(&lab);
    ab(&lab, &["-k"], "ab-kept", AB_KEPT_REQUESTS);
    ab(&lab, &[], "ab", AB_REQUESTS);
    curl(&lab);

    let read = |host| Nginx::log_of(&lab, host).unwrap();
    let produced = read(Host::Production);
    let deadline = Instant::now() + SETTLE;
    while read(Host::Target).requests() < produced.requests() && Instant::now() < deadline {
        thread::sleep(LOOK_EVERY);
    }
    stop(&mut tcpcopy).unwrap();
    stop(&mut intercept).unwrap();
    for server in [&mut production, &mut target] {
        assert!(
            server.process().ended().unwrap().is_none(),
            "both servers still run"
        );
    }

    let comparison = produced.compare(&read(Host::Target));
    let report = ExitReport::read(&report).unwrap();
    assert_eq!(lab.checksum_faults().unwrap(), Vec::<String>::new());
    eprintln!("{}: {comparison:?} {:?}", capture.name(), report.outcomes());
    assert_eq!(comparison.production_requests, ALL_REQUESTS);
    assert_eq!(
        comparison.target_requests,
        ALL_REQUESTS,
        "{:?} {}",
        report.outcomes(),
        report.json["packets"]
    );
    assert_eq!(comparison.faults(), Vec::<String>::new());
}

fn url(path: &str) -> String {
    format!(
        "http://{}:{PRODUCTION_PORT}{path}",
        Host::Production.address()
    )
}

fn wrk(lab: &Lab) {
    let script = lab.file("wrk.lua");
    fs::write(
        &script,
        WRK_SCRIPT.replace("PER_THREAD", &(WRK_REQUESTS / 2).to_string()),
    )
    .unwrap();
    let mut command = lab.command(Host::Client, "wrk");
    command
        .args(["-t", "2", "-c", "50", "-d", "180", "--timeout", "30", "-s"])
        .arg(&script)
        .arg(url("/"));
    let mut wrk = Process::start("wrk", &mut command, lab.folder()).unwrap();
    // Its threads stop when they are done, but wrk sleeps for the rest of its time unless it is interrupted.
    let deadline = Instant::now() + LIMIT;
    while Nginx::log_of(lab, Host::Production).unwrap().requests() < WRK_REQUESTS
        && Instant::now() < deadline
    {
        thread::sleep(LOOK_EVERY);
    }
    thread::sleep(LAST_ANSWERS);
    wrk.signal(Signal::INT).unwrap();
    wrk.wait_success(LIMIT).unwrap();
    let said = wrk.stdout();
    assert!(
        said.contains(&format!("{WRK_REQUESTS} requests in")),
        "{said}"
    );
    assert!(
        !said.contains("Socket errors") && !said.contains("Non-2xx"),
        "{said}"
    );
}

fn ab(lab: &Lab, flags: &[&str], id: &str, requests: u64) {
    let mut command = lab.command(Host::Client, "ab");
    command
        .args(flags)
        .args(["-q", "-c", "10", "-n", &requests.to_string()])
        .arg(url(&format!("/ab?id={id}")));
    let mut ab = Process::start(id, &mut command, lab.folder()).unwrap();
    ab.wait_success(LIMIT).unwrap();
    let said = ab.stdout();
    let figure = |name: &str| {
        let line = said
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default();
        line.trim().parse::<u64>().ok()
    };
    assert_eq!(figure("Complete requests:"), Some(requests), "{said}");
    assert_eq!(figure("Failed requests:"), Some(0), "{said}");
}

/// A connection for each request; every tenth one posts.
fn curl(lab: &Lab) {
    let (gets, posts) = (CURL_REQUESTS / 10 * 9, CURL_REQUESTS / 10);
    for curl in [
        Curl::short("curl-get", gets),
        Curl::short("curl-post", posts).posting(),
    ] {
        curl.start(lab).unwrap().wait_success(LIMIT).unwrap();
    }
}
