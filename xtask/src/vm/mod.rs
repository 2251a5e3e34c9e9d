//! `cargo xtask vm-test`: the programs on real drivers and other kernels, in QEMU guests (software emulation).
//!
//! ```text
//!   packages   apt (own lists, nothing installed) ─▶ target/vm/root-*: QEMU, busybox, kernels
//!   initramfs  busybox, the release programs with their libraries, drivers ─▶ target/vm/*.cpio
//!   guest      QEMU on taps of a lab's switch; a shell on its second serial line
//!   nics       the guests' cards, and what is expected of them
//!   scene      lab + guest: production's mirror ─▶ one card, the switch ─▶ another
//!   cases      what is asserted, one line PASS or FAIL each: replays, options, ends of programs
//! ```
//! It tests function, never speed: each guest instruction is emulated.

mod cases;
mod conntrack;
mod guest;
mod initramfs;
mod nics;
mod options;
mod packages;
mod replays;
mod scene;

use clap::Args;
use lab::{replay::Programs, tool::Tool};

use crate::{
    Result, build, demo, paths,
    progress::{Progress, cargo, succeed},
};

/// What initramfs and guests call on this machine.
pub const HOST_PACKAGES: [&str; 7] = [
    "binutils",
    "cpio",
    "ethtool",
    "iproute2",
    "nftables",
    "util-linux",
    "xz-utils",
];

/// dataplane's example that only transmits.
const TRANSMIT: &str = "transmit";

/// Which cases.
#[derive(Args)]
pub struct VmTest {
    /// Only cases whose name contains this, or one of these
    #[arg(long)]
    only: Vec<String>,
    /// Only kernels whose release begins with this
    #[arg(long, default_value = "")]
    kernel: String,
    /// Run the cases this many times in turn, none a second time if it fails: how often does that happen?
    #[arg(long, default_value_t = 1)]
    repeat: u32,
}

impl VmTest {
    /// Fetches, boots, runs the cases.
    pub fn run(&self) -> Result<()> {
        let progress = Progress::start();
        build::prepare(&progress, &HOST_PACKAGES)?;
        build::programs(&progress)?;
        self.step(&progress)
    }

    /// All cases as a step of `cargo xtask test`, when all is built.
    pub fn all(progress: &Progress) -> Result<()> {
        let all = Self {
            only: Vec::new(),
            kernel: String::new(),
            repeat: 1,
        };
        all.step(progress)
    }

    fn step(&self, progress: &Progress) -> Result<()> {
        progress.say("vm: fetching QEMU and kernels");
        let packages = packages::fetch()?;
        // Of what runs, not of its path: the tests have built this program again meanwhile.
        let own = paths::target().join("vm/xtask");
        std::fs::copy("/proc/self/exe", &own)
            .map_err(|error| format!("cannot copy this program to {}: {error}", own.display()))?;
        let programs = Programs::in_folder(
            &build::programs_folder(),
            Tool::new(own.clone(), &[demo::TOOL_COMMAND]),
        );
        progress.say("vm: building what only guests run");
        succeed(&mut cargo(&[
            "build",
            "-p",
            "dataplane",
            "--example",
            TRANSMIT,
        ]))?;
        let tools = [own, paths::target().join("debug/examples").join(TRANSMIT)];
        let mut tally = cases::Tally::new(self.only.clone(), self.repeat);
        for kernel in &packages.kernels {
            if !kernel.release.starts_with(&self.kernel) {
                continue;
            }
            progress.say(&format!("vm: kernel {}", kernel.release));
            let image = initramfs::build(&packages, kernel, &programs, &tools)?;
            cases::run(&packages, kernel, &image, &programs, &mut tally);
        }
        tally.verdict()
    }
}

/// Runs a command quietly to a successful end.
fn quiet(command: &mut std::process::Command) -> Result<()> {
    succeed(
        command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null()),
    )
}
