//! Finds the BPF object that the binary embeds. A missing object is no error here, so that the library,
//! its tests and its documentation build without one; the binary refuses with one clear error.

use std::path::{Path, PathBuf};

const OBJECT: &str = "bpf/intercept-ebpf";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(bpf_object)");
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    for candidate in candidates() {
        println!("cargo::rerun-if-changed={}", candidate.display());
        if candidate.is_file() {
            println!("cargo::rustc-cfg=bpf_object");
            println!(
                "cargo::rustc-env=INTERCEPT_BPF_OBJECT={}",
                candidate.display()
            );
            return;
        }
    }
}

/// Where `cargo xtask build-ebpf` may have put it: the target directory by environment, the one by
/// default, and, for a directory set in a cargo configuration file, those above our own output.
fn candidates() -> Vec<PathBuf> {
    let workspace = std::env::var_os("CARGO_MANIFEST_DIR")
        .and_then(|dir| Path::new(&dir).parent().map(Path::to_path_buf))
        .unwrap_or_default();
    let mut found = Vec::new();
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => found.push(workspace.join(dir).join(OBJECT)),
        None => found.push(workspace.join("target").join(OBJECT)),
    }
    let out = std::env::var_os("OUT_DIR")
        .map(PathBuf::from)
        .unwrap_or_default();
    found.extend(
        out.ancestors()
            .map(|dir| dir.join(OBJECT))
            .filter(|file| file.is_file()),
    );
    found
}
