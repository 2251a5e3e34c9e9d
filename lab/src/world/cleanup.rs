//! What must be taken down when the process is told to stop.
//!
//! Drop covers the normal end and panics. SIGINT, SIGTERM and SIGHUP end a process without dropping anything, so a
//! thread waits for them, takes every registered lab down and exits as the shell expects (128 + signal).

use std::{
    path::PathBuf,
    sync::{Mutex, Once, PoisonError},
    thread,
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use super::namespace::Namespace;
use crate::LabError;

/// What one lab leaves on the machine.
#[derive(Clone, Debug)]
pub(super) struct Remains {
    pub run: String,
    pub namespaces: Vec<Namespace>,
    pub folder: PathBuf,
}

impl Remains {
    /// Takes everything down; safe to call twice.
    pub fn remove(&self, keep_folder: bool) {
        // Hosts first: their programs still have a switch to say goodbye over, and nothing hangs on it afterwards.
        for namespace in &self.namespaces {
            namespace.remove();
        }
        if !keep_folder {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

static REGISTERED: Mutex<Vec<Remains>> = Mutex::new(Vec::new());
static WATCHING: Once = Once::new();

/// From now on `remains` is taken down on a signal.
pub(super) fn register(remains: Remains) -> Result<(), LabError> {
    let mut started = Ok(());
    WATCHING.call_once(|| started = watch_signals());
    started?;
    REGISTERED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(remains);
    Ok(())
}

/// The lab is down.
pub(super) fn forget(run: &str) {
    REGISTERED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .retain(|remains| remains.run != run);
}

fn watch_signals() -> Result<(), LabError> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(LabError::system("watch signals"))?;
    thread::Builder::new()
        .name("lab-signals".to_owned())
        .spawn(move || {
            if let Some(signal) = signals.forever().next() {
                let registered = REGISTERED
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                for remains in &registered {
                    remains.remove(false);
                }
                std::process::exit(128 + signal);
            }
        })
        .map_err(LabError::system("start the signal thread"))?;
    Ok(())
}
