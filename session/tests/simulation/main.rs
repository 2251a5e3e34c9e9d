//! Deterministic simulation: captured clients, the engine, a network with faults, and a real TCP stack as
//! the target. Every run is a function of its seed; a failure prints the seed, and
//! `SIMULATION_SEED=n cargo test -p session --test simulation` runs that one alone.

mod client;
mod rng;
mod target;
mod world;

use session::Outcome;
use world::{Faults, Setting, run};

/// `SIMULATION_SCALE=n` runs n times as many seeds.
fn scale() -> u64 {
    std::env::var("SIMULATION_SCALE")
        .map_or(1, |n| n.parse().expect("SIMULATION_SCALE is a number"))
}

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("SIMULATION_SEED") {
        Ok(seed) => vec![seed.parse().expect("SIMULATION_SEED is a number")],
        Err(_) => (0..count * scale()).collect(),
    }
}

/// Runs seeds; all invariants must hold, and `complete` says whether every byte must arrive.
fn sweep(count: u64, complete: bool, setting: impl Fn(u64) -> Setting) {
    for seed in seeds(count) {
        let setting = setting(seed);
        let report = run(setting);
        let t = &report.totals;
        assert!(
            report.violations.is_empty(),
            "seed {seed}: {:#?}\n{setting:?}\n{t:?}",
            report.violations
        );
        if complete {
            let done = t.outcome(Outcome::Completed) + t.outcome(Outcome::ResetByClient);
            assert_eq!(done, u64::from(setting.sessions), "seed {seed}: {t:?}");
            assert_eq!(
                t.bytes_delivered, report.expected_bytes,
                "seed {seed}: {t:?}"
            );
        }
    }
}

#[test]
fn everything_arrives_on_a_clean_network() {
    sweep(150, true, Setting::clean);
}

#[test]
fn everything_arrives_with_one_percent_loss_duplication_and_reordering_on_both_paths() {
    let faults = Faults {
        loss: 10,
        duplicate: 10,
        reorder: 30,
    };
    sweep(250, true, |seed| Setting {
        to_target: faults,
        responses: faults,
        capture: Faults { loss: 0, ..faults },
        ..Setting::clean(seed)
    });
}

#[test]
fn ten_percent_loss_wedges_nothing_and_the_books_balance() {
    let faults = Faults {
        loss: 100,
        duplicate: 50,
        reorder: 100,
    };
    sweep(150, false, |seed| Setting {
        to_target: faults,
        responses: faults,
        capture: faults,
        ..Setting::clean(seed)
    });
}

#[test]
fn answers_of_other_lengths_do_not_hold_a_session_up() {
    for permille in [100, 900, 1500] {
        sweep(40, true, |seed| Setting {
            answer_permille: permille,
            ..Setting::clean(seed)
        });
    }
}

#[test]
fn small_windows_and_a_flaky_channel_only_cost_time() {
    let faults = Faults {
        loss: 10,
        duplicate: 10,
        reorder: 10,
    };
    sweep(60, true, |seed| Setting {
        rx_window: 2000,
        announce_fails: 300,
        to_target: faults,
        responses: faults,
        ..Setting::clean(seed)
    });
}

#[test]
fn sending_as_captured_delivers_too_and_is_what_the_turn_invariant_catches() {
    // The target answers later than production did: without turns requests overtake answers.
    let mut overtaken = 0;
    for seed in seeds(40) {
        let report = run(Setting {
            no_turns: true,
            ..Setting::clean(seed)
        });
        assert_eq!(
            report.totals.bytes_delivered, report.expected_bytes,
            "seed {seed}"
        );
        overtaken += report
            .violations
            .iter()
            .filter(|v| v.contains("overtook"))
            .count();
    }
    assert!(overtaken > 0 || seeds(40).len() == 1);
}
