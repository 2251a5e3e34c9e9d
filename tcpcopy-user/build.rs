//! Finds the BPF object that `cargo xtask build-ebpf` wrote and hands it to the binary.

use std::path::{Path, PathBuf};

const OBJECT: &str = "tcpcopy-ebpf";

fn main() {
    let Some(out) = std::env::var_os("OUT_DIR").map(PathBuf::from) else {
        println!("cargo::error=OUT_DIR is not set; this script runs under cargo only");
        return;
    };
    // OUT_DIR is TARGET/[TRIPLE/]PROFILE/build/PACKAGE/out: the target directory is an ancestor,
    // wherever CARGO_TARGET_DIR or a config file has put it.
    let found = out
        .ancestors()
        .map(|dir| dir.join("bpf").join(OBJECT))
        .find(|p| p.is_file());
    let target_dir = out.ancestors().nth(4).unwrap_or(Path::new("target"));
    let expected = found
        .clone()
        .unwrap_or_else(|| target_dir.join("bpf").join(OBJECT));
    println!("cargo::rerun-if-changed={}", expected.display());
    match found {
        Some(object) => println!("cargo::rustc-env=TCPCOPY_BPF_OBJECT={}", object.display()),
        None => println!(
            "cargo::error=the BPF object {} is missing, it is built from source by: cargo xtask build-ebpf",
            expected.display()
        ),
    }
}
