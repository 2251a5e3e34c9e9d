//! One network namespace by name.
//!
//! A name is `lab-<pid>.<start>-<run>-<host>`: the process that made it, the start time of that process (process ids
//! are reused), a counter within the process, and the host. From the name alone the next run can tell a leftover.

use std::{
    fs::File,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::command::run;
use crate::LabError;

const PREFIX: &str = "lab-";
const FOLDER: &str = "/run/netns";
/// Killed processes are gone within milliseconds; past this something is stuck in the kernel.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// A named network namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// The namespace of `host` in the lab `run` (see [`run_name`]); it need not exist.
    pub(super) fn named(run: &str, host: &str) -> Self {
        Self {
            name: format!("{PREFIX}{run}-{host}"),
        }
    }

    /// Its name as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it exists.
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(FOLDER).join(&self.name)
    }

    /// Makes it.
    pub(super) fn create(&self) -> Result<(), LabError> {
        run(Command::new("ip").args(["netns", "add", &self.name])).map(drop)
    }

    /// Kills what runs in it and removes it; never fails, since it runs on drop and on signals.
    pub(super) fn remove(&self) {
        if !self.exists() {
            return;
        }
        self.kill_processes();
        let _ = run(Command::new("ip").args(["netns", "delete", &self.name]));
    }

    /// A command that will run inside; the child is the program itself, `ip netns exec` replaces itself by it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs `work` on a thread of this process that lives inside.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        let file = File::open(self.path()).map_err(LabError::file(self.path()))?;
        let inside = || {
            move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&file),
                Some(LinkNameSpaceType::Network),
            )
            .map_err(|errno| {
                LabError::system(format!("enter namespace {}", self.name))(errno.into())
            })?;
            Ok(work())
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Writes one setting below `/proc/sys/net`.
    pub(super) fn sysctl(&self, settings: &[(&str, &str)]) -> Result<(), LabError> {
        self.enter(|| {
            for (name, value) in settings {
                let path = PathBuf::from("/proc/sys/net").join(name);
                std::fs::write(&path, value).map_err(LabError::file(path))?;
            }
            Ok(())
        })?
    }

    /// What runs inside: program name and process id.
    pub fn programs(&self) -> Vec<String> {
        let named = |pid: Pid| {
            let pid = pid.as_raw_nonzero();
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            Some(format!("{} ({pid})", name.trim()))
        };
        self.processes().into_iter().filter_map(named).collect()
    }

    fn processes(&self) -> Vec<Pid> {
        let Ok(output) = run(Command::new("ip").args(["netns", "pids", &self.name])) else {
            return Vec::new();
        };
        let own = std::process::id().cast_signed();
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .filter(|&pid| pid != own)
            .filter_map(Pid::from_raw)
            .collect()
    }

    fn kill_processes(&self) {
        let deadline = Instant::now() + KILL_WAIT;
        loop {
            let processes = self.processes();
            if processes.is_empty() || Instant::now() > deadline {
                return;
            }
            for pid in processes {
                // It may have ended meanwhile.
                let _ = kill_process(pid, Signal::KILL);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The first part of every name that the `number`-th lab of this process uses.
pub(super) fn run_name(number: u32) -> String {
    let pid = std::process::id();
    format!("{pid}.{}-{number}", start_time(pid).unwrap_or(0))
}

/// Names of runs whose process is gone, from the names in `/run/netns`.
pub(super) fn dead_runs() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(FOLDER) else {
        return Vec::new();
    };
    let mut runs: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter_map(|name| dead_run_of(&name, start_time))
        .collect();
    runs.sort();
    runs.dedup();
    runs
}

/// The run that namespace `name` belongs to, if it is a lab's and its process no longer runs.
fn dead_run_of(name: &str, start_time: impl Fn(u32) -> Option<u64>) -> Option<String> {
    let (run, _host) = name.strip_prefix(PREFIX)?.rsplit_once('-')?;
    let (owner, _number) = run.split_once('-')?;
    let (pid, start) = owner.split_once('.')?;
    let (pid, start) = (pid.parse().ok()?, start.parse::<u64>().ok()?);
    (start_time(pid) != Some(start)).then(|| run.to_owned())
}

/// Start time of a live process in clock ticks after boot: proc_pid_stat(5), field 22.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the program's name in parentheses, may contain anything.
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_runs_and_foreign_names_are_not_leftovers() {
        let own = format!("{PREFIX}{}-client", run_name(3));
        assert_eq!(dead_run_of(&own, start_time), None);
        for name in [
            "lab-up-client",
            "lab-",
            "lab-x.y-0-client",
            "other-1.2-0-client",
            "lab-12-client",
        ] {
            assert_eq!(dead_run_of(name, |_| None), None, "{name}");
        }
    }

    #[test]
    fn a_run_is_dead_when_its_process_is_gone_or_its_number_was_reused() {
        let name = "lab-77.1234-2-production";
        assert_eq!(dead_run_of(name, |_| None).as_deref(), Some("77.1234-2"));
        assert_eq!(
            dead_run_of(name, |_| Some(1235)).as_deref(),
            Some("77.1234-2")
        );
        assert_eq!(dead_run_of(name, |_| Some(1234)), None);
    }
}
