//! Log records of the programs: a thread that passes them on to the `log` crate's logger.
//!
//! Exists only when packets are logged; the programs' log statements are compiled out by the verifier
//! otherwise.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use aya::Ebpf;
use aya_log::EbpfLogger;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::BpfError;
use super::error::chain;

/// How long the thread waits for records before it looks whether it should end.
const WAIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// Runs until dropped.
#[derive(Debug)]
pub struct LogThread {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl LogThread {
    /// Takes the log ring out of a loaded object.
    pub fn start(ebpf: &mut Ebpf) -> Result<Self, BpfError> {
        let failed = |error: String| BpfError::Map {
            map: "AYA_LOGS",
            action: "read log records",
            error,
        };
        let logger = EbpfLogger::init(ebpf).map_err(|e| failed(chain(&e)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("bpf-log".into())
            .spawn(move || run(logger, &stopped))
            .map_err(|e: io::Error| failed(e.to_string()))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(mut logger: EbpfLogger<&'static dyn ::log::Log>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let fd = logger.as_fd();
        let _ = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&WAIT));
        logger.flush();
    }
    logger.flush();
}
