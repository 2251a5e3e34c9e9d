//! Capture files: tcpdump records nginx and curl, `--read` replays the file to another nginx, whose log must say the
//! same; `--write` records what a tap captures, for tcpdump and for `--read`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use lab::{
    Host, Lab, LabOptions, Process,
    nginx::Nginx,
    replay::{Capture, Copy, ExitReport, Intercept, PRODUCTION_PORT, Programs, TARGET_PORT, stop},
    testing::{programs, require_root},
    traffic::Curl,
    world::run,
};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_mins(2);
/// nginx writes its log when the answer is sent, which is when the replay may already be over.
const SETTLE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Exit code of a replay of a file that is damaged.
const INCOMPLETE: i32 = 3;
/// At once into the file, and a kernel buffer of 1024 slots of 64 KiB, so that nothing is missing from it.
const DUMP: [&str; 6] = ["-U", "--immediate-mode", "-s", "65535", "-B", "65536"];
const FAILED: i32 = 1;

/// A lab with both servers and intercept, and a tcpdump that listened to what production got.
struct World {
    programs: Programs,
    production: Nginx,
    target: Nginx,
    intercept: Process,
    runs: u32,
    lab: Lab,
}

struct Run {
    code: Option<i32>,
    said: String,
    report: ExitReport,
    /// What the target logged meanwhile, sorted.
    got: Vec<String>,
}

impl World {
    fn up() -> Self {
        require_root();
        let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
        let lab = Lab::up(&LabOptions::default()).unwrap();
        Self {
            production: Nginx::start(&lab, Host::Production, PRODUCTION_PORT).unwrap(),
            target: Nginx::start(&lab, Host::Target, TARGET_PORT).unwrap(),
            intercept: Intercept::default().start(&lab, &programs).unwrap(),
            programs,
            runs: 0,
            lab,
        }
    }

    /// Runs `traffic` while tcpdump writes files by name, each with its own flags.
    fn record(&self, dumps: &[(&str, &[&str])], traffic: impl FnOnce(&Lab)) {
        let mut running: Vec<Process> = dumps
            .iter()
            .map(|(name, flags)| self.dump(name, flags))
            .collect();
        traffic(&self.lab);
        // The client's last acknowledgements, and tcpdump's buffer.
        thread::sleep(Duration::from_millis(500));
        for dump in &mut running {
            dump.signal(Signal::INT).unwrap();
            dump.wait_success(LIMIT).unwrap();
            let said = dump.stderr();
            assert!(said.contains("\n0 packets dropped by kernel"), "{said}");
        }
    }

    fn dump(&self, name: &str, flags: &[&str]) -> Process {
        let mut command = self.lab.command(Host::Production, "tcpdump");
        command
            .args(DUMP)
            .args(flags)
            .arg("-w")
            .arg(self.lab.file(name))
            .arg(format!("tcp port {PRODUCTION_PORT}"));
        let mut dump = Process::start(name, &mut command, self.lab.folder()).unwrap();
        dump.wait_for_line("listening on", LIMIT).unwrap();
        dump
    }

