//! A replay from nginx to nginx with curl, to a target that is reached as the test says.
//!
//! ```text
//!   client ── curl ──▶ production ──(lab's switch, or a link of the test)──▶ target, 10.77.6.30 on lo
//!                        tcpcopy-user                                          │
//!                                  assistant, intercept-user ◀── lab's switch ─┘
//! ```
//! The target's address is on its loopback interface, so that it stays when links come and go.

use lab::{
    Host, Lab, LabOptions, Process,
    nginx::Nginx,
    replay::{Capture, Copy, ExitReport, Intercept, PRODUCTION_PORT, TARGET_PORT, stop},
    testing::{programs, require_root},
    traffic::Curl,
    world::{StackCounters, run},
};
use std::{
    thread,
    time::{Duration, Instant},
};

/// For everything that is waited for.
pub const LIMIT: Duration = Duration::from_secs(25);
/// Where the target listens.
pub const TARGET: &str = "10.77.6.30";
/// Name of the target's server.
const SERVER: &str = "replayed";
/// Requests of each of the two runs of curl, and how many a second: six seconds, in which things happen.
const REQUESTS: u64 = 150;
const RATE: u32 = 25;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Runs `ip` inside a host, once for each line.
pub fn ip(lab: &Lab, host: Host, lines: &str) {
    for line in lines.lines().map(str::trim).filter(|l| !l.is_empty()) {
        run(lab.command(host, "ip").args(line.split(' '))).unwrap();
    }
}

/// Sets sysctls inside a host.
pub fn sysctl(lab: &Lab, host: Host, settings: &[&str]) {
    run(lab.command(host, "sysctl").arg("-qw").args(settings)).unwrap();
}

/// Loads a ruleset of nft inside a host.
pub fn nft(lab: &Lab, host: Host, rules: &str) {
    run(lab.command(host, "nft").arg(rules)).unwrap();
}

/// A link between a host's interface `name` with 10.77.`net`.1 and the target's of that name with 10.77.`net`.30.
pub fn link(lab: &Lab, host: Host, name: &str, net: u8) {
    let target = lab.host(Host::Target);
    ip(
        lab,
        host,
        &format!(
            "link add {name} type veth peer name {name} netns {}\n\
             addr add 10.77.{net}.1/24 dev {name}\nlink set {name} up",
            target.name()
        ),
    );
    ip(
        lab,
        Host::Target,
        &format!("addr add 10.77.{net}.30/24 dev {name}\nlink set {name} up"),
    );
}

/// A lab whose production reaches the target by a link of their own, `eth7`.
pub fn lab_by_link() -> Lab {
    let lab = lab();
    link(&lab, Host::Production, "eth7", 7);
    let route = format!("route add {TARGET} via 10.77.7.30 dev eth7");
    ip(&lab, Host::Production, &route);
    lab
}

/// Makes a host forward, whatever the source.
pub fn router(lab: &Lab, host: Host) {
    sysctl(
        lab,
        host,
        &[
            "net.ipv4.ip_forward=1",
            "net.ipv4.conf.all.rp_filter=0",
            "net.ipv4.conf.default.rp_filter=0",
            "net.ipv4.conf.eth0.rp_filter=0",
        ],
    );
}

/// How a scene is set; the defaults have the target on a host of its own, without a route to it.
pub struct Plan {
    pub copy: Copy,
    /// Host of the target's server.
    pub server: Host,
    /// More of production's server, and of the target's.
    pub directives: [&'static str; 2],
}

impl Default for Plan {
    fn default() -> Self {
        let mut copy = Copy::new(Capture::Tap);
        copy.transfer = format!("{PRODUCTION_PORT}-{TARGET}:{TARGET_PORT}");
        copy.more = ["--drain", "30s", "--rtt", "none"]
            .map(str::to_owned)
            .to_vec();
        Self {
            copy,
            server: Host::Target,
            directives: [""; 2],
        }
    }
}

pub struct Scene {
    pub tcpcopy: Process,
    intercept: Process,
    _servers: [Nginx; 2],
    curls: Vec<Process>,
    sums: Vec<(Host, StackCounters)>,
    pub lab: Lab,
}

/// What is left of it.
pub struct Ended {
    pub report: ExitReport,
    /// What tcpcopy said.
    pub log: String,
    pub lab: Lab,
}

/// A lab with the target's address, for `prepare` to lead a way to it.
pub fn lab() -> Lab {
    require_root();
    let lab = Lab::up(&LabOptions::default()).unwrap();
    // ARP requests with an address of the link: the assistant answers nobody that it has no route to.
    for host in [Host::Target, Host::Production] {
        sysctl(&lab, host, &["net.ipv4.conf.all.arp_announce=2"]);
    }
    sysctl(
        &lab,
        Host::Target,
        &[
            "net.ipv4.conf.all.rp_filter=0",
            "net.ipv4.conf.default.rp_filter=0",
            "net.ipv4.conf.eth0.rp_filter=0",
        ],
    );
    lab
}

impl Scene {
    /// Servers and programs on `lab`.
    pub fn set(lab: Lab, plan: &Plan) -> Self {
        let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
        ip(&lab, plan.server, &format!("addr add {TARGET}/32 dev lo"));
        let start = |name, host, address: &str, port, more| {
            Nginx::start_named(&lab, name, host, &format!("{address}:{port}"), more).unwrap()
        };
        let own = Host::Production.address().to_string();
        let servers = [
            start(
                "production",
                Host::Production,
                &own,
                PRODUCTION_PORT,
                plan.directives[0],
            ),
            // By any address of the host: where it has several, one server answers for all.
            start(
                SERVER,
                plan.server,
                "0.0.0.0",
                TARGET_PORT,
                plan.directives[1],
            ),
        ];
        let intercept = Intercept::default().start(&lab, &programs).unwrap();
        let tcpcopy = plan
            .copy
            .start(&lab, &programs, &lab.file("report.json"))
            .unwrap();
        let sums = [
            Host::Target,
            Host::Assistant,
            Host::Production,
            Host::Capture,
        ]
        .map(|host| (host, StackCounters::of(&lab.host(host)).unwrap()));
        Self {
            tcpcopy,
            intercept,
            _servers: servers,
            curls: Vec::new(),
            sums: sums.to_vec(),
            lab,
        }
    }

