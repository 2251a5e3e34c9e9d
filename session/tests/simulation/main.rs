//! Deterministic simulation: captured clients, the engine, a network with faults, and a real TCP stack as
//! the target. Every run is a function of its seed; a failure prints seed, scenario and rule broken, and
//! `SIMULATION_SEED=n cargo test -p session --test simulation <test> -- --exact --nocapture` runs that one
//! alone with a line for each packet.
//!
//! ```text
//!  setting.rs   what a run is like       client/    what was captured
//!  world.rs     the run                  net.rs, faults.rs  what happens to packets
//!  target/      smoltcp and application  watch/, verdict.rs  the rules: after each step, at the end
//!  sabotage.rs  how each rule is broken  sweep.rs   many seeds; `cargo xtask simulate`
//! ```

mod client;
mod faults;
#[path = "../support/lockstep.rs"]
#[expect(dead_code, reason = "shutdown is for other tests")]
mod lockstep;
mod net;
mod rng;
mod sabotage;
mod setting;
mod sweep;
mod target;
mod verdict;
mod watch;
mod world;

use faults::{Faults, Kind, Path};
use sabotage::Sabotage;
use session::Outcome;
use setting::{Class, Clients, Setting, Span};
use sweep::{number, seeds, sweep};
use watch::{Rule, Violation};
use world::{Report, run};

/// Everything must arrive, with one outcome for each client.
fn complete(setting: &Setting, report: &mut Report) {
    let t = &report.totals;
    let done = t.outcome(Outcome::Completed) + t.outcome(Outcome::ResetByClient);
    if done != u64::from(setting.sessions) || t.bytes_delivered != report.scripted_bytes {
        report.violations.push(Violation {
            rule: Rule::Undelivered,
            text: format!("{t:?}"),
        });
    }
}

fn all_arrives(test: &str, count: u64, setting: impl Fn(u64) -> Setting + Sync) {
    sweep(seeds(count), false, &setting, complete).must_be_clean(test, setting);
}

/// The faults of class Gentle at their most.
fn gentle() -> Faults {
    Faults {
        loss: 10,
        duplicate: 10,
        reorder: 30,
        ..Faults::default()
    }
}

#[test]
fn everything_arrives_on_a_clean_network() {
    all_arrives("everything_arrives_on_a_clean_network", 100, Setting::clean);
}

#[test]
fn everything_arrives_with_one_percent_loss_duplication_and_reordering_on_both_paths() {
    let test = "everything_arrives_with_one_percent_loss_duplication_and_reordering_on_both_paths";
    all_arrives(test, 200, |seed| Setting {
        to_target: gentle(),
        responses: gentle(),
        capture: Faults {
            loss: 0,
            ..gentle()
        },
        ..Setting::clean(seed)
    });
}

#[test]
fn ten_percent_loss_wedges_nothing_and_the_books_balance() {
    let faults = Faults {
        loss: 100,
        duplicate: 50,
        reorder: 100,
        ..Faults::default()
    };
    let setting = |seed| Setting {
        class: Class::Harsh,
        to_target: faults,
        responses: faults,
        capture: faults,
        ..Setting::clean(seed)
    };
    let mut sum = sweep(seeds(100), false, setting, |_, _| ());
    sum.must_be_clean(
        "ten_percent_loss_wedges_nothing_and_the_books_balance",
        setting,
    );
}

#[test]
fn answers_of_other_lengths_do_not_hold_a_session_up() {
    for permille in [100, 900, 1500] {
        all_arrives(
            "answers_of_other_lengths_do_not_hold_a_session_up",
            40,
            |seed| {
                let mut setting = Setting::clean(seed);
                setting.target.answer_permille = permille;
                setting
            },
        );
    }
}

#[test]
fn small_windows_and_a_flaky_channel_only_cost_time() {
    all_arrives(
        "small_windows_and_a_flaky_channel_only_cost_time",
        60,
        |seed| {
            let mut setting = Setting::clean(seed);
            setting.target.rx_window = 2000;
            setting.announce_fails = 300;
            setting.outage = Some(Span {
                at: common::flow::Nanos::from_millis(1_500),
                lasts: common::flow::Nanos::from_millis(700),
            });
            (setting.to_target, setting.responses) = (gentle(), gentle());
            setting
        },
    );
}

#[test]
fn sending_as_captured_delivers_too() {
    all_arrives("sending_as_captured_delivers_too", 40, |seed| {
        let mut setting = Setting::clean(seed);
        setting.engine.no_turns = true;
        setting
    });
}

/// All that the simulator knows at once. `cargo xtask simulate` runs this test alone, with SIMULATION_SEEDS
/// and SIMULATION_FROM.
#[test]
fn everything_at_once() {
    let wanted = number("SIMULATION_SEEDS");
    let range = wanted.map_or_else(
        || seeds(2_000),
        |n| {
            let from = number("SIMULATION_FROM").unwrap_or(0);
            from..from + n
        },
    );
    let count = range.end - range.start;
    let mut sum = sweep(range, wanted.is_some(), Setting::everything, |_, _| ());
    sum.print();
    sum.must_be_clean("everything_at_once", Setting::everything);
    if count >= 1_000 {
        // A simulator that stopped doing what it says would be clean too.
        let i = &sum.injected;
        for path in [Path::Capture, Path::ToTarget, Path::Responses] {
            for kind in [
                Kind::Loss,
                Kind::Duplicate,
                Kind::Reorder,
                Kind::Delay,
                Kind::Truncate,
                Kind::Corrupt,
            ] {
                assert!(i.of(path, kind) > 100, "{path:?} {kind:?}: {i}");
            }
        }
        assert!(
            i.crashes.min(i.stalls).min(i.closed_windows).min(i.outages) > 10,
            "{i}"
        );
        let t = &sum.totals;
        assert!(
            t.reopened > 100 && t.adopted > 100 && t.full_duplex > 100,
            "{t:?}"
        );
        for outcome in Outcome::ALL {
            assert!(
                t.outcome(outcome) > 10 || outcome == Outcome::Shutdown,
                "{outcome:?}: {t:?}"
            );
        }
    }
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    for seed in seeds(30) {
        let setting = Setting::everything(seed);
        assert_eq!(run(&setting), run(&setting), "seed {seed}");
    }
}

/// Each rule is broken on purpose and must be the one that notices.
#[test]
fn every_rule_can_be_broken_and_says_so() {
    for (sabotage, rule) in Sabotage::ALL {
        let noticed = (0..60).any(|seed| {
            let mut setting = Setting::clean(seed);
            match rule {
                Rule::Window => setting.target.rx_window = 2_000,
                // Some of them say no more, and only time ends their sessions.
                Rule::Lifetime => setting.clients = Clients::Mixed,
                _ => {}
            }
            assert!(run(&setting).violations.is_empty());
            setting.sabotage = Some(sabotage);
            run(&setting).violations.iter().any(|v| v.rule == rule)
        });
        assert!(noticed, "{sabotage:?} went unnoticed by {rule:?}");
    }
}
