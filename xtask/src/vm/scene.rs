//! A lab with a guest on its switch.
//!
//! ```text
//!   client ── production ═ copy of both directions ═▶ the mirrored card of a pair ─▶ guest
//!      switch: target, assistant ── the switched card of a pair ─▶ guest
//!                                └─ far0 ─▶ guest, namespace "far"
//!      rows: taps on no bridge, 10.99.<n>.1 at our end
//! ```

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use lab::{
    Host, Lab, LabOptions, Process,
    replay::{PRODUCTION_PORT, Programs, TARGET_PORT},
    traffic::{AccessLog, LoadOptions},
    world::run,
};

use super::{
    guest::Guest,
    initramfs::LAB_TOOL,
    nics::{Nic, Pair, Row, far, pairs, rows},
    packages::{Kernel, Packages},
};
use crate::{Result, demo};

const READY_LIMIT: Duration = Duration::from_secs(20);
/// For all requests of one load.
pub const LOAD_LIMIT: Duration = Duration::from_mins(1);
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// Guest and network; the guest goes first.
pub struct Scene<'a> {
    pub guest: Guest,
    pub programs: &'a Programs,
    pub lab: Lab,
    pub pairs: Vec<Pair>,
    pub rows: Vec<Row>,
    nics: Vec<Nic>,
    runs: u32,
}

