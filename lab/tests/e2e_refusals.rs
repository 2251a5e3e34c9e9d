//! What the programs refuse: for each cause one clear line that names it, and an exit code that is not 0.

use std::{net::TcpListener, process::Command, time::Duration};

use lab::{
    Host, Lab, LabOptions, Process,
    replay::{Capture, Copy, Intercept, Programs},
    testing::{compile_bpf, programs, require_root},
    world::run,
};

/// Refusals are immediate but for the unreachable: neighbour discovery gives up after 3 s, a connect after 10.
const LIMIT: Duration = Duration::from_secs(30);
const USAGE: i32 = 2;
const FAILED: i32 = 1;

struct World {
    lab: Lab,
    programs: Programs,
}

impl World {
    fn up() -> Self {
        require_root();
        let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
        Self {
            lab: Lab::up(&LabOptions::default()).unwrap(),
            programs,
        }
    }

    fn tcpcopy(&self, change: impl FnOnce(&mut Copy)) -> Command {
        let mut copy = Copy::new(Capture::Tap);
        change(&mut copy);
        copy.command(&self.lab, &self.programs, &self.lab.file("report.json"))
    }

    fn intercept(&self, change: impl FnOnce(&mut Intercept)) -> Command {
        let mut intercept = Intercept::default();
        change(&mut intercept);
        intercept.command(&self.lab, &self.programs)
    }

