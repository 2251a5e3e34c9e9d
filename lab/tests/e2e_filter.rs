//! `-F` and `--filter-file`: only the clients that a pcap filter selects are replayed, and SIGHUP changes whom.

use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use lab::{
    Host, Lab,
    replay::{Capture, PRODUCTION_PORT, Stage, StageOptions, TARGET_PORT},
    testing::{programs, require_root},
    traffic::{Connection, Talk, TalkServer},
    world::{CLIENT_SOURCE, run},
};
use rustix::{
    net::{AddressFamily, SocketAddrV4, SocketType, bind, connect, socket},
    process::Signal,
};

const LIMIT: Duration = Duration::from_mins(1);
/// A second client, which the routes of the lab lead back to as they do to the first.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 2);
const CONNECTIONS: usize = 10;
const LINES: usize = 3;

struct Scene {
    stage: Stage,
    production: TalkServer,
    target: TalkServer,
}

impl Scene {
    fn set(options: StageOptions) -> Self {
        let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
        let stage = Stage::set(&programs, options).unwrap();
        let address = format!("{OTHER}/32");
        let mut add = stage.lab.command(Host::Client, "ip");
        run(add.args(["addr", "add", &address, "dev", "eth0"])).unwrap();
        let serve = |host, port| TalkServer::start(&stage.lab, host, port, answer).unwrap();
        Self {
            production: serve(Host::Production, PRODUCTION_PORT),
            target: serve(Host::Target, TARGET_PORT),
            stage,
        }
    }

    /// Both clients ask, and wait for their answers.
    fn ask(&self, part: &str) {
        for connection in 0..CONNECTIONS {
            for source in [CLIENT_SOURCE, OTHER] {
                let mut talk = Talk::over(open(&self.stage.lab, source));
                for line in 0..LINES {
                    talk.ask(&format!("{part} {source} {connection}-{line}"))
                        .unwrap();
                }
            }
        }
    }

    /// The lines that came to the target, once there are `parts` times those of one client.
    fn replayed(&self, parts: usize) -> Vec<String> {
        let lines = parts * CONNECTIONS * LINES;
        self.target.book().wait_for_lines(lines, LIMIT).unwrap();
        lines_of(&self.target)
    }

    /// What production heard of one client in one part.
    fn produced(&self, part: &str, source: Ipv4Addr) -> Vec<String> {
        let mut lines = lines_of(&self.production);
        lines.retain(|line| line.starts_with(&format!("{part} {source} ")));
        assert_eq!(lines.len(), CONNECTIONS * LINES);
        lines
    }
}

fn answer(connection: &mut Connection) {
    while let Some(line) = connection.hear() {
        connection.say(&format!("you said {line}"));
    }
}

fn lines_of(server: &TalkServer) -> Vec<String> {
    let mut lines: Vec<String> = server.book().heard().into_iter().map(|h| h.line).collect();
    lines.sort_unstable();
    lines
}

/// A connection of the client host from one of its addresses.
fn open(lab: &Lab, source: Ipv4Addr) -> TcpStream {
    lab.host(Host::Client)
        .enter(|| {
            let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
            bind(&socket, &SocketAddrV4::new(source, 0))?;
            let server = SocketAddrV4::new(Host::Production.address(), PRODUCTION_PORT);
            connect(&socket, &server)?;
            Ok::<_, rustix::io::Errno>(TcpStream::from(socket))
        })
        .unwrap()
        .unwrap()
}

fn only_the_selected_client_is_replayed(capture: Capture) {
    require_root();
    let mut options = StageOptions::new(capture);
    options
        .copy
        .more
        .extend(words(&["-F", "src net 10.77.2.2/31"]));
    let scene = Scene::set(options);
    scene.ask("all");
    assert_eq!(scene.replayed(1), scene.produced("all", OTHER));
    let (_lab, played) = scene.stage.finish().unwrap();
    let report = &played.report;
    assert_eq!(report.imbalance(), Vec::<String>::new());
    let outcomes = report.outcomes();
    assert_eq!(
        outcomes.get("completed"),
        Some(&(CONNECTIONS as u64)),
        "{outcomes:?}"
    );
    assert_eq!(report.number("sessions/total"), CONNECTIONS as u64);
    let kernel = report.numbers("counters/kernel");
    let (captured, filtered) = (kernel["captured"], kernel["filtered"]);
    // Both clients did the same, but their acknowledgements differ in number.
    let least = (CONNECTIONS * (LINES + 3)) as u64;
    assert!(captured >= least && filtered >= least, "{kernel:?}");
    assert_eq!(report.dropped(), 0, "{}", report.json["packets"]);
}

