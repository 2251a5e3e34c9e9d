//! Whole replays over faulty cables, with real servers: every request arrives once, whatever the network does.
//!
//! Faults are drawn by a seed that is printed: `REPLAY_SEED=n cargo xtask test` draws others. `REPLAY_TRACE=1` records
//! the target's side.

use std::{
    fmt::Write as _,
    thread,
    time::{Duration, Instant},
};

use lab::{
    Host, Lab, Process,
    faults::{Action, Class, Direction, Rule},
    nginx::Nginx,
    redis::Redis,
    replay::{Capture, PRODUCTION_PORT, Played, Programs, Stage, StageOptions, TARGET_PORT},
    testing::{programs, require_root, seed},
    traffic::{AccessLog, Curl},
    world::run_with_input,
};

const LIMIT: Duration = Duration::from_mins(2);
/// The longest way of a request that was captured: a few timeouts of a sender that backs off.
const SETTLE: Duration = Duration::from_secs(40);

/// How often a server is asked what it holds.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// In parts of a million.
const LOST: u32 = 10_000;
const TWICE: u32 = 10_000;
const OVERTAKEN: u32 = 20_000;

fn the_programs() -> Programs {
    require_root();
    programs(env!("CARGO_BIN_EXE_lab-tool"))
}

/// Doubling and reordering one way, the latter of packets of `class`.
fn disorder(way: Direction, class: Class) -> [Rule; 2] {
    let after = Action::After(3.try_into().unwrap());
    [
        Rule::share(way, Class::Any, TWICE, Action::Twice),
        Rule::share(way, class, OVERTAKEN, after),
    ]
}

/// Loss, doubling and reordering both ways.
fn all_faults() -> Vec<Rule> {
    let ways = [Direction::In, Direction::Out];
    let loss = ways.map(|way| Rule::share(way, Class::Any, LOST, Action::Drop));
    let disorder = ways.map(|way| disorder(way, Class::Any));
    [&loss[..], disorder.as_flattened()].concat()
}

/// The books balance, and the cables did all that they were told.
fn assert_played(played: &Played, rules: &[Rule]) {
    assert_eq!(played.report.imbalance(), Vec::<String>::new());
    assert_eq!(
        played.report.dropped(),
        0,
        "{}",
        played.report.json["packets"]
    );
    for rule in rules {
        let applied = played.target.applied(rule)
            + played
                .mirror
                .as_ref()
                .map_or(0, |mirror| mirror.applied(rule));
        assert!(applied > 0, "{rule} was never applied: {played:?}");
    }
}

fn assert_all_completed(played: &Played, sessions: u64) {
    let outcomes = played.report.outcomes();
    assert_eq!(outcomes.get("completed"), Some(&sessions), "{outcomes:?}");
    assert_eq!(
        played.report.number("sessions/total"),
        sessions,
        "{outcomes:?}"
    );
}

const KEPT_CONNECTIONS: u64 = 10;
const KEPT_REQUESTS: u64 = 150;
const SHORT_REQUESTS: u64 = 1500;

/// 3000 requests to two nginx: half of them on kept connections, and a connection each for the others.
fn replay_nginx(options: StageOptions, settle: Duration) -> (Lab, AccessLog, AccessLog, Played) {
    let stage = Stage::set(&the_programs(), options).unwrap();
    let lab = &stage.lab;
    let _production = Nginx::start(lab, Host::Production, PRODUCTION_PORT).unwrap();
    let mut target = Nginx::start(lab, Host::Target, TARGET_PORT).unwrap();

    let mut kept: Vec<Process> = (0..KEPT_CONNECTIONS)
        .map(|number| {
            Curl::kept(&format!("kept{number}"), KEPT_REQUESTS)
                .start(lab)
                .unwrap()
        })
        .collect();
    for curl in &mut kept {
        curl.wait_success(LIMIT).unwrap();
    }
    let mut short = Curl::short("short", SHORT_REQUESTS).start(lab).unwrap();
    short.wait_success(LIMIT).unwrap();

    let produced = Nginx::log_of(lab, Host::Production).unwrap();
    // What does not arrive is told by the comparison, better than by a wait that ended.
    let _ = target.process().wait_until("all requests", settle, |_| {
        Nginx::log_of(lab, Host::Target).is_ok_and(|log| log.requests() >= produced.requests())
    });
    let (lab, played) = stage.finish().unwrap();
    let replayed = Nginx::log_of(&lab, Host::Target).unwrap();
    assert_eq!(
        produced.requests(),
        KEPT_CONNECTIONS * KEPT_REQUESTS + SHORT_REQUESTS
    );
    (lab, produced, replayed, played)
}

#[test]
fn nginx_gets_every_request_once_over_a_network_that_loses_doubles_and_reorders() {
    let mut options = StageOptions::new(Capture::Tap);
    options.seed = seed(51);
    options.target = all_faults();
    let rules = options.target.clone();
    let (_lab, produced, replayed, played) = replay_nginx(options, SETTLE);
    assert_eq!(produced.compare(&replayed).faults(), Vec::<String>::new());
    assert_played(&played, &rules);
    assert_all_completed(&played, KEPT_CONNECTIONS + SHORT_REQUESTS);
}

