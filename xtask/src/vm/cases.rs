//! What is asserted in the guests. Each case prints one line; the host counts.

use std::{path::Path, time::Instant};

use lab::{Host, replay::Programs};

use super::{
    conntrack, options,
    packages::{Kernel, Packages},
    replays::{self, expect_way, intercept_line},
    scene::Scene,
};
use crate::Result;

/// What a kernel says whose emulated timer did not fire: it slept on while the host was idle, once in some twenty boots.
const LOST_TIMER: &str = "timer wakeup didn't happen";

/// Results so far.
pub struct Tally {
    only: Vec<String>,
    /// Rounds.
    repeat: u32,
    passed: u32,
    /// Of those passed: not at the first try.
    again: u32,
    failed: u32,
}

impl Tally {
    /// Only cases whose name contains one of `only`, or all; guests are booted for them as well.
    /// With `repeat` above one as many rounds of them, and none is run once more.
    pub fn new(only: Vec<String>, repeat: u32) -> Self {
        Self {
            only,
            repeat,
            passed: 0,
            again: 0,
            failed: 0,
        }
    }

    /// Runs one if it is chosen. One that fails is run once more: what is emulated has the host's timing, which no real
    /// card has. Both outcomes are told.
    fn case(&mut self, kernel: &Kernel, name: &str, mut work: impl FnMut() -> Result<()>) {
        let full = full_name(kernel, name);
        if !self.only.is_empty() && !self.only.iter().any(|only| full.contains(only)) {
            return;
        }
        if self.repeat > 1 {
            self.always(kernel, name, work);
            return;
        }
        let mut again = 0;
        self.always(kernel, name, || {
            work().or_else(|error| {
                println!("FAIL {full}, once more: {error}");
                work().inspect(|()| again = 1)
            })
        });
        self.again += again;
    }

    fn always(&mut self, kernel: &Kernel, name: &str, work: impl FnOnce() -> Result<()>) {
        let name = full_name(kernel, name);
        let start = Instant::now();
        match work() {
            Ok(()) => {
                self.passed += 1;
                println!("PASS {name} ({:.1} s)", start.elapsed().as_secs_f32());
            }
            Err(error) => {
                self.failed += 1;
                println!("FAIL {name}: {error}");
            }
        }
    }

    /// The last line, and whether all is well.
    pub fn verdict(&self) -> Result<()> {
        println!(
            "vm-test: {} passed, {} of them not at the first try, {} failed",
            self.passed, self.again, self.failed
        );
        if self.passed + self.failed == 0 {
            return Err(
                "no kernel was booted, expected one whose release begins with what --kernel says"
                    .into(),
            );
        }
        if self.failed > 0 {
            return Err(format!("{} cases in virtual machines failed", self.failed).into());
        }
        Ok(())
    }
}

fn full_name(kernel: &Kernel, name: &str) -> String {
    format!("{}: {name}", kernel.release)
}

/// All cases of one kernel, in one boot.
pub fn run(
    packages: &Packages,
    kernel: &Kernel,
    image: &Path,
    programs: &Programs,
    tally: &mut Tally,
) {
    let (mut scene, mut again) = (None, 0);
    tally.always(kernel, "boot", || {
        let set = || Scene::set(packages, kernel, image, programs);
        let first = set().or_else(|error| {
            if !error.to_string().contains(LOST_TIMER) {
                return Err(error);
            }
            println!("FAIL {}, once more: {error}", full_name(kernel, "boot"));
            set().inspect(|_| again = 1)
        });
        scene = Some(first?);
        Ok(())
    });
    tally.again += again;
    let Some(mut scene) = scene else { return };
    let failed = tally.failed;
    for _ in 0..tally.repeat {
        round(&mut scene, kernel, tally);
    }
    tally.always(kernel, "no kernel warnings", || {
        let warnings = scene.guest.warnings()?;
        if warnings.is_empty() {
            Ok(())
        } else {
            Err(warnings.into())
        }
    });
    if tally.failed > failed {
        println!("     logs are in {}", scene.lab.folder().display());
        scene.lab.keep_files();
    }
}

/// Each case once.
fn round(scene: &mut Scene, kernel: &Kernel, tally: &mut Tally) {
    for pair in 0..scene.pairs.len() {
        let name = scene.pairs[pair].name;
        tally.case(kernel, &format!("mirror and transmit, {name}"), || {
            replays::mirror(scene, pair)
        });
        tally.case(
            kernel,
            &format!("mirror and transmit by one card, {name}"),
            || replays::one_card(scene, pair),
        );
        tally.case(kernel, &format!("intercept, {name}"), || {
            replays::intercept(scene, pair)
        });
        tally.case(
            kernel,
            &format!("attach again after normal exit, {name}"),
            || again(scene, pair),
        );
    }
    for row in 0..scene.rows.len() {
        let name = format!("option {}", scene.rows[row].name);
        tally.case(kernel, &name, || options::row(scene, row));
    }
    let plain = scene
        .rows
        .iter()
        .position(|row| row.name == "iommu_platform");
    if let Some(row) = plain {
        tally.case(kernel, "a zero-copy socket that only transmits", || {
            options::transmit_only(scene, row)
        });
    }
    tally.case(kernel, "guest as target", || replays::target(scene));
    if kernel.newest {
        tally.case(kernel, "guest as production, tap", || {
            replays::tap(scene, "tap attached to tcx")
        });
        tally.case(kernel, "egress by a VLAN interface", || {
            replays::vlan(scene)
        });
        tally.case(kernel, "egress by a bond", || replays::bond(scene));
        tally.case(
            kernel,
            "raw sockets, NAT and a full conntrack table",
            || conntrack::raw_sockets(scene),
        );
    } else {
        tally.case(kernel, "guest as production, tap without tcx", || {
            replays::tap(scene, "capturing by packet sockets (AF_PACKET)")
        });
    }
}

/// Ends a program with its sockets, twice: the kernel must let the next one attach, and the guest's own
/// stack must be reachable by the card.
fn again(scene: &mut Scene, pair: usize) -> Result<()> {
    let pair = &scene.pairs[pair];
    let (name, address, way) = (pair.switched.name, pair.address, pair.way);
    scene.connect(name, address)?;
    for _ in 0..2 {
        scene.guest.start("again", &intercept_line(name))?;
        let log = scene.guest.stop("again", "INT")?;
        expect_way(&log, name, way)?;
    }
    scene.guest.wait_for_link(name)?;
    let target = Host::Target.address();
    scene
        .guest
        .run(&format!("ping -c 1 -W 10 {target}"))
        .map(drop)
}

/// A line of the log with `text` has all `words`.
pub fn expect(log: &str, text: &str, words: &[&str]) -> Result<()> {
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(text)).collect();
    if lines
        .iter()
        .any(|line| words.iter().all(|word| line.contains(word)))
    {
        return Ok(());
    }
    let got = if lines.is_empty() {
        lab::world::last_lines(log, 12)
    } else {
        lines.join(" | ")
    };
    Err(format!("expected a log line {text:?} with {words:?}, got: {got}").into())
}

/// An error with what the program said.
pub fn with_log(error: &str, log: &str) -> String {
    format!("{error}; the log ends: {}", lab::world::last_lines(log, 25))
}
