//! UDP beside TCP in one run: dnsmasq as production and target, nginx at the same time. Every query that
//! production got arrives at the target exactly once per replica, and nobody else sees any of it.

#[path = "e2e_fabric/wrapper.rs"]
mod wrapper;

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use lab::{
    Host, Lab, LabOptions,
    dns::{Asked, Dns, ask},
    nginx::Nginx,
    replay::{Capture, Copy, ExitReport, Intercept, PRODUCTION_PORT, Programs, TARGET_PORT, stop},
    testing::{programs, require_root},
    traffic::Curl,
    world::{CLIENT_SOURCE, CLIENT_SOURCE6, Process, address6, enable_ipv6, run},
};
use rustix::process::Signal;
use wrapper::Wrapper;

const LIMIT: Duration = Duration::from_mins(2);
/// What is on its way when the client is done reaches the target's log within this.
const SETTLE: Duration = Duration::from_secs(10);
const DNS_PORT: u16 = 53;
const TARGET_DNS_PORT: u16 = 5353;
const QUERIES: u32 = 1000;
const SOCKETS: usize = 40;
const CURL_REQUESTS: u64 = 200;

/// What differs between the tests.
struct Case {
    capture: Capture,
    replicas: u64,
    /// Addresses that stand in for the clients', as in `-c`.
    pool: Option<&'static str>,
    /// Intercept's filter; learned from tcpcopy without.
    filter: bool,
    /// What the mirror sends comes in tunnels of all kinds, some of it twice.
    wrapped: bool,
    more: &'static [&'static str],
}

impl Case {
    fn new(capture: Capture) -> Self {
        Self {
            capture,
            replicas: 1,
            pool: None,
            filter: true,
            wrapped: false,
            more: &[],
        }
    }
}

/// What was seen at the end.
struct Seen {
    asked: Asked,
    production: Vec<(String, SocketAddr)>,
    target: Vec<(String, SocketAddr)>,
    report: ExitReport,
    intercept: serde_json::Value,
}

fn replay(case: &Case) -> Seen {
    require_root();
    let programs: Programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let lab = Lab::up(&LabOptions::default()).unwrap();
    let mut production = Dns::start(&lab, Host::Production, DNS_PORT, false).unwrap();
    let mut target = Dns::start(&lab, Host::Target, TARGET_DNS_PORT, false).unwrap();
    let mut web = Nginx::start(&lab, Host::Production, PRODUCTION_PORT).unwrap();
    let mut target_web = Nginx::start(&lab, Host::Target, TARGET_PORT).unwrap();
    let intercept_report = lab.file("intercept.json");
    let mut intercept = Intercept::default();
    if !case.filter {
        intercept.filter = None;
    }
    intercept.more = vec![
        "--report".to_owned(),
        intercept_report.display().to_string(),
    ];
    let mut intercept = intercept.start(&lab, &programs).unwrap();
    let report = lab.file("report.json");
    let mut copy = Copy::new(case.capture);
    copy.transfer = format!(
        "{},udp:{DNS_PORT}-{}:{TARGET_DNS_PORT}",
        copy.transfer,
        Host::Target.address()
    );
    copy.more
        .extend(["-n".to_owned(), case.replicas.to_string()]);
    copy.more.extend(
        case.pool
            .iter()
            .flat_map(|pool| ["-c".to_owned(), (*pool).to_owned()]),
    );
    copy.more
        .extend(case.more.iter().map(|word| (*word).to_owned()));
    let wrapper = case.wrapped.then(|| {
        wrapper::TO.clone_into(&mut copy.interface);
        wrap_the_mirror(&lab)
    });
    let mut tcpcopy = copy.start(&lab, &programs, &report).unwrap();

    let mut curl = Curl::short("mixed", CURL_REQUESTS).start(&lab).unwrap();
    let server = SocketAddr::new(IpAddr::V4(Host::Production.address()), DNS_PORT);
    let asked = ask(&lab, server, case.capture.name(), QUERIES, SOCKETS).unwrap();
    curl.wait_success(LIMIT).unwrap();

    let deadline = Instant::now() + SETTLE;
    let due = u64::from(QUERIES) * case.replicas;
    let web_due = CURL_REQUESTS * case.replicas;
    let arrived = || {
        let web = Nginx::log_of(&lab, Host::Target).unwrap().requests();
        target.queries().len() as u64 >= due && web >= web_due
    };
    while case.more.is_empty() && !arrived() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(100));
    }
    if let Some(wrapper) = wrapper {
        let sent = wrapper.stop();
        assert!(sent.doubled > 100, "{sent:?}");
    }
    stop(&mut tcpcopy).unwrap();
    stop(&mut intercept).unwrap();
    for server in [
        production.process(),
        target.process(),
        web.process(),
        target_web.process(),
    ] {
        assert!(server.ended().unwrap().is_none(), "all servers still run");
    }
    if case.more.is_empty() {
        let log = |host| Nginx::log_of(&lab, host).unwrap();
        assert_eq!(log(Host::Production).requests(), CURL_REQUESTS);
        assert_eq!(log(Host::Target).requests(), web_due);
    }
    assert_eq!(lab.checksum_faults().unwrap(), Vec::<String>::new());
    let text = std::fs::read_to_string(&intercept_report).unwrap();
    Seen {
        asked,
        production: production.queries(),
        target: target.queries(),
        report: ExitReport::read(&report).unwrap(),
        intercept: serde_json::from_str(&text).unwrap(),
    }
}

