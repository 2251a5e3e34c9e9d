//! Faults of a path, and how many of each kind were injected.

use crate::rng::Rng;
use common::flow::Nanos;

/// Rates in permille of the packets of one path.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub loss: u64,
    pub duplicate: u64,
    /// Late by up to 5 ms: overtaken by a few.
    pub reorder: u64,
    /// Late by 10 to 100 ms: overtaken by many.
    pub delay: u64,
    /// Cut: snap length in the capture, short frames to the target, option-less response headers.
    pub truncate: u64,
    /// A flipped bit.
    pub corrupt: u64,
}

impl Faults {
    /// Nothing that changes when a packet arrives, or whether.
    pub fn on_time(&self) -> bool {
        self.loss + self.reorder + self.delay + self.truncate + self.corrupt == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    Capture,
    ToTarget,
    Responses,
}

/// What happens to one packet beside loss and duplication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    None,
    Truncate,
    Corrupt,
}

/// Everything that can go wrong, for the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Loss,
    Duplicate,
    Reorder,
    Delay,
    Truncate,
    Corrupt,
}

impl Kind {
    const NAMES: [&str; 6] = [
        "lost",
        "duplicated",
        "reordered",
        "delayed",
        "truncated",
        "corrupted",
    ];
}

/// Faults injected so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    by_path: [[u64; 6]; 3],
    pub packets: [u64; 3],
    pub crashes: u64,
    pub stalls: u64,
    pub closed_windows: u64,
    pub outages: u64,
    pub failed_announcements: u64,
}

impl Injected {
    pub fn count(&mut self, path: Path, kind: Kind) {
        self.by_path[path as usize][kind as usize] += 1;
    }

    pub fn of(&self, path: Path, kind: Kind) -> u64 {
        self.by_path[path as usize][kind as usize]
    }

    pub fn merge(&mut self, other: &Self) {
        for (a, b) in self
            .by_path
            .as_flattened_mut()
            .iter_mut()
            .zip(other.by_path.as_flattened())
        {
            *a += b;
        }
        for (a, b) in self.packets.iter_mut().zip(other.packets) {
            *a += b;
        }
        self.crashes += other.crashes;
        self.stalls += other.stalls;
        self.closed_windows += other.closed_windows;
        self.outages += other.outages;
        self.failed_announcements += other.failed_announcements;
    }
}

impl std::fmt::Display for Injected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, path) in ["capture", "to target", "responses"].iter().enumerate() {
            write!(f, "  {path:<10} {:>11} packets:", self.packets[i])?;
            for (name, n) in Kind::NAMES.iter().zip(self.by_path[i]) {
                write!(f, " {name} {n}")?;
            }
            writeln!(f)?;
        }
        writeln!(
            f,
            "  target     crashed and restarted {}, stalled {}, stopped reading {}",
            self.crashes, self.stalls, self.closed_windows
        )?;
        write!(
            f,
            "  channel    outages {}, announcements refused {}",
            self.outages, self.failed_announcements
        )
    }
}

/// The copies of a packet that arrive: how late, and how damaged.
pub fn fate(
    rng: &mut Rng,
    faults: &Faults,
    path: Path,
    injected: &mut Injected,
) -> impl Iterator<Item = (Nanos, Damage)> + use<> {
    injected.packets[path as usize] += 1;
    let mut copies = [None, None];
    if rng.chance(faults.loss) {
        injected.count(path, Kind::Loss);
        return copies.into_iter().flatten();
    }
    let two = rng.chance(faults.duplicate);
    if two {
        injected.count(path, Kind::Duplicate);
    }
    for copy in copies.iter_mut().take(1 + usize::from(two)) {
        let mut late = 0;
        if rng.chance(faults.reorder) {
            injected.count(path, Kind::Reorder);
            late += rng.pick(100..5_000);
        }
        if rng.chance(faults.delay) {
            injected.count(path, Kind::Delay);
            late += rng.pick(10_000..100_000);
        }
        let damage = if rng.chance(faults.truncate) {
            injected.count(path, Kind::Truncate);
            Damage::Truncate
        } else if rng.chance(faults.corrupt) {
            injected.count(path, Kind::Corrupt);
            Damage::Corrupt
        } else {
            Damage::None
        };
        *copy = Some((Nanos::from_micros(late), damage));
    }
    copies.into_iter().flatten()
}
