//! What sessions cost, counted by the allocator: bytes per idle session, and no allocation per packet.

#[path = "../benches/engine/script.rs"]
#[expect(dead_code, reason = "the benchmark uses the rest")]
mod script;

use common::flow::Nanos;
use script::{Batch, Bench, Script, batches};
use session::EngineConfig;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Most memory of an idle established session, its shares of index and timers included.
const SESSION_BYTES: usize = 256;

fn scripts(sessions: usize) -> Vec<Script> {
    (0..sessions).map(Script::new).collect()
}

/// Bytes per established session that is idle: everything it was sent is acknowledged.
fn idle(sessions: usize, config: EngineConfig) -> usize {
    let mut scripts = scripts(sessions);
    let before = dhat::HeapStats::get().curr_bytes;
    let mut bench = Bench::new(sessions, config);
    let frames = script::FRAMES * script::FRAME_BYTES;
    bench.open(&mut scripts);
    assert_eq!(bench.engine.open_sessions(), sessions);
    (dhat::HeapStats::get().curr_bytes - before - frames) / sessions
}

/// Allocations while `rounds` of requests and answers go through `sessions` sessions.
fn allocations(sessions: usize, rounds: usize) -> u64 {
    let mut scripts = scripts(sessions);
    let mut bench = Bench::new(sessions, EngineConfig::default());
    // Timers fire meanwhile.
    bench.step = Nanos::from_millis(1);
    bench.open(&mut scripts);
    let mut round = |bench: &mut Bench| {
        let at = bench.now;
        let requests: Vec<Batch> = batches(scripts.iter_mut().map(|s| s.request(at)));
        let answers: Vec<Batch> = batches(scripts.iter_mut().map(Script::answer));
        let before = dhat::HeapStats::get().total_blocks;
        bench.run(&requests);
        bench.run(&answers);
        dhat::HeapStats::get().total_blocks - before
    };
    // The first rounds grow what is then reused.
    for _ in 0..2 {
        round(&mut bench);
    }
    let counted = (0..rounds).map(|_| round(&mut bench)).sum();
    let t = bench.engine.totals();
    assert_eq!(t.bytes_delivered, ((rounds + 2) * sessions * 64) as u64);
    counted
}

/// One test: the allocator counts for the whole process.
#[test]
fn idle_sessions_are_small_and_packets_allocate_nothing() {
    let _profiler = dhat::Profiler::builder().testing().build();
    // The tables are as good as full and have the size that 2^20 sessions give them.
    let own = idle(100_000, EngineConfig::default());
    let pool = EngineConfig {
        pool: Some("10.1.0.0/24".parse().expect("a pool")),
        ..EngineConfig::default()
    };
    let other = idle(100_000, pool);
    println!("bytes per idle session: {own} with its client's address, {other} with another one");
    assert!(
        own <= SESSION_BYTES && other <= SESSION_BYTES,
        "{own} and {other} bytes"
    );
    assert_eq!(allocations(5_000, 10), 0);
}
