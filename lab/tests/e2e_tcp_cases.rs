//! What breaks a replay that is not a real TCP sender, one case a test, with the kernel's TCP as the target.
//!
//! Each case loses exactly the packets that it is about, counted by connection. Waits are for events, with limits for
//! machines that are busy; `REPLAY_TRACE=1` records the target's side.

use std::{
    ops::RangeInclusive,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use lab::{
    Host, Lab, Process,
    faults::{Action, Class, Direction, Rule},
    nginx::Nginx,
    replay::{Capture, PRODUCTION_PORT, Played, Programs, Stage, StageOptions, TARGET_PORT},
    testing::{programs, require_root, seed},
    traffic::{AccessLog, Connection, Curl, LoadOptions, LoadReport, Talk, TalkServer},
    world::{CLIENT_SOURCE, StackCounters},
};
use rustix::net::{
    AddressFamily, SocketAddrV4, SocketType, bind, connect, socket,
    sockopt::{
        set_socket_keepalive, set_socket_linger, set_socket_reuseaddr, set_tcp_keepcnt,
        set_tcp_keepidle, set_tcp_keepintvl,
    },
};

/// For whatever is waited for: a few timeouts of a sender that backs off, on a busy machine.
const LIMIT: Duration = Duration::from_mins(1);
/// How often counters of the kernel are read.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const PRODUCTION: (Host, u16) = (Host::Production, PRODUCTION_PORT);
const CONNECTIONS: usize = 20;

fn the_programs() -> Programs {
    require_root();
    programs(env!("CARGO_BIN_EXE_lab-tool"))
}

/// A stage and a server on each side of the replay.
struct Scene {
    stage: Stage,
    production: TalkServer,
    target: TalkServer,
}

impl Scene {
    /// Faults on the target's cable; both servers have the same `manners`.
    fn set(rules: &[Rule], manners: fn(&mut Connection)) -> Self {
        Self::set_with(rules, &[], manners, manners)
    }

    fn set_with(
        rules: &[Rule],
        flags: &[&str],
        production: fn(&mut Connection),
        target: impl Fn(&mut Connection) + Send + Sync + 'static,
    ) -> Self {
        let stage = stage(rules, flags);
        let serve = |host, port| TalkServer::start(&stage.lab, host, port, production);
        Self {
            production: serve(Host::Production, PRODUCTION_PORT).unwrap(),
            target: TalkServer::start(&stage.lab, Host::Target, TARGET_PORT, target).unwrap(),
            stage,
        }
    }

    fn talk(&self) -> Talk {
        Talk::open(&self.stage.lab, Host::Client, PRODUCTION).unwrap()
    }

    /// `CONNECTIONS` connections that ask `lines` times each.
    fn ask(&self, lines: usize) {
        for connection in 0..CONNECTIONS {
            let mut talk = self.talk();
            for line in 0..lines {
                talk.ask(&format!("{connection}-{line} please")).unwrap();
            }
        }
    }

    /// Waits until the target has heard what production heard, and compares when all is over: every session
    /// completed, without a reset.
    fn finish(self, sessions: usize) -> Played {
        let played = self.finish_unclean();
        assert_completed(&played, sessions);
        assert_eq!(played.target.inward.count(Class::Reset), 0, "{played:?}");
        played
    }

    fn finish_unclean(self) -> Played {
        let heard = self.production.book().heard().len();
        self.target.book().wait_for_lines(heard, LIMIT).unwrap();
        let (_lab, played) = self.stage.finish().unwrap();
        assert_same(&self.production.book().log(), &self.target.book().log());
        assert_eq!(played.report.imbalance(), Vec::<String>::new());
        played
    }
}

fn stage(rules: &[Rule], flags: &[&str]) -> Stage {
    let mut options = StageOptions::new(Capture::Tap);
    options.seed = seed(60);
    options.target = rules.to_vec();
    options
        .copy
        .more
        .extend(flags.iter().map(|&flag| flag.to_owned()));
    Stage::set(&the_programs(), options).unwrap()
}

fn assert_same(produced: &AccessLog, replayed: &AccessLog) {
    assert_eq!(produced.compare(replayed).faults(), Vec::<String>::new());
}

fn assert_completed(played: &Played, sessions: usize) {
    let outcomes = played.report.outcomes();
    assert_eq!(
        outcomes.get("completed"),
        Some(&(sessions as u64)),
        "{outcomes:?}"
    );
    assert_eq!(outcomes.len(), 1, "{outcomes:?}");
}

/// Answers each line.
fn polite(connection: &mut Connection) {
    while let Some(line) = connection.hear() {
        connection.say(&format!("heard {}", line.len()));
    }
}

fn lose(way: Direction, class: Class, nth: RangeInclusive<u32>) -> Rule {
    Rule::nth(way, class, nth, Action::Drop)
}

/// Waits until the target's kernel has counted so many.
fn wait_for_counter(lab: &Lab, name: &str, count: u64) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let now = StackCounters::of(&lab.host(Host::Target))
            .unwrap()
            .get(name);
        if now >= count {
            return;
        }
        assert!(Instant::now() < deadline, "{name} is {now}, not {count}");
        thread::sleep(LOOK_EVERY);
    }
}