/// Where a server is.
#[derive(Clone, Copy)]
pub enum Place {
    /// On its host in the lab.
    Lab,
    /// In the guest, under this address.
    Guest(&'static str),
    /// In the guest's namespace, under this address.
    Far(&'static str),
}

/// A server with an empty log.
struct Server {
    log: PathBuf,
    /// None: in the guest, under the host's name.
    process: Option<Process>,
    host: Host,
}

/// Both servers.
pub struct Servers {
    production: Server,
    target: Server,
}

impl Servers {
    /// Waits until the target has seen this many requests; it is in the lab.
    pub fn wait_replayed(&self, requests: usize) -> Result<()> {
        let deadline = Instant::now() + SETTLE_LIMIT;
        loop {
            let seen = std::fs::read_to_string(&self.target.log)
                .unwrap_or_default()
                .lines()
                .count();
            if seen >= requests {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(
                    format!("{seen} requests reached the target, expected {requests}").into(),
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl<'a> Scene<'a> {
    /// Builds and boots it.
    pub fn set(
        packages: &Packages,
        kernel: &Kernel,
        image: &std::path::Path,
        programs: &'a Programs,
    ) -> Result<Self> {
        let lab = Lab::up(&LabOptions {
            mirrored: Vec::new(),
            ..LabOptions::default()
        })?;
        let (pairs, rows) = (pairs(kernel.newest), rows(kernel.newest));
        let mut nics: Vec<Nic> = pairs
            .iter()
            .flat_map(|pair| [&pair.switched, &pair.mirrored])
            .chain(rows.iter().map(|row| &row.nic))
            .cloned()
            .collect();
        nics.push(far());
        for nic in &nics {
            let many = if nic.queues > 1 { " multi_queue" } else { "" };
            let name = nic.name;
            switch(
                &lab,
                &format!("ip tuntap add {name} mode tap vnet_hdr{many}"),
            )?;
            switch(&lab, &format!("ip link set {name} up"))?;
        }
        let switched = pairs.iter().map(|pair| pair.switched.name);
        for name in switched.chain([far().name]) {
            switch(&lab, &format!("ip link set {name} master br0"))?;
        }
        switch(&lab, "tc qdisc add dev production clsact")?;
        let mut guest = Guest::boot(&lab, packages, kernel, image, &nics)?;
        let assistant = Host::Assistant.address();
        guest.run(&format!(
            "real-ip netns add far && real-ip link set far0 netns far
             real-ip -n far link set lo up && real-ip -n far addr add {FAR}/24 dev far0 && real-ip -n far link set far0 up
             for net in 10.77.1.0/24 10.77.2.0/24; do real-ip -n far route add $net via {assistant}; done"
        ))?;
        Ok(Self {
            guest,
            programs,
            lab,
            pairs,
            rows,
            nics,
            runs: 0,
        })
    }

    /// Makes a card the guest's way to the switch, alone.
    pub fn connect(&mut self, interface: &str, address: &str) -> Result<()> {
        let cards: Vec<&str> = self.pairs.iter().map(|pair| pair.switched.name).collect();
        self.guest.clear(&cards)?;
        self.guest
            .run(&format!("ip addr add {address}/24 dev {interface}"))?;
        self.guest.wait_for_link(interface)
    }

    /// Copies production's traffic to a tap and no other.
    pub fn mirror_to(&self, tap: &str) -> Result<()> {
        for direction in ["ingress", "egress"] {
            switch(
                &self.lab,
                &format!("tc filter del dev production {direction}"),
            )?;
            switch(
                &self.lab,
                &format!(
                    "tc filter add dev production {direction} protocol all u32 match u32 0 0 action mirred egress mirror dev {tap}"
                ),
            )?;
        }
        Ok(())
    }

    /// Number of a card, of which its MAC is made.
    pub fn number(&self, name: &str) -> Result<usize> {
        self.nics
            .iter()
            .position(|nic| nic.name == name)
            .ok_or_else(|| format!("no card {name}").into())
    }

    /// Starts both servers.
    pub fn servers(&mut self, production: Place, target: Place) -> Result<Servers> {
        self.runs += 1;
        Ok(Servers {
            production: self.server(Host::Production, PRODUCTION_PORT, production)?,
            target: self.server(Host::Target, TARGET_PORT, target)?,
        })
    }

    fn server(&mut self, host: Host, port: u16, place: Place) -> Result<Server> {
        let name = format!("{}-{}", host.name(), self.runs);
        let log = self.lab.file(&format!("{name}.log"));
        let (prefix, address) = match place {
            Place::Lab => {
                let mut command = self.programs.tool.server(&self.lab, host, port, &log);
                let mut process = Process::start(&name, &mut command, self.lab.folder())?;
                process.wait_for_line("ready", READY_LIMIT)?;
                return Ok(Server {
                    log,
                    process: Some(process),
                    host,
                });
            }
            Place::Guest(address) => ("", address),
            Place::Far(address) => ("real-ip netns exec far ", address),
        };
        let (tool, name) = (demo::TOOL_COMMAND, host.name());
        self.guest.start(
            name,
            &format!("{prefix}{LAB_TOOL} {tool} http-server {address} {port} /tmp/{name}.access"),
        )?;
        Ok(Server {
            log,
            process: None,
            host,
        })
    }

    fn log_of(&mut self, server: &Server) -> Result<AccessLog> {
        if server.process.is_none() {
            let line = format!("cat /tmp/{}.access", server.host.name());
            std::fs::write(&server.log, self.guest.run(&line)?)?;
        }
        Ok(AccessLog::read(&server.log)?)
    }

    /// Every request that production saw, the target saw once, unchanged. Those in the guest end then.
    pub fn all_replayed(&mut self, servers: &Servers, expected: u64) -> Result<()> {
        let production = self.log_of(&servers.production)?;
        if production.requests() != expected {
            return Err(format!(
                "production saw {} requests, expected {expected}",
                production.requests()
            )
            .into());
        }
        let deadline = Instant::now() + SETTLE_LIMIT;
        loop {
            let target = self.log_of(&servers.target)?;
            let faults = production.compare(&target).faults();
            if faults.is_empty() {
                break;
            }
            if Instant::now() > deadline {
                return Err(faults.join("; ").into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        for server in [&servers.production, &servers.target] {
            if server.process.is_none() {
                self.guest.stop(server.host.name(), "KILL")?;
            }
        }
        Ok(())
    }

    /// Sends requests to production. The pace is one that an emulated machine follows.
    pub fn load(&mut self, production: Place, requests: u64) -> Result<()> {
        Ok(self
            .start_load(production, requests)?
            .wait_success(LOAD_LIMIT)?)
    }

    /// Begins to send them.
    pub fn start_load(&self, production: Place, requests: u64) -> Result<Process> {
        let address = match production {
            Place::Lab => Host::Production.address(),
            Place::Guest(address) | Place::Far(address) => address.parse()?,
        };
        let options = LoadOptions {
            server: (address, PRODUCTION_PORT),
            requests,
            connections: 20,
            rate: 150,
            seed: 1,
        };
        let mut command = self.programs.tool.load(&self.lab, &options);
        Ok(Process::start("load", &mut command, self.lab.folder())?)
    }

    /// Frames that a card of the guest has sent.
    pub fn received_by_tap(&self, name: &str) -> Result<u64> {
        let path = format!("/sys/class/net/{name}/statistics/rx_packets");
        let output = self.lab.switch().command("cat").arg(&path).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim()
            .parse()
            .map_err(|_| format!("{path} is {text:?}, expected a number").into())
    }

    /// On the host's side of the lab.
    pub fn on(&self, host: Host, line: &str) -> Result<()> {
        let mut words = line.split(' ');
        let program = words.next().ok_or("an empty command")?;
        run(self.lab.command(host, program).args(words))?;
        Ok(())
    }

    /// On the switch.
    pub fn on_switch(&self, line: &str) -> Result<()> {
        switch(&self.lab, line)
    }
}

/// Address of the namespace in the guest.
pub const FAR: &str = "10.77.0.61";

fn switch(lab: &Lab, line: &str) -> Result<()> {
    let mut words = line.split(' ');
    let program = words.next().ok_or("an empty command")?;
    run(lab.switch().command(program).args(words))?;
    Ok(())
}
