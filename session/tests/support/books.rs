//! What must hold of the engine's figures after every operation.

use session::{Engine, EngineConfig, Outcome};

/// Books and memory.
pub fn check(engine: &Engine, config: &EngineConfig, ended: &[u64; Outcome::ALL.len()]) {
    let t = engine.totals();
    let open = engine.open_sessions() as u64;
    let outcomes: u64 = t.outcomes.iter().sum();
    assert_eq!(
        t.sessions,
        outcomes + open,
        "a session without outcome: {t:?}"
    );
    for (outcome, n) in Outcome::ALL.iter().zip(ended) {
        assert!(t.outcome(*outcome) >= *n, "{outcome:?} not booked: {t:?}");
    }
    let done = t.bytes_delivered + t.bytes_undelivered.iter().sum::<u64>();
    assert!(
        t.bytes_captured >= done,
        "more accounted for than captured: {t:?}"
    );
    assert!(engine.open_sessions() <= config.max_sessions, "{open} open");
    let used = engine.buffered_bytes();
    assert!(
        used <= config.buffer_bytes,
        "{used} bytes of {}",
        config.buffer_bytes
    );
    if open == 0 {
        assert_eq!(used, 0, "memory held by nobody");
        assert!(t.balanced(), "{t:?}");
    }
}
