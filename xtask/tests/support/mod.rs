//! What the tests of benches share.

use std::process::{Command, Stdio};

use serde_json::Value;

/// What `cargo xtask bench NAME --quick --json` prints.
pub fn measured(name: &str) -> Value {
    lab::testing::require_root();
    let output = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["bench", name, "--quick", "--json"])
        .stderr(Stdio::inherit())
        .output()
        .expect("xtask runs");
    assert!(
        output.status.success(),
        "it could not measure; the reason is above"
    );
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}