fn wrap_the_mirror(lab: &Lab) -> Wrapper {
    let (from, to) = (wrapper::FROM, wrapper::TO);
    for line in [
        format!("link add {from} type veth peer name {to}"),
        format!("link set {from} mtu 1700 up"),
        format!("link set {to} mtu 1700 up"),
    ] {
        run(lab.command(Host::Capture, "ip").args(line.split(' '))).unwrap();
    }
    Wrapper::start(&lab.host(Host::Capture), true)
}

/// The client got production's answers and nothing else, and production every query once.
fn assert_untouched(seen: &Seen) {
    assert_eq!(seen.asked.strays, Vec::<String>::new());
    assert_eq!(seen.asked.answered, u64::from(QUERIES));
    let at_production: HashMap<_, _> = seen.production.iter().cloned().collect();
    assert_eq!(
        seen.production.len(),
        QUERIES as usize,
        "no replay reached production"
    );
    assert_eq!(at_production, seen.asked.queries);
}

/// Every query at the target `replicas` times, each from another endpoint.
fn assert_replayed(seen: &Seen, replicas: u64) {
    let mut by_name: HashMap<&str, Vec<SocketAddr>> = HashMap::new();
    for (name, from) in &seen.target {
        by_name.entry(name).or_default().push(*from);
    }
    assert_eq!(by_name.len(), QUERIES as usize, "every query arrived");
    for (name, from) in &by_name {
        assert!(seen.asked.queries.contains_key(*name), "{name} was asked");
        assert_eq!(from.len() as u64, replicas, "{name} from {from:?}");
        let distinct: HashSet<_> = from.iter().collect();
        assert_eq!(distinct.len() as u64, replicas, "{name} from {from:?}");
    }
    // A flow is a client's socket; no two of them share an endpoint on the wire.
    let mut flows: HashMap<SocketAddr, HashSet<SocketAddr>> = HashMap::new();
    for (name, from) in &seen.target {
        flows
            .entry(*from)
            .or_default()
            .insert(seen.asked.queries[name]);
    }
    assert!(flows.values().all(|clients| clients.len() == 1));
    assert_books(seen, replicas);
}

fn assert_books(seen: &Seen, replicas: u64) {
    let r = &seen.report;
    eprintln!("{}", r.json["udp"]);
    assert_eq!(r.imbalance(), Vec::<String>::new());
    assert_eq!(r.json["udp"]["balanced"], true);
    assert_eq!(r.number("udp/datagrams/captured"), u64::from(QUERIES));
    assert_eq!(
        r.number("udp/datagrams/copies"),
        u64::from(QUERIES) * replicas
    );
    let dropped: u64 = r.numbers("udp/datagrams/dropped").values().sum();
    let sent = r.number("udp/datagrams/sent");
    assert_eq!(sent + dropped, u64::from(QUERIES) * replicas);
    assert_eq!(sent, seen.target.len() as u64, "what was sent arrived");
    // Sockets in turn, and a new one for every tenth query; with a share, fewer.
    let sockets: HashSet<_> = seen.asked.queries.values().collect();
    let flows = r.number("udp/flows/total");
    assert!(flows <= sockets.len() as u64, "{flows} flows");
    // Every answer of the target was swallowed by intercept, in the kernel.
    assert_eq!(
        seen.intercept["kernel"]["udp_dropped"], sent,
        "{}",
        seen.intercept["kernel"]
    );
    assert_eq!(seen.intercept["unaccounted"]["packets"], 0);
}

