//! `doctor`, cause by cause: each is set up in one lab, and must be the one that is named.
//!
//! ```text
//!  client ── a connection every 20 ms ──▶ production:80      target:8080 listens
//!                                            │ doctor           ▲ │
//!                                            └── its probes ────┘ └──▶ assistant: intercept-user, or its doctor
//! ```
//! What a cause needs (networks, rules, listeners) is there from the beginning, beside the others, so that nothing has to be
//! undone: each uses another pool of client addresses, port or interface.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use lab::{
    Host, Lab, LabOptions, Process,
    replay::{Capture, Copy, ExitReport, Intercept, Programs, stop},
    testing::{compile_bpf, programs, require_root},
    world::run,
};

/// Longest: neighbour discovery gives up after 3 s, a probe after 2.5 s; the rest is for a busy machine.
const LIMIT: Duration = Duration::from_mins(1);
const LOAD_PAUSE: Duration = Duration::from_millis(20);
const FOUND: i32 = 4;
/// Routed to the assistant by the lab.
const POOL: &str = "10.77.1.0/24";

/// Run on a host before all cases.
const SETUP: &[(Host, &str)] = &[
    // Interfaces on which nothing arrives: down, without carrier, without Ethernet, quiet.
    (
        Host::Production,
        "ip link add down0 type veth peer name down1",
    ),
    (
        Host::Production,
        "ip link add peer0 type veth peer name peer1 && ip link set peer0 up",
    ),
    (
        Host::Production,
        "ip tuntap add dev tun7 mode tun && ip link set tun7 up",
    ),
    (
        Host::Production,
        "ip link add quiet0 type veth peer name quiet1 && ip link set quiet0 up && ip link set quiet1 up",
    ),
    // 10.77.3.0/24: no route on the target. 10.77.4.0/24: by another interface than requests come.
    (
        Host::Target,
        "ip link add other0 type veth peer name other1 && ip link set other0 up && ip link set other1 up && ip route add 10.77.4.0/24 dev other0",
    ),
    // 10.77.5.0/24: the target's firewall. Port 8082: for everybody.
    (Host::Target, "ip route add 10.77.5.0/24 via 10.77.0.40"),
    (
        Host::Target,
        "nft 'add table ip f; add chain ip f in { type filter hook input priority 0; }; \
         add rule ip f in ip saddr 10.77.5.0/24 drop; add rule ip f in tcp dport 8082 drop'",
    ),
    // 10.77.6.0/24: a switch against forged sources, below. 10.77.7.0/24: answers go to production.
    (Host::Target, "ip route add 10.77.6.0/24 via 10.77.0.40"),
    (Host::Target, "ip route add 10.77.7.0/24 via 10.77.0.20"),
    // Answers to 10.77.2.1, a real client, go to that one too.
    (
        Host::Target,
        "nft 'add table ip d; add chain ip d out { type filter hook output priority 0; }; \
         add rule ip d out ip daddr 10.77.2.1 tcp sport 8080 dup to 10.77.0.10 device eth0'",
    ),
    // 10.77.8.0/24: the assistant's second interface; it knows real clients' networks.
    (
        Host::Assistant,
        "ip link add other0 type veth peer name other1 && ip link set other0 up && ip link set other1 up",
    ),
    (Host::Assistant, "ip route add 10.77.2.0/24 via 10.77.0.10"),
];

/// What a program says.
struct Case {
    name: &'static str,
    args: &'static str,
    causes: &'static [&'static str],
}

const fn case(name: &'static str, args: &'static str, causes: &'static [&'static str]) -> Case {
    Case { name, args, causes }
}