#[test]
fn a_second_request_that_is_lost_is_sent_again() {
    let lost = lose(Direction::In, Class::Data, 2..=2);
    let scene = Scene::set(&[lost], polite);
    scene.ask(4);
    let played = scene.finish(CONNECTIONS);
    assert_eq!(played.target.applied(&lost), CONNECTIONS as u64);
}

#[test]
fn a_syn_that_is_lost_twice_is_sent_again() {
    let lost = lose(Direction::In, Class::Syn, 1..=2);
    let scene = Scene::set(&[lost], polite);
    scene.ask(2);
    let played = scene.finish(CONNECTIONS);
    assert_eq!(played.target.applied(&lost), 2 * CONNECTIONS as u64);
}

#[test]
fn a_syn_ack_that_is_lost_twice_is_asked_for_again() {
    let lost = lose(Direction::Out, Class::SynAck, 1..=2);
    let scene = Scene::set(&[lost], polite);
    scene.ask(2);
    let played = scene.finish(CONNECTIONS);
    assert_eq!(played.target.applied(&lost), 2 * CONNECTIONS as u64);
}

/// Later than the first repetitions of the SYN, whose SYN-ACKs are as late.
#[test]
fn a_syn_ack_that_is_late_by_seconds_opens_the_session() {
    let late = Rule::nth(
        Direction::Out,
        Class::SynAck,
        1..=100,
        Action::Delay(Duration::from_millis(3500)),
    );
    let scene = Scene::set(&[late], polite);
    scene.ask(2);
    let played = scene.finish(CONNECTIONS);
    assert!(
        played.target.applied(&late) > CONNECTIONS as u64,
        "{played:?}"
    );
}

/// As when our acknowledgement of it was lost: it is acknowledged again, and not reset.
#[test]
fn a_syn_ack_that_comes_again_changes_nothing() {
    let again = Rule::nth(Direction::Out, Class::SynAck, 1..=1, Action::Twice);
    let scene = Scene::set(&[again], polite);
    scene.ask(2);
    let played = scene.finish(CONNECTIONS);
    assert_eq!(played.target.applied(&again), CONNECTIONS as u64);
}

const LARGE_BYTES: usize = 400_000;
/// The smallest that the kernel grants is a little more (socket(7)).
const SMALL_BUFFER_BYTES: usize = 4096;