#[test]
fn a_tap_replays_the_clients_of_its_filter() {
    only_the_selected_client_is_replayed(Capture::Tap);
}

#[test]
fn packet_sockets_replay_the_clients_of_their_filter() {
    only_the_selected_client_is_replayed(Capture::Packet);
}

#[test]
fn a_mirror_replays_the_clients_of_its_filter() {
    only_the_selected_client_is_replayed(Capture::Mirror);
}

/// Filter files of both programs are changed while they run.
fn hangup_changes_the_filter(capture: Capture) {
    require_root();
    let file = |name: &str| {
        let name = format!(
            "e2e-filter-{name}-{}-{}",
            capture.name(),
            std::process::id()
        );
        TempFile(std::env::temp_dir().join(name))
    };
    let (clients, responses) = (file("clients"), file("responses"));
    clients.write("# the second client\nsrc host 10.77.2.2\n");
    responses.write("tcp and src port 8080");
    let mut options = StageOptions::new(capture);
    options
        .copy
        .more
        .extend(words(&["--filter-file", &clients.path()]));
    options.intercept.filter = None;
    options.intercept.more = words(&["--filter-file", &responses.path()]);
    let mut scene = Scene::set(options);
    scene.ask("first");
    scene.replayed(1);

    // Wrong ones change nothing.
    clients.write("src host 10.77.2.2 and\n");
    responses.write("tcp");
    scene.stage.tcpcopy.signal(Signal::HUP).unwrap();
    scene.stage.intercept.signal(Signal::HUP).unwrap();
    for process in [&mut scene.stage.tcpcopy, &mut scene.stage.intercept] {
        process.wait_for_line("filter not replaced", LIMIT).unwrap();
    }
    let said = [scene.stage.tcpcopy.stderr(), scene.stage.intercept.stderr()];
    for (said, words) in said.iter().zip([
        [
            clients.path().as_str(),
            "'src host 10.77.2.2 and'",
            "syntax error",
        ],
        ["'tcp'", "10.77.0.40", "36524"],
    ]) {
        let line = said.lines().find(|l| l.contains("not replaced")).unwrap();
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
    }
    scene.ask("second");
    scene.replayed(2);

    clients.write("src host 10.77.2.1 # the first\n");
    responses.write("tcp and (src port 8080 or src port 9090)");
    scene.stage.tcpcopy.signal(Signal::HUP).unwrap();
    scene.stage.intercept.signal(Signal::HUP).unwrap();
    for process in [&mut scene.stage.tcpcopy, &mut scene.stage.intercept] {
        process.wait_for_line("filter replaced", LIMIT).unwrap();
    }
    scene.ask("third");
    let mut expected = scene.produced("first", OTHER);
    expected.extend(scene.produced("second", OTHER));
    expected.extend(scene.produced("third", CLIENT_SOURCE));
    assert_eq!(scene.replayed(3), expected);

    let (_lab, played) = scene.stage.finish().unwrap();
    assert_eq!(played.report.imbalance(), Vec::<String>::new());
    let outcomes = played.report.outcomes();
    let sessions = 3 * CONNECTIONS as u64;
    assert_eq!(outcomes.get("completed"), Some(&sessions), "{outcomes:?}");
    assert_eq!(played.report.number("sessions/total"), sessions);
}

#[test]
fn hangup_changes_whom_a_tap_replays() {
    hangup_changes_the_filter(Capture::Tap);
}

#[test]
fn hangup_changes_whom_a_mirror_replays() {
    hangup_changes_the_filter(Capture::Mirror);
}

/// A file that goes with the test.
struct TempFile(PathBuf);

impl TempFile {
    fn write(&self, text: &str) {
        fs::write(&self.0, text).unwrap();
    }

    fn path(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn words(more: &[&str]) -> Vec<String> {
    more.iter().map(|&word| word.to_owned()).collect()
}
