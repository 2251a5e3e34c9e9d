//! Signals as something that can be waited for.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Orderly ends: Ctrl-C, kill, and the terminal that went away.
const ENDS: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Requests to end, one byte each in a socket that the handlers write to.
#[derive(Debug)]
pub struct Signals {
    received: UnixStream,
}

impl Signals {
    /// Takes the signals over. SIGPIPE is ignored already: the Rust runtime does so, and a write to a
    /// closed connection is an error like any other.
    pub fn install() -> std::io::Result<Self> {
        let (received, sent) = UnixStream::pair()?;
        for signal in ENDS {
            signal_hook::low_level::pipe::register(signal, sent.try_clone()?)?;
        }
        Ok(Self { received })
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