/// A target that does not read until its window has closed.
fn a_slow_reader(rules: &[Rule]) -> Played {
    let stage = stage(rules, &[]);
    let lab = &stage.lab;
    let production = TalkServer::start(lab, Host::Production, PRODUCTION_PORT, polite).unwrap();
    let target = TalkServer::start_with_buffer(
        lab,
        Host::Target,
        TARGET_PORT,
        Some(SMALL_BUFFER_BYTES),
        |connection| {
            connection.wait_at_gate();
            polite(connection);
        },
    )
    .unwrap();
    let mut talk = Talk::open(lab, Host::Client, PRODUCTION).unwrap();
    talk.ask(&format!("large {}", "x".repeat(LARGE_BYTES)))
        .unwrap();
    talk.ask("small one").unwrap();
    drop(talk);
    wait_for_counter(lab, "TcpExtTCPToZeroWindowAdv", 1);
    target.book().open_gate();
    let scene = Scene {
        stage,
        production,
        target,
    };
    let played = scene.finish(1);
    assert!(
        played.target.outward.count(Class::WindowClosed) > 0,
        "{played:?}"
    );
    assert!(
        played.target.outward.count(Class::WindowOpened) > 0,
        "{played:?}"
    );
    played
}

#[test]
fn a_window_that_closes_and_opens_again_takes_the_rest() {
    a_slow_reader(&[]);
}

#[test]
fn a_window_whose_opening_was_lost_is_found_by_a_probe() {
    let lost = lose(Direction::Out, Class::WindowOpened, 1..=1);
    let played = a_slow_reader(&[lost]);
    assert_eq!(played.target.applied(&lost), 1);
}

/// Greets, then listens.
fn greets_first(connection: &mut Connection) {
    connection.say("welcome");
    while connection.hear().is_some() {}
}

fn ask_after_greeting(scene: &Scene) {
    for connection in 0..CONNECTIONS {
        let mut talk = scene.talk();
        assert_eq!(talk.hear().as_deref(), Some("welcome"));
        talk.say(&format!("{connection}-0 thanks")).unwrap();
    }
}

/// Repetitions of the greeting are lost: the first one must do.
#[test]
fn a_server_that_speaks_first_is_answered_at_its_first_word() {
    let repeated = lose(Direction::Out, Class::Data, 2..=100);
    let scene = Scene::set(&[repeated], greets_first);
    ask_after_greeting(&scene);
    scene.finish(CONNECTIONS);
}

#[test]
fn a_greeting_that_is_late_is_waited_for() {
    let early = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&early);
    let late = move |connection: &mut Connection| {
        connection.wait_at_gate();
        if connection.has_something() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        greets_first(connection);
    };
    let scene = Scene::set_with(&[], &["--turn-limit", "60s"], greets_first, late);
    ask_after_greeting(&scene);
    scene
        .target
        .book()
        .wait_for_connections(CONNECTIONS, LIMIT)
        .unwrap();
    // Time for a request to come too early.
    thread::sleep(Duration::from_secs(1));
    scene.target.book().open_gate();
    scene.finish(CONNECTIONS);
    assert_eq!(
        early.load(Ordering::Relaxed),
        0,
        "requests before the greeting"
    );
}

const KEPT_CONNECTIONS: u64 = 5;
const KEPT_REQUESTS: u64 = 40;

/// Production keeps connections, the target closes after each answer: all requests but the first of each client
/// need a connection of their own.
fn a_target_that_closes_after_each_answer(rules: &[Rule]) -> Played {
    let stage = stage(rules, &[]);
    let lab = &stage.lab;
    let _production = Nginx::start(lab, Host::Production, PRODUCTION_PORT).unwrap();
    let mut target =
        Nginx::start_with(lab, Host::Target, TARGET_PORT, "keepalive_timeout 0;").unwrap();
    let mut clients: Vec<Process> = (0..KEPT_CONNECTIONS)
        .map(|number| {
            Curl::kept(&format!("kept{number}"), KEPT_REQUESTS)
                .start(lab)
                .unwrap()
        })
        .collect();
    for client in &mut clients {
        client.wait_success(LIMIT).unwrap();
    }
    // What does not arrive is told by the comparison.
    let _ = target.process().wait_until("all requests", LIMIT, |_| {
        Nginx::log_of(lab, Host::Target)
            .is_ok_and(|log| log.requests() >= KEPT_CONNECTIONS * KEPT_REQUESTS)
    });
    let (lab, played) = stage.finish().unwrap();
    let log = |host| Nginx::log_of(&lab, host).unwrap();
    assert_same(&log(Host::Production), &log(Host::Target));
    assert_eq!(played.report.imbalance(), Vec::<String>::new());
    assert_completed(&played, KEPT_CONNECTIONS as usize);
    played
}

