//! Replays the inputs of a target in plain `cargo test`; included by the test files `replay_corpus.rs`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

fn files(target: &str) -> Vec<PathBuf> {
    if let Some(one) = std::env::var_os("FUZZ_INPUT") {
        return vec![one.into()];
    }
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let mut found = Vec::new();
    for kind in ["corpus", "regressions"] {
        let dir = fuzz.join(kind).join(target);
        if kind == "regressions" && !dir.exists() {
            // Nothing has broken this one.
            continue;
        }
        let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        found.extend(entries.map(|e| e.expect("directory entry").path()));
    }
    assert!(found.len() > 20, "{} inputs for {target}", found.len());
    found
}

/// Runs `run` on each input of `target`; fails with those that break a rule.
pub fn replay(target: &str, run: fn(&[u8])) {
    let failed: Vec<_> = files(target)
        .into_iter()
        .filter(|path| {
            let data = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            catch_unwind(AssertUnwindSafe(|| run(&data))).is_err()
        })
        .collect();
    assert!(
        failed.is_empty(),
        "{target}, replay with FUZZ_INPUT=…: {failed:#?}"
    );
}
