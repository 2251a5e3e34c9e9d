//! Replays what fuzzing has found: `fuzz/corpus/TARGET/` (inputs that reach new code) and
//! `fuzz/regressions/TARGET/` (inputs that once broke a rule). One file alone:
//! `FUZZ_INPUT=path cargo test -p session --test replay_corpus TARGET`.

#[path = "../../fuzz/replay.rs"]
mod corpus;
mod support;

use corpus::replay;

#[test]
fn packets_in() {
    replay("packets_in", support::packets_in);
}

#[test]
fn responses_in() {
    replay("responses_in", support::responses_in);
}

#[test]
fn interleavings() {
    replay("interleavings", support::interleavings);
}
