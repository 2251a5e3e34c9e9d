//! intercept on the target itself: no assistant, no route, and real clients of the same port are served all the while.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    process::Command,
    time::Duration,
};

use lab::{
    Host, Lab, LabOptions, Process,
    nginx::Nginx,
    replay::{Capture, Copy, ExitReport, Intercept, PRODUCTION_PORT, Programs, TARGET_PORT, stop},
    testing::{programs, require_root},
    world::{CLIENT_SOURCE, CLIENT_SOURCE6, StackCounters, address6, enable_ipv6, run},
};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(40);
/// Name and bytes of the large answer.
const LARGE: (&str, usize) = ("large.bin", 1 << 20);
/// Everything that a sender of TCP does because it believes that something was lost.
const REPAIRS: [&str; 5] = [
    "TcpRetransSegs",
    "TcpExtTCPTimeouts",
    "TcpExtTCPFastRetrans",
    "TcpExtTCPLostRetransmit",
    "TcpExtTCPSpuriousRTOs",
];

struct Scene {
    lab: Lab,
    programs: Programs,
    v6: bool,
    intercept: Process,
    tcpcopy: Process,
    servers: [Nginx; 2],
}

impl Scene {
    fn set(v6: bool) -> Self {
        require_root();
        let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
        let lab = Lab::up(&LabOptions::default()).unwrap();
        // The target reaches clients as production does; nothing leads to the assistant.
        let ip = |arguments: &str| {
            run(lab.command(Host::Target, "ip").args(arguments.split(' '))).unwrap();
        };
        ip("route replace 10.77.2.0/24 dev eth0");
        if v6 {
            enable_ipv6(&lab).unwrap();
            ip("-6 route del 2001:db8:77:2::/64");
            ip("-6 route add 2001:db8:77:2::/64 dev eth0");
        }
        fs::write(lab.file(LARGE.0), vec![b'.'; LARGE.1]).unwrap();
        let servers = [
            ("production", Host::Production, PRODUCTION_PORT),
            ("target", Host::Target, TARGET_PORT),
        ]
        .map(|(name, host, port)| {
            let listen = SocketAddr::new(address(v6, host), port).to_string();
            let folder = lab.folder().display();
            let directives = format!(
                "location /large.bin {{ root {folder}; }} \
                 location /real/ {{ access_log off; alias {folder}/; }}"
            );
            Nginx::start_named(&lab, name, host, &listen, &directives).unwrap()
        });
        let intercept = start_intercept(&lab, &programs, v6);
        let mut copy = Copy::new(Capture::Tap);
        let [online, target] = [
            (Host::Production, PRODUCTION_PORT),
            (Host::Target, TARGET_PORT),
        ]
        .map(|(host, port)| SocketAddr::new(address(v6, host), port));
        copy.transfer = format!("{online}-{target}");
        copy.intercept = match target.ip() {
            IpAddr::V4(addr) => addr.to_string(),
            IpAddr::V6(addr) => format!("[{addr}]"),
        };
        let tcpcopy = copy
            .start(&lab, &programs, &lab.file("report.json"))
            .unwrap();
        Self {
            lab,
            programs,
            v6,
            intercept,
            tcpcopy,
            servers,
        }
    }

    fn counters(&self, host: Host) -> StackCounters {
        StackCounters::of(&self.lab.host(host)).unwrap()
    }

    /// curl on the client; it fails unless every request has a good answer.
    fn curl(
        &self,
        name: &str,
        source: IpAddr,
        server: SocketAddr,
        path: &str,
        more: &[&str],
    ) -> Process {
        let mut command = self.lab.command(Host::Client, "curl");
        command
            .args([
                "-sS",
                "-f",
                "-o",
                "/dev/null",
                "--interface",
                &source.to_string(),
            ])
            .args(more)
            .arg(format!("http://{server}/{path}"));
        Process::start(name, &mut command, self.lab.folder()).unwrap()
    }

    /// Requests to production, each to be replayed; their ids begin with `name`.
    fn captured(&self, name: &str, path: &str, requests: u32, more: &[&str]) -> Process {
        let source = if self.v6 {
            IpAddr::V6(CLIENT_SOURCE6)
        } else {
            IpAddr::V4(CLIENT_SOURCE)
        };
        let server = SocketAddr::new(address(self.v6, Host::Production), PRODUCTION_PORT);
        let path = format!("{path}?id={name}-[1-{requests}]");
        self.curl(name, source, server, &path, more)
    }