/// On production, beside an intercept that runs.
const TCPCOPY: &[Case] = &[
    case("all is well", "", &[]),
    case("all is well with a pool", "--pool 10.77.0.128/28", &[]),
    case("pool in use", "--pool 10.77.0.30", &["pool_unfit"]),
    case("unknown interface", "--iface eth7", &["unknown_interface"]),
    case("interface down", "--iface down0", &["interface_down"]),
    case("no carrier", "--iface peer0", &["no_carrier"]),
    case("no Ethernet", "--iface tun7", &["no_ethernet"]),
    case(
        "loop",
        "-x 80-10.77.0.30:8080,8080-10.77.0.40:9090",
        &["target_is_captured"],
    ),
    case(
        "production as target",
        "-x 80-10.77.0.20:8080",
        &["target_is_production"],
    ),
    case("mirror in use", "--capture mirror", &["mirror_in_use"]),
    case("target in -c", "-c 10.77.0.30", &["clients_unfit"]),
    case(
        "intercept does not listen",
        "-s 10.77.0.10",
        &["channel_refused"],
    ),
    case(
        "intercept's host is not there",
        "-s 10.77.0.99",
        &["channel_unreachable"],
    ),
    case(
        "intercept is something else",
        "-s 10.77.0.10:22",
        &["channel_wrong_protocol"],
    ),
    case("intercept closes", "-s 10.77.0.10:23", &["channel_closed"]),
    case(
        "intercept is silent",
        "-s 10.77.0.10:24",
        &["channel_silent"],
    ),
    case("no route", "-x 80-192.0.2.1:8080", &["no_route_to_target"]),
    case(
        "target is not there",
        "-x 80-10.77.0.99:8080",
        &["no_neighbour"],
    ),
    case("filter", "-F src_net_203.0.113.0/24", &["filter_rejects"]),
    case("left out", "--deny 10.77.2.0/24", &["sessions_left_out"]),
    case("direction", "--direction out", &["wrong_direction"]),
    case("other interface", "--iface quiet0", &["other_interface"]),
    case("other port", "-x 81-10.77.0.30:8080", &["other_port"]),
    case("target's port", "-x 80-10.77.0.30:8081", &["port_closed"]),
    case(
        "target's firewall",
        "-x 80-10.77.0.30:8082",
        &["target_silent"],
    ),
    case(
        "answers to production",
        "-c 10.77.7.0/24",
        &["answers_come_here"],
    ),
    case(
        "clients on the target's link",
        "-c 10.77.0.200",
        &["clients_on_targets_link"],
    ),
    case("real client", "-c 10.77.2.1", &["client_resets"]),
];

/// Answers that do not come back: what tcpcopy's doctor can know, and what the one on the target says meanwhile.
const AT_TARGET: &[Case] = &[
    case(
        "no route on the target",
        "10.77.3.0/24",
        &["no_route_to_clients"],
    ),
    case("rp_filter", "10.77.4.0/24", &["rp_filter"]),
    case("firewall on the target", "10.77.5.0/24", &["target_drops"]),
    case(
        "switch against forged sources",
        "10.77.6.0/24",
        &["requests_lost"],
    ),
];

/// On the assistant, beside an intercept that runs.
const BESIDE: &[Case] = &[
    case("all is well", "", &[]),
    case("unknown interface", "--iface eth7", &["unknown_interface"]),
    case(
        "filter takes the channel",
        "-F tcp",
        &["filter_takes_channel"],
    ),
];

/// On the assistant alone, while production's doctor sends.
const ALONE: &[Case] = &[
    case("filter", "-F tcp_and_src_port_9999", &["filter_rejects"]),
    case("other interface", "--iface other0", &["other_interface"]),
];

