//! TCP over IPv6, end to end: nginx twice, curl; the two access logs must say the same.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use lab::{
    Host, Lab, LabOptions, Process,
    faults::{Action, Class, Direction, FaultyCable, Rule},
    nginx::Nginx,
    replay::{Capture, Copy, ExitReport, Intercept, PRODUCTION_PORT, TARGET_PORT, stop},
    testing::{programs, require_root},
    world::{CLIENT_SOURCE, CLIENT_SOURCE6, Cable, address6, enable_ipv6, run},
};
use rustix::process::Signal;

const KEPT_REQUESTS: u32 = 4000;
const SHORT_REQUESTS: u32 = 1000;
/// As in `e2e_pool.rs`: a number for a longer run.
const MORE_REQUESTS: &str = "REPLAY_POOL_REQUESTS";
/// What is on its way when the client is done reaches the target's log within this.
const SETTLE: Duration = Duration::from_secs(20);
/// Clients' addresses at the target, of the network that it routes to the assistant.
const POOL: &[&str] = &["-c", "2001:db8:77:2::a000/116"];
/// Not the default one.
const CHANNEL_PORT: &str = "36525";
/// Target on production's loopback interface.
const SAME_HOST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 6, 0, 0, 0, 0x30);
/// Of production, through which requests are led.
const SEGMENT: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, 0x2020);
/// Of the target after it came back.
const NEW_MAC: &str = "02:00:00:77:00:31";
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[test]
fn clients_keep_their_addresses_by_tap() {
    replay(&Case::default());
}

#[test]
fn clients_keep_their_addresses_by_packet_sockets() {
    replay(&Case {
        capture: Capture::Packet,
        ..Case::default()
    });
}

#[test]
fn clients_get_addresses_of_a_pool_by_mirror() {
    replay(&Case {
        capture: Capture::Mirror,
        more: POOL,
        ..Case::default()
    });
}

#[test]
fn clients_of_ipv4_get_addresses_of_a_pool_by_tap() {
    replay(&Case {
        online: IpAddr::V4(Host::Production.address()),
        more: POOL,
        ..Case::default()
    });
}

/// Without intercept, and without a route on the target: tcpcopy answers neighbour discovery.
#[test]
fn the_target_answers_to_a_pool_on_its_link() {
    replay(&Case {
        pool: Some("2001:db8:77::a000/120"),
        kept: std::env::var(MORE_REQUESTS).map_or(KEPT_REQUESTS, |n| n.parse().unwrap()),
        before: &|lab| {
            ip(lab, Host::Target, "route del 2001:db8:77:2::/64");
        },
        meanwhile: &|lab| {
            let shown = run(lab
                .command(Host::Production, "ip")
                .args(["maddr", "show", "dev", "eth0"]))
            .unwrap();
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            assert!(shown.contains("ff02::1:ff00:a0c8"), "{shown}");
        },
        after: &|report| {
            let pool = report.numbers("counters/pool");
            assert!(pool["ndp_answered"] > 0, "{pool:?}");
            assert_eq!(pool["captured"], pool["tap_frames"], "{pool:?}");
        },
        ..Case::default()
    });
}

#[test]
fn the_target_is_on_the_same_host() {
    replay(&Case {
        target: (Host::Production, SAME_HOST),
        more: &["-c", "2001:db8:77:3::/116"],
        // Responses to the pool leave the host for the assistant.
        before: &|lab| {
            let assistant = address6(Host::Assistant);
            ip(
                lab,
                Host::Production,
                &format!("addr add {SAME_HOST}/128 dev lo nodad"),
            );
            ip(
                lab,
                Host::Production,
                &format!("route add 2001:db8:77:3::/64 via {assistant}"),
            );
        },
        after: &|report| {
            let raw = report.number("counters/tx/tx_raw_frames");
            assert!(raw > 5000, "{}", report.json["counters"]);
        },
        ..Case::default()
    });
}

#[test]
fn the_target_goes_away_and_comes_back_with_another_mac() {
    replay(&Case {
        before: &|lab| {
            // As routers do that take over an address (RFC 4861 section 7.2.6).
            run(lab
                .command(Host::Target, "sysctl")
                .args(["-qw", "net.ipv6.conf.eth0.ndisc_notify=1"]))
            .unwrap();
        },
        rate: Some(500),
        meanwhile: &|lab| {
            let switch = lab.switch();
            let plug = |how: &[&str]| {
                run(Command::new("ip")
                    .args(["-n", switch.name(), "link", "set", "target"])
                    .args(how))
                .unwrap();
            };
            // The link of production stays up, but nobody answers neighbour solicitations.
            thread::sleep(Duration::from_secs(2));
            plug(&["nomaster"]);
            ip(
                lab,
                Host::Production,
                &format!("neigh del {} dev eth0", address6(Host::Target)),
            );
            thread::sleep(Duration::from_secs(3));
            ip(
                lab,
                Host::Target,
                &format!("link set eth0 address {NEW_MAC}"),
            );
            plug(&["master", "br0"]);
        },
        ..Case::default()
    });
}

