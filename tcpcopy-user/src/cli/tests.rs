use crate::cli::{CaptureKind, Config, Parsed, Speed, Transfer, parse, parse_transfers};
use common::flow::{Nanos, Shard, Share};
use common::packet::{Addr, Endpoint};
use dataplane::bpf::Direction;
use operator::log::LogLevel;
use session::Rtt;
use std::time::Duration;

const MINIMAL: [&str; 6] = ["-i", "eth0", "-x", "80-10.0.0.30:8080", "-s", "10.0.0.40"];

fn at(text: &str) -> Endpoint {
    text.parse::<std::net::SocketAddr>().unwrap().into()
}

fn run(argv: &[&str]) -> Result<Config, String> {
    match parse(std::iter::once(&"tcpcopy-user").chain(argv))? {
        Parsed::Run(config) | Parsed::Doctor(config, _) => Ok(*config),
        Parsed::Text(text) => Err(format!("text: {text}")),
    }
}

#[test]
fn the_doctor_of_a_run_can_be_told_to_stay_away() {
    assert!(run(&MINIMAL).unwrap().doctor);
    let with = [&MINIMAL[..], &["--no-doctor"]].concat();
    assert!(!run(&with).unwrap().doctor);
}

#[test]
fn doctor_takes_the_flags_of_a_run_and_two_of_its_own() {
    let of = |line: &str| parse(line.split(' ').map(str::to_owned));
    let run = "-x 80-10.0.0.30:8080 -s 10.0.0.40 -i eth0";
    let asked = of(&format!("tcpcopy-user doctor {run} --window 2s --json"));
    let Ok(Parsed::Doctor(config, options)) = asked else {
        panic!("not taken as doctor");
    };
    assert_eq!(config.iface, "eth0");
    assert!(options.json && options.window.as_secs() == 2);
    let error = of("tcpcopy-user doctor -x 80 -s 10.0.0.40 -i eth0");
    assert!(error.is_err_and(|e| e.contains("-x")));
    assert!(of(&format!("tcpcopy-user {run} --json")).is_err());
    let Ok(Parsed::Text(help)) = of("tcpcopy-user doctor --help") else {
        panic!("no help");
    };
    assert!(
        help.contains("which hop fails") && help.contains("--transfer"),
        "{help}"
    );
}

/// The minimal command line with one flag more, or one of its flags replaced.
fn with(flag: &str, value: &str) -> Result<Config, String> {
    let mut argv: Vec<&str> = Vec::new();
    for pair in MINIMAL.chunks(2) {
        if pair[0] != flag {
            argv.extend(pair);
        }
    }
    argv.push(flag);
    if !value.is_empty() {
        argv.push(value);
    }
    run(&argv)
}

#[test]
fn defaults() {
    let c = run(&MINIMAL).unwrap();
    assert_eq!(
        c.transfers,
        [Transfer {
            online: Endpoint::new(Addr::ANY, 80),
            target: at("10.0.0.30:8080")
        }]
    );
    assert_eq!(c.intercepts, [at("10.0.0.40:36524")]);
    assert_eq!(
        (c.capture, c.connections, c.mtu),
        (CaptureKind::Tap, 2, 1500)
    );
    assert_eq!(c.response_timeout, Duration::from_mins(1));
    assert_eq!(c.idle_timeout, Duration::from_mins(3));
    assert_eq!(c.drain, Duration::from_secs(5));
    assert_eq!(c.log_level, LogLevel::Info);
    assert!(c.duration.is_none() && c.clients.is_none() && c.cores.is_none());
}

#[test]
fn the_transfer_grammar() {
    let any = |port| Endpoint::new(Addr::ANY, port);
    for (list, want) in [
        ("80-10.0.0.30:8080", vec![(any(80), "10.0.0.30:8080")]),
        (
            "10.0.0.20:80-10.0.0.30:8080",
            vec![(at("10.0.0.20:80"), "10.0.0.30:8080")],
        ),
        (
            "0.0.0.0:80-10.0.0.30:8080",
            vec![(any(80), "10.0.0.30:8080")],
        ),
        ("[::]:80-10.0.0.30:8080", vec![(any(80), "10.0.0.30:8080")]),
        (
            "[2001:db8::1]:80-[2001:db8::2]:80",
            vec![(at("[2001:db8::1]:80"), "[2001:db8::2]:80")],
        ),
        (
            "80-10.0.0.30:8080, 81-10.0.0.31:8081",
            vec![(any(80), "10.0.0.30:8080"), (any(81), "10.0.0.31:8081")],
        ),
        (
            "80-10.0.0.30:8080,80-10.0.0.31:8080",
            vec![(any(80), "10.0.0.30:8080"), (any(80), "10.0.0.31:8080")],
        ),
    ] {
        let want: Vec<_> = want
            .into_iter()
            .map(|(online, t)| Transfer {
                online,
                target: at(t),
            })
            .collect();
        assert_eq!(parse_transfers([list]), Ok(want), "{list}");
    }
}