#[test]
fn a_target_that_closes_after_each_answer_gets_every_request_on_a_new_connection() {
    let played = a_target_that_closes_after_each_answer(&[]);
    let opened = played.target.inward.count(Class::Syn);
    assert_eq!(opened, KEPT_CONNECTIONS * KEPT_REQUESTS, "{played:?}");
}

#[test]
fn a_target_that_closes_after_each_answer_gets_every_request_over_a_network_that_loses() {
    let lost = [Direction::In, Direction::Out]
        .map(|way| Rule::share(way, Class::Any, 20_000, Action::Drop));
    let played = a_target_that_closes_after_each_answer(&lost);
    assert!(
        lost.iter().all(|rule| played.target.applied(rule) > 0),
        "{played:?}"
    );
}

const PROBES: u32 = 3;

/// Gives up a client that leaves its probes unanswered for about four seconds.
fn probes_idle_clients(connection: &mut Connection) {
    let second = Duration::from_secs(1);
    let socket = connection.socket();
    set_socket_keepalive(socket, true).unwrap();
    set_tcp_keepidle(socket, second).unwrap();
    set_tcp_keepintvl(socket, second).unwrap();
    set_tcp_keepcnt(socket, PROBES).unwrap();
    polite(connection);
}

#[test]
fn keep_alive_probes_of_the_target_keep_an_idle_session() {
    const IDLE: usize = 5;
    let scene = Scene::set_with(&[], &[], polite, probes_idle_clients);
    let mut talks: Vec<Talk> = (0..IDLE).map(|_| scene.talk()).collect();
    for (number, talk) in talks.iter_mut().enumerate() {
        talk.ask(&format!("{number}-0 first")).unwrap();
    }
    let probes = u64::from(PROBES + 3) * IDLE as u64;
    wait_for_counter(&scene.stage.lab, "TcpExtTCPKeepAlive", probes);
    for (number, talk) in talks.iter_mut().enumerate() {
        talk.ask(&format!("{number}-1 second")).unwrap();
    }
    drop(talks);
    let played = scene.finish(IDLE);
    assert_eq!(
        played.target.inward.count(Class::Syn),
        IDLE as u64,
        "{played:?}"
    );
}

const CLOSED_SESSIONS: u64 = 1000;
const LOAD_CONNECTIONS: u64 = 20;

/// Half of the sessions are closed by the client, half by the server.
#[test]
fn sessions_that_close_send_no_resets() {
    let stage = stage(&[], &[]);
    let lab = &stage.lab;
    let tool = the_programs().tool;
    let logs = [lab.file("production.log"), lab.file("target.log")];
    let serve = |host: Host, port, log| {
        let mut command = tool.server(lab, host, port, log);
        let mut server = Process::start(host.name(), &mut command, lab.folder()).unwrap();
        server.wait_for_line("ready", LIMIT).unwrap();
        server
    };
    let _production = serve(Host::Production, PRODUCTION_PORT, &logs[0]);
    let mut target = serve(Host::Target, TARGET_PORT, &logs[1]);
    let options = LoadOptions {
        server: (Host::Production.address(), PRODUCTION_PORT),
        requests: 2 * CLOSED_SESSIONS,
        connections: LOAD_CONNECTIONS,
        rate: 1000,
        seed: 61,
    };
    let mut load = Process::start("load", &mut tool.load(lab, &options), lab.folder()).unwrap();
    load.wait_success(LIMIT).unwrap();
    let load = LoadReport::from_json(&load.stdout().parse().unwrap()).unwrap();
    assert_eq!(load.errors, 0, "{load:?}");
    let _ = target.wait_until("all requests", LIMIT, |_| {
        AccessLog::read(&logs[1]).is_ok_and(|log| log.requests() >= options.requests)
    });
    let replayed = || AccessLog::read(&logs[1]).unwrap();
    let (_lab, played) = {
        let produced = AccessLog::read(&logs[0]).unwrap();
        assert_same(&produced, &replayed());
        stage.finish().unwrap()
    };
    assert_eq!(played.report.imbalance(), Vec::<String>::new());
    assert_completed(&played, (CLOSED_SESSIONS + LOAD_CONNECTIONS) as usize);
    let resets = (
        played.target.inward.count(Class::Reset),
        played.target.outward.count(Class::Reset),
    );
    assert_eq!(resets, (0, 0), "{played:?}");
}