#[test]
fn requests_with_a_routing_header() {
    replay(&Case {
        // What arrives is addressed to the segment, which is production's, too (RFC 8754 section 4.1).
        any_address: true,
        before: &|lab| {
            ip(
                lab,
                Host::Production,
                &format!("addr add {SEGMENT}/64 dev eth0 nodad"),
            );
            for scope in ["all", "eth0"] {
                run(lab
                    .command(Host::Production, "sysctl")
                    .args(["-qw", &format!("net.ipv6.conf.{scope}.seg6_enabled=1")]))
                .unwrap();
            }
            let production = address6(Host::Production);
            ip(
                lab,
                Host::Client,
                &format!(
                    "route add {production}/128 encap seg6 mode inline segs {SEGMENT} dev eth0"
                ),
            );
            assert_routing_header(lab, production);
        },
        ..Case::default()
    });
}

/// Hop-by-hop and destination options, fragment headers of whole packets, alone and chained: each packet of the client
/// has others.
#[test]
fn requests_with_extension_headers() {
    for capture in [Capture::Tap, Capture::Packet, Capture::Mirror] {
        replay(&Case {
            capture,
            extended: true,
            ..Case::default()
        });
    }
}

/// tcpdump of what comes to the target with an extension header, ICMP of its neighbours excepted.
fn watch_for_headers(lab: &Lab) -> Process {
    let target = address6(Host::Target);
    let filter = format!("dst host {target} and ip6[6] != 6 and ip6[6] != 58");
    let mut dump = Process::start(
        "headers",
        lab.command(Host::Target, "tcpdump")
            .args(["-i", "eth0", "-nn", "-Q", "in", &filter]),
        lab.folder(),
    )
    .unwrap();
    dump.wait_for_line("listening on", SETTLE).unwrap();
    dump
}

/// The proof that packets to production have one.
fn assert_routing_header(lab: &Lab, production: Ipv6Addr) {
    let filter = "ip6[6] = 43 and ip6[40] = 6";
    let mut dump = Process::start(
        "routing-header",
        lab.command(Host::Production, "tcpdump")
            .args(["-i", "eth0", "-c", "1", "-nn", "-Q", "in", filter]),
        lab.folder(),
    )
    .unwrap();
    let client = lab.host(Host::Client);
    let deadline = Instant::now() + SETTLE;
    while dump.ended().unwrap().is_none() {
        assert!(
            Instant::now() < deadline,
            "no routing header: {}",
            dump.stderr()
        );
        // Port 9, discard: refused.
        client
            .enter(|| drop(TcpStream::connect((production, 9))))
            .unwrap();
        thread::sleep(LOOK_EVERY);
    }
}

/// What differs between the tests.
struct Case<'a> {
    capture: Capture,
    /// Production's address.
    online: IpAddr,
    /// The transfer names production's port alone.
    any_address: bool,
    /// The client's packets get extension headers.
    extended: bool,
    /// Where the target's server runs, and its address.
    target: (Host, Ipv6Addr),
    /// The target's answers come to tcpcopy itself.
    pool: Option<&'a str>,
    /// Requests on one connection.
    kept: u32,
    /// More options of tcpcopy.
    more: &'a [&'a str],
    /// Done to the lab before anything starts.
    before: &'a dyn Fn(&Lab),
    /// Requests a second of each run of curl.
    rate: Option<u32>,
    /// Done while the first run of curl is under way.
    meanwhile: &'a (dyn Fn(&Lab) + Sync),
    /// Looks at the report.
    after: &'a dyn Fn(&ExitReport),
}

impl Default for Case<'_> {
    fn default() -> Self {
        Self {
            capture: Capture::Tap,
            online: IpAddr::V6(address6(Host::Production)),
            any_address: false,
            extended: false,
            target: (Host::Target, address6(Host::Target)),
            pool: None,
            kept: KEPT_REQUESTS,
            more: &[],
            before: &|_| (),
            rate: None,
            meanwhile: &|_| (),
            after: &|_| (),
        }
    }
}