#[test]
fn every_error_is_one_line_with_culprit_and_expectation() {
    for (flag, value, parts) in [
        ("-x", "", &["a value is required", "--transfer"] as &[&str]),
        (
            "-x",
            "80",
            &[
                "-x, --transfer: '80' has no '-'",
                "expected [address:]port-target:port",
            ],
        ),
        (
            "-x",
            "80-8080",
            &["target '8080' in '80-8080' must have an address and a port"],
        ),
        (
            "-x",
            "80-10.0.0.30",
            &["target '10.0.0.30' in '80-10.0.0.30' must have an address and a port"],
        ),
        (
            "-x",
            "10.0.0.20-10.0.0.30:80",
            &["'10.0.0.20' in '10.0.0.20-10.0.0.30:80' has no port"],
        ),
        (
            "-x",
            "0-10.0.0.30:80",
            &["port '0' out of range, expected 1 to 65535"],
        ),
        ("-x", "80-10.0.0.30:65536", &["port '65536' out of range"]),
        ("-x", "80-10.0.0.256:80", &["'10.0.0.256' is no IP address"]),
        (
            "-x",
            "80-web:80",
            &["'web' is no IP address (host names are not looked up)"],
        ),
        (
            "-x",
            "80-0.0.0.0:80",
            &["target '0.0.0.0:80' in '80-0.0.0.0:80' is no host's address"],
        ),
        ("-x", "80-224.0.0.1:80", &["is no host's address"]),
        (
            "-x",
            "80-2001:db8::1:80",
            &["looks like IPv6 without brackets, write [2001:db8::1:80]"],
        ),
        (
            "-x",
            "80-[2001:db8::1:80",
            &["'[2001:db8::1:80' has no closing bracket"],
        ),
        (
            "-x",
            "80-[10.0.0.1]:80",
            &["'10.0.0.1' in '[10.0.0.1]:80' is no IPv6 address"],
        ),
        ("-x", "80-[::1]80", &["'80' follows the bracket"]),
        (
            "-x",
            "80@00:11:22:33:44:55-10.0.0.30:80",
            &["names a MAC address", "--target-mac"],
        ),
        ("-x", "80-10.0.0.30:80,", &["empty item"]),
        (
            "-x",
            "80-10.0.0.30:80,80-10.0.0.31:80,80-10.0.0.30:80",
            &[
                "'80-10.0.0.30:80' is given twice",
                "expected each source and target once",
            ],
        ),
        (
            "-s",
            "10.0.0.40:0",
            &["-s, --intercept: port '0' out of range"],
        ),
        ("-s", "36524", &["'36524' is only a port"]),
        ("-s", "0.0.0.0", &["'0.0.0.0' is no host's address"]),
        ("-s", "10.0.0.40,10.0.0.40:36524", &["given twice"]),
        ("-s", "", &["a value is required", "--intercept"]),
        (
            "-p",
            "x",
            &["-p, --port: port 'x' out of range, expected 1 to 65535"],
        ),
        ("-C", "0", &["-C, --connections: got '0', expected 1 to 11"]),
        ("-C", "12", &["got '12', expected 1 to 11"]),
        ("-M", "100", &["-M, --mtu: got '100', expected 576 to 1500"]),
        (
            "-c",
            "10.1.0.y",
            &["-c, --clients: '10.1.0.y' is no address"],
        ),
        (
            "-t",
            "soon",
            &["-t, --response-timeout: 'soon' is no time, expected a number with ms, s, m or h"],
        ),
        ("-t", "0", &["'0' is zero, expected more than 0"]),
        ("--udp-idle", "0s", &["--udp-idle: '0s' is zero"]),
        ("--udp-idle", "long", &["--udp-idle: 'long' is no time"]),
        (
            "-x",
            "udp:53",
            &["-x, --transfer: '53' has no '-'", "after udp:"],
        ),
        (
            "-x",
            "udp:53-10.0.0.30:0",
            &["port '0' out of range, expected 1 to 65535"],
        ),
        (
            "-x",
            "udp:53-2001:db8::1:53",
            &["looks like IPv6 without brackets"],
        ),
        (
            "-x",
            "80-10.0.0.30:80,udp:53-10.0.0.30:53,udp:53-10.0.0.31:53",
            &["'udp:53-10.0.0.31:53' is a second target of its source"],
        ),
        ("-x", "sctp:53-10.0.0.30:53", &["'sctp' is no IP address"]),
        ("-k", "5d", &["-k, --idle-timeout: '5d' is no time"]),
        ("--drain", "1d", &["--drain: '1d' is no time"]),
        ("-m", "0", &["-m, --memory: got '0', expected 1 to 1048576"]),
        ("-m", "2G", &["-m, --memory: got '2G'"]),
        ("--duration", "99999999h", &["'99999999h' is too long"]),
        ("--cores", "3-1", &["--cores: ", "'3-1'"]),
        (
            "--capture",
            "pcap",
            &[
                "invalid value 'pcap' for '--capture <CAPTURE>'",
                "tap, packet, mirror",
            ],
        ),
        ("--force", "", &["--force: given with --capture tap"]),
        (
            "--direction",
            "up",
            &[
                "invalid value 'up' for '--direction <WAY>'",
                "in, out, both",
            ],
        ),
        (
            "-F",
            "tcp prot 80",
            &["-F, --filter: filter 'tcp prot 80': ", "syntax error"],
        ),
        (
            "--filter-file",
            "/nonexistent/filter",
            &["--filter-file: cannot read filter file /nonexistent/filter: "],
        ),
        (
            "--log-level",
            "loud",
            &["invalid value 'loud'", "error, warn, info, debug, trace"],
        ),
        ("-n", "0", &["-n, --replicas: got '0', expected 1 to 1023"]),
        (
            "-f",
            "32",
            &["-f, --port-shift: got '32', expected 0 to 31"],
        ),
        (
            "-r",
            "101",
            &["-r, --percent: got '101', expected 0.001 to 100"],
        ),
        ("-r", "0", &["-r, --percent: got '0'"]),
        (
            "--shard",
            "2/2",
            &["--shard: got '2/2', expected K/N such as 0/2"],
        ),
        (
            "--deny",
            "10.0.0.0/33",
            &["--deny: prefix length of '10.0.0.0/33' out of range"],
        ),
        (
            "--deny-file",
            "/no/such/file",
            &["--deny-file: cannot read /no/such/file: No such file"],
        ),
        ("-D", "9", &["-D, --mss: got '9', expected 88 to 1460"]),
        (
            "--rtt",
            "slow",
            &["--rtt: got 'slow', expected measured, none or a time"],
        ),
        (
            "--rtt",
            "11s",
            &["--rtt: '11s' is too long, expected at most 10s"],
        ),
        ("-U", "2", &["unexpected argument '-U'"]),
        ("-i", " ", &["-i, --iface: empty name"]),
    ] {
        let error = with(flag, value).expect_err(&format!("{flag} {value} was accepted"));
        assert!(!error.contains('\n'), "{flag} {value}: {error}");
        assert!(
            error.starts_with(|c: char| c.is_lowercase() || c == '-'),
            "{error}"
        );
        for part in parts {
            assert!(
                error.contains(part),
                "{flag} {value}: '{error}' lacks '{part}'"
            );
        }
    }
    let error = run(&["-x", "80-10.0.0.30:80"]).expect_err("accepted");
    assert!(
        error.contains("--intercept <LIST>") && error.contains("--iface <NAME>"),
        "{error}"
    );
}

