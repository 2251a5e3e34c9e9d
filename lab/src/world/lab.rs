//! A lab from up to down.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{
    cleanup::{self, Remains},
    counters::StackCounters,
    host::{Cable, HOSTS, Host},
    links,
    namespace::{Namespace, dead_runs, run_name},
};
use crate::LabError;

/// Name of the lab that outlives its process: `cargo xtask lab up`.
pub const STANDING_NAME: &str = "up";

const SWITCH: &str = "switch";

/// How a lab is built.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// Receive and transmit queues of each veth end.
    pub queues: u32,
    /// Ports that the switch mirrors to `mir0`.
    pub mirrored: Vec<Host>,
    /// Bandwidth towards the client in megabits per second; that of memory without.
    pub client_megabits: Option<u32>,
    /// Cables that are cut into two, for a [`crate::faults::FaultyCable`] to join. The channel to intercept is TCP of
    /// the kernel with unfinished checksums, which a splice of the assistant's or tcpcopy's cable would not carry.
    pub spliced: Vec<Cable>,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            queues: 1,
            mirrored: vec![Host::Production],
            client_megabits: None,
            spliced: Vec::new(),
        }
    }
}

/// A lab that is up; dropping it takes it down.
#[derive(Debug)]
pub struct Lab {
    remains: Remains,
    standing: bool,
    keep_files: bool,
}

impl Lab {
    /// Builds a lab under a name of its own, after removing what dead runs left.
    pub fn up(options: &LabOptions) -> Result<Self, LabError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        remove_leftovers()?;
        let mut lab = Self::named(&run_name(NUMBER.fetch_add(1, Ordering::Relaxed)));
        lab.standing = false;
        cleanup::register(lab.remains.clone())?;
        lab.build(options)?;
        Ok(lab)
    }

    /// Builds the lab that stays when this process ends; an earlier one is taken down first.
    pub fn up_standing(options: &LabOptions) -> Result<Self, LabError> {
        remove_leftovers()?;
        let lab = Self::named(STANDING_NAME);
        lab.remains.remove(false);
        lab.build(options)
            .inspect_err(|_| lab.remains.remove(false))?;
        Ok(lab)
    }

    /// The standing lab, if it is up.
    pub fn standing() -> Option<Self> {
        let lab = Self::named(STANDING_NAME);
        lab.remains
            .namespaces
            .iter()
            .all(Namespace::exists)
            .then_some(lab)
    }

    /// Takes the lab down now, the standing one too.
    pub fn down(mut self) {
        self.standing = false;
    }

    fn named(run: &str) -> Self {
        let namespaces = HOSTS.iter().map(|host| host.name()).chain([SWITCH]);
        Self {
            remains: Remains {
                run: run.to_owned(),
                namespaces: namespaces.map(|host| Namespace::named(run, host)).collect(),
                folder: std::env::temp_dir().join(format!("lab-{run}")),
            },
            standing: true,
            keep_files: false,
        }
    }

    fn build(&self, options: &LabOptions) -> Result<(), LabError> {
        let folder = &self.remains.folder;
        std::fs::create_dir_all(folder).map_err(LabError::file(folder))?;
        for namespace in &self.remains.namespaces {
            namespace.create()?;
            links::prepare(namespace)?;
        }
        links::wire(&self.switch(), |host| self.host(host), options)?;
        let limit = |megabits| links::limit_client(&self.switch(), megabits);
        options.client_megabits.map_or(Ok(()), limit)
    }

    /// The namespace of `host`.
    pub fn host(&self, host: Host) -> Namespace {
        Namespace::named(&self.remains.run, host.name())
    }

    /// The namespace with the bridge.
    pub fn switch(&self) -> Namespace {
        Namespace::named(&self.remains.run, SWITCH)
    }

    /// A command that runs on `host`.
    pub fn command(&self, host: Host, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.host(host).command(program)
    }

    /// What any host of this lab received with a wrong checksum since it is up. The cables deliver what is sent, so
    /// each is a fault of a sender.
    pub fn checksum_faults(&self) -> Result<Vec<String>, LabError> {
        let mut faults = Vec::new();
        for host in HOSTS {
            let counters = StackCounters::of(&self.host(host))?;
            let of_host = counters.checksum_faults().into_iter();
            faults.extend(of_host.map(|fault| format!("{}: {fault}", host.name())));
        }
        Ok(faults)
    }

    /// Folder for logs, reports and configurations of this run.
    pub fn folder(&self) -> &Path {
        &self.remains.folder
    }

    /// A file in that folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.remains.folder.join(name)
    }

    /// Leaves the folder when the lab goes down, for somebody to look at.
    pub fn keep_files(&mut self) {
        self.keep_files = true;
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.standing {
            return;
        }
        self.remains
            .remove(self.keep_files || std::thread::panicking());
        cleanup::forget(&self.remains.run);
    }
}

/// Takes down what runs left whose process is gone: they were killed.
fn remove_leftovers() -> Result<(), LabError> {
    if !rustix::process::geteuid().is_root() {
        return Err(LabError::NotRoot);
    }
    for run in dead_runs() {
        let mut lab = Lab::named(&run);
        lab.standing = false;
        drop(lab);
    }
    Ok(())
}
