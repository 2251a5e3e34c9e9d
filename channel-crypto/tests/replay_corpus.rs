//! Replays `fuzz/corpus/sealed/` and `fuzz/regressions/sealed/`. One file alone:
//! `FUZZ_INPUT=path cargo test -p channel-crypto --test replay_corpus`.

#[path = "../../fuzz/replay.rs"]
mod corpus;
mod support;

#[test]
fn sealed() {
    corpus::replay("sealed", support::sealed);
}