#[test]
fn which_sessions() {
    let c = run(&MINIMAL).unwrap();
    assert_eq!((c.share, c.shard, c.deny), (Share::ALL, Shard::WHOLE, None));
    assert_eq!(with("-r", "0.5").unwrap().share, Share::thousandths(500));
    assert_eq!(
        with("--shard", "1/2").unwrap().shard,
        Shard::new(1, 2).unwrap()
    );
    let deny = with("--deny", "192.0.2.0/24,2001:db8::/32")
        .unwrap()
        .deny
        .unwrap();
    assert_eq!(deny.blocks().len(), 2);
    let many: Vec<String> = (1..=65).map(|n| format!("80-10.0.0.{n}:80")).collect();
    assert!(with("-x", &many[..64].join(",")).is_ok());
    let error = with("-x", &many.join(",")).unwrap_err();
    assert!(
        error.contains("'80-10.0.0.65:80' is target number 65"),
        "{error}"
    );
}

#[test]
fn datagrams_beside_sessions() {
    let config = with("-x", "80-10.0.0.30:8080,udp:53-10.0.0.30:5353").unwrap();
    assert_eq!(config.targets(), [at("10.0.0.30:8080")]);
    assert_eq!(config.udp_targets(), [at("10.0.0.30:5353")]);
    assert_eq!(config.all_targets().len(), 2);
    assert_eq!(config.udp_idle, Duration::from_mins(1));
    let only = with("-x", "udp:[2001:db8::1]:53-[2001:db8::2]:53").unwrap();
    assert!(only.transfers.is_empty() && only.targets().is_empty());
    assert_eq!(only.udp_online(), [at("[2001:db8::1]:53")]);
    let other = with("--udp-idle", "5s").unwrap();
    assert_eq!(other.udp_idle, Duration::from_secs(5));
}

