//! TCP over IPv6, end to end: nginx twice, curl; the two access logs must say the same.

use std::{
    thread,
    time::{Duration, Instant},
};

use lab::{
    Host, Lab, LabOptions,
    dns::{CLIENT_SOURCE6, address6, enable_ipv6},
    nginx::Nginx,
    replay::{Capture, Copy, ExitReport, Intercept, PRODUCTION_PORT, TARGET_PORT, stop},
    testing::{programs, require_root},
    world::run,
};

const KEPT_REQUESTS: u32 = 4000;
const SHORT_REQUESTS: u32 = 1000;
/// What is on its way when the client is done reaches the target's log within this.
const SETTLE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[test]
fn clients_keep_their_addresses_by_tap() {
    replay(Capture::Tap, &[]);
}

#[test]
fn clients_get_addresses_of_a_pool_by_mirror() {
    replay(Capture::Mirror, &["-c", "2001:db8:77:2::a000/116"]);
}

fn replay(capture: Capture, more: &[&str]) {
    require_root();
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let lab = Lab::up(&LabOptions::default()).unwrap();
    enable_ipv6(&lab).unwrap();
    let start = |host, port| {
        let listen = format!("[{}]:{port}", address6(host));
        let unnamed = "set $lab_client client;";
        Nginx::start_named(&lab, host.name(), host, &listen, unnamed).unwrap()
    };
    let _servers = [
        start(Host::Production, PRODUCTION_PORT),
        start(Host::Target, TARGET_PORT),
    ];
    let mut intercept = Intercept::default().start(&lab, &programs).unwrap();
    let report = lab.file("report.json");
    let mut copy = Copy::new(capture);
    copy.transfer = format!(
        "[{}]:{PRODUCTION_PORT}-[{}]:{TARGET_PORT}",
        address6(Host::Production),
        address6(Host::Target)
    );
    copy.more.extend(more.iter().map(|s| (*s).to_owned()));
    let mut tcpcopy = copy.start(&lab, &programs, &report).unwrap();

    curl(&lab, "kept", KEPT_REQUESTS, &[]);
    curl(&lab, "short", SHORT_REQUESTS, &["-H", "Connection: close"]);

    let read = |host| Nginx::log_of(&lab, host).unwrap();
    let produced = read(Host::Production);
    let deadline = Instant::now() + SETTLE;
    while read(Host::Target).requests() < produced.requests() && Instant::now() < deadline {
        thread::sleep(LOOK_EVERY);
    }
    stop(&mut tcpcopy).unwrap();
    stop(&mut intercept).unwrap();
    let comparison = produced.compare(&read(Host::Target));
    let report = ExitReport::read(&report).unwrap();
    let all = u64::from(KEPT_REQUESTS + SHORT_REQUESTS);
    assert_eq!(comparison.production_requests, all);
    assert_eq!(
        comparison.faults(),
        [] as [&str; 0],
        "{:?}",
        report.outcomes()
    );
    assert_eq!(report.imbalance(), [] as [&str; 0]);
    let outcomes = report.outcomes();
    assert_eq!(
        outcomes.get("completed"),
        Some(&u64::from(SHORT_REQUESTS + 1)),
        "{outcomes:?}"
    );
    // Sums were right at every receiver.
    for host in [Host::Target, Host::Assistant] {
        let counters = run(lab.command(host, "nstat").args(["-az", "TcpInCsumErrors"])).unwrap();
        let text = String::from_utf8_lossy(&counters.stdout).into_owned();
        let row = text.lines().find(|row| row.starts_with("TcpInCsumErrors"));
        let errors = row.and_then(|row| row.split_whitespace().nth(1));
        assert_eq!(errors, Some("0"), "{} {text}", host.name());
    }
}

fn curl(lab: &Lab, prefix: &str, requests: u32, more: &[&str]) {
    let url = format!(
        "http://[{}]:{PRODUCTION_PORT}/?id={prefix}-[1-{requests}]",
        address6(Host::Production)
    );
    let source = CLIENT_SOURCE6.to_string();
    run(lab
        .command(Host::Client, "curl")
        .args(["-sS", "-f", "-o", "/dev/null", "--interface", &source])
        .args(more)
        .arg(url))
    .unwrap();
}
