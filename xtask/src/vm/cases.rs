//! What is asserted in the guests. Each case prints one line; the host counts.

use std::{path::Path, time::Instant};

use lab::{
    Host,
    replay::{Capture, Copy, PRODUCTION_PORT, Programs, TARGET_PORT, stop},
};

use super::{
    guest::Nic,
    packages::{Kernel, Packages},
    scene::{GUEST, Scene},
};
use crate::Result;

/// Requests of one replay: two seconds at the pace of [`Scene::load`].
const REQUESTS: u64 = 300;
/// virtio as most hypervisors and clouds with zero-copy have it: VIRTIO_F_ACCESS_PLATFORM is what the
/// driver asks for before it maps foreign memory.
const ZERO_COPY: &str = "virtio-net-pci,iommu_platform=on,disable-legacy=on";

/// Results so far.
pub struct Tally {
    only: String,
    passed: u32,
    failed: u32,
}

impl Tally {
    /// Only cases whose name contains `only`.
    pub fn new(only: &str) -> Self {
        Self {
            only: only.to_owned(),
            passed: 0,
            failed: 0,
        }
    }

    /// Runs one.
    fn case(&mut self, kernel: &Kernel, name: &str, work: impl FnOnce() -> Result<()>) {
        let name = format!("{} {name}", if kernel.newest { "newest" } else { "old" });
        if !name.contains(&self.only) {
            return;
        }
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
        println!("vm-test: {} passed, {} failed", self.passed, self.failed);
        if self.failed > 0 {
            return Err(format!("{} cases in virtual machines failed", self.failed).into());
        }
        if self.passed == 0 {
            return Err(
                "no case in virtual machines ran; got --only with a name that none has?".into(),
            );
        }
        Ok(())
    }
}

/// One device option each: what the programs do with it (`mode`, `zero_copy` in the log).
const OPTIONS: [(&str, &str, &str, &str, bool); 6] = [
    ("default", "opt0", "virtio-net-pci", "native", false),
    ("iommu_platform", "opt1", ZERO_COPY, "native", true),
    (
        "packed",
        "opt2",
        "virtio-net-pci,iommu_platform=on,disable-legacy=on,packed=on",
        "native",
        true,
    ),
    (
        "mrg_rxbuf=off",
        "opt3",
        "virtio-net-pci,iommu_platform=on,disable-legacy=on,mrg_rxbuf=off",
        "native",
        false,
    ),
    (
        "ctrl_guest_offloads=off",
        "opt4",
        "virtio-net-pci,iommu_platform=on,disable-legacy=on,ctrl_guest_offloads=off",
        "generic",
        false,
    ),
    ("igb", "opt5", "igb", "native", true),
];

/// All cases of one kernel, in one boot.
pub fn run(
    packages: &Packages,
    kernel: &Kernel,
    image: &Path,
    programs: &Programs,
    tally: &mut Tally,
) {
    let many = format!("{ZERO_COPY},mq=on,vectors=10");
    let mut nics = vec![
        Nic {
            tap: "vm0",
            queues: 4,
            device: many.clone(),
        },
        Nic {
            tap: "vm1",
            queues: 4,
            device: many,
        },
    ];
    if kernel.newest {
        nics.extend(OPTIONS.iter().map(|&(_, tap, device, ..)| Nic {
            tap,
            queues: 1,
            device: device.to_owned(),
        }));
    }
    let mut scene = None;
    tally.case(kernel, "boot", || {
        scene = Some(Scene::set(packages, kernel, image, programs, &nics)?);
        Ok(())
    });
    let Some(mut scene) = scene else { return };
    let scene = &mut scene;
    tally.case(kernel, "mirror and transmit, virtio, 4 queues", || {
        mirror(scene, kernel)
    });
    tally.case(kernel, "intercept, virtio, 4 queues", || {
        intercept(scene, kernel)
    });
    if kernel.newest {
        for (number, (name, _, _, mode, zero_copy)) in OPTIONS.into_iter().enumerate() {
            tally.case(kernel, &format!("option {name}"), || {
                option(scene, number + 2, mode, zero_copy)
            });
        }
    }
    tally.case(kernel, "SIGKILL, then attach again", || {
        again(scene, "KILL")
    });
    tally.case(kernel, "normal exit, then attach again", || {
        again(scene, "INT")
    });
    tally.case(kernel, "no kernel warnings", || {
        let warnings = scene.guest.warnings()?;
        if warnings.is_empty() {
            Ok(())
        } else {
            Err(warnings.into())
        }
    });
}

