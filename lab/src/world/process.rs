//! A long-running child process with its output in files.

use std::{
    fs::File,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::command::{last_lines, spawn_error};
use crate::LabError;

/// How often a wait looks again. Waits are for seconds; a look costs microseconds.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Lines of output in an error message.
const ERROR_LINES: usize = 6;

/// A child in a process group of its own. Dropping it kills the group: a SIGINT at the terminal reaches only us, and
/// nothing that the child started survives it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; its output goes to `<folder>/<name>.out` and `.err`.
    pub fn start(name: &str, command: &mut Command, folder: &Path) -> Result<Self, LabError> {
        let stdout = folder.join(format!("{name}.out"));
        let stderr = folder.join(format!("{name}.err"));
        let create = |path: &Path| File::create(path).map_err(LabError::file(path));
        let child = command
            .stdin(Stdio::null())
            .stdout(create(&stdout)?)
            .stderr(create(&stderr)?)
            .process_group(0)
            .spawn()
            .map_err(|source| spawn_error(command, source))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            stdout,
            stderr,
            status: None,
        })
    }

    /// Its process id, also the id of its group.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Sends a signal to the process itself.
    pub fn signal(&self, signal: Signal) -> Result<(), LabError> {
        kill_process(self.pid(), signal)
            .map_err(|errno| LabError::system(format!("signal {}", self.name))(errno.into()))
    }

    /// Stops it where it is, or lets it go on (SIGSTOP, SIGCONT: signal(7)).
    pub fn hold(&self, on: bool) -> Result<(), LabError> {
        self.signal(if on { Signal::STOP } else { Signal::CONT })
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, LabError> {
        if self.status.is_none() {
            self.status = self
                .child
                .try_wait()
                .map_err(LabError::system(format!("wait for {}", self.name)))?;
        }
        Ok(self.status)
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus, LabError> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            self.look_again("end", deadline, limit)?;
        }
    }

    /// Waits for its end, which must be a success.
    pub fn wait_success(&mut self, limit: Duration) -> Result<(), LabError> {
        let status = self.wait(limit)?;
        if status.success() {
            return Ok(());
        }
        Err(LabError::EndedEarly {
            name: self.name.clone(),
            status: status.to_string(),
            detail: last_lines(&self.stderr(), ERROR_LINES),
        })
    }

    /// Waits until a line on standard error contains `word`.
    pub fn wait_for_line(&mut self, word: &str, limit: Duration) -> Result<(), LabError> {
        let what = format!("line with {word:?}");
        self.wait_until(&what, limit, |process| {
            process.stderr().lines().any(|line| line.contains(word))
        })
    }

    /// Waits until `true_now` holds, while the process runs.
    pub fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut true_now: impl FnMut(&Self) -> bool,
    ) -> Result<(), LabError> {
        let deadline = Instant::now() + limit;
        loop {
            let ended = self.ended()?;
            if true_now(self) {
                return Ok(());
            }
            if let Some(status) = ended {
                return Err(LabError::EndedEarly {
                    name: self.name.clone(),
                    status: status.to_string(),
                    detail: last_lines(&self.stderr(), ERROR_LINES),
                });
            }
            self.look_again(what, deadline, limit)?;
        }
    }

    fn look_again(&self, what: &str, deadline: Instant, limit: Duration) -> Result<(), LabError> {
        if Instant::now() > deadline {
            return Err(LabError::Timeout {
                what: format!("{}: {what}", self.name),
                after: limit,
                detail: format!("it said: {}", last_lines(&self.stderr(), ERROR_LINES)),
            });
        }
        thread::sleep(LOOK_EVERY);
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.ended(), Ok(Some(_))) {
            return;
        }
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
    }
}

fn read(path: &Path) -> String {
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}
