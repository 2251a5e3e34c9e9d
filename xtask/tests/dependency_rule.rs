//! The dependency rule of docs/architecture.md, checked against the manifests.
//!
//! Everything may use `common`; `session` knows no socket, no aya, no clock; `dataplane` knows no session;
//! the two user crates know each other only through `common::wire`; `xtask` and `lab` stay pure Rust and
//! independent of what they set up. `unsafe` is forbidden everywhere but in `dataplane` and the eBPF crates.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Crates of the workspace that each crate may depend on, tests excluded.
const ALLOWED: &[(&str, &[&str])] = &[
    ("common", &[]),
    ("session", &["common"]),
    ("dataplane", &["common"]),
    ("operator", &[]),
    ("doctor", &["dataplane", "operator"]),
    ("savefile", &["common"]),
    ("channel-crypto", &[]),
    (
        "tcpcopy-user",
        &[
            "common",
            "session",
            "dataplane",
            "doctor",
            "operator",
            "savefile",
            "channel-crypto",
        ],
    ),
    (
        "intercept-user",
        &[
            "common",
            "dataplane",
            "doctor",
            "operator",
            "channel-crypto",
        ],
    ),
    ("lab", &[]),
    ("xtask", &["lab"]),
    ("ebpf-kit", &["common"]),
    ("tcpcopy-ebpf", &["common", "ebpf-kit"]),
    ("intercept-ebpf", &["common", "ebpf-kit"]),
];

/// Crates where `unsafe` is allowed, each block with its `SAFETY` comment.
const UNSAFE: &[&str] = &["dataplane", "ebpf-kit", "tcpcopy-ebpf", "intercept-ebpf"];

/// Outside crates that would bring sockets, a kernel interface or a clock into pure code.
const IMPURE: &[&str] = &[
    "aya",
    "aya-log",
    "libc",
    "mio",
    "nix",
    "rustix",
    "socket2",
    "tokio",
    "xsk-rs",
    "libxdp-sys",
];

struct Package {
    name: String,
    root: String,
    dependencies: Vec<String>,
}

fn workspace() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo metadata runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let text = |v: &Value| v.as_str().expect("a string").to_owned();
    let list = |v: &Value| v.as_array().expect("a list").clone();
    list(&metadata["packages"])
        .iter()
        .map(|p| Package {
            name: text(&p["name"]),
            root: text(&p["manifest_path"]),
            dependencies: list(&p["dependencies"])
                .iter()
                .filter(|d| d["kind"].is_null())
                .map(|d| text(&d["name"]))
                .collect(),
        })
        .collect()
}

#[test]
fn crates_know_only_what_they_may() {
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    let packages = workspace();
    let members: Vec<&str> = packages.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(
        members.len(),
        allowed.len(),
        "a new crate needs its line here: {members:?}"
    );
    for p in &packages {
        let may = allowed.get(p.name.as_str()).copied();
        let may = may.unwrap_or_else(|| panic!("{} has no line here", p.name));
        for d in p
            .dependencies
            .iter()
            .filter(|d| members.contains(&d.as_str()))
        {
            assert!(
                may.contains(&d.as_str()),
                "{} must not depend on {d}",
                p.name
            );
        }
    }
}

#[test]
fn the_engine_and_common_are_pure() {
    for p in workspace() {
        if p.name == "session" || p.name == "common" {
            for d in &p.dependencies {
                assert!(
                    !IMPURE.contains(&d.as_str()),
                    "{} must not depend on {d}",
                    p.name
                );
            }
        }
    }
    // Time is passed in: the engine's sources read no clock and sleep nowhere.
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("../session/src");
    let output = Command::new("grep")
        .args([
            "-rnE",
            r"std::(net::(Tcp|Udp)|time::(Instant|SystemTime)|thread|fs|io)",
        ])
        .arg(src)
        .output()
        .expect("grep runs");
    assert!(
        output.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn unsafe_is_forbidden_outside_dataplane_and_the_ebpf_crates() {
    for p in workspace() {
        let src = Path::new(&p.root).with_file_name("src");
        for file in ["lib.rs", "main.rs"] {
            let Ok(text) = std::fs::read_to_string(src.join(file)) else {
                continue;
            };
            let forbids = text.contains("#![forbid(unsafe_code)]");
            let may = UNSAFE.contains(&p.name.as_str());
            assert!(
                forbids || may,
                "{}/src/{file} lacks #![forbid(unsafe_code)]",
                p.name
            );
        }
    }
}