    fn lines(&self, host: Host) -> Vec<String> {
        let path = self
            .lab
            .file(&format!("nginx-{}", host.name()))
            .join("access.log");
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// What production logged, each line `times` times, sorted.
    fn produced(&self, times: usize) -> Vec<String> {
        let once = self.lines(Host::Production);
        let mut lines: Vec<String> = (0..times).flat_map(|_| once.clone()).collect();
        lines.sort_unstable();
        lines
    }

    fn command(&self, more: &[&str]) -> (Command, PathBuf) {
        let report = self.lab.file(&format!("report-{}.json", self.runs));
        let mut command = self.lab.command(Host::Capture, &self.programs.tcpcopy);
        command
            .arg("-x")
            .arg(format!(
                "{PRODUCTION_PORT}-{}:{TARGET_PORT}",
                Host::Target.address()
            ))
            .arg("-s")
            .arg(Host::Assistant.address().to_string())
            .arg("--report")
            .arg(&report)
            // Each run from other ports: those of the run before are in the target's TIME-WAIT.
            .args(["-f", &(self.runs + 1).to_string()])
            .args(more);
        (command, report)
    }

    fn file(&self, name: &str) -> String {
        self.lab.file(name).display().to_string()
    }

    /// Replays to the end of the file; the target is expected to log `expected` lines.
    fn replay(&mut self, more: &[&str], expected: usize) -> Run {
        let (command, report) = self.command(more);
        self.run(command, &report, expected)
    }

    fn run(&mut self, mut command: Command, report: &Path, expected: usize) -> Run {
        self.runs += 1;
        let before = self.lines(Host::Target).len();
        let name = format!("read-{}", self.runs);
        let mut process = Process::start(&name, &mut command, self.lab.folder()).unwrap();
        let code = process.wait(LIMIT).unwrap().code();
        let said = process.stderr();
        let deadline = Instant::now() + SETTLE;
        while self.lines(Host::Target).len() < before + expected && Instant::now() < deadline {
            thread::sleep(LOOK_EVERY);
        }
        let mut got = self.lines(Host::Target).split_off(before);
        got.sort_unstable();
        for server in [&mut self.production, &mut self.target] {
            assert!(server.process().ended().unwrap().is_none(), "servers run");
        }
        let report = ExitReport::read(report)
            .unwrap_or_else(|e| panic!("{command:?} ended with {code:?}: {e}\n{said}"));
        eprintln!(
            "{command:?}: {code:?} {} {:?} {}",
            report.json["duration_s"],
            report.outcomes(),
            report.json["read"]
        );
        assert_eq!(report.imbalance(), Vec::<String>::new());
        assert_eq!(self.lab.checksum_faults().unwrap(), Vec::<String>::new());
        assert!(!said.contains("panicked"), "{said}");
        Run {
            code,
            said,
            report,
            got,
        }
    }

    /// The same, and everything must arrive `rounds` times.
    fn replay_all(&mut self, more: &[&str], rounds: usize) -> Run {
        let want = self.produced(rounds);
        let run = self.replay(more, want.len());
        assert_eq!(run.code, Some(0), "{}", run.said);
        same(&run.got, &want);
        assert_eq!(run.report.dropped(), 0, "{}", run.report.json["packets"]);
        assert_eq!(run.report.json["capture"], "read");
        run
    }

    fn finish(mut self) {
        stop(&mut self.intercept).unwrap();
    }
}

/// Kept and short connections, with and without bodies.
fn curls(lab: &Lab) {
    for curl in [
        Curl::kept("kept", 40),
        Curl::short("short", 60),
        Curl::kept("kept-post", 20).posting(),
        Curl::short("post", 30).posting(),
    ] {
        curl.start(lab).unwrap().wait_success(LIMIT).unwrap();
    }
}

/// Both are sorted; only what differs is shown.
fn same(got: &[String], want: &[String]) {
    let mut missing = want.to_vec();
    let mut more = Vec::new();
    for line in got {
        match missing.iter().position(|other| other == line) {
            Some(at) => drop(missing.swap_remove(at)),
            None => more.push(line),
        }
    }
    assert!(
        missing.is_empty() && more.is_empty() && !want.is_empty(),
        "{} of {} requests are missing: {:?}; {} are too many: {more:?}",
        missing.len(),
        want.len(),
        &missing[..missing.len().min(5)],
        more.len(),
    );
}

fn seconds(run: &Run) -> f64 {
    run.report.json["duration_s"].as_f64().unwrap()
}

#[test]
fn every_kind_of_file_delivers_every_request() {
    let mut world = World::up();
    world.record(
        &[
            ("eth.pcap", &["-i", "eth0"]),
            ("nano.pcap", &["-i", "eth0", "--time-stamp-precision=nano"]),
            ("any.pcap", &["-i", "any"]),
            ("cooked.pcap", &["-i", "any", "-y", "LINUX_SLL"]),
        ],
        curls,
    );
    let eth = world.file("eth.pcap");
    // Sums as a sending host records them, before its card would complete them: none of the file's may be sent.
    let verbose = run(Command::new("tcpdump").args(["-vvnr", &eth])).unwrap();
    let verbose = String::from_utf8_lossy(&verbose.stdout).into_owned();
    assert!(verbose.contains("(incorrect -> "), "{verbose}");
    fs::write(world.lab.file("garbled.pcap"), garbled(&eth)).unwrap();
    run(Command::new("gzip").args(["-k", &eth])).unwrap();
    run(Command::new("zstd").args(["-q", "-k", &eth])).unwrap();
    for name in [
        "eth.pcap",
        "garbled.pcap",
        "nano.pcap",
        "any.pcap",
        "cooked.pcap",
        "eth.pcap.gz",
        "eth.pcap.zst",
    ] {
        let run = world.replay_all(&["--read", &world.file(name), "-a", "4"], 1);
        let file = &run.report.json["read"]["files"][0];
        assert_eq!(file["complete"], true, "{file}");
        assert!(file["packets"].as_u64().unwrap() > 300, "{file}");
    }
    // Two workers; and standard input, packed, to one.
    for _ in 0..3 {
        world.replay_all(&["--read", &eth, "--topspeed", "--cores", "0,1"], 1);
    }
    let (mut command, report) = world.command(&["--read", "-", "--topspeed"]);
    command.stdin(Stdio::null());
    let script = format!("exec \"$@\" < {eth}.zst");
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &script, "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    let want = world.produced(1);
    let run = world.run(shell, &report, want.len());
    assert_eq!(run.code, Some(0), "{}", run.said);
    same(&run.got, &want);
    world.finish();
}

/// A classic file of IPv4 in Ethernet whose packets all get wrong sums, of the IP header and of TCP.
fn garbled(file: &str) -> Vec<u8> {
    let mut bytes = fs::read(file).unwrap();
    let mut at = 24;
    while at < bytes.len() {
        let length = u32::from_ne_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
        let frame = &mut bytes[at + 16..at + 16 + length];
        let tcp = 14 + usize::from(frame[14] & 0x0f) * 4;
        for sum in [24, tcp + 16] {
            frame[sum] ^= 0x5a;
            frame[sum + 1] ^= 0xa5;
        }
        at += 16 + length;
    }
    bytes
}

#[test]
fn rounds_are_new_sessions() {
    let mut world = World::up();
    world.record(&[("eth.pcap", &["-i", "eth0"])], curls);
    let file = world.file("eth.pcap");
    let once = world.replay_all(&["--read", &file, "--topspeed"], 1);
    let sessions = once.report.number("sessions/total");
    let syns = world.lab.file("syns.pcap");
    for more in [
        &["-a", "8", "--cores", "0,1"][..],
        &["--topspeed"],
        &["--topspeed", "-c", "10.77.1.0/24"],
    ] {
        let mut listening = world.lab.command(Host::Target, "tcpdump");
        listening
            .args(["-i", "eth0"])
            .args(DUMP)
            .arg("-w")
            .arg(&syns)
            .arg("tcp[tcpflags] == tcp-syn");
        let mut listening = Process::start("syns", &mut listening, world.lab.folder()).unwrap();
        listening.wait_for_line("listening on", LIMIT).unwrap();
        let args = [&["--read", &file, "-T", "3"], more].concat();
        let run = world.replay_all_from_anywhere(&args, 3);
        listening.signal(Signal::INT).unwrap();
        listening.wait_success(LIMIT).unwrap();
        assert_eq!(run.report.number("sessions/total"), 3 * sessions);
        assert_eq!(run.report.number("read/rounds"), 3);
        assert_eq!(run.report.number("counters/read/ports_reused"), 0);
        assert_eq!(tuples(&syns), 3 * sessions, "each from a port of its own");
    }
    world.finish();
}

/// Different clients whose SYNs are in a file.
fn tuples(file: &Path) -> u64 {
    let shown = run(Command::new("tcpdump").args(["-n", "-t", "-r"]).arg(file)).unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let clients: BTreeSet<&str> = shown
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .collect();
    clients.len() as u64
}

impl World {
    /// As [`World::replay_all`], but clients may have other addresses.
    fn replay_all_from_anywhere(&mut self, more: &[&str], rounds: usize) -> Run {
        if !more.contains(&"-c") {
            return self.replay_all(more, rounds);
        }
        let anonymous = |lines: &[String]| {
            let mut lines: Vec<String> = lines
                .iter()
                .map(|line| {
                    let words: Vec<&str> = line.split(' ').collect();
                    [&words[..1], &words[2..]].concat().join(" ")
                })
                .collect();
            lines.sort_unstable();
            lines
        };
        let want = self.produced(rounds);
        let run = self.replay(more, want.len());
        assert_eq!(run.code, Some(0), "{}", run.said);
        same(&anonymous(&run.got), &anonymous(&want));
        run
    }
}

#[test]
fn pauses_are_kept_scaled_cut_or_left_out() {
    const PAUSE: Duration = Duration::from_secs(3);
    let mut world = World::up();
    world.record(&[("eth.pcap", &["-i", "eth0"])], |lab| {
        let before = Curl::short("before", 20)
            .start(lab)
            .unwrap()
            .wait_success(LIMIT);
        before.unwrap();
        thread::sleep(PAUSE);
        Curl::kept("after", 20)
            .start(lab)
            .unwrap()
            .wait_success(LIMIT)
            .unwrap();
    });
    let file = world.file("eth.pcap");
    let mut of = |more: &[&str]| {
        let args = [&["--read", &file], more].concat();
        seconds(&world.replay_all(&args, 1))
    };
    let plain = of(&[]);
    assert!((3.0..5.0).contains(&plain), "{plain}");
    let twice = of(&["-a", "2"]);
    assert!((1.5..3.0).contains(&twice), "{twice}");
    assert!((plain / 2.0 - twice).abs() < 0.3, "{plain} {twice}");
    let half = of(&["-a", "0.5"]);
    assert!((2.0 * plain - half).abs() < 0.5, "{plain} {half}");
    let cut = of(&["-I", "300"]);
    assert!((0.3..2.0).contains(&cut), "{cut}");
    let top = of(&["--topspeed"]);
    assert!(top < 1.5, "{top}");
    world.finish();
}

#[test]
fn a_damaged_file_is_replayed_up_to_the_damage() {
    let mut world = World::up();
    world.record(&[("eth.pcap", &["-i", "eth0"])], curls);
    let whole = fs::read(world.lab.file("eth.pcap")).unwrap();
    let all = world.produced(1);

    let cut = whole.len() * 2 / 3;
    fs::write(world.lab.file("cut.pcap"), &whole[..cut]).unwrap();
    run(Command::new("zstd").args(["-q", "-k", &world.file("eth.pcap")])).unwrap();
    let packed = fs::read(world.lab.file("eth.pcap.zst")).unwrap();
    fs::write(world.lab.file("cut.zst"), &packed[..packed.len() - 9]).unwrap();
    for (name, word) in [("cut.pcap", "the file ends after"), ("cut.zst", "zstd")] {
        let run = world.replay(&["--read", &world.file(name), "-a", "8"], 0);
        assert_eq!(run.code, Some(INCOMPLETE), "{}", run.said);
        let last = run.said.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("tcpcopy-user: ")
                && last.contains(name)
                && last.contains("damaged at byte"),
            "{last}"
        );
        let file = &run.report.json["read"]["files"][0];
        assert_eq!(file["complete"], false);
        let found = file["damage"]["found"].as_str().unwrap();
        assert!(found.contains(word), "{found}");
        assert!(
            run.said.contains("what stands before is replayed"),
            "{}",
            run.said
        );
        assert!(
            run.got.len() > all.len() / 4 && run.got.len() <= all.len(),
            "{}",
            run.got.len()
        );
        let mut rest = all.clone();
        for line in &run.got {
            let at = rest.iter().position(|other| other == line);
            rest.swap_remove(at.unwrap_or_else(|| panic!("{line} was never asked, or twice")));
        }
    }
    // Two files: what is behind the damage of the first one is in the second one.
    let run = world.replay(
        &[
            "--read",
            &world.file("cut.pcap"),
            "--read",
            &world.file("eth.pcap"),
            "-a",
            "8",
        ],
        0,
    );
    assert_eq!(run.code, Some(INCOMPLETE));
    assert_eq!(run.report.json["read"]["files"][1]["complete"], true);
    world.finish();
}

