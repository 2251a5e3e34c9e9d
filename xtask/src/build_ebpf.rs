//! `cargo xtask build-ebpf`: both BPF objects from source.
//!
//! ```text
//!   inputs hashed ── same as last time ──▶ done
//!        │
//!   choose toolchain ─▶ packages ─▶ bpf-linker (once, .tools/) ─▶ cargo build ─▶ target/bpf/*
//! ```
//! Two toolchains can do it:
//! * rustup's nightly with the rust-src component builds `core` for BPF itself;
//! * Debian's rustc-web has a prebuilt `core` for BPF (libstd-rust-web-dev-bpf).
//!
//! The bitcode of either is linked by bpf-linker with Debian's LLVM 22, so a nightly with a newer LLVM
//! cannot be used. bpf-linker's feature llvm-23 is avoided on purpose: it switches off the handling
//! of memory libcalls that LLVM 22 emits.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsString;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The crates that become objects, by their own names.
const OBJECTS: [&str; 2] = ["tcpcopy-ebpf", "intercept-ebpf"];
/// Everything whose content decides the objects' content.
const INPUTS: [&str; 8] = [
    "Cargo.toml",
    "common/Cargo.toml",
    "common/src",
    "ebpf-kit",
    "tcpcopy-ebpf",
    "intercept-ebpf",
    "xtask/src/build_ebpf.rs",
    "Cargo.lock",
];
const TARGET: &str = "bpfel-unknown-none";
const LINKER_VERSION: &str = "0.13.0";
const LLVM_MAJOR: u32 = 22;
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
/// For bpf-linker, with either toolchain.
const LINKER_PACKAGES: [&str; 3] = ["llvm-22-dev", "libzstd-dev", "zlib1g-dev"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// How `core` for BPF comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Toolchain {
    /// rustup's nightly, `-Z build-std=core`.
    Nightly,
    /// /usr/bin/rustc with a prebuilt `core`.
    Debian,
}

/// Builds both BPF objects into `target/bpf`; quick when nothing changed.
pub fn run() -> crate::Result<()> {
    let root = workspace_root()?;
    let target = target_dir(&root);
    let out = target.join("bpf");
    let stamp_file = out.join("inputs.stamp");
    let stamp = inputs_stamp(&root)?;
    let there = OBJECTS.iter().all(|o| out.join(o).is_file());
    if there && fs::read_to_string(&stamp_file).is_ok_and(|old| old == stamp) {
        eprintln!("build-ebpf: {} are up to date", out.display());
        return Ok(());
    }

    let (toolchain, why) = choose();
    match toolchain {
        Toolchain::Nightly => eprintln!("build-ebpf: using rustup's nightly with rust-src: {why}"),
        Toolchain::Debian => {
            eprintln!("build-ebpf: using Debian's rustc and prebuilt core: {why}");
            crate::setup::install(&DEBIAN_PACKAGES)?;
        }
    }
    let linker = linker(&root, &target)?;
    let built = build(toolchain, &root, &target, &linker)?;

    fs::create_dir_all(&out).map_err(|e| format!("cannot create {}: {e}", out.display()))?;
    for object in OBJECTS {
        let (from, to) = (built.join(object), out.join(object));
        let cannot = |e| format!("cannot copy {} to {}: {e}", from.display(), to.display());
        // The programs that embed an object are rebuilt when its time changes, not its content.
        let new = fs::read(&from).map_err(cannot)?;
        if fs::read(&to).is_ok_and(|old| old == new) {
            continue;
        }
        // By rename, so that a build script that reads it meanwhile sees the old or the new one.
        let tmp = out.join(format!("{object}.new"));
        fs::write(&tmp, new)
            .and_then(|()| fs::rename(&tmp, &to))
            .map_err(cannot)?;
    }
    // Cargo may have completed the lock file: what counts is the state after the build.
    fs::write(&stamp_file, inputs_stamp(&root)?)
        .map_err(|e| format!("cannot write {}: {e}", stamp_file.display()))?;
    eprintln!("build-ebpf: {} objects in {}", OBJECTS.len(), out.display());
    Ok(())
}

fn workspace_root() -> crate::Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_path_buf)
        .ok_or_else(|| "xtask lies outside of a workspace".into())
}

/// Where cargo puts its output, absolute. Build scripts of the user programs look there too.
fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |d| root.join(d))
}

