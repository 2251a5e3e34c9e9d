//! Signals as something that can be waited for.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Orderly ends: Ctrl-C, kill, and the terminal that went away.
const ENDS: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// What SIGHUP asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hangup {
    /// The end: the terminal went away.
    Ends,
    /// Reading again what was read from files, as with other daemons.
    Reloads,
}

/// Requests to end, one byte each in a socket that the handlers write to.
#[derive(Debug)]
pub struct Signals {
    received: UnixStream,
    reload: Arc<AtomicBool>,
}

impl Signals {
    /// Takes the signals over. SIGPIPE is ignored already: the Rust runtime does so, and a write to a
    /// closed connection is an error like any other.
    pub fn install(hangup: Hangup) -> std::io::Result<Self> {
        let (received, sent) = UnixStream::pair()?;
        let reload = Arc::new(AtomicBool::new(false));
        for signal in ENDS {
            if signal == SIGHUP && hangup == Hangup::Reloads {
                signal_hook::flag::register(signal, Arc::clone(&reload))?;
            } else {
                signal_hook::low_level::pipe::register(signal, sent.try_clone()?)?;
            }
        }
        Ok(Self { received, reload })
    }

    /// True once after a SIGHUP that asks for a reload; looked at between two waits.
    pub fn take_reload(&self) -> bool {
        self.reload.swap(false, Ordering::Relaxed)
    }

    /// Waits until a request comes or `timeout` is over; returns how many came.
    pub fn wait(&mut self, timeout: Duration) -> usize {
        // Zero would mean for ever.
        let timeout = timeout.max(Duration::from_millis(1));
        if self.received.set_read_timeout(Some(timeout)).is_err() {
            std::thread::sleep(timeout);
            return 0;
        }
        let mut bytes = [0; 16];
        self.received.read(&mut bytes).unwrap_or(0)
    }
}