#[test]
fn round_trips() {
    assert_eq!(with("--rtt", "measured").unwrap().rtt, Rtt::Measured);
    assert_eq!(with("--rtt", "none").unwrap().rtt, Rtt::None);
    assert_eq!(
        with("--rtt", "20").unwrap().rtt,
        Rtt::Fixed(Nanos::from_millis(20))
    );
    assert_eq!(
        with("--rtt", "2s").unwrap().rtt,
        Rtt::Fixed(Nanos::from_secs(2))
    );
}

#[test]
fn verbose_raises_the_level() {
    assert_eq!(with("-v", "").unwrap().log_level, LogLevel::Debug);
    assert_eq!(with("-vvvv", "").unwrap().log_level, LogLevel::Trace);
}

#[test]
fn help_is_no_error() {
    assert!(
        matches!(parse(["tcpcopy-user", "--help"]), Ok(Parsed::Text(t)) if t.contains("--transfer"))
    );
    assert!(matches!(
        parse(["tcpcopy-user", "--version"]),
        Ok(Parsed::Text(_))
    ));
}

/// A command line that reads `t.pcap`, with more flags.
fn reading(more: &[&str]) -> Result<Config, String> {
    let start = [
        "--read",
        "t.pcap",
        "-x",
        "80-10.0.0.30:8080",
        "-s",
        "10.0.0.40",
    ];
    run(&[&start, more].concat())
}

#[test]
fn files_in_place_of_an_interface() {
    let plain = reading(&[]).unwrap();
    let files = plain.offline.as_ref().unwrap();
    assert_eq!(files.files, [std::path::PathBuf::from("t.pcap")]);
    assert_eq!(files.rounds, 1);
    let speed = |millionths, gap_limit| Speed::Paced {
        millionths,
        gap_limit,
    };
    assert_eq!(files.speed, speed(1_000_000, None));
    assert_eq!(
        (plain.capture_name(), plain.source_name().as_str()),
        ("read", "t.pcap")
    );
    assert_eq!(plain.rtt, Rtt::Measured);
    assert_eq!(run(&MINIMAL).unwrap().offline, None);

    let speed_of = |more: &[&str]| reading(more).unwrap().offline.unwrap().speed;
    assert_eq!(speed_of(&["-a", "2"]), speed(2_000_000, None));
    assert_eq!(speed_of(&["--accelerate", "0.5"]), speed(500_000, None));
    // As in the C program, a bare number is in milliseconds.
    assert_eq!(
        speed_of(&["-I", "300"]),
        speed(1_000_000, Some(Nanos::from_millis(300)))
    );
    assert_eq!(
        speed_of(&["--gap-limit", "2s"]),
        speed(1_000_000, Some(Nanos::from_secs(2)))
    );
    let top = reading(&["--topspeed", "-T", "3"]).unwrap();
    assert_eq!((top.rtt, top.offline.unwrap().rounds), (Rtt::None, 3));
    let two = reading(&["--read", "-"]).unwrap();
    assert_eq!(two.source_name(), "t.pcap,-");
    let fixed = reading(&["--topspeed", "--rtt", "20"]).unwrap();
    assert_eq!(fixed.rtt, Rtt::Fixed(Nanos::from_millis(20)));
}