/// A hash over the names and contents of all inputs.
fn inputs_stamp(root: &Path) -> crate::Result<String> {
    let mut files = Vec::new();
    for input in INPUTS {
        collect(&root.join(input), &mut files)?;
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.hash(&mut hasher);
        let content =
            fs::read(&file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
        content.hash(&mut hasher);
    }
    Ok(format!("{:016x}\n", hasher.finish()))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> crate::Result<()> {
    let cannot = |e: std::io::Error| format!("cannot read {}: {e}", path.display());
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(cannot)? {
            collect(&entry.map_err(cannot)?.path(), files)?;
        }
    } else if path.exists() {
        files.push(path.to_path_buf());
    }
    Ok(())
}

/// Which toolchain, and why in words.
fn choose() -> (Toolchain, String) {
    match nightly_state() {
        Ok(llvm) => (Toolchain::Nightly, format!("it is installed, LLVM {llvm}")),
        Err(why_not) => (Toolchain::Debian, why_not),
    }
}

/// The nightly's LLVM major version if it can build for BPF, else why not.
fn nightly_state() -> Result<u32, String> {
    let rustc = |args: &[&str]| -> Option<String> {
        let output = rustup(&["run", "nightly", "rustc"])
            .args(args)
            .stderr(Stdio::null())
            .output()
            .ok()
            .filter(|o| o.status.success())?;
        String::from_utf8(output.stdout).ok()
    };
    let sysroot = rustc(&["--print", "sysroot"]).ok_or("rustup has no nightly")?;
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
    if !core.is_file() {
        return Err("rustup's nightly has no rust-src component".into());
    }
    let version = rustc(&["-vV"]).unwrap_or_default();
    let llvm = version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))
        .and_then(|v| v.split('.').next()?.parse().ok())
        .ok_or("rustup's nightly does not tell its LLVM version")?;
    if llvm > LLVM_MAJOR {
        return Err(format!(
            "rustup's nightly has LLVM {llvm}, but bpf-linker is built with LLVM {LLVM_MAJOR}, \
             which cannot read its bitcode"
        ));
    }
    Ok(llvm)
}

/// bpf-linker, built on first use. Its folder name carries what it was built from, so that another
/// version is another folder.
fn linker(root: &Path, target: &Path) -> crate::Result<PathBuf> {
    let home = root.join(format!(
        ".tools/bpf-linker-{LINKER_VERSION}-llvm{LLVM_MAJOR}"
    ));
    let linker = home.join("bin/bpf-linker");
    if linker.is_file() {
        return Ok(linker);
    }
    crate::setup::install(&LINKER_PACKAGES)?;
    eprintln!(
        "build-ebpf: building bpf-linker {LINKER_VERSION} into .tools (once, about a minute)"
    );
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut with_llvm = OsString::from(format!("{LLVM_PREFIX}/bin:"));
    with_llvm.push(path);
    let mut cargo = clean(Command::new(cargo()));
    cargo
        .args([
            "install",
            "bpf-linker",
            "--quiet",
            "--locked",
            "--version",
            LINKER_VERSION,
        ])
        .args([
            "--no-default-features",
            "--features",
            &format!("llvm-{LLVM_MAJOR}"),
        ])
        .arg("--root")
        .arg(&home)
        .arg("--target-dir")
        .arg(target.join("bpf-linker-build"))
        .env("PATH", with_llvm)
        .env("LLVM_PREFIX", LLVM_PREFIX)
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            format!("-L\u{1f}{LLVM_PREFIX}/lib"),
        );
    to_stderr(&mut cargo, "cargo install bpf-linker")?;
    Ok(linker)
}

/// Compiles and links; returns the folder of the objects.
fn build(
    toolchain: Toolchain,
    root: &Path,
    target: &Path,
    linker: &Path,
) -> crate::Result<PathBuf> {
    let arch = match std::env::consts::ARCH {
        arch @ ("x86_64" | "aarch64" | "riscv64") => arch,
        other => return Err(format!("BPF programs are not built on {other}").into()),
    };
    // Own folder: host and BPF artefacts of one crate must not evict each other, and a running
    // build of the host side must not hold this one's lock.
    let build_dir = target.join("bpf-build");
    let mut cargo = match toolchain {
        Toolchain::Nightly => {
            let mut c = rustup(&["run", "nightly", "cargo", "build"]);
            c.args(["-Z", "build-std=core"]);
            c
        }
        Toolchain::Debian => {
            let mut c = clean(Command::new(cargo()));
            c.arg("build")
                .env("RUSTC", DEBIAN_RUSTC)
                .env("RUSTC_BOOTSTRAP", "1");
            c
        }
    };
    let flags = [
        format!("-Clinker={}", linker.display()),
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        // Version 3 has the atomic exchange of the wake-up protocol (kernel 5.12) and 32-bit jumps.
        "-Ctarget-cpu=v3".into(),
        format!("--cfg=bpf_target_arch=\"{arch}\""),
    ];
    cargo
        .current_dir(root)
        .args(["--quiet", "--release", "--target", TARGET, "--target-dir"])
        .arg(&build_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    for object in OBJECTS {
        cargo.args(["--package", object]);
    }
    eprintln!(
        "build-ebpf: compiling {} (cold: about half a minute)",
        OBJECTS.join(", ")
    );
    to_stderr(&mut cargo, "cargo build of the BPF programs")?;
    Ok(build_dir.join(TARGET).join("release"))
}

/// The cargo that runs us.
fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

fn rustup(args: &[&str]) -> Command {
    let mut rustup = clean(Command::new("rustup"));
    rustup.args(args);
    rustup
}

/// Without what the outer cargo, or a user's habits, put into the environment for host builds.
fn clean(mut command: Command) -> Command {
    for name in [
        "CARGO_BUILD_RUSTC",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "RUSTC",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTFLAGS",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs a command whose whole output goes to stderr.
fn to_stderr(command: &mut Command, what: &str) -> crate::Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .map_err(|e| format!("cannot run {what}: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{what} failed ({status}); its messages are above").into())
    }
}