#[test]
fn each_cause_is_named() {
    require_root();
    let scene = Scene::up();
    let lab = &scene.lab;
    let mut failures = Vec::new();
    let mut check = |what: &str, case: &Case, said: &Said| {
        if said.causes != case.causes
            || said.code != Some(if case.causes.is_empty() { 0 } else { FOUND })
        {
            failures.push(format!(
                "{what}, {}: expected {:?}: {said:?}",
                case.name, case.causes
            ));
        }
    };

    let mut intercept = Intercept::default().start(lab, &scene.programs).unwrap();
    let said = together(TCPCOPY, |case, at| {
        // A client of its own for each, so that their probes keep apart.
        let client = format!("10.77.1.{}", at + 1);
        scene.tcpcopy_as(&client, case.args).hear()
    });
    for (case, said) in TCPCOPY.iter().zip(&said) {
        check("tcpcopy-user", case, said);
    }
    // Alone: another's AF_XDP socket would leave raw sockets, which know no MAC addresses.
    let mac = case(
        "wrong MAC",
        "--target-mac 10.77.0.30=02:00:00:00:00:99",
        &["wrong_mac"],
    );
    check("tcpcopy-user", &mac, &scene.tcpcopy(mac.args).hear());
    let powerless = case("no privileges", "", &["missing_privilege"]);
    check("tcpcopy-user", &powerless, &scene.powerless().hear());
    scene.pause.store(true, Ordering::Relaxed);
    let nothing = case("nothing", "--iface quiet0", &["nothing_arrives"]);
    check(
        "tcpcopy-user",
        &nothing,
        &scene.tcpcopy(nothing.args).hear(),
    );
    scene.pause.store(false, Ordering::Relaxed);
    let said = together(AT_TARGET, |case, _| {
        let target = scene.at_target(case.args);
        let tcpcopy = scene.tcpcopy_as(case.args, "").hear();
        (target.hear(), tcpcopy)
    });
    for (case, (target, tcpcopy)) in AT_TARGET.iter().zip(&said) {
        check("on the target", case, target);
        let lost = Case {
            causes: &["answers_lost"],
            ..*case
        };
        check("tcpcopy-user", &lost, tcpcopy);
    }
    for case in BESIDE {
        check("intercept-user", case, &scene.intercept(case.args).hear());
    }
    forwarding(lab, true);
    let forwards = case("forwarding", "", &["ip_forward"]);
    check("intercept-user", &forwards, &scene.intercept("").hear());
    forwarding(lab, false);
    stop(&mut intercept).unwrap();

    let assistants: Vec<_> = ALONE
        .iter()
        .map(|case| scene.intercept_for("4s", case.args))
        .collect();
    scene.tcpcopy("").hear();
    for (case, assistant) in ALONE.iter().zip(assistants) {
        check("intercept-user", case, &assistant.hear());
    }
    forwarding(lab, true);
    let forwarded = case("forwarded", "", &["ip_forward", "responses_forwarded"]);
    let assistant = scene.intercept_for("4s", "");
    scene.tcpcopy("-c 10.77.2.1").hear();
    check("intercept-user", &forwarded, &assistant.hear());
    forwarding(lab, false);
    let busy = lab
        .host(Host::Assistant)
        .enter(|| TcpListener::bind(("0.0.0.0", 36_524)));
    let busy = busy.unwrap().unwrap();
    let taken = case("port", "", &["port_in_use", "no_responses"]);
    check("intercept-user", &taken, &scene.intercept("").hear());
    drop(busy);
    scene.foreign_xdp();
    let foreign = case("XDP", "--capture xdp", &["xdp_in_use", "no_responses"]);
    check(
        "intercept-user",
        &foreign,
        &scene.intercept(foreign.args).hear(),
    );

    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// In a run: nothing is captured since the filter is wrong; and nothing is answered since the target has no route.
#[test]
fn a_run_says_by_itself_what_fails() {
    require_root();
    let scene = Scene::up();
    let mut intercept = Intercept::default()
        .start(&scene.lab, &scene.programs)
        .unwrap();
    let start = |name: &str, more: &[&str]| {
        let mut copy = Copy::new(Capture::Tap);
        name.clone_into(&mut copy.name);
        let all = ["--stats-interval", "1s", "--drain", "1s"]
            .iter()
            .chain(more);
        copy.more = all.map(|&word| word.to_owned()).collect();
        let report = scene.lab.file(&format!("{name}.json"));
        (
            copy.start(&scene.lab, &scene.programs, &report).unwrap(),
            report,
        )
    };
    let runs = [
        (
            start("filtered", &["-F", "src net 203.0.113.0/24"]),
            "filter_rejects",
        ),
        (start("unanswered", &["-c", "10.77.3.0/24"]), "answers_lost"),
    ];
    for ((mut process, report), cause) in runs {
        process.wait_for_line("doctor: ", LIMIT).unwrap();
        let lines = process.stderr();
        let said: Vec<&str> = lines.lines().filter(|l| l.contains("doctor: ")).collect();
        assert!(
            said.len() == 1 && said[0].contains(cause),
            "{cause}: {said:?}"
        );
        stop(&mut process).unwrap();
        ExitReport::read(&report).unwrap();
        let json = std::fs::read_to_string(&report).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(causes(&json["doctor"]), [cause]);
    }
    stop(&mut intercept).unwrap();
}

/// What a doctor said.
#[derive(Debug)]
struct Said {
    causes: Vec<String>,
    code: Option<i32>,
    #[expect(dead_code, reason = "shown when a case fails")]
    text: String,
}

/// A doctor at work.
struct Doctor(Process);

impl Doctor {
    fn hear(mut self) -> Said {
        let status = self.0.wait(LIMIT).unwrap();
        let said = self.0.stdout();
        let json: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
        Said {
            causes: causes(&json["findings"]),
            code: status.code(),
            text: format!("{}{}", self.0.stdout(), self.0.stderr()),
        }
    }
}

fn causes(findings: &serde_json::Value) -> Vec<String> {
    let all = findings.as_array().into_iter().flatten();
    all.filter_map(|finding| Some(finding["cause"].as_str()?.to_owned()))
        .collect()
}

struct Scene {
    programs: Programs,
    pause: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    lab: Lab,
}

impl Scene {
    fn up() -> Self {
        let lab = Lab::up(&LabOptions::default()).unwrap();
        for (host, line) in SETUP {
            run(lab.command(*host, "sh").args(["-c", line])).unwrap();
        }
        let rules = "add table bridge f; add chain bridge f passing { type filter hook forward priority 0; }; \
                     add rule bridge f passing ip saddr 10.77.6.0/24 drop";
        run(lab.switch().command("nft").arg(rules)).unwrap();
        let mut scene = Self {
            programs: programs(env!("CARGO_BIN_EXE_lab-tool")),
            pause: Arc::default(),
            ended: Arc::default(),
            threads: Vec::new(),
            lab,
        };
        scene.serve(Host::Production, 80, None);
        scene.serve(Host::Target, 8080, None);
        scene.serve(Host::Target, 8082, None);
        scene.serve(Host::Client, 22, Some(b"SSH-2.0-OpenSSH_9.2p1\r\n"));
        scene.serve(Host::Client, 23, Some(b""));
        scene.serve(Host::Client, 24, None);
        scene.load();
        scene
    }

    /// Listens; with `last` a connection is closed with these words, else it stays for a second.
    fn serve(&mut self, host: Host, port: u16, last: Option<&'static [u8]>) {
        let listener = self
            .lab
            .host(host)
            .enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
        let listener = listener.unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        let ended = Arc::clone(&self.ended);
        self.threads.push(thread::spawn(move || {
            let mut open = std::collections::VecDeque::new();
            while !ended.load(Ordering::Relaxed) {
                while let Ok((mut stream, _)) = listener.accept() {
                    match last {
                        Some(words) => drop(stream.write_all(words)),
                        None => open.push_back(stream),
                    }
                }
                // A hundred rounds are a second.
                if open.len() > 100 {
                    open.pop_front();
                }
                thread::sleep(Duration::from_millis(10));
            }
        }));
    }

    fn load(&mut self) {
        let client = self.lab.host(Host::Client);
        let (pause, ended) = (Arc::clone(&self.pause), Arc::clone(&self.ended));
        let to = SocketAddr::from((Host::Production.address(), 80));
        self.threads.push(thread::spawn(move || {
            let work = || {
                while !ended.load(Ordering::Relaxed) {
                    if !pause.load(Ordering::Relaxed)
                        && let Ok(mut stream) = TcpStream::connect_timeout(&to, LOAD_PAUSE * 50)
                    {
                        let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
                    }
                    thread::sleep(LOAD_PAUSE);
                }
            };
            client.enter(work).unwrap();
        }));
    }

    fn start(&self, host: Host, program: &std::path::Path, args: &[&str]) -> Doctor {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut command = self.lab.command(host, program);
        command.args(args);
        let name = format!("doctor-{}-{number}", host.name());
        Doctor(Process::start(&name, &mut command, self.lab.folder()).unwrap())
    }

    /// The flags of the demo but for those that `args` gives; `_` stands for a blank within one.
    fn tcpcopy(&self, args: &str) -> Doctor {
        self.tcpcopy_as(POOL, args)
    }

    /// The same with other clients.
    fn tcpcopy_as(&self, clients: &str, args: &str) -> Doctor {
        let words = tcpcopy_words(clients, args);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.start(Host::Production, &self.programs.tcpcopy, &words)
    }

    fn powerless(&self) -> Doctor {
        let program = self.programs.tcpcopy.to_string_lossy().into_owned();
        let mut words = ["--bounding-set=-all", "--inh-caps=-all", "--", &program]
            .map(str::to_owned)
            .to_vec();
        words.extend(tcpcopy_words(POOL, ""));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.start(Host::Production, "setpriv".as_ref(), &words)
    }

    fn at_target(&self, clients: &str) -> Doctor {
        let words = [
            "doctor",
            "--json",
            "--window",
            "4s",
            "--iface",
            "eth0",
            "--at-target",
            clients,
        ];
        self.start(Host::Target, &self.programs.intercept, &words)
    }

    fn intercept(&self, args: &str) -> Doctor {
        self.intercept_for("1s", args)
    }

    fn intercept_for(&self, window: &str, args: &str) -> Doctor {
        let defaults = [("--iface", "eth0"), ("-F", "tcp_and_src_port_8080")];
        let words = words(
            &format!("doctor --json --window {window} {args}"),
            &defaults,
        );
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.start(Host::Assistant, &self.programs.intercept, &words)
    }

    fn foreign_xdp(&self) {
        let object = compile_bpf(self.lab.folder(), "foreign", "xdp", "return 2;").unwrap();
        let mut command = self.lab.command(Host::Assistant, "ip");
        command
            .args(["link", "set", "dev", "eth0", "xdp", "obj"])
            .arg(&object)
            .args(["sec", "xdp"]);
        run(&mut command).unwrap();
    }
}

/// Some cases at a time: they mostly wait. The results are in the order of the cases.
fn together<T: Send>(cases: &[Case], work: impl Fn(&Case, usize) -> T + Sync) -> Vec<T> {
    const AT_A_TIME: usize = 4;
    let next = AtomicUsize::new(0);
    let mine = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(at) else {
                return done;
            };
            done.push((at, work(case, at)));
        }
    };
    let mut all: Vec<(usize, T)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(mine)).collect();
        let ends = threads.into_iter().map(|thread| thread.join().unwrap());
        ends.flatten().collect()
    });
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, said)| said).collect()
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn tcpcopy_words(clients: &str, args: &str) -> Vec<String> {
    let defaults = [
        ("--iface", "eth0"),
        ("-x", "80-10.77.0.30:8080"),
        ("-s", "10.77.0.40"),
        ("-c", clients),
    ];
    // Who takes answers by a pool has no intercept, and the pool's addresses.
    let defaults = if args.contains("--pool") {
        &defaults[..2]
    } else {
        &defaults[..]
    };
    words(&format!("doctor --json --window 1s {args}"), defaults)
}

/// The words of `line`, and those of `defaults` whose flags are not in it.
fn words(line: &str, defaults: &[(&str, &str)]) -> Vec<String> {
    let given: Vec<&str> = line.split_whitespace().collect();
    let missing = defaults.iter().filter(|(flag, _)| !given.contains(flag));
    let missing = missing.flat_map(|&(flag, value)| [flag, value]);
    let all = given.iter().copied().chain(missing);
    all.map(|word| word.replace('_', " ")).collect()
}

fn forwarding(lab: &Lab, on: bool) {
    let line = format!("echo {} > /proc/sys/net/ipv4/ip_forward", u8::from(on));
    run(lab.command(Host::Assistant, "sh").args(["-c", &line])).unwrap();
}