    /// Runs `command` to its end: it must fail with `code` and one line that contains all `words`.
    fn refused(&self, mut command: Command, code: i32, words: &[&str]) {
        let mut process = Process::start("refused", &mut command, self.lab.folder()).unwrap();
        let status = process.wait(LIMIT).unwrap();
        let said = process.stderr();
        let is_error = |line: &&str| {
            ["tcpcopy-user: ", "intercept-user: ", "error: "]
                .iter()
                .any(|prefix| line.starts_with(prefix))
        };
        let lines: Vec<&str> = said.lines().filter(is_error).collect();
        assert_eq!(status.code(), Some(code), "{command:?}: {said}");
        assert_eq!(lines.len(), 1, "one line for {command:?}: {said}");
        for word in words {
            assert!(
                lines[0].contains(word),
                "{word:?} is missing in {:?}",
                lines[0]
            );
        }
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn bad_flags() {
    let world = World::up();
    let tcpcopy = |more: &[&str]| world.tcpcopy(|copy| copy.more = words(more));
    world.refused(tcpcopy(&["--no-such-flag"]), USAGE, &["--no-such-flag"]);
    world.refused(tcpcopy(&["--drain", "soon"]), USAGE, &["drain", "soon"]);
    world.refused(tcpcopy(&["-M", "nine"]), USAGE, &["nine"]);
    for transfer in [
        "80",
        "80-",
        "80-10.77.0.30",
        "99999-10.77.0.30:8080",
        "80-10.77.0.300:8080",
        "80-10.77.0.30:0",
    ] {
        let command = world.tcpcopy(|copy| transfer.clone_into(&mut copy.transfer));
        world.refused(command, USAGE, &["-x"]);
    }
    for cores in ["", "x", "3-1", "4096"] {
        let mut command = world.tcpcopy(|copy| cores.clone_into(&mut copy.cores));
        let code = if cores == "4096" {
            run_code(&mut command)
        } else {
            USAGE
        };
        world.refused(command, code, &["cores"]);
    }

    let intercept = |more: &[&str]| world.intercept(|intercept| intercept.more = words(more));
    world.refused(intercept(&["--no-such-flag"]), USAGE, &["--no-such-flag"]);
    world.refused(intercept(&["-p", "0"]), USAGE, &["0"]);
    world.refused(intercept(&["-b", "somewhere"]), USAGE, &["somewhere"]);
}

#[test]
fn bad_filters() {
    let world = World::up();
    let tcpcopy = |more: &[&str]| world.tcpcopy(|copy| copy.more = words(more));
    let intercept = |more: &[&str]| {
        world.intercept(|intercept| {
            intercept.filter = None;
            intercept.more = words(more);
        })
    };
    for (filter, reason) in [
        ("tcp prot 80", "syntax error"),
        ("tcp and src port", "syntax error"),
        ("tcp and src port 99999", "99999"),
        ("net 10.0.0.1/8", "non-network bits"),
        ("tcp and udp", "rejects all packets"),
        ("inbound", "not in the packet"),
        ("ip6 protochain 6", "loop"),
        ("", "empty"),
    ] {
        let said = ["-F", filter, reason];
        world.refused(tcpcopy(&["-F", filter]), USAGE, &said);
        world.refused(intercept(&["--filter", filter]), USAGE, &said);
    }
    let file = world.lab.file("filter");
    let path = file.display().to_string();
    let from_file = ["--filter-file", &path];
    let missing = ["--filter-file", &path, "No such file"];
    world.refused(tcpcopy(&from_file), USAGE, &missing);
    world.refused(intercept(&from_file), USAGE, &missing);
    std::fs::write(&file, "# the office\ntcp prot 80\n").unwrap();
    let wrong = ["--filter-file", &path, "'tcp prot 80'", "syntax error"];
    world.refused(tcpcopy(&from_file), USAGE, &wrong);
    world.refused(intercept(&from_file), USAGE, &wrong);
    let both = ["-F", "tcp", "--filter-file", &path];
    for command in [tcpcopy(&both), intercept(&both)] {
        world.refused(command, USAGE, &["--filter", "--filter-file"]);
    }
    // It would take the connections of tcpcopy itself, and the operator's.
    let words = ["'tcp'", "10.77.0.40", "36524", "src port"];
    world.refused(intercept(&["-F", "tcp"]), FAILED, &words);
}

/// A core that this machine does not have can be found while parsing or after it; either code is right.
fn run_code(command: &mut Command) -> i32 {
    let status = command.output().unwrap().status.code();
    assert!(matches!(status, Some(USAGE | FAILED)), "{status:?}");
    status.unwrap_or(FAILED)
}

#[test]
fn missing_privileges() {
    let world = World::up();
    // Root without capabilities: `ip netns exec` needs them, so they are dropped inside.
    let powerless = |host: Host, program: &Command, at: usize| {
        let mut command = world.lab.command(host, "setpriv");
        command.args(["--bounding-set=-all", "--inh-caps=-all", "--"]);
        // ip netns exec <name> <program> <arguments…>
        command.args(program.get_args().skip(at));
        command
    };
    let tcpcopy = powerless(Host::Production, &world.tcpcopy(|_| ()), 3);
    world.refused(tcpcopy, FAILED, &["CAP_"]);
    let intercept = powerless(Host::Assistant, &world.intercept(|_| ()), 3);
    world.refused(intercept, FAILED, &["CAP_"]);
}

#[test]
fn unknown_interface() {
    let world = World::up();
    let command = world.tcpcopy(|copy| "eth7".clone_into(&mut copy.interface));
    world.refused(command, FAILED, &["eth7", "eth0"]);
    let mut command = world
        .lab
        .command(Host::Assistant, &world.programs.intercept);
    command.args([
        "--iface",
        "eth7",
        "--cores",
        "0",
        "-F",
        "tcp and src port 8080",
    ]);
    world.refused(command, FAILED, &["eth7", "eth0"]);
}

#[test]
fn interface_without_ethernet_frames() {
    let world = World::up();
    run(world
        .lab
        .command(Host::Production, "ip")
        .args(["tuntap", "add", "dev", "tun7", "mode", "tun"]))
    .unwrap();
    let command = world.tcpcopy(|copy| "tun7".clone_into(&mut copy.interface));
    world.refused(command, FAILED, &["tun7", "without Ethernet headers"]);
}

#[test]
fn foreign_xdp_program() {
    let world = World::up();
    let object = compile_bpf(world.lab.folder(), "foreign", "xdp", "return 2;").unwrap();
    let attach = |host: Host, interface: &str| {
        let mut command = world.lab.command(host, "ip");
        command
            .args(["link", "set", "dev", interface, "xdp", "obj"])
            .arg(&object)
            .args(["sec", "xdp"]);
        run(&mut command).unwrap();
    };
    let shown = |host: Host, interface: &str| {
        let output = run(world
            .lab
            .command(host, "ip")
            .args(["link", "show", "dev", interface]))
        .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    attach(Host::Assistant, "eth0");
    attach(Host::Capture, "mir0");
    // By itself intercept takes responses by tcx then (e2e_black_hole.rs).
    let by_xdp = |intercept: &mut Intercept| {
        let capture = ["--capture", "xdp"].map(str::to_owned);
        intercept.more.extend(capture);
    };
    world.refused(world.intercept(by_xdp), FAILED, &["eth0", "XDP"]);
    let channel = world
        .lab
        .host(Host::Assistant)
        .enter(|| TcpListener::bind((Host::Assistant.address(), 36_524)));
    let _channel = channel.unwrap().unwrap();
    let mirror = Copy::new(Capture::Mirror).command(
        &world.lab,
        &world.programs,
        &world.lab.file("report.json"),
    );
    world.refused(mirror, FAILED, &["mir0", "XDP"]);
    assert!(
        shown(Host::Assistant, "eth0").contains("xdp"),
        "it is still there"
    );
    assert!(
        shown(Host::Capture, "mir0").contains("xdp"),
        "it is still there"
    );
}

#[test]
fn busy_port() {
    let world = World::up();
    let busy = world
        .lab
        .host(Host::Assistant)
        .enter(|| TcpListener::bind(("0.0.0.0", 36_524)))
        .unwrap();
    let _busy = busy.unwrap();
    world.refused(world.intercept(|_| ()), FAILED, &["36524"]);
}

#[test]
fn unreachable_intercept() {
    let world = World::up();
    // Nobody listens there; nobody has that address.
    for address in ["10.77.0.40", "10.77.0.99"] {
        let command = world.tcpcopy(|copy| address.clone_into(&mut copy.intercept));
        world.refused(command, FAILED, &[address]);
    }
}

#[test]
fn loops_and_production_as_target() {
    let world = World::up();
    let cases = [
        // The second transfer takes every packet to port 8080, thus the first one's copies.
        (
            "80-10.77.0.30:8080,8080-10.77.0.40:9090",
            &["10.77.0.30:8080"][..],
        ),
        ("10.77.0.20:80-10.77.0.20:80", &["10.77.0.20:80"][..]),
        ("10.77.0.20:80-10.77.0.20:8080", &["10.77.0.20:8080"][..]),
        ("80-10.77.0.20:8080", &["10.77.0.20:8080"][..]),
    ];
    for (transfer, words) in cases {
        let command = world.tcpcopy(|copy| transfer.clone_into(&mut copy.transfer));
        world.refused(command, FAILED, words);
    }
}

#[test]
fn mirror_on_an_interface_that_may_carry_the_hosts_own_traffic() {
    let world = World::up();
    let command = world.tcpcopy(|copy| {
        copy.capture = Capture::Mirror;
        copy.host = Host::Capture;
        "eth0".clone_into(&mut copy.interface);
    });
    world.refused(command, FAILED, &["eth0", "mirror", "--force"]);
    // Without --force, a cable into another namespace is taken for a container's own interface.
    let mut copy = Copy::new(Capture::Mirror);
    copy.more.clear();
    let command = copy.command(&world.lab, &world.programs, &world.lab.file("report.json"));
    world.refused(command, FAILED, &["mir0", "mirror", "--force"]);
}

#[test]
fn unreachable_target() {
    let world = World::up();
    let channel = world
        .lab
        .host(Host::Assistant)
        .enter(|| TcpListener::bind((Host::Assistant.address(), 36_524)));
    let _channel = channel.unwrap().unwrap();
    // An address of nobody on the link, and one to which no route leads.
    for target in ["10.77.0.99", "192.0.2.1"] {
        let command = world.tcpcopy(|copy| copy.transfer = format!("80-{target}:8080"));
        world.refused(command, FAILED, &[target]);
    }
}

#[test]
fn pools_that_somebody_has() {
    let world = World::up();
    let pool = |pool: &str, transfer: &str| {
        world.tcpcopy(|copy| {
            copy.pool = Some(pool.to_owned());
            transfer.clone_into(&mut copy.transfer);
        })
    };
    let usual = "80-10.77.0.30:8080";
    let mut both = pool("10.77.0.128/25", usual);
    both.args(["-s", "10.77.0.40"]);
    world.refused(both, USAGE, &["--pool", "-s"]);
    for (range, transfer, said) in [
        (
            "10.77.0.16/28",
            usual,
            &["10.77.0.20", "address of this host"][..],
        ),
        ("10.77.0.30,10.77.0.200", usual, &["10.77.0.30", "target"]),
        (
            "10.77.0.200",
            "10.77.0.200:80-10.77.0.30:8080",
            &["10.77.0.200", "online"],
        ),
        ("2001:db8::/120", usual, &["families"]),
        (
            "self:60000-65535",
            usual,
            &["60000", "ip_local_port_range", "ip_local_reserved_ports"],
        ),
    ] {
        world.refused(pool(range, transfer), FAILED, said);
    }
    // The assistant's, which answers ARP, and says by which MAC.
    let link = run(world
        .lab
        .command(Host::Assistant, "cat")
        .arg("/sys/class/net/eth0/address"));
    let mac = String::from_utf8(link.unwrap().stdout).unwrap();
    let said = ["10.77.0.40", "in use", "eth0", mac.trim()];
    world.refused(pool("10.77.0.40-10.77.0.47", usual), FAILED, &said);
    let production = world.lab.host(Host::Production);
    let listener = production.enter(|| TcpListener::bind(("0.0.0.0", 62_000)));
    let _listener = listener.unwrap().unwrap();
    let pid = format!("pid {}", std::process::id());
    world.refused(
        pool("self:61000-65535", usual),
        FAILED,
        &["62000", "in use", &pid],
    );
    // Two on one host.
    let mut first = Copy::new(Capture::Tap);
    first.pool = Some("10.77.0.128/26".to_owned());
    let report = world.lab.file("first.json");
    let _first = first.start(&world.lab, &world.programs, &report).unwrap();
    world.refused(
        pool("10.77.0.160/27", usual),
        FAILED,
        &["overlaps", "tcpcopy-user", "pid"],
    );
    // On another host the one that was first answers for its addresses.
    let elsewhere = world.tcpcopy(|copy| {
        copy.host = Host::Capture;
        copy.pool = Some("10.77.0.160/27".to_owned());
    });
    world.refused(elsewhere, FAILED, &["10.77.0.161", "in use", "eth0"]);
}

fn words(more: &[&str]) -> Vec<String> {
    more.iter().map(|&word| word.to_owned()).collect()
}
