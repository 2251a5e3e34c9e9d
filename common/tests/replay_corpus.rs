//! Replays what fuzzing has found: `fuzz/corpus/TARGET/` (inputs that reach new code) and
//! `fuzz/regressions/TARGET/` (inputs that once broke a rule). One file alone:
//! `FUZZ_INPUT=path cargo test -p common --test replay_corpus TARGET`.

mod support;

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

fn replay(target: &str, run: fn(&[u8])) {
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

#[test]
fn decoder() {
    replay("decoder", support::decoder);
}
