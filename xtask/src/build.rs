//! Packages, BPF objects and the two programs: what demo and tests have in common.

use std::path::PathBuf;

use crate::{
    Result, build_ebpf, paths,
    progress::{Progress, cargo, succeed},
    setup,
};

/// What the user programs' C parts are built with: libpcap, which compiles filters, libxdp (whose configure
/// script asks for llc too, though nothing of it is used) and its bindings.
const BUILD_PACKAGES: [&str; 8] = [
    "clang",
    "libelf-dev",
    "libpcap-dev",
    "llvm",
    "m4",
    "make",
    "pkg-config",
    "zlib1g-dev",
];
/// What the lab calls.
pub const LAB_PACKAGES: [&str; 2] = ["ethtool", "iproute2"];

/// Installs packages of the build and `more`, and builds the BPF objects.
pub fn prepare(progress: &Progress, more: &[&str]) -> Result<()> {
    progress.say("packages: installing what is missing");
    setup::install(&[&BUILD_PACKAGES, more].concat())?;
    progress.say("build: BPF objects (the first time this builds the BPF linker too: minutes)");
    build_ebpf::run()
}

/// Builds the two programs, which embed the BPF objects.
pub fn programs(progress: &Progress) -> Result<()> {
    progress.say("build: tcpcopy-user and intercept-user, release (the first time: minutes)");
    let mut build = cargo(&[
        "build",
        "--release",
        "-p",
        "tcpcopy-user",
        "-p",
        "intercept-user",
    ]);
    succeed(&mut build)
}

/// Where they are then.
pub fn programs_folder() -> PathBuf {
    paths::target().join("release")
}
