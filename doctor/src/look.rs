//! Every packet that passes an interface of this host, for a while.

use dataplane::iface::Interface;
use dataplane::watch::{PacketWatch, Seen};
use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

/// Between two looks into the socket's buffer, which holds some hundred packets.
pub const PAUSE: Duration = Duration::from_millis(2);
/// Packets that are looked at in one round; the rest of the window's time belongs to others.
const ROUND: usize = 256;

/// Shows `each` what passes during `window`, and calls `meanwhile` between the rounds; ends early when that says true.
pub fn look(
    window: Duration,
    mut each: impl FnMut(&Seen<'_>),
    mut meanwhile: impl FnMut() -> bool,
) -> io::Result<()> {
    let mut watch = PacketWatch::open()?;
    let end = Instant::now() + window;
    loop {
        for _ in 0..ROUND {
            match watch.recv() {
                Some(seen) => each(&seen),
                None => break,
            }
        }
        if meanwhile() || Instant::now() >= end {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
}

/// Names of interfaces by index, as they were when they were asked for.
#[derive(Clone, Debug, Default)]
pub struct Names(BTreeMap<u32, String>);

impl Names {
    /// Asks the kernel; without an answer every interface is called by its index.
    pub fn now() -> Self {
        Self(Interface::names().unwrap_or_default().into_iter().collect())
    }

    /// The name.
    pub fn of(&self, index: u32) -> String {
        let name = self.0.get(&index).cloned();
        name.unwrap_or_else(|| format!("interface {index}"))
    }
}

/// `3 packets`, `1 packet`.
pub fn packets(n: u64) -> String {
    format!("{n} {}", if n == 1 { "packet" } else { "packets" })
}