    /// Requests of a real client to the target, from another address than the captured ones.
    fn real(&self, name: &str, requests: u32, more: &[&str]) -> Process {
        let server = SocketAddr::new(address(self.v6, Host::Target), TARGET_PORT);
        let path = format!("real/{}?[1-{requests}]", LARGE.0);
        self.curl(name, address(self.v6, Host::Client), server, &path, more)
    }

    /// Requests that the target has answered, of those whose ids begin with `name`.
    fn replayed(&self, name: &str) -> usize {
        let log = self.lab.file("nginx-target").join("access.log");
        let log = fs::read_to_string(log).unwrap();
        let prefix = format!("{name}-");
        log.lines().filter(|line| line.starts_with(&prefix)).count()
    }

    fn wait_for(&mut self, name: &str, requests: u32) {
        for _ in 0..LIMIT.as_millis() / 50 {
            if self.replayed(name) >= requests as usize {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What tcpcopy and intercept say.
    fn finish(&mut self) -> (ExitReport, serde_json::Value) {
        stop(&mut self.tcpcopy).unwrap();
        stop(&mut self.intercept).unwrap();
        let report = ExitReport::read(&self.lab.file("report.json")).unwrap();
        let intercept = fs::read_to_string(self.lab.file("intercept.json")).unwrap();
        for server in &mut self.servers {
            assert_eq!(server.process().ended().unwrap(), None);
        }
        assert_eq!(report.imbalance(), Vec::<String>::new());
        assert_eq!(self.lab.checksum_faults().unwrap(), Vec::<String>::new());
        (report, serde_json::from_str(&intercept).unwrap())
    }
}

fn address(v6: bool, host: Host) -> IpAddr {
    if v6 {
        IpAddr::V6(address6(host))
    } else {
        IpAddr::V4(host.address())
    }
}

fn start_intercept(lab: &Lab, programs: &Programs, v6: bool) -> Process {
    let mut intercept = Intercept::on_target();
    let report = lab.file("intercept.json").display().to_string();
    let bind = address(v6, Host::Target).to_string();
    let more = ["--report", &report, "--bind", &bind].map(str::to_owned);
    intercept.more.extend(more);
    intercept.start(lab, programs).unwrap()
}

/// Every request is replayed, and no answer reaches a client: it would reset the connection.
fn replay(v6: bool, kept: u32, short: u32) {
    let mut scene = Scene::set(v6);
    let before = scene.counters(Host::Client);
    let mut runs = [
        scene.captured("kept", "", kept, &[]),
        scene.captured("short", "", short, &["-H", "Connection: close"]),
        scene.captured("wide", "", short, &["-Z", "--parallel-max", "20"]),
    ];
    for run in &mut runs {
        run.wait_success(LIMIT).unwrap();
    }
    for (name, requests) in [("kept", kept), ("short", short), ("wide", short)] {
        scene.wait_for(name, requests);
        assert_eq!(scene.replayed(name), requests as usize, "{name}");
    }
    let (report, intercept) = scene.finish();
    let outcomes = report.outcomes();
    let sessions: u64 = outcomes.values().sum();
    assert_eq!(outcomes.get("completed"), Some(&sessions), "{outcomes:?}");
    // Each session's SYN waited for the word that its answers are taken, and none in vain.
    let counters = &report.json["counters"]["channel"];
    assert_eq!(counters["confirmations_awaited"], sessions, "{counters}");
    assert_eq!(counters["confirmations_come"], sessions, "{counters}");
    assert_eq!(report.number("announcements_failed"), 0);
    let kernel = &intercept["kernel"];
    assert_eq!(kernel["captured"], intercept["packets"]["received"]);
    assert!(
        kernel["captured"].as_u64().unwrap() > u64::from(kept),
        "{kernel}"
    );
    assert_eq!(intercept["routes"]["evicted"], 0);
    let after = scene.counters(Host::Client);
    assert_eq!(after.since(&before, "TcpOutRsts"), 0);
}

#[test]
fn every_request_is_replayed_and_no_answer_leaves() {
    replay(false, 2000, 1000);
}

#[test]
fn the_same_over_ipv6() {
    replay(true, 500, 250);
}

/// The target's TCP sees success: it repairs nothing.
#[test]
fn answers_of_a_megabyte_without_one_retransmission_while_real_clients_are_served() {
    const REQUESTS: u32 = 40;
    let mut scene = Scene::set(false);
    // Probes for a lost tail go out when an acknowledgement is late by a few milliseconds, which on a busy machine says
    // nothing.
    let mut no_probes: Command = scene.lab.command(Host::Target, "sysctl");
    run(no_probes.args(["-qw", "net.ipv4.tcp_early_retrans=0"])).unwrap();
    // Virtual cables have a queue for each CPU: what the target sends by two of them overtakes itself, and real clients'
    // acknowledgements tell it so.
    let one_queue = "echo 1 > /sys/class/net/target/queues/rx-0/rps_cpus";
    run(scene.lab.switch().command("sh").args(["-c", one_queue])).unwrap();
    let hosts = [Host::Target, Host::Client];
    let before = hosts.map(|host| scene.counters(host));
    let mut runs = [
        scene.captured("kept", LARGE.0, REQUESTS, &[]),
        scene.captured("short", LARGE.0, REQUESTS, &["-H", "Connection: close"]),
        scene.real("real-kept", REQUESTS, &[]),
        scene.real("real-short", REQUESTS, &["-H", "Connection: close"]),
    ];
    for run in &mut runs {
        run.wait_success(LIMIT).unwrap();
    }
    for name in ["kept", "short"] {
        scene.wait_for(name, REQUESTS);
        assert_eq!(scene.replayed(name), REQUESTS as usize, "{name}");
    }
    let (report, intercept) = scene.finish();
    let outcomes = report.outcomes();
    let sessions = u64::from(REQUESTS) + 1;
    assert_eq!(outcomes.get("completed"), Some(&sessions), "{outcomes:?}");
    let [target, client] = hosts.map(|host| scene.counters(host));
    let repairs = REPAIRS.map(|name| (name, target.since(&before[0], name)));
    eprintln!("{repairs:?} {}", intercept["kernel"]);
    assert!(repairs.iter().all(|(_, count)| *count == 0), "{repairs:?}");
    assert_eq!(client.since(&before[1], "TcpOutRsts"), 0);
    // 80 MiB were answered to nobody, in packets of up to 64 KiB: that many records are not needed.
    let records = intercept["kernel"]["captured"].as_u64().unwrap();
    assert!(records < 80 * (1 << 20) / 1448, "{records}");
}

/// A killed intercept leaves nothing behind; the next one takes over.
#[test]
fn intercept_is_killed_and_started_again() {
    const REQUESTS: u32 = 200;
    let mut scene = Scene::set(false);
    let short = ["-H", "Connection: close"];
    let mut run = scene.captured("before", "", REQUESTS, &short);
    run.wait_success(LIMIT).unwrap();
    scene.wait_for("before", REQUESTS);
    // Open while it dies: what is answered then goes to the client, which resets the connection.
    let mut open = scene.captured("open", "", REQUESTS, &["--rate", "6000/m"]);
    scene.wait_for("open", REQUESTS / 4);
    scene.intercept.signal(Signal::KILL).unwrap();
    scene.intercept.wait(LIMIT).unwrap();
    // Production's clients, and the target's own, do not notice; new sessions wait for their route.
    scene.real("real", 20, &short).wait_success(LIMIT).unwrap();
    let mut run = scene.captured("gap", "", 20, &short);
    run.wait_success(LIMIT).unwrap();
    assert_eq!(scene.replayed("gap"), 0);
    scene.intercept = start_intercept(&scene.lab, &scene.programs, false);
    let mut run = scene.captured("after", "", REQUESTS, &short);
    for run in [&mut run, &mut open] {
        run.wait_success(LIMIT).unwrap();
    }
    for (name, requests) in [("before", REQUESTS), ("gap", 20), ("after", REQUESTS)] {
        scene.wait_for(name, requests);
        assert_eq!(scene.replayed(name), requests as usize, "{name}");
    }
    let (report, _) = scene.finish();
    // Of its two connections.
    assert_eq!(report.json["counters"]["channel"]["losses"], 2);
}