#[test]
fn a_tap_records_what_it_replays() {
    let mut world = World::up();
    for (name, packed) in [("tap.pcapng", false), ("tap.pcapng.zst", true)] {
        let before = world.lines(Host::Target).len();
        let produced_before = world.lines(Host::Production).len();
        let path = world.file(name);
        let mut copy = Copy::new(Capture::Tap);
        copy.more.extend(["--write".to_owned(), path.clone()]);
        let report = world.lab.file("tap-report.json");
        let mut tcpcopy = copy.start(&world.lab, &world.programs, &report).unwrap();
        curls(&world.lab);
        thread::sleep(Duration::from_millis(500));
        stop(&mut tcpcopy).unwrap();
        let report = ExitReport::read(&report).unwrap();
        let frames = report.number("packets/captured");
        assert_eq!(
            report.number("write/packets"),
            frames,
            "{}",
            report.json["write"]
        );
        assert_eq!(report.number("write/lost"), 0);

        let mut want = world.lines(Host::Production).split_off(produced_before);
        want.sort_unstable();
        let mut got = world.lines(Host::Target).split_off(before);
        got.sort_unstable();
        same(&got, &want);

        let plain = world.file("plain.pcapng");
        if packed {
            run(Command::new("zstd").args(["-q", "-d", "-f", &path, "-o", &plain])).unwrap();
        } else {
            fs::copy(&path, &plain).unwrap();
        }
        let shown = run(Command::new("tcpdump").args(["-n", "-t", "-r", &plain])).unwrap();
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert_eq!(shown.lines().count() as u64, frames);
        assert!(
            shown
                .lines()
                .all(|line| line.contains(&format!(".{PRODUCTION_PORT}: Flags")))
        );

        let run = world.replay(&["--read", &path, "-a", "4"], want.len());
        assert_eq!(run.code, Some(0), "{}", run.said);
        same(&run.got, &want);
        assert_eq!(run.report.number("read/packets"), frames);
    }
    world.finish();
}