/// A whole replay by a guest at the mirror port; the lab has the assistant.
fn mirror(scene: &mut Scene, kernel: &Kernel) -> Result<()> {
    let servers = scene.servers()?;
    let mut assistant = lab::replay::Intercept::default().start(&scene.lab, scene.programs)?;
    scene.guest.start("mirror", &mirror_line("eth1", "0,1"))?;
    let load = scene.load(REQUESTS);
    let log = scene.guest.stop("mirror", "INT")?;
    stop(&mut assistant)?;
    load?;
    expect(
        &log,
        "one AF_XDP socket per receive queue",
        &[
            "eth1",
            "queues=4",
            if kernel.newest {
                "zero_copy=true"
            } else {
                "zero_copy=false"
            },
        ],
    )?;
    expect(&log, "XDP program attached", &["native"])?;
    expect(
        &log,
        "sending by AF_XDP",
        &[
            "eth0",
            if kernel.newest {
                "zero_copy=true"
            } else {
                "zero_copy=false"
            },
        ],
    )?;
    servers
        .all_replayed(REQUESTS)
        .map_err(|error| with_log(&error.to_string(), &log).into())
}

/// A whole replay with the guest as assistant host; tcpcopy taps production in the lab.
fn intercept(scene: &mut Scene, kernel: &Kernel) -> Result<()> {
    let servers = scene.servers()?;
    scene.on(
        Host::Target,
        &format!("ip route replace 10.77.2.0/24 via {GUEST}"),
    )?;
    scene.guest.start("intercept", &intercept_line("eth0"))?;
    let mut copy = Copy::new(Capture::Tap);
    GUEST.clone_into(&mut copy.intercept);
    let mut tcpcopy = copy.start(&scene.lab, scene.programs, &scene.lab.file("tap.json"))?;
    let load = scene.load(REQUESTS);
    stop(&mut tcpcopy)?;
    let log = scene.guest.stop("intercept", "INT")?;
    let assistant = Host::Assistant.address();
    scene.on(
        Host::Target,
        &format!("ip route replace 10.77.2.0/24 via {assistant}"),
    )?;
    load?;
    expect(
        &log,
        "one AF_XDP socket per receive queue",
        &[
            "eth0",
            "queues=4",
            if kernel.newest {
                "zero_copy=true"
            } else {
                "zero_copy=false"
            },
        ],
    )?;
    servers
        .all_replayed(REQUESTS)
        .map_err(|error| with_log(&error.to_string(), &log).into())
}

/// Attaches to a device with an option and says which way it took.
fn option(scene: &mut Scene, number: usize, mode: &str, zero_copy: bool) -> Result<()> {
    let device = format!("eth{number}");
    scene.guest.start("option", &intercept_line(&device))?;
    let log = scene.guest.stop("option", "INT")?;
    expect(&log, "XDP program attached", &[mode])?;
    expect(
        &log,
        "one AF_XDP socket per receive queue",
        &[&format!("zero_copy={zero_copy}")],
    )
}

/// Ends a program with zero-copy sockets in a way, twice: the kernel must let the next one attach.
fn again(scene: &mut Scene, signal: &str) -> Result<()> {
    for _ in 0..2 {
        scene.guest.start("again", &intercept_line("eth0"))?;
        // The shell's `wait` tells of the signal; that is no failure of the case.
        let ended = scene.guest.stop("again", signal)?;
        expect(&ended, "one AF_XDP socket per receive queue", &["queues=4"])?;
    }
    // Alive and forwarding to its stack again.
    scene.on(Host::Target, &format!("ping -c 1 -W 5 {GUEST}"))
}

fn mirror_line(interface: &str, cores: &str) -> String {
    format!(
        "tcpcopy-user --iface {interface} --cores {cores} -x {PRODUCTION_PORT}-{}:{TARGET_PORT} -s {} --capture mirror --report /tmp/report.json",
        Host::Target.address(),
        Host::Assistant.address()
    )
}

fn intercept_line(interface: &str) -> String {
    format!("intercept-user --iface {interface} --cores 2 -F 'tcp and src port {TARGET_PORT}'")
}

/// A line of the log with `text` has all `words`.
fn expect(log: &str, text: &str, words: &[&str]) -> Result<()> {
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

fn with_log(error: &str, log: &str) -> String {
    format!("{error}; the log ends: {}", lab::world::last_lines(log, 25))
}
