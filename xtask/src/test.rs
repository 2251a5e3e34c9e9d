//! `cargo xtask test`: every test, with what it needs.

use clap::Args;

use crate::{
    Result, build_ebpf, demo, paths,
    progress::{Progress, cargo, succeed},
    setup as packages,
};

/// What the tests use beside what the build needs: real servers and clients, and tools to look with.
const TEST_PACKAGES: [&str; 10] = [
    "apache2-utils",
    "bpftool",
    "clang",
    "curl",
    "ethtool",
    "iproute2",
    "nginx-light",
    "tcpdump",
    "util-linux",
    "wrk",
];
/// Tests that need root, namespaces and BPF fail without it, naming `cargo xtask test`.
const ROOT_TESTS: &str = "REPLAY_ROOT_TESTS";
/// Folder of the programs that the end-to-end tests start.
const PROGRAMS: &str = "REPLAY_PROGRAMS";

/// Which tests.
#[derive(Args)]
pub struct Test {
    /// Leave out the end-to-end tests of whole replays
    #[arg(long)]
    quick: bool,
}

impl Test {
    /// Sets up, builds, runs them.
    pub fn run(&self) -> Result<()> {
        let progress = Progress::start();
        setup(&progress)?;
        if !self.quick {
            demo::build_programs(&progress)?;
        }
        let test = |arguments: &[&str]| {
            let mut command = cargo(&["test"]);
            command
                .args(arguments)
                .env(ROOT_TESTS, "1")
                .env(PROGRAMS, demo::release_folder());
            // The result lines belong on standard output: callers count them.
            command.stdout(std::process::Stdio::inherit());
            succeed(&mut command)
        };
        progress.say("tests: unit tests");
        test(&["--lib", "--bins"])?;
        progress.say("tests: documentation");
        test(&["--doc"])?;
        progress
            .say("tests: integration, one at a time (they share the machine's cores and kernel)");
        let serial = ["--test", "*", "--", "--test-threads=1"];
        if self.quick {
            test(
                &[
                    &["--workspace", "--exclude", "lab"],
                    EBPF_CRATES,
                    &serial[..],
                ]
                .concat(),
            )?;
        } else {
            test(&serial)?;
        }
        progress.say("tests: all passed");
        Ok(())
    }
}

/// Crates that build for the BPF target only.
const EBPF_CRATES: &[&str] = &[
    "--exclude",
    "ebpf-kit",
    "--exclude",
    "tcpcopy-ebpf",
    "--exclude",
    "intercept-ebpf",
];

/// Packages of build and tests, and the BPF objects.
pub fn setup(progress: &Progress) -> Result<()> {
    progress.say("packages: installing what is missing");
    packages::install(&TEST_PACKAGES)?;
    progress.say("build: BPF objects (the first time this builds the BPF linker too: minutes)");
    build_ebpf::run()?;
    let objects = paths::target().join("bpf");
    progress.say(&format!("build: BPF objects are in {}", objects.display()));
    Ok(())
}
