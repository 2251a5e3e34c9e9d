//! A lab with a guest on its switch.
//!
//! ```text
//!   client ── production ═ copy of both directions ═▶ vm1 ─▶ eth1   guest
//!      switch: target, assistant ── vm0 ─▶ eth0 10.77.0.60
//!                                   opt…  ─▶ eth2…   one device option each
//! ```

use std::{path::Path, time::Duration};

use lab::{
    Host, Lab, LabOptions, Process,
    replay::{PRODUCTION_PORT, Programs, TARGET_PORT},
    traffic::{AccessLog, LoadOptions},
    world::run,
};

use super::{
    guest::{Guest, Nic},
    packages::{Kernel, Packages},
};
use crate::Result;

/// The guest's address on the switch.
pub const GUEST: &str = "10.77.0.60";
const READY_LIMIT: Duration = Duration::from_secs(20);
const LOAD_LIMIT: Duration = Duration::from_secs(60);
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// Guest and network; the guest goes first.
pub struct Scene<'a> {
    pub guest: Guest,
    pub programs: &'a Programs,
    pub lab: Lab,
    loads: u32,
}

/// Servers with empty logs.
pub struct Servers {
    logs: [std::path::PathBuf; 2],
    _processes: [Process; 2],
}

impl<'a> Scene<'a> {
    /// Builds and boots it.
    pub fn set(
        packages: &Packages,
        kernel: &Kernel,
        image: &Path,
        programs: &'a Programs,
        nics: &[Nic],
    ) -> Result<Self> {
        let mut lab = Lab::up(&LabOptions {
            mirrored: Vec::new(),
            ..LabOptions::default()
        })?;
        lab.keep_files();
        for nic in nics {
            let many = if nic.queues > 1 { " multi_queue" } else { "" };
            switch(
                &lab,
                &format!("ip tuntap add {} mode tap vnet_hdr{many}", nic.tap),
            )?;
            switch(&lab, &format!("ip link set {} up", nic.tap))?;
        }
        switch(&lab, "ip link set vm0 master br0")?;
        switch(&lab, "tc qdisc add dev production clsact")?;
        for direction in ["ingress", "egress"] {
            switch(
                &lab,
                &format!(
                    "tc filter add dev production {direction} protocol all u32 match u32 0 0 action mirred egress mirror dev vm1"
                ),
            )?;
        }
        let mut guest = Guest::boot(&lab, packages, kernel, image, nics)?;
        for number in 0..nics.len() {
            guest.run(&format!("ip link set eth{number} up"))?;
        }
        guest.run(&format!("ip addr add {GUEST}/24 dev eth0"))?;
        Ok(Self {
            guest,
            programs,
            lab,
            loads: 0,
        })
    }

    /// Starts both servers.
    pub fn servers(&mut self) -> Result<Servers> {
        self.loads += 1;
        let number = self.loads;
        let log = |host: Host| self.lab.file(&format!("{}-{number}.log", host.name()));
        let logs = [log(Host::Production), log(Host::Target)];
        let start = |host: Host, port, log: &Path| -> Result<Process> {
            let mut command = self.programs.tool.server(&self.lab, host, port, log);
            let mut process = Process::start(
                &format!("http-{}-{number}", host.name()),
                &mut command,
                self.lab.folder(),
            )?;
            process.wait_for_line("ready", READY_LIMIT)?;
            Ok(process)
        };
        let processes = [
            start(Host::Production, PRODUCTION_PORT, &logs[0])?,
            start(Host::Target, TARGET_PORT, &logs[1])?,
        ];
        Ok(Servers {
            logs,
            _processes: processes,
        })
    }

    /// Sends requests to production. The pace is one that an emulated machine follows.
    pub fn load(&mut self, requests: u64) -> Result<()> {
        let options = LoadOptions {
            server: (Host::Production.address(), PRODUCTION_PORT),
            requests,
            connections: 20,
            rate: 150,
            seed: 1,
        };
        let mut command = self.programs.tool.load(&self.lab, &options);
        let mut process = Process::start("load", &mut command, self.lab.folder())?;
        Ok(process.wait_success(LOAD_LIMIT)?)
    }

    /// On the host's side of the lab.
    pub fn on(&self, host: Host, line: &str) -> Result<()> {
        let mut words = line.split(' ');
        let program = words.next().ok_or("an empty command")?;
        run(self.lab.command(host, program).args(words))?;
        Ok(())
    }
}

impl Servers {
    /// Every request that production saw, the target saw once, unchanged.
    pub fn all_replayed(&self, expected: u64) -> Result<()> {
        let production = AccessLog::read(&self.logs[0])?;
        if production.requests() != expected {
            return Err(format!(
                "production saw {} requests, expected {expected}",
                production.requests()
            )
            .into());
        }
        let deadline = std::time::Instant::now() + SETTLE_LIMIT;
        loop {
            let faults = production
                .compare(&AccessLog::read(&self.logs[1])?)
                .faults();
            if faults.is_empty() {
                return Ok(());
            }
            if std::time::Instant::now() > deadline {
                return Err(faults.join("; ").into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn switch(lab: &Lab, line: &str) -> Result<()> {
    let mut words = line.split(' ');
    let program = words.next().ok_or("an empty command")?;
    run(lab.switch().command(program).args(words))?;
    Ok(())
}
