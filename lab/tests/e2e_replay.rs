//! Whole replays with the lab's own server and load: what `cargo xtask demo` requires, and its variations.

use lab::{
    Host, LabOptions,
    replay::{Capture, RunOptions, RunResult, run},
    testing::{programs, require_root},
};

/// Smaller than the demo, so that all variations fit; the demo itself runs the full load.
fn options(capture: Capture, seed: u64) -> RunOptions {
    let mut options = RunOptions::new(capture);
    options.requests = 4000;
    options.seed = seed;
    options
}

fn replay(options: &RunOptions) -> RunResult {
    require_root();
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let result = run(&programs, options, &mut |text| eprintln!("{text}")).unwrap();
    eprintln!("{}", result.table());
    assert_eq!(result.faults(), Vec::<String>::new());
    assert_eq!(result.comparison.production_requests, options.requests);
    result
}

/// Every session has an outcome and every byte is accounted for.
fn assert_balanced(result: &RunResult) {
    let report = &result.report;
    assert_eq!(report.imbalance(), Vec::<String>::new());
    assert_eq!(report.dropped(), 0, "{}", report.json["packets"]);
}

/// 50 kept connections and 2000 of one request each, all replayed.
fn every_session_is_replayed(capture: Capture, seed: u64) {
    let result = replay(&options(capture, seed));
    assert_balanced(&result);
    let outcomes = result.report.outcomes();
    assert_eq!(result.report.number("sessions/total"), 2050, "{outcomes:?}");
}

#[test]
fn tap_on_production() {
    every_session_is_replayed(Capture::Tap, 11);
}

#[test]
fn mirror_port() {
    every_session_is_replayed(Capture::Mirror, 12);
}

/// Without tcx: two workers, whose sockets share packets out.
#[test]
fn packet_sockets_on_production() {
    let mut options = options(Capture::Packet, 18);
    options.copy.cores = "0,1".to_owned();
    let result = replay(&options);
    assert_balanced(&result);
    let report = &result.report;
    let outcomes = report.outcomes();
    assert_eq!(outcomes.get("completed"), Some(&2050), "{outcomes:?}");
    let (kernel, capture) = (
        report.numbers("counters/kernel"),
        report.numbers("counters/capture"),
    );
    assert_eq!(kernel["captured"], capture["packet_frames"], "{kernel:?}");
    assert_eq!((kernel["ring_full"], capture["packet_malformed"]), (0, 0));
}

/// Clients get addresses of ours, each worker from its own share, and intercept learns from the
/// announcements what to take.
#[test]
fn clients_from_a_pool_and_a_filter_that_is_learned() {
    for capture in [Capture::Tap, Capture::Mirror] {
        let mut options = options(capture, 17);
        options.copy.cores = "0,1".to_owned();
        options.copy.more.push("-c".to_owned());
        options.copy.more.push("10.77.1.0/24".to_owned());
        options.intercept.filter = None;
        let result = replay(&options);
        assert_balanced(&result);
        let outcomes = result.report.outcomes();
        assert_eq!(outcomes.get("completed"), Some(&2050), "{outcomes:?}");
    }
}

#[test]
fn two_workers_and_several_queues() {
    for capture in [Capture::Tap, Capture::Mirror] {
        let mut options = options(capture, 13);
        options.lab.queues = 3;
        options.copy.cores = "0,1".to_owned();
        options.intercept.cores = "0,1".to_owned();
        assert_balanced(&replay(&options));
    }
}

#[test]
fn a_mirror_that_also_carries_our_own_output_copies_nothing_twice() {
    let mut options = options(Capture::Mirror, 14);
    options.lab = LabOptions {
        mirrored: vec![Host::Production, Host::Target, Host::Capture],
        ..LabOptions::default()
    };
    let result = replay(&options);
    assert!(result.comparison.duplicates == 0 && result.comparison.unexpected == 0);
}