#[test]
fn numbered_files_are_read_one_after_the_other() {
    let mut world = World::up();
    let report = world.lab.file("tap-report.json");
    let mut copy = Copy::new(Capture::Tap);
    copy.more
        .extend(["--write", &world.file("part.pcapng"), "--write-time", "1s"].map(str::to_owned));
    let mut tcpcopy = copy.start(&world.lab, &world.programs, &report).unwrap();
    for n in 0..3 {
        let curl = Curl::kept(&format!("part-{n}"), 30);
        curl.start(&world.lab).unwrap().wait_success(LIMIT).unwrap();
        thread::sleep(Duration::from_millis(1200));
    }
    stop(&mut tcpcopy).unwrap();
    let written = ExitReport::read(&report).unwrap();
    let files = written.number("write/files");
    assert!(files >= 3, "{}", written.json["write"]);
    let names: Vec<String> = (1..=files)
        .map(|n| world.file(&format!("part-{n:05}.pcapng")))
        .collect();
    let args: Vec<&str> = names.iter().flat_map(|name| ["--read", name]).collect();
    world.replay_all(&[&args[..], &["--topspeed"]].concat(), 1);
    world.finish();
}

#[test]
fn sending_privileges_are_enough() {
    let mut world = World::up();
    world.record(&[("eth.pcap", &["-i", "eth0"])], curls);
    let (command, report) = world.command(&["--read", &world.file("eth.pcap"), "--topspeed"]);
    let mut humble = world.lab.command(Host::Capture, "setpriv");
    humble.args(["--bounding-set=-all,+net_raw", "--inh-caps=-all", "--"]);
    // ip netns exec <name> <program> <arguments…>
    humble.args(command.get_args().skip(3));
    let want = world.produced(1);
    let run = world.run(humble, &report, want.len());
    assert_eq!(run.code, Some(0), "{}", run.said);
    same(&run.got, &want);
    world.finish();
}

