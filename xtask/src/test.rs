//! `cargo xtask test`: every test, with what it needs.

use std::process::Stdio;

use clap::Args;

use crate::{
    Result, bench, build,
    progress::{Progress, cargo, succeed},
    vm,
};

/// What the tests use beside what the build needs: real servers and clients, and tools to look with.
const TEST_PACKAGES: [&str; 18] = [
    "apache2-utils",
    "bpftool",
    "clang",
    "curl",
    "dnsmasq-base",
    "ethtool",
    "iproute2",
    "nftables",
    "nginx-light",
    "procps",
    "python3",
    "redis-server",
    "redis-tools",
    "tcpdump",
    "util-linux",
    "valgrind",
    "wrk",
    "zstd",
];
/// Tests that need root, namespaces and BPF fail without it, naming `cargo xtask test`.
const ROOT_TESTS: &str = "REPLAY_ROOT_TESTS";
/// Folder of the programs that the end-to-end tests start.
const PROGRAMS: &str = "REPLAY_PROGRAMS";

/// Every host crate with integration tests but the lab, whose tests are the end-to-end ones.
const WITHOUT_LAB: &[&str] = &[
    "-p",
    "common",
    "-p",
    "session",
    "-p",
    "dataplane",
    "-p",
    "tcpcopy-user",
    "-p",
    "intercept-user",
];

/// Which tests.
#[derive(Args)]
pub struct Test {
    /// Leave out the end-to-end tests of whole replays
    #[arg(long)]
    quick: bool,
    /// Leave out the virtual machines, which are made of packages of Debian 12
    #[arg(long)]
    without_vm: bool,
}

impl Test {
    /// Sets up, builds, runs them.
    pub fn run(&self) -> Result<()> {
        let progress = Progress::start();
        setup(&progress)?;
        if !self.quick {
            build::programs(&progress)?;
        }
        progress.say("tests: unit tests");
        test(&["--lib", "--bins"])?;
        progress.say("tests: documentation");
        test(&["--doc"])?;
        let only = if self.quick { WITHOUT_LAB } else { &[] };
        progress
            .say("tests: integration, one at a time: they share the machine's cores and kernel");
        test(&[only, &["--test", "*", "--", "--test-threads=1"]].concat())?;
        progress.say("tests: instructions per packet of the engine");
        bench::Engine::gate()?;
        if !self.quick && !self.without_vm {
            progress.say("tests: real drivers and other kernels, in virtual machines");
            vm::VmTest::all(&progress)?;
        }
        progress.say("tests: all passed");
        Ok(())
    }
}

/// Packages of build and tests, and the BPF objects.
pub fn setup(progress: &Progress) -> Result<()> {
    build::prepare(progress, &[&TEST_PACKAGES[..], &vm::HOST_PACKAGES].concat())
}

fn test(arguments: &[&str]) -> Result<()> {
    // All failures of a step are worth seeing, not only those of the first crate.
    let mut command = cargo(&["test", "--no-fail-fast"]);
    command
        .args(arguments)
        .env(ROOT_TESTS, "1")
        .env(PROGRAMS, build::programs_folder());
    // The result lines belong on standard output: callers count them.
    succeed(command.stdout(Stdio::inherit()))
}
