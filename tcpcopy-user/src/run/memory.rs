//! The memory budget (`-m`) and what it is spent on.
//!
//! ```text
//!  -m MiB, or min(2 GiB, 10 % of RAM or of the cgroup's limit)
//!    ├─ fixed: rings, frames, hand-over, packets in fragments   first, known
//!    ├─ half of the rest: captured bytes that the target has not acknowledged
//!    └─ the other half: sessions, a quarter of it UDP flows if there are such
//! ```
//! On a production host the default leaves nine tenths to production. Over budget whole new sessions are
//! shed, so too small a budget costs sessions, never production.

use crate::reassembly;
use session::udp_flow_bytes;
use std::path::Path;

const MIB: usize = 1 << 20;
/// Largest default.
const DEFAULT_MAX_BYTES: usize = 2048 * MIB;
/// A session with its share of index and timers (256 bytes, asserted by the engine's tests), its rare part
/// while something is lost or far away (350), the announced route (100), and those that linger.
const SESSION_BYTES: usize = 768;
/// Frames and rings of an AF_XDP port (8192 frames of 2 KiB), for each worker.
const PORT_BYTES: usize = 17 * MIB;
/// What a worker needs at least to be of use.
const WORKER_MIN_BYTES: usize = 8 * MIB;
const _: () = assert!(WORKER_MIN_BYTES > reassembly::MAX_BYTES);

/// The budget of one worker's engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// For captured bytes.
    pub buffer_bytes: usize,
    /// Sessions at a time.
    pub max_sessions: usize,
}

/// A budget that does not cover what is fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "-m, --memory: got {got} MiB, expected at least {least} MiB for {workers} workers with their rings"
)]
pub struct TooSmall {
    got: usize,
    least: usize,
    workers: usize,
}

impl Budget {
    /// Each worker's share of `total` bytes, of which `rings` go to the tap's rings.
    pub fn split(
        total: usize,
        workers: usize,
        rings: usize,
        handover: usize,
    ) -> Result<Self, TooSmall> {
        let pairs = workers * workers.saturating_sub(1);
        let fixed = rings + workers * PORT_BYTES + pairs * handover;
        let least = fixed + workers * WORKER_MIN_BYTES;
        if total < least {
            return Err(TooSmall {
                got: total / MIB,
                least: least.div_ceil(MIB),
                workers,
            });
        }
        let half = ((total - fixed) / workers - reassembly::MAX_BYTES) / 2;
        Ok(Self {
            buffer_bytes: half,
            max_sessions: half / SESSION_BYTES,
        })
    }
}

impl Budget {
    /// Gives a quarter of the sessions' memory to UDP flows with `replicas` wire endpoints each; returns
    /// their number. A flow is a socket of a client, like a session, but of a shorter life.
    pub fn take_udp_flows(&mut self, replicas: u16) -> usize {
        let sessions = self.max_sessions / 4;
        self.max_sessions -= sessions;
        sessions * SESSION_BYTES / udp_flow_bytes(replicas)
    }
}

/// The default: from the machine's memory, or what this process's cgroup leaves of it, under `root`
/// (`/` but for tests).
pub fn default_bytes(root: &Path) -> usize {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
    let machine = read("proc/meminfo").and_then(|text| total_bytes(&text));
    // cgroup v2: one hierarchy, the path behind "0::". Limits of outer groups count as well.
    let group = read("proc/self/cgroup")
        .and_then(|text| Some(text.lines().find_map(|l| l.strip_prefix("0::"))?.to_owned()));
    let limits = group.into_iter().flat_map(|group| {
        Path::new(group.trim_start_matches('/'))
            .ancestors()
            .filter_map(|dir| {
                let file = root.join("sys/fs/cgroup").join(dir).join("memory.max");
                std::fs::read_to_string(file)
                    .ok()?
                    .trim()
                    .parse::<usize>()
                    .ok()
            })
            .collect::<Vec<_>>()
    });
    let available = machine.into_iter().chain(limits).min();
    available.map_or(DEFAULT_MAX_BYTES, |bytes| {
        (bytes / 10).min(DEFAULT_MAX_BYTES)
    })
}

fn total_bytes(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn shares_add_up_to_the_budget_and_too_little_is_refused() {
        let b = Budget::split(1024 * MIB, 2, 64 * MIB, MIB).unwrap();
        let used = 2 * (b.buffer_bytes + b.max_sessions * SESSION_BYTES)
            + (64 + 34 + 2) * MIB
            + 2 * reassembly::MAX_BYTES;
        assert!(used <= 1024 * MIB && used > 1023 * MIB, "{used}");
        let mut with_udp = b;
        let flows = with_udp.take_udp_flows(3);
        let bytes = with_udp.max_sessions * SESSION_BYTES + flows * udp_flow_bytes(3);
        assert!(flows > 50_000 && bytes <= b.max_sessions * SESSION_BYTES);
        let error = Budget::split(100 * MIB, 2, 64 * MIB, MIB).unwrap_err();
        assert_eq!(
            error.to_string(),
            "-m, --memory: got 100 MiB, expected at least 116 MiB for 2 workers with their rings"
        );
    }

    #[test]
    fn a_tenth_of_the_smallest_limit_but_at_most_2_gib() {
        let root = std::env::temp_dir().join(format!("memory-budget-{}", std::process::id()));
        let put = |path: &str, text: &str| {
            let file = root.join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        assert_eq!(default_bytes(&root), DEFAULT_MAX_BYTES, "nothing known");
        put(
            "proc/meminfo",
            "MemTotal:       24000000 kB\nMemFree: 1 kB\n",
        );
        assert_eq!(default_bytes(&root), DEFAULT_MAX_BYTES);
        put("proc/meminfo", "MemTotal:        1000000 kB\n");
        assert_eq!(default_bytes(&root), 102_400_000);
        put("proc/self/cgroup", "0::/outer/inner\n");
        put("sys/fs/cgroup/outer/inner/memory.max", "max\n");
        assert_eq!(default_bytes(&root), 102_400_000);
        put("sys/fs/cgroup/outer/memory.max", "500000000\n");
        assert_eq!(default_bytes(&root), 50_000_000);
        fs::remove_dir_all(&root).unwrap();
    }
}
