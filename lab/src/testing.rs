//! What the end-to-end tests share: the guard, the programs, and small BPF programs of "somebody else".

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{LabError, replay::Programs, tool::Tool, world::run};

/// Replaces the seeds of tests that draw faults.
const SEED: &str = "REPLAY_SEED";
/// Set by `cargo xtask test`, which has installed and built what the tests need.
const ROOT_TESTS: &str = "REPLAY_ROOT_TESTS";
/// Folder of the programs under test; `release` beside the folder of the test itself without it.
const PROGRAMS: &str = "REPLAY_PROGRAMS";

/// Fails unless the test runs where it can: as root, with everything installed.
///
/// # Panics
///
/// With one sentence that says how to run it.
pub fn require_root() {
    assert!(
        std::env::var_os(ROOT_TESTS).is_some() && rustix::process::geteuid().is_root(),
        "this test needs root, namespaces and installed programs: run it with `cargo xtask test` as root"
    );
}

/// The seed of a test's faults: the test's own, or that of the environment.
pub fn seed(own: u64) -> u64 {
    let given = std::env::var(SEED).ok();
    given.and_then(|seed| seed.parse().ok()).unwrap_or(own)
}

/// The programs under test, with the helper binary `tool` for server and load.
///
/// # Panics
///
/// If they are not built, with one sentence that says how to build them.
pub fn programs(tool: &str) -> Programs {
    let programs = Programs::in_folder(&program_folder(), Tool::new(tool, &[]));
    for program in [&programs.tcpcopy, &programs.intercept] {
        assert!(
            program.exists(),
            "{} is not there: `cargo xtask test` builds it before it runs the tests",
            program.display()
        );
    }
    programs
}

fn program_folder() -> PathBuf {
    if let Some(folder) = std::env::var_os(PROGRAMS) {
        return folder.into();
    }
    // target/<profile>/deps/<test> -> target/release
    let test = std::env::current_exe().unwrap_or_default();
    test.ancestors()
        .nth(3)
        .unwrap_or_else(|| Path::new("."))
        .join("release")
}

/// Compiles a BPF program from C, without any header, and returns the object's path.
///
/// `section` decides its type; `body` sees `ctx` and returns a verdict.
pub fn compile_bpf(
    folder: &Path,
    name: &str,
    section: &str,
    body: &str,
) -> Result<PathBuf, LabError> {
    let source = folder.join(format!("{name}.c"));
    let object = folder.join(format!("{name}.o"));
    let text = format!(
        "static long (*vlan_push)(void *ctx, unsigned short protocol, unsigned short tci) = (void *)18;\n\
         __attribute__((section(\"{section}\"), used)) int {name}(void *ctx) {{ {body} }}\n\
         char _license[] __attribute__((section(\"license\"), used)) = \"GPL\";\n"
    );
    std::fs::write(&source, text).map_err(LabError::file(&source))?;
    run(Command::new("clang")
        .args(["-O2", "-g", "-target", "bpf", "-c", "-Wno-unused-variable"])
        .arg(&source)
        .arg("-o")
        .arg(&object))?;
    Ok(object)
}
