//! A faulty cable by itself: the kernel's TCP on both sides, no replay.

use std::time::Duration;

use lab::{
    Cable, Host, Lab, LabOptions,
    faults::{Action, Class, Direction, FaultReport, FaultyCable, Rule},
    testing::require_root,
    tool::Tool,
    traffic::{Talk, TalkServer},
    world::run,
};

const PORT: u16 = 8080;
const LIMIT: Duration = Duration::from_secs(30);
const TARGET: Cable = Cable::Of(Host::Target);
/// Enough for hundreds of full-sized frames.
const LINES: usize = 400;
const LINE_BYTES: usize = 4000;

/// One connection from the assistant to the target, over a cable with `rules`.
fn talk_over(rules: &[Rule]) -> FaultReport {
    require_root();
    let lab = Lab::up(&LabOptions {
        spliced: vec![TARGET],
        ..LabOptions::default()
    })
    .unwrap();
    let assistant = lab.host(Host::Assistant);
    run(assistant
        .command("ethtool")
        .args(["-K", "eth0", "tx", "off", "tso", "off", "gso", "off"]))
    .unwrap();
    let tool = Tool::new(env!("CARGO_BIN_EXE_lab-tool"), &[]);
    let cable = FaultyCable::start(&lab, &tool, TARGET, 7, rules).unwrap();
    let server = TalkServer::start(&lab, Host::Target, PORT, |connection| {
        while let Some(line) = connection.hear() {
            connection.say(&line);
        }
    })
    .unwrap();

    let mut talk = Talk::open(&lab, Host::Assistant, (Host::Target, PORT)).unwrap();
    let said: Vec<String> = (0..LINES)
        .map(|number| format!("{number} {}", "x".repeat(LINE_BYTES)))
        .collect();
    for line in &said {
        assert_eq!(&talk.ask(line).unwrap(), line);
    }
    drop(talk);
    server.book().wait_for_ends(1, LIMIT).unwrap();
    let heard: Vec<String> = server
        .book()
        .heard()
        .into_iter()
        .map(|heard| heard.line)
        .collect();
    assert!(heard == said, "the target heard {} lines", heard.len());
    cable.stop(&lab).unwrap()
}

#[test]
fn a_cable_without_rules_passes_everything_once() {
    let report = talk_over(&[]);
    for path in [&report.inward, &report.outward] {
        assert_eq!(path.received, path.sent, "{report:?}");
        assert!(path.count(Class::Data) >= LINES as u64, "{report:?}");
    }
    assert_eq!(report.inward.count(Class::Syn), 1, "{report:?}");
    assert_eq!(report.outward.count(Class::SynAck), 1, "{report:?}");
}

#[test]
fn a_cable_does_what_its_rules_say_and_the_kernel_repairs_it() {
    let after = Action::After(3.try_into().unwrap());
    let both = [Direction::In, Direction::Out];
    let shares = [
        (Action::Drop, 10_000),
        (Action::Twice, 20_000),
        (after, 20_000),
    ];
    let mut rules: Vec<Rule> = both
        .into_iter()
        .flat_map(|way| shares.map(|(action, parts)| Rule::share(way, Class::Any, parts, action)))
        .collect();
    let first_syn = Rule::nth(Direction::In, Class::Syn, 1..=1, Action::Drop);
    rules.insert(0, first_syn);
    let report = talk_over(&rules);
    for rule in &rules {
        assert!(report.applied(rule) > 0, "{rule} in {report:?}");
    }
    assert_eq!(report.applied(&first_syn), 1);
    for path in [&report.inward, &report.outward] {
        let applied = |word: &str| {
            let rules = path.rules.iter().filter(|(rule, _)| rule.ends_with(word));
            rules.map(|(_, count)| count).sum::<u64>()
        };
        let expected = path.received + applied("twice") - applied("drop");
        // The last one may still be held.
        assert!(path.sent.abs_diff(expected) <= 1, "{report:?}");
    }
}