#[test]
fn what_is_no_capture_is_refused_before_anything_is_sent() {
    let world = World::up();
    let refused = |more: &[&str], code: i32, words: &[&str]| {
        let (mut command, _) = world.command(more);
        let mut process = Process::start("refused", &mut command, world.lab.folder()).unwrap();
        let status = process.wait(LIMIT).unwrap();
        let said = process.stderr();
        let last = said.lines().last().unwrap_or_default();
        assert_eq!(status.code(), Some(code), "{command:?}: {said}");
        for word in words {
            assert!(last.contains(word), "{word:?} is missing in {last:?}");
        }
    };
    let write = |name: &str, bytes: &[u8]| {
        fs::write(world.lab.file(name), bytes).unwrap();
        world.file(name)
    };
    let text = write("text", b"GET / HTTP/1.1\r\n\r\n");
    let empty = write("empty", b"");
    let mut radio = [0u8; 24];
    radio[..4].copy_from_slice(&[0xd4, 0xc3, 0xb2, 0xa1]);
    radio[20] = 105;
    let radio = write("radio.pcap", &radio);
    refused(
        &["--read", "/no/such/file"],
        FAILED,
        &["--read", "/no/such/file"],
    );
    refused(
        &["--read", &text],
        FAILED,
        &["text", "begins with 47 45 54 20", "pcapng"],
    );
    refused(&["--read", &empty], FAILED, &["empty"]);
    refused(
        &["--read", &radio],
        FAILED,
        &["radio.pcap", "link type 105", "Ethernet"],
    );
    assert_eq!(world.lines(Host::Target).len(), 0);
    world.finish();
}

