//! TCP over IPv6, end to end: nginx twice, curl; the two access logs must say the same.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use lab::{
    Host, Lab, LabOptions,
    nginx::Nginx,
    replay::{Capture, Copy, ExitReport, Intercept, PRODUCTION_PORT, TARGET_PORT, stop},
    testing::{programs, require_root},
    world::{CLIENT_SOURCE, CLIENT_SOURCE6, address6, enable_ipv6, run},
};

const KEPT_REQUESTS: u32 = 4000;
const SHORT_REQUESTS: u32 = 1000;
/// What is on its way when the client is done reaches the target's log within this.
const SETTLE: Duration = Duration::from_secs(20);
/// Clients' addresses at the target, of the network that it routes to the assistant.
const POOL: &[&str] = &["-c", "2001:db8:77:2::a000/116"];
/// Not the default one.
const CHANNEL_PORT: &str = "36525";
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[test]
fn clients_keep_their_addresses_by_tap() {
    replay(Capture::Tap, IpAddr::V6(address6(Host::Production)), &[]);
}

#[test]
fn clients_keep_their_addresses_by_packet_sockets() {
    replay(Capture::Packet, IpAddr::V6(address6(Host::Production)), &[]);
}

#[test]
fn clients_get_addresses_of_a_pool_by_mirror() {
    replay(
        Capture::Mirror,
        IpAddr::V6(address6(Host::Production)),
        POOL,
    );
}

#[test]
fn clients_of_ipv4_get_addresses_of_a_pool_by_tap() {
    replay(Capture::Tap, IpAddr::V4(Host::Production.address()), POOL);
}

/// `online` is production's address.
fn replay(capture: Capture, online: IpAddr, more: &[&str]) {
    require_root();
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let lab = Lab::up(&LabOptions::default()).unwrap();
    enable_ipv6(&lab).unwrap();
    let online = SocketAddr::new(online, PRODUCTION_PORT);
    let target = SocketAddr::new(IpAddr::V6(address6(Host::Target)), TARGET_PORT);
    let start = |host: Host, listen: SocketAddr| {
        let unnamed = "set $lab_client client;";
        Nginx::start_named(&lab, host.name(), host, &listen.to_string(), unnamed).unwrap()
    };
    let _servers = [start(Host::Production, online), start(Host::Target, target)];
    // The programs talk to each other over the clients' family, too.
    let (bind, channel) = match online {
        SocketAddr::V4(_) => ("0.0.0.0".to_owned(), Host::Assistant.address().to_string()),
        SocketAddr::V6(_) => {
            let assistant = address6(Host::Assistant);
            (assistant.to_string(), format!("[{assistant}]"))
        }
    };
    let mut intercept = Intercept {
        more: ["-b", &bind, "-p", CHANNEL_PORT]
            .map(str::to_owned)
            .to_vec(),
        ..Intercept::default()
    }
    .start(&lab, &programs)
    .unwrap();
    let report = lab.file("report.json");
    let mut copy = Copy::new(capture);
    copy.intercept = format!("{channel}:{CHANNEL_PORT}");
    copy.transfer = format!("{online}-{target}");
    copy.more.extend(more.iter().map(|s| (*s).to_owned()));
    let mut tcpcopy = copy.start(&lab, &programs, &report).unwrap();

    curl(&lab, online, "kept", KEPT_REQUESTS, &[]);
    curl(
        &lab,
        online,
        "short",
        SHORT_REQUESTS,
        &["-H", "Connection: close"],
    );

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
    assert_eq!(lab.checksum_faults().unwrap(), [] as [&str; 0]);
}

fn curl(lab: &Lab, online: SocketAddr, prefix: &str, requests: u32, more: &[&str]) {
    let url = format!("http://{online}/?id={prefix}-[1-{requests}]");
    let source = match online {
        SocketAddr::V4(_) => CLIENT_SOURCE.to_string(),
        SocketAddr::V6(_) => CLIENT_SOURCE6.to_string(),
    };
    run(lab
        .command(Host::Client, "curl")
        .args(["-sS", "-f", "-o", "/dev/null", "--interface", &source])
        .args(more)
        .arg(url))
    .unwrap();
}
