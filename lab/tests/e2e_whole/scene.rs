//! Two servers that check the body of each request, the programs, and the comparison at the end.

use lab::{
    Host, Lab, Process,
    replay::{Copy, ExitReport, Intercept, Programs, TARGET_PORT, stop},
    testing::programs,
    traffic::{AccessLog, LoadOptions, LoadReport},
    world::{StackCounters, run},
};
use std::{
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

/// For everything that is waited for.
pub const LIMIT: Duration = Duration::from_secs(25);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Half of them with bodies of up to 20 KB; half of all on connections of their own.
const REQUESTS: u64 = 400;
const RATE: u64 = 400;

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

/// Programs and servers that run.
pub struct Scene {
    pub tcpcopy: Process,
    intercept: Process,
    servers: Vec<Process>,
    programs: Programs,
    sums: Vec<(Host, StackCounters)>,
    pub lab: Lab,
}

impl Scene {
    /// Starts them: a server on `address` of `host`, whose requests are captured, and the target's.
    pub fn set(lab: Lab, copy: &Copy, host: Host, address: (Ipv4Addr, u16)) -> Self {
        let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
        let target = (Host::Target.address(), TARGET_PORT);
        let servers = [
            ("production", host, address),
            ("target", Host::Target, target),
        ];
        let servers = servers.map(|(name, host, address)| {
            let log = lab.file(&format!("{name}.log"));
            let mut command = programs.tool.server_at(&lab, host, address, &log);
            let mut server = Process::start(name, &mut command, lab.folder()).unwrap();
            server.wait_for_line("ready", LIMIT).unwrap();
            server
        });
        let sums = [Host::Target, Host::Assistant, Host::Production]
            .map(|host| (host, StackCounters::of(&lab.host(host)).unwrap()));
        let intercept = Intercept::default().start(&lab, &programs).unwrap();
        let report = lab.file("report.json");
        let mut copy = copy.clone();
        copy.more
            .extend(["--drain", "30s", "--rtt", "none"].map(str::to_owned));
        Self {
            tcpcopy: copy.start(&lab, &programs, &report).unwrap(),
            intercept,
            servers: servers.into(),
            programs,
            sums: sums.to_vec(),
            lab,
        }
    }

    /// Requests of the client to `server`; all are answered.
    pub fn load(&self, server: (Ipv4Addr, u16)) {
        let load = LoadOptions {
            server,
            requests: REQUESTS,
            connections: 10,
            rate: RATE,
            seed: 7,
        };
        let mut command = self.programs.tool.load(&self.lab, &load);
        let mut process = Process::start("load", &mut command, self.lab.folder()).unwrap();
        process.wait_success(LIMIT).unwrap();
        let report = serde_json::from_str(&process.stdout()).unwrap();
        let report = LoadReport::from_json(&report).unwrap();
        assert_eq!(
            (report.requests, report.errors),
            (REQUESTS, 0),
            "{report:?}"
        );
    }

    fn log(&self, name: &str) -> AccessLog {
        AccessLog::read(&self.lab.file(&format!("{name}.log"))).unwrap()
    }

    /// Waits until `done`.
    pub fn wait_for(&self, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !done(self) && Instant::now() < deadline {
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Ends all, when the target has got `requests` requests: those that production got, once and whole, in sessions
    /// that are complete; nothing was dropped, and all checksums were right.
    pub fn finish(mut self) -> ExitReport {
        self.wait_for(|s| s.log("target").requests() >= REQUESTS);
        stop(&mut self.tcpcopy).unwrap();
        stop(&mut self.intercept).unwrap();
        for server in &mut self.servers {
            assert!(server.ended().unwrap().is_none());
        }
        let report = ExitReport::read(&self.lab.file("report.json")).unwrap();
        eprintln!(
            "{:?} {} {}",
            report.outcomes(),
            report.json["packets"],
            report.json["counters"]
        );
        let comparison = self.log("production").compare(&self.log("target"));
        assert_eq!(comparison.production_requests, REQUESTS);
        assert_eq!(comparison.faults(), Vec::<String>::new());
        assert_eq!(report.imbalance(), Vec::<String>::new());
        let outcomes = report.outcomes();
        assert_eq!(outcomes.keys().collect::<Vec<_>>(), ["completed"]);
        assert_eq!(report.dropped(), 0, "{}", report.json["packets"]);
        for (host, before) in &self.sums {
            let now = StackCounters::of(&self.lab.host(*host)).unwrap();
            for counter in ["TcpInCsumErrors", "UdpInCsumErrors"] {
                let wrong = now.since(before, counter);
                assert_eq!(wrong, 0, "{counter} at {}", host.name());
            }
        }
        report
    }
}