    /// A run of curl in the background.
    pub fn curl(&mut self, curl: &Curl) {
        self.curls.push(curl.start(&self.lab).unwrap());
    }

    /// Two runs of curl in the background: connections that last, and connections for one request each.
    pub fn load(&mut self) {
        self.curl(&Curl::kept("kept", REQUESTS).paced(RATE));
        self.curl(&Curl::short("short", REQUESTS).paced(RATE).posting());
    }

    /// Waits until the target has been asked `requests` more than now.
    pub fn pass(&mut self, requests: u64) {
        let wanted = self.replayed() + requests;
        self.wait_for(&format!("{wanted} replayed requests"), |scene| {
            scene.replayed() >= wanted
        });
    }

    pub fn replayed(&self) -> u64 {
        Nginx::log_named(&self.lab, SERVER).unwrap().requests()
    }

    fn produced(&self) -> u64 {
        Nginx::log_named(&self.lab, "production")
            .unwrap()
            .requests()
    }

    /// Waits until production has been asked `requests` more than now, whatever the target gets.
    pub fn pass_at_production(&mut self, requests: u64) {
        let wanted = self.produced() + requests;
        self.wait_for(&format!("{wanted} requests"), |scene| {
            scene.produced() >= wanted
        });
    }

    /// Waits for a line of tcpcopy's log that has all of `words`.
    pub fn wait_for_log(&mut self, words: &[&str]) {
        self.wait_for(&format!("a line with {words:?}"), |scene| {
            has_line(&scene.tcpcopy.stderr(), words)
        });
    }

    fn wait_for(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !done(self) {
            let ended = self.tcpcopy.ended().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "no {what}; {ended:?}: {}",
                self.tcpcopy.stderr()
            );
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until curl is done.
    pub fn load_done(&mut self) {
        for mut curl in self.curls.drain(..) {
            curl.wait_success(LIMIT).unwrap();
        }
    }

    /// Waits for the load and until the target has got all of it; ends the programs; everything that production was
    /// asked the target was asked, once.
    pub fn finish(mut self) -> Ended {
        self.load_done();
        let deadline = Instant::now() + LIMIT;
        while self.replayed() < self.produced() && Instant::now() < deadline {
            thread::sleep(LOOK_EVERY);
        }
        let produced = Nginx::log_named(&self.lab, "production").unwrap();
        let replayed = Nginx::log_named(&self.lab, SERVER).unwrap();
        let ended = self.end();
        let comparison = produced.compare(&replayed);
        assert!(comparison.production_requests > 0);
        assert_eq!(
            comparison.faults(),
            Vec::<String>::new(),
            "{:?} {}\n{}",
            ended.report.outcomes(),
            ended.report.json["packets"],
            ended.log
        );
        assert_eq!(
            ended.report.outcomes().keys().collect::<Vec<_>>(),
            ["completed"],
            "{}",
            ended.log
        );
        ended
    }

    /// Ends the programs; the books balance and nobody got a wrong checksum.
    pub fn end(mut self) -> Ended {
        stop(&mut self.tcpcopy).unwrap();
        stop(&mut self.intercept).unwrap();
        let report = ExitReport::read(&self.lab.file("report.json")).unwrap();
        let log = self.tcpcopy.stderr();
        eprintln!("{:?} {}", report.outcomes(), report.json["packets"]);
        assert_eq!(report.imbalance(), Vec::<String>::new());
        for (host, before) in &self.sums {
            let now = StackCounters::of(&self.lab.host(*host)).unwrap();
            assert_eq!(
                now.since(before, "TcpInCsumErrors"),
                0,
                "wrong checksums at {}",
                host.name()
            );
        }
        assert!(!log.contains("panicked"), "{log}");
        Ended {
            report,
            log,
            lab: self.lab,
        }
    }
}

impl Ended {
    /// Fails if anything that was captured or sent was dropped on the way.
    #[track_caller]
    pub fn assert_nothing_dropped(&self) {
        let packets = &self.report.json["packets"];
        assert_eq!(self.report.dropped(), 0, "{packets}");
    }

    /// Lines of the log that have all of `words`.
    pub fn lines(&self, words: &[&str]) -> usize {
        self.log
            .lines()
            .filter(|l| words.iter().all(|w| l.contains(w)))
            .count()
    }

    /// Packets dropped for that cause.
    pub fn dropped(&self, cause: &str) -> u64 {
        self.report.number(&format!("packets/dropped/{cause}"))
    }

    /// A counter of the transmit side.
    pub fn tx(&self, name: &str) -> u64 {
        self.report.number(&format!("counters/tx/{name}"))
    }
}

fn has_line(log: &str, words: &[&str]) -> bool {
    log.lines().any(|l| words.iter().all(|w| l.contains(w)))
}