#[test]
fn nginx_gets_every_request_once_when_the_mirror_doubles_and_reorders_too() {
    let mut options = StageOptions::new(Capture::Mirror);
    options.seed = seed(52);
    options.target = all_faults();
    // Not the SYN: what a client says after it is a round trip younger, which no mirror port turns round, while
    // three packets of others pass in less than a round trip of this lab.
    options.mirror = disorder(Direction::In, Class::Data).to_vec();
    let rules = [&options.target[..], &options.mirror].concat();
    let (_lab, produced, replayed, played) = replay_nginx(options, SETTLE);
    assert_eq!(produced.compare(&replayed).faults(), Vec::<String>::new());
    assert_played(&played, &rules);
    assert_all_completed(&played, KEPT_CONNECTIONS + SHORT_REQUESTS);
}

/// What a mirror port loses is gone: production got it, so no client sends it again. What is left must still be
/// requests as they were, each once, and the report must say what is missing.
#[test]
fn what_the_mirror_loses_is_in_the_books_and_nothing_arrives_changed() {
    let mut options = StageOptions::new(Capture::Mirror);
    options.seed = seed(53);
    options.mirror = vec![Rule::share(Direction::In, Class::Any, LOST, Action::Drop)];
    // Clients whose FIN was lost stay open to the end; gaps are given up after ten seconds.
    options.drain = Duration::from_secs(15);
    let rules = options.mirror.clone();
    let (_lab, produced, replayed, played) = replay_nginx(options, Duration::ZERO);
    let comparison = produced.compare(&replayed);
    assert_eq!(
        (
            comparison.duplicates,
            comparison.unexpected,
            comparison.corrupt.count()
        ),
        (0, 0, 0),
        "{comparison:?}"
    );
    assert_played(&played, &rules);
    let report = &played.report;
    let causes = ["capture_gap", "skipped_no_syn"];
    let undelivered = report.numbers("bytes/undelivered");
    assert!(
        undelivered
            .keys()
            .all(|cause| causes.contains(&cause.as_str())),
        "{undelivered:?}"
    );
    // What the client asked behind a gap is asked by another session: nearly all that was captured arrives.
    let (captured, delivered) = (
        report.number("bytes/captured"),
        report.number("bytes/delivered"),
    );
    assert!(delivered * 50 > captured * 49, "{delivered} of {captured}");
    // Of the short ones each lost packet costs one at the most.
    let short = comparison
        .lost
        .0
        .iter()
        .filter(|id| id.starts_with("short"));
    let packets = played
        .mirror
        .as_ref()
        .map_or(0, |mirror| mirror.applied(&rules[0]));
    assert!(short.count() as u64 <= packets, "{comparison:?}");
}

const PIPES: u64 = 4;
const PIPED_KEYS: u64 = 1000;
const ASKERS: u64 = 8;
const ASKED_KEYS: u64 = 100;
const INCREMENTS: u64 = 2000;

#[test]
fn redis_holds_the_same_data_over_a_network_that_loses_doubles_and_reorders() {
    let mut options = StageOptions::new(Capture::Tap);
    options.seed = seed(54);
    options.target = all_faults();
    let rules = options.target.clone();
    let stage = Stage::set(&the_programs(), options).unwrap();
    let lab = &stage.lab;
    let production = Redis::start(lab, Host::Production, PRODUCTION_PORT).unwrap();
    let target = Redis::start(lab, Host::Target, TARGET_PORT).unwrap();

    let client = |flags: &[&str]| {
        let mut cli = lab.command(Host::Client, "redis-cli");
        cli.args(["-h", &Host::Production.address().to_string()])
            .args(["-p", &PRODUCTION_PORT.to_string()])
            .args(flags);
        cli
    };
    let commands = |name: &str, count: u64, bytes: u64| {
        let mut text = String::new();
        for number in 0..count {
            let value = "v".repeat(1 + (number * 37 % bytes) as usize);
            let _ = writeln!(text, "set {name}:{number} {value}");
        }
        text
    };
    // Everything at once on a connection, one after the other on a connection, and counters that show each
    // increment that comes twice or not at all.
    thread::scope(|scope| {
        for pipe in 0..PIPES {
            let input = commands(&format!("pipe{pipe}"), PIPED_KEYS, 400);
            let mut cli = client(&["--pipe"]);
            scope.spawn(move || run_with_input(&mut cli, &input.replace('\n', "\r\n")).unwrap());
        }
        for asker in 0..ASKERS {
            let input = commands(&format!("asker{asker}"), ASKED_KEYS, 4000);
            let mut cli = client(&[]);
            scope.spawn(move || run_with_input(&mut cli, &input).unwrap());
        }
    });
    let mut command = lab.command(Host::Client, "redis-benchmark");
    command
        .args(["-h", &Host::Production.address().to_string()])
        .args(["-p", &PRODUCTION_PORT.to_string()])
        .args(["-c", "20", "-r", "50", "-n", &INCREMENTS.to_string()])
        .args(["-q", "incr", "counter:__rand_int__"]);
    Process::start("benchmark", &mut command, lab.folder())
        .unwrap()
        .wait_success(LIMIT)
        .unwrap();

    let digest = production.digest(lab).unwrap();
    let keys = production.keys(lab).unwrap();
    assert_eq!(
        keys,
        (PIPES * PIPED_KEYS + ASKERS * ASKED_KEYS + 50).to_string()
    );
    let held = |redis: &Redis| (redis.keys(lab).unwrap(), redis.digest(lab).unwrap());
    let deadline = Instant::now() + SETTLE;
    while held(&target) != (keys.clone(), digest.clone()) && Instant::now() < deadline {
        thread::sleep(LOOK_EVERY);
    }
    let arrived = held(&target);
    let (_lab, played) = stage.finish().unwrap();
    assert_eq!(arrived, (keys, digest), "keys and digest");
    assert_played(&played, &rules);
}