/// Two workers and one transmit queue: one worker sends through the other's, which has to stay until both are done.
/// Ports that hash to the other worker are chosen from the same few in each run, so that from the second run on some
/// SYNs meet the target's TIME-WAIT and come again after a second, when the other worker has nothing to do any more.
#[test]
fn a_worker_that_lends_its_queue_stays_to_the_end() {
    let mut world = World::up();
    world.record(&[("eth.pcap", &["-i", "eth0"])], curls);
    let file = world.file("eth.pcap");
    for _ in 0..6 {
        let run = world.replay_all(&["--read", &file, "--topspeed", "--cores", "0,1"], 1);
        let outcomes = run.report.outcomes();
        assert_eq!(outcomes.get("shutdown"), None, "{outcomes:?}");
    }
    world.finish();
}

/// More than the engine is to hold at a time goes through it: nothing is shed, and memory stays bounded.
#[test]
fn top_speed_waits_for_the_target() {
    const REQUESTS: u64 = 6000;
    let mut world = World::up();
    world.record(&[("eth.pcap", &["-i", "eth0"])], |lab| {
        let running: Vec<Process> = (0..6)
            .map(|n| {
                Curl::short(&format!("many-{n}"), REQUESTS / 6)
                    .start(lab)
                    .unwrap()
            })
            .collect();
        for mut curl in running {
            curl.wait_success(LIMIT).unwrap();
        }
    });
    let run = world.replay_all(&["--read", &world.file("eth.pcap"), "--topspeed"], 1);
    let outcomes = run.report.outcomes();
    assert_eq!(outcomes.get("completed"), Some(&REQUESTS), "{outcomes:?}");
    world.finish();
}

/// No kernel program stands in front of a file: shares, shards, denied clients and filters hold all the same.
#[test]
fn which_sessions_of_a_file_are_replayed() {
    let mut world = World::up();
    world.record(&[("eth.pcap", &["-i", "eth0"])], curls);
    let file = world.file("eth.pcap");
    let total = |run: &Run| run.report.number("sessions/total");
    let counted = |run: &Run, counter: &str| run.report.number(&format!("counters/{counter}"));
    let all = total(&world.replay_all(&["--read", &file], 1));

    let shards = ["0/2", "1/2"].map(|k| world.replay(&["--read", &file, "--shard", k], 0));
    let [first, second] = shards.each_ref().map(total);
    assert!(
        first > 0 && second > 0 && first + second == all,
        "{first} {second}"
    );
    assert_eq!(counted(&shards[0], "engine/sessions_other_shard"), second);

    let share = world.replay(&["--read", &file, "-r", "40"], 0);
    assert!(
        (1..all).contains(&total(&share)),
        "{} of {all}",
        total(&share)
    );
    assert_eq!(
        counted(&share, "engine/sessions_not_sampled"),
        all - total(&share)
    );

    let client = lab::world::CLIENT_SOURCE.to_string();
    let denied = world.replay(&["--read", &file, "--deny", &client], 0);
    assert_eq!(
        (total(&denied), counted(&denied, "engine/sessions_denied")),
        (0, all)
    );

    let filtered = world.replay(&["--read", &file, "-F", "src host 203.0.113.1"], 0);
    assert_eq!(total(&filtered), 0);
    assert!(counted(&filtered, "read/filtered") >= all);
    let passed = format!("src host {client}");
    let run = world.replay_all(&["--read", &file, "-F", &passed], 1);
    assert_eq!((total(&run), counted(&run, "read/filtered")), (all, 0));
    world.finish();
}