#[test]
fn every_query_reaches_the_target_once_by_tap() {
    let seen = replay(&Case::new(Capture::Tap));
    assert_untouched(&seen);
    assert_replayed(&seen, 1);
    // Without -c clients keep their endpoints.
    let at_target: HashMap<_, _> = seen.target.iter().cloned().collect();
    assert_eq!(at_target, seen.asked.queries);
}

#[test]
fn every_query_reaches_the_target_once_by_packet_sockets() {
    let seen = replay(&Case::new(Capture::Packet));
    assert_untouched(&seen);
    assert_replayed(&seen, 1);
}

#[test]
fn every_query_reaches_the_target_once_by_mirror() {
    let seen = replay(&Case {
        filter: false,
        ..Case::new(Capture::Mirror)
    });
    assert_untouched(&seen);
    assert_replayed(&seen, 1);
}

#[test]
fn every_query_reaches_the_target_once_out_of_tunnels_of_a_mirror_that_sends_some_twice() {
    let seen = replay(&Case {
        wrapped: true,
        ..Case::new(Capture::Mirror)
    });
    assert_untouched(&seen);
    assert_replayed(&seen, 1);
    let report = &seen.report;
    let again = report.number("udp/datagrams/duplicates");
    assert!(again > 50, "{}", report.json["udp"]);
    for kind in ["vxlan", "geneve", "gre", "erspan", "ipip", "gtpu", "mpls"] {
        assert!(
            report.number(&format!("counters/tunnels/{kind}")) > 50,
            "{kind}"
        );
    }
}

/// Twice as fast as it can, the second time from other ports of the clients.
#[test]
fn queries_of_a_capture_file_are_replayed_in_two_rounds() {
    require_root();
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let lab = Lab::up(&LabOptions::default()).unwrap();
    let production = Dns::start(&lab, Host::Production, DNS_PORT, false).unwrap();
    let target = Dns::start(&lab, Host::Target, TARGET_DNS_PORT, false).unwrap();
    let mut intercept = Intercept::default().start(&lab, &programs).unwrap();
    let (file, report) = (lab.file("dns.pcap"), lab.file("report.json"));
    let mut command = lab.command(Host::Production, "tcpdump");
    command
        .args(["-U", "--immediate-mode", "-i", "eth0", "-w"])
        .arg(&file)
        .arg(format!("udp port {DNS_PORT}"));
    let mut dump = Process::start("dump", &mut command, lab.folder()).unwrap();
    dump.wait_for_line("listening on", LIMIT).unwrap();
    let server = SocketAddr::new(IpAddr::V4(Host::Production.address()), DNS_PORT);
    let queries = 200;
    let asked = ask(&lab, server, "file", queries, SOCKETS).unwrap();
    dump.signal(Signal::INT).unwrap();
    dump.wait_success(LIMIT).unwrap();
    assert_eq!((asked.strays.len(), asked.answered), (0, queries.into()));

    let mut command = lab.command(Host::Capture, &programs.tcpcopy);
    let transfer = format!(
        "udp:{DNS_PORT}-{}:{TARGET_DNS_PORT}",
        Host::Target.address()
    );
    command
        .args([
            "-x",
            &transfer,
            "-s",
            &Host::Assistant.address().to_string(),
        ])
        .args(["--rounds", "2", "--cores", "0,1", "--report"])
        .arg(&report)
        .arg("--read")
        .arg(&file);
    let mut tcpcopy = Process::start("read", &mut command, lab.folder()).unwrap();
    tcpcopy.wait_success(LIMIT).unwrap();
    let deadline = Instant::now() + SETTLE;
    while target.queries().len() < 2 * queries as usize && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(100));
    }
    stop(&mut intercept).unwrap();
    assert_eq!(production.queries().len(), queries as usize);
    let mut by_name: HashMap<String, Vec<SocketAddr>> = HashMap::new();
    for (name, from) in target.queries() {
        by_name.entry(name).or_default().push(from);
    }
    assert_eq!(by_name.len(), queries as usize);
    for (name, from) in &by_name {
        assert_eq!(from[..1], [asked.queries[name]], "{name}");
        assert!(
            from.len() == 2 && from[1] != from[0],
            "{name} from {from:?}"
        );
    }
    let report = ExitReport::read(&report).unwrap();
    assert_eq!(report.number("udp/datagrams/sent"), 2 * u64::from(queries));
    assert_eq!(report.json["udp"]["balanced"], true);
    assert_eq!(report.dropped(), 0, "{}", report.json["packets"]);
}