fn replay(case: &Case<'_>) {
    require_root();
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let cable = Cable::Of(Host::Client);
    let lab = Lab::up(&LabOptions {
        spliced: case.extended.then_some(cable).into_iter().collect(),
        ..LabOptions::default()
    })
    .unwrap();
    enable_ipv6(&lab).unwrap();
    let extender = case.extended.then(|| {
        // What comes to the client crosses its cable, too, where unfinished checksums stay so.
        let whole = ["-K", "eth0", "tx", "off", "tso", "off", "gso", "off"];
        run(lab.command(Host::Production, "ethtool").args(whole)).unwrap();
        let rule = Rule::share(Direction::Out, Class::Any, 1_000_000, Action::Headers);
        let cable = FaultyCable::start(&lab, &programs.tool, cable, 1, &[rule]).unwrap();
        (cable, watch_for_headers(&lab))
    });
    (case.before)(&lab);
    let online = SocketAddr::new(case.online, PRODUCTION_PORT);
    let (server, target) = case.target;
    let target = SocketAddr::new(IpAddr::V6(target), TARGET_PORT);
    let start = |name: &str, host: Host, listen: SocketAddr| {
        let unnamed = "set $lab_client client;";
        Nginx::start_named(&lab, name, host, &listen.to_string(), unnamed).unwrap()
    };
    let _servers = [
        start("online", Host::Production, online),
        start("replayed", server, target),
    ];
    // The programs talk to each other over the clients' family, too.
    let (bind, channel) = match online {
        SocketAddr::V4(_) => ("0.0.0.0".to_owned(), Host::Assistant.address().to_string()),
        SocketAddr::V6(_) => {
            let assistant = address6(Host::Assistant);
            (assistant.to_string(), format!("[{assistant}]"))
        }
    };
    let intercept = Intercept {
        more: ["-b", &bind, "-p", CHANNEL_PORT]
            .map(str::to_owned)
            .to_vec(),
        ..Intercept::default()
    };
    let mut intercept = match case.pool {
        Some(_) => None,
        None => Some(intercept.start(&lab, &programs).unwrap()),
    };
    let report = lab.file("report.json");
    let mut copy = Copy::new(case.capture);
    copy.intercept = format!("{channel}:{CHANNEL_PORT}");
    if case.extended {
        // Fragments are put together by the worker of their addresses, and handed over.
        "0,1".clone_into(&mut copy.cores);
    }
    copy.pool = case.pool.map(str::to_owned);
    copy.transfer = if case.any_address {
        format!("{PRODUCTION_PORT}-{target}")
    } else {
        format!("{online}-{target}")
    };
    copy.more.extend(case.more.iter().map(|s| (*s).to_owned()));
    let mut tcpcopy = copy.start(&lab, &programs, &report).unwrap();

    thread::scope(|scope| {
        scope.spawn(|| (case.meanwhile)(&lab));
        curl(&lab, online, case.rate, "kept", case.kept, &[]);
    });
    let close = ["-H", "Connection: close"];
    curl(&lab, online, case.rate, "short", SHORT_REQUESTS, &close);

    let read = |name| Nginx::log_named(&lab, name).unwrap();
    let produced = read("online");
    let deadline = Instant::now() + SETTLE;
    while read("replayed").requests() < produced.requests() && Instant::now() < deadline {
        thread::sleep(LOOK_EVERY);
    }
    stop(&mut tcpcopy).unwrap();
    if let Some(intercept) = &mut intercept {
        stop(intercept).unwrap();
    }
    let comparison = produced.compare(&read("replayed"));
    let report = ExitReport::read(&report).unwrap();
    let all = u64::from(case.kept + SHORT_REQUESTS);
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
    if let Some((cable, mut watch)) = extender {
        let did = cable.stop(&lab).unwrap();
        assert!(did.outward.rules[0].1 > all, "{did:?}");
        watch.signal(Signal::INT).unwrap();
        watch.wait_success(SETTLE).unwrap();
        let said = watch.stderr();
        assert!(said.contains("\n0 packets captured"), "{said}");
    }
    (case.after)(&report);
    assert_eq!(lab.checksum_faults().unwrap(), [] as [&str; 0]);
}

/// Runs `ip` inside a host.
fn ip(lab: &Lab, host: Host, arguments: &str) {
    run(lab.command(host, "ip").arg("-6").args(arguments.split(' '))).unwrap();
}

fn curl(
    lab: &Lab,
    online: SocketAddr,
    rate: Option<u32>,
    prefix: &str,
    requests: u32,
    more: &[&str],
) {
    let url = format!("http://{online}/?id={prefix}-[1-{requests}]");
    let source = match online {
        SocketAddr::V4(_) => CLIENT_SOURCE.to_string(),
        SocketAddr::V6(_) => CLIENT_SOURCE6.to_string(),
    };
    run(lab
        .command(Host::Client, "curl")
        .args(["-sS", "-f", "-o", "/dev/null", "--interface", &source])
        .args(rate.map_or_else(Vec::new, |rate| {
            vec!["--rate".to_owned(), format!("{}/m", rate * 60)]
        }))
        .args(more)
        .arg(url))
    .unwrap();
}