#[test]
fn a_recording_and_its_files() {
    let of = |more: &[&str]| run(&[&MINIMAL, more].concat()).map(|c| c.record);
    assert_eq!(of(&[]).unwrap(), None);
    let all = [
        "--write",
        "/var/t.pcapng",
        "--write-size",
        "64",
        "--write-time",
        "1h",
    ];
    let record = of(&all).unwrap().unwrap();
    assert_eq!(record.path, std::path::Path::new("/var/t.pcapng"));
    assert_eq!(record.rotation.max_bytes, Some(64 << 20));
    assert_eq!(record.rotation.max_age_ns, Some(3_600_000_000_000));
    for (more, words) in [
        (&["--write-size", "64"][..], "--write"),
        (&["--write-time", "1h"], "--write"),
        (&["--write", "/"], "--write: '/' names no file"),
        (
            &["--write", "t", "--write-size", "0"],
            "--write-size: got '0', expected 1 to",
        ),
        (
            &["--write", "t", "--write-time", "0s"],
            "--write-time: '0s' is zero",
        ),
    ] {
        let error = of(more).unwrap_err();
        assert!(
            error.contains(words) && error.lines().count() == 1,
            "{more:?}: {error}"
        );
    }
}

#[test]
fn a_mirror_has_one_direction() {
    let of = |more: &[&str]| run(&[&MINIMAL[..], more].concat()).map(|config| config.direction);
    assert_eq!(of(&[]), Ok(Direction::In));
    assert_eq!(of(&["--direction", "out"]), Ok(Direction::Out));
    let error = of(&["--direction", "both", "--capture", "mirror"]).unwrap_err();
    assert!(
        error.contains("--direction: given with --capture mirror"),
        "{error}"
    );
}

#[test]
fn what_does_not_go_with_files_is_refused() {
    for (more, words) in [
        (&["-i", "eth0"][..], "cannot be used with"),
        (&["--capture", "tap"], "cannot be used with"),
        (&["--capture", "mirror", "--force"], "cannot be used with"),
        (&["--force"], "cannot be used with"),
        (&["--direction", "out"], "cannot be used with"),
        (
            &["-a", "0"],
            "-a, --accelerate: got '0', expected a number above 0",
        ),
        (&["-a", "fast"], "-a, --accelerate: got 'fast'"),
        (&["-a", "1001"], "-a, --accelerate: got '1001'"),
        (
            &["-I", "0"],
            "-I, --gap-limit: '0' is zero, expected more than 0; --topspeed",
        ),
        (&["-I", "long"], "-I, --gap-limit: 'long' is no time"),
        (&["-T", "0"], "-T, --rounds: got '0', expected 1 to 1000000"),
        (&["-T", "1.5"], "-T, --rounds: got '1.5'"),
        (&["--topspeed", "-a", "2"], "cannot be used with"),
        (&["--topspeed", "-I", "10ms"], "cannot be used with"),
        (&["--read", ""], "a value is required for '--read <FILE>'"),
        (
            &["--read", "-", "-T", "2"],
            "--read: standard input (-) can be read only once",
        ),
        (
            &["--read", "-", "--read", "-"],
            "--read: standard input (-) can be read only once",
        ),
    ] {
        let error = reading(more).unwrap_err();
        assert!(
            error.contains(words) && error.lines().count() == 1,
            "{more:?}: {error}"
        );
    }
    for more in [
        &["-a", "2"][..],
        &["-I", "5"],
        &["-T", "2"],
        &["--topspeed"],
    ] {
        let error = run(&[&MINIMAL, more].concat()).unwrap_err();
        let words = "given without a file to replay, expected --read FILE";
        assert!(error.contains(words), "{more:?}: {error}");
    }
    let neither = run(&["-x", "80-10.0.0.30:8080", "-s", "10.0.0.40"]).unwrap_err();
    assert!(neither.contains("--iface"), "{neither}");
}

#[test]
fn a_pool_stands_for_intercept_and_other_addresses() {
    let base = ["-i", "eth0", "-x", "80-10.0.0.30:8080"];
    let run = |more: &[&str]| run(&[&base[..], more].concat());
    let c = run(&["--pool", "10.0.0.128/25"]).unwrap();
    assert_eq!(c.pool.unwrap().to_string(), "10.0.0.128/25");
    assert!(c.intercepts.is_empty() && c.clients.is_none());
    for (more, text) in [
        (
            &["--pool", "10.0.0.128/25", "-s", "10.0.0.40"][..],
            "together with -s",
        ),
        (
            &["--pool", "10.0.0.128/25", "-c", "10.0.0.1"],
            "together with -c",
        ),
        (&["--pool", "10.0.0.0/33"], "--pool: prefix length"),
        (&["--pool", "self:9-8"], "'self:9-8' is no range of ports"),
        (&[], "--intercept"),
    ] {
        let error = run(more).unwrap_err();
        assert!(
            error.contains(text) && !error.contains('\n'),
            "{more:?}: {error}"
        );
    }
}