/// Listens to the end, and only then has something to say.
fn answers_at_the_end(connection: &mut Connection) {
    let mut lines = 0;
    while connection.hear().is_some() {
        lines += 1;
    }
    connection.say(&format!("heard {lines} lines"));
}

#[test]
fn a_client_that_only_stops_talking_still_gets_its_answer() {
    let scene = Scene::set(&[], answers_at_the_end);
    for connection in 0..CONNECTIONS {
        let mut talk = scene.talk();
        for line in 0..3 {
            talk.say(&format!("{connection}-{line} of three")).unwrap();
        }
        talk.finish().unwrap();
        assert_eq!(talk.hear().as_deref(), Some("heard 3 lines"));
    }
    let played = scene.finish(CONNECTIONS);
    assert_eq!(played.target.outward.count(Class::Reset), 0, "{played:?}");
    assert!(
        played.target.outward.count(Class::Data) >= CONNECTIONS as u64,
        "{played:?}"
    );
}

/// Acknowledgements of parts of what was captured as one packet, and holes reported by SACK.
#[test]
fn a_large_request_arrives_unchanged_when_many_of_its_segments_are_lost() {
    const LARGE: usize = 5;
    let lost = Rule::share(Direction::In, Class::Data, 30_000, Action::Drop);
    let lost_answers = Rule::share(Direction::Out, Class::Any, 30_000, Action::Drop);
    let scene = Scene::set(&[lost, lost_answers], polite);
    for connection in 0..LARGE {
        let body: String = (0..LARGE_BYTES / 10)
            .map(|number| char::from(b'a' + ((number * 7 + connection) % 26) as u8))
            .flat_map(|letter| [letter; 10])
            .collect();
        let mut talk = scene.talk();
        talk.ask(&format!("{connection}-0 {body}")).unwrap();
        talk.ask(&format!("{connection}-1 {body}")).unwrap();
    }
    let played = scene.finish(LARGE);
    assert!(played.target.applied(&lost) > 10, "{played:?}");
}

/// The client cuts its connection off with a reset and opens the next one from the same port.
#[test]
fn a_new_connection_from_the_same_port_is_a_new_session() {
    const PORT: u16 = 50_123;
    let scene = Scene::set(&[], polite);
    for connection in 0..CONNECTIONS {
        let opened = || -> rustix::io::Result<OwnedFd> {
            let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
            set_socket_reuseaddr(&socket, true)?;
            set_socket_linger(&socket, Some(Duration::ZERO))?;
            bind(&socket, &SocketAddrV4::new(CLIENT_SOURCE, PORT))?;
            let to = SocketAddrV4::new(Host::Production.address(), PRODUCTION_PORT);
            connect(&socket, &to)?;
            Ok(socket)
        };
        let socket = scene
            .stage
            .lab
            .host(Host::Client)
            .enter(opened)
            .unwrap()
            .unwrap();
        let mut talk = Talk::over(socket.into());
        talk.ask(&format!("{connection}-0 hello")).unwrap();
        drop(talk);
        scene
            .target
            .book()
            .wait_for_ends(connection + 1, LIMIT)
            .unwrap();
    }
    let played = scene.finish_unclean();
    let outcomes = played.report.outcomes();
    assert_eq!(
        outcomes.get("reset_by_client"),
        Some(&(CONNECTIONS as u64)),
        "{outcomes:?}"
    );
    assert_eq!(
        played.target.inward.count(Class::Syn),
        CONNECTIONS as u64,
        "{played:?}"
    );
}
