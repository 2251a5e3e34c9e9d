//! Replays what fuzzing has found: `fuzz/corpus/TARGET/` (inputs that reach new code) and
//! `fuzz/regressions/TARGET/` (inputs that once broke a rule). One file alone:
//! `FUZZ_INPUT=path cargo test -p common --test replay_corpus TARGET`.

#[path = "../../fuzz/replay.rs"]
mod corpus;
mod support;

use corpus::replay;

#[test]
fn decoder() {
    replay("decoder", support::decoder);
}

#[test]
fn native() {
    replay("native", support::native);
}

#[test]
fn tunnels() {
    replay("tunnels", support::tunnels);
}