#[test]
fn three_replicas_by_tap() {
    let seen = replay(&Case {
        replicas: 3,
        ..Case::new(Capture::Tap)
    });
    assert_untouched(&seen);
    assert_replayed(&seen, 3);
    let from: HashSet<_> = seen.target.iter().map(|(_, from)| from.ip()).collect();
    assert_eq!(from, HashSet::from([IpAddr::V4(CLIENT_SOURCE)]));
}

#[test]
fn three_replicas_from_a_pool_by_mirror() {
    let seen = replay(&Case {
        replicas: 3,
        pool: Some("10.77.1.100-10.77.1.109"),
        filter: false,
        ..Case::new(Capture::Mirror)
    });
    assert_untouched(&seen);
    assert_replayed(&seen, 3);
    for (name, from) in &seen.target {
        let IpAddr::V4(addr) = from.ip() else {
            panic!("{name} from {from}")
        };
        let [a, b, c, d] = addr.octets();
        assert!(
            [a, b, c] == [10, 77, 1] && (100..=109).contains(&d),
            "{addr}"
        );
    }
}

#[test]
fn a_share_of_the_clients_by_tap() {
    let seen = replay(&Case {
        more: &["-r", "50"],
        ..Case::new(Capture::Tap)
    });
    assert_untouched(&seen);
    assert_books(&seen, 1);
    // Whole clients: each socket's queries arrived all or not at all.
    let replayed: HashSet<_> = seen.target.iter().map(|(_, from)| *from).collect();
    let due = seen
        .asked
        .queries
        .values()
        .filter(|from| replayed.contains(from));
    assert_eq!(due.count(), seen.target.len());
    let share = seen.target.len() as f64 / f64::from(QUERIES);
    assert!((0.25..0.75).contains(&share), "{share}");
    assert_eq!(
        seen.report.number("udp/datagrams/dropped/not_selected"),
        u64::from(QUERIES) - seen.target.len() as u64
    );
}

#[test]
fn ipv6_by_tap_without_any_tcp() {
    require_root();
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let lab = Lab::up(&LabOptions::default()).unwrap();
    enable_ipv6(&lab).unwrap();
    let production = Dns::start(&lab, Host::Production, DNS_PORT, true).unwrap();
    let target = Dns::start(&lab, Host::Target, TARGET_DNS_PORT, true).unwrap();
    let mut intercept = Intercept::default().start(&lab, &programs).unwrap();
    let report = lab.file("report.json");
    let mut copy = Copy::new(Capture::Tap);
    copy.transfer = format!(
        "udp:[{}]:{DNS_PORT}-[{}]:{TARGET_DNS_PORT}",
        address6(Host::Production),
        address6(Host::Target)
    );
    let mut tcpcopy = copy.start(&lab, &programs, &report).unwrap();
    let server = SocketAddr::new(IpAddr::V6(address6(Host::Production)), DNS_PORT);
    let asked = ask(&lab, server, "six", QUERIES, SOCKETS).unwrap();
    let deadline = Instant::now() + SETTLE;
    while target.queries().len() < QUERIES as usize && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(100));
    }
    stop(&mut tcpcopy).unwrap();
    stop(&mut intercept).unwrap();
    assert_eq!(
        (asked.strays.len(), asked.answered),
        (0, u64::from(QUERIES)),
        "{:?}",
        asked.strays
    );
    assert_eq!(production.queries().len(), QUERIES as usize);
    let at_target = target.queries();
    assert_eq!(at_target.len(), QUERIES as usize);
    let at_target: HashMap<_, _> = at_target.into_iter().collect();
    assert_eq!(at_target, asked.queries);
    assert!(
        at_target
            .values()
            .all(|from| from.ip() == IpAddr::V6(CLIENT_SOURCE6))
    );
    let report = ExitReport::read(&report).unwrap();
    assert_eq!(report.number("udp/datagrams/sent"), u64::from(QUERIES));
    assert_eq!(report.json["udp"]["balanced"], true);
    assert_eq!(lab.checksum_faults().unwrap(), Vec::<String>::new());
    // The assistant neither forwarded the answers nor sent anything back for them.
    let counters = run(lab.command(Host::Assistant, "cat").arg("/proc/net/snmp6")).unwrap();
    let text = String::from_utf8_lossy(&counters.stdout).into_owned();
    let figure = |name: &str| {
        let line = text
            .lines()
            .find(|line| line.split_whitespace().next() == Some(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
    };
    assert_eq!(figure("Ip6OutForwDatagrams"), Some(0), "{text}");
    assert_eq!(figure("Icmp6OutDestUnreachs"), Some(0), "{text}");
}
