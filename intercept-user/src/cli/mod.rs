//! The command line. C users find their letters; every letter has a long name.

use crate::doctor::Options;
use crate::mapping::{Mapping, Mappings};
use clap::{ArgAction, Parser, ValueEnum};
use common::wire::compat::DEFAULT_PORT;
use dataplane::bpf::Filter;
use dataplane::cores::CoreList;
use doctor::options::{self, Asked};
use operator::duration::parse_positive;
use operator::log::{LogFormat, LogLevel};
use operator::usage::one_line;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

/// Takes the responses of a server under test out of the network and returns their headers to tcpcopy.
///
/// Runs on the host to which the server under test routes the clients' addresses. Responses that match
/// the filter never reach this host's network stack while the program runs. Or, with --on-target, on the
/// server under test itself.
#[derive(Debug, Parser)]
#[command(
    name = "intercept-user",
    version,
    about,
    long_about,
    after_help = "`intercept-user doctor` with the same flags finds out why no responses come."
)]
pub struct Args {
    /// Interface on which the responses arrive; with --on-target that on which they leave
    #[arg(short = 'i', long = "iface", value_name = "NAME")]
    pub iface: String,

    /// How responses are taken
    #[arg(long, value_enum, default_value_t = CaptureKind::Auto)]
    pub capture: CaptureKind,

    /// This host is the server under test: take the responses of replayed sessions out of what it sends on the
    /// interface, and let everything else pass. Needs tcpcopy-user as the peer; no assistant, no route
    #[arg(long, conflicts_with_all = ["capture", "filter", "filter_file"])]
    pub on_target: bool,

    /// Cores for the workers, such as 0 or 0-3,5; one worker per core, by XDP at most one per receive queue.
    /// Without it: one worker, not pinned
    #[arg(long, value_name = "LIST")]
    pub cores: Option<CoreList>,

    /// Which packets are responses: a pcap filter such as 'tcp and src port 8080' (pcap-filter(7)); TCP that
    /// passes it is taken. Without it: that of the targets that connected tcpcopys announce, except to this
    /// host's own addresses
    #[arg(short = 'F', long, value_name = "EXPR", conflicts_with = "filter_file")]
    pub filter: Option<String>,

    /// The same from a file, with # comments. SIGHUP reads it again
    #[arg(long, value_name = "FILE")]
    pub filter_file: Option<PathBuf>,

    /// Compiled from either.
    #[arg(skip)]
    pub selection: Option<Filter>,

    /// A response that carries the address INNER belongs to the session that was announced with OUTER: for
    /// targets and clients behind NAT or in a container's network. Both are addresses, networks of one size, or
    /// ADDRESS:PORT (for targets only); a network may also have one outer address. Several separated by commas,
    /// or the flag several times
    #[arg(
        short = 'D',
        long = "map",
        value_name = "INNER-OUTER",
        value_delimiter = ','
    )]
    pub map: Vec<Mapping>,

    /// Made of them.
    #[arg(skip)]
    pub mappings: Mappings,

    /// Port on which tcpcopy connects
    #[arg(short = 'p', long, value_name = "PORT", default_value_t = DEFAULT_PORT,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,

    /// Address on which tcpcopy connects. Without --key-file, who reaches it reads response headers: keep it private
    #[arg(short = 'b', long, value_name = "ADDR", default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    pub bind: IpAddr,

    /// File with a key (at least 32 bytes, as hex, base64 or raw; mode 600) that tcpcopys must prove to have, and this
    /// program to them; everything said is encrypted. Others, C tcpcopys among them, are refused
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// Do not look for the reason by itself when no responses come: see `intercept-user doctor`
    #[arg(long)]
    pub no_doctor: bool,

    /// Append the log to this file instead of writing it to stderr
    #[arg(short = 'l', long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,

    /// Form of the log
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Least severe level that is logged. From debug on the kernel program logs each response
    #[arg(long, value_enum, default_value_t = LogLevel::Info)]
    pub log_level: LogLevel,

    /// One level more than --log-level; twice: two more
    #[arg(short = 'v', long, action = ArgAction::Count)]
    pub verbose: u8,

    /// Forget a route that no response used for so long
    #[arg(long, value_name = "TIME", default_value = "600s", value_parser = parse_positive)]
    pub route_idle: Duration,

    /// Most routes at a time; beyond it the one that expires first is forgotten. Each takes 100 bytes
    #[arg(long, value_name = "N", default_value_t = 1_048_576,
          value_parser = clap::value_parser!(u32).range(1..=67_108_864))]
    pub max_routes: u32,

    /// Stop by itself after this time
    #[arg(long, value_name = "TIME", value_parser = parse_positive)]
    pub duration: Option<Duration>,

    /// Write the exit report to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// Ways to take responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CaptureKind {
    /// By XDP; by tcx where another XDP program is on the interface, or AF_XDP cannot bind to it
    Auto,
    /// By XDP, into AF_XDP sockets
    Xdp,
    /// By tcx ingress, behind the host's XDP program: costs more for each response
    Tcx,
}

impl Args {
    /// The level asked for by `--log-level` and `-v` together.
    pub fn level(&self) -> LogLevel {
        self.log_level.more(self.verbose)
    }

    fn with_mappings(mut self) -> Result<Self, String> {
        self.mappings = Mappings::new(&self.map).map_err(|e| format!("-D, --map: {e}"))?;
        if self.selection.is_none() && !self.map.iter().all(Mapping::invertible) {
            return Err("-D, --map: a network behind one address does not tell which of its addresses \
                        answers; say which packets are responses with -F, such as -F 'tcp and src port 8080'"
                .to_owned());
        }
        Ok(self)
    }

    fn with_filter(mut self) -> Result<Self, String> {
        self.selection = match (&self.filter, &self.filter_file) {
            (Some(text), _) => {
                Some(Filter::compile(text).map_err(|e| format!("-F, --filter: {e}"))?)
            }
            (None, Some(path)) => {
                Some(Filter::from_file(path).map_err(|e| format!("--filter-file: {e}"))?)
            }
            (None, None) => None,
        };
        Ok(self)
    }
}

/// What parsing came to.
#[derive(Debug)]
pub enum Parsed {
    /// Settings to run with.
    Run(Box<Args>),
    /// The same settings, to be looked at.
    Doctor(Box<Args>, Options),
    /// Text that was asked for (help, version), for stdout.
    Text(String),
}

/// Find out why no responses come: looks at every hop of a run with the same flags.
///
/// Runs beside an intercept-user or without one, while tcpcopy runs. Says which hop fails and what to do. Exit code: 0
/// nothing found, 4 found.
#[derive(Debug, Parser)]
#[command(name = "intercept-user doctor", version)]
struct DoctorArgs {
    #[command(flatten)]
    options: Options,

    #[command(flatten)]
    run: Args,
}

/// Reads a command line, the program's name first. An error is one line.
pub fn parse<I, T>(argv: I) -> Result<Parsed, String>
where
    I: IntoIterator<Item = T>,
    T: Into<std::ffi::OsString> + Clone,
{
    use clap::error::ErrorKind;
    match options::parse::<Args, DoctorArgs>(argv) {
        Ok(Asked::Run(args)) => args
            .with_filter()
            .and_then(Args::with_mappings)
            .map(|args| Parsed::Run(Box::new(args))),
        Ok(Asked::Doctor(asked)) => {
            let args = asked.run.with_filter().and_then(Args::with_mappings);
            args.map(|args| Parsed::Doctor(Box::new(args), asked.options))
        }
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Parsed::Text(e.to_string()))
        }
        Err(e) => Err(one_line(&e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn letters_of_the_c_program() {
        let args = Args::try_parse_from([
            "intercept-user",
            "-i",
            "eth0",
            "-F",
            "tcp and src port 80",
            "-p",
            "1234",
            "-b",
            "::1",
            "-l",
            "log",
            "-vv",
        ])
        .expect("valid");
        assert_eq!((args.port, args.bind.to_string().as_str()), (1234, "::1"));
        assert_eq!(args.filter.as_deref(), Some("tcp and src port 80"));
        assert_eq!(args.level(), LogLevel::Trace);
    }

    #[test]
    fn mappings_are_a_list_and_need_a_filter_if_they_cannot_be_inverted() {
        let read = |more: &[&str]| {
            let mut line = vec!["intercept-user", "-i", "eth0"];
            line.extend(more);
            parse(line)
        };
        let several = [
            "-D",
            "172.17.0.2-10.0.0.5,172.17.1.0/24-10.1.1.0/24",
            "--map",
            "10.9.9.9:1-10.0.0.1:2",
        ];
        let Ok(Parsed::Run(args)) = read(&several) else {
            panic!("valid")
        };
        assert_eq!(args.map.len(), 3);
        let many = ["-D", "172.17.0.0/16-10.0.0.5"];
        let error = read(&many).expect_err("which of them?");
        assert!(error.contains("-F") && !error.contains('\n'), "{error}");
        assert!(read(&[&many[..], &["-F", "tcp and src port 80"]].concat()).is_ok());
    }

    #[test]
    fn what_is_missing_is_named_in_one_line() {
        let error = parse(["intercept-user"]).expect_err("nothing given");
        assert!(error.contains("--iface <NAME>"), "{error}");
        assert!(!error.contains('\n'), "{error}");
        assert!(matches!(
            parse(["intercept-user", "--help"]),
            Ok(Parsed::Text(_))
        ));
    }

    #[test]
    fn defaults() {
        let args = Args::try_parse_from([
            "intercept-user",
            "--iface",
            "eth0",
            "-F",
            "tcp and src port 80",
        ])
        .expect("valid");
        assert_eq!(args.port, 36_524);
        assert_eq!(args.bind, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        assert_eq!(args.route_idle, Duration::from_mins(10));
        assert!(args.cores.is_none() && args.duration.is_none());
        assert_eq!(args.level(), LogLevel::Info);
    }

    #[test]
    fn on_the_target_nothing_else_says_what_is_taken_and_how() {
        let line = ["intercept-user", "-i", "eth0", "--on-target"];
        assert!(Args::try_parse_from(line).expect("valid").on_target);
        for more in [
            ["--capture", "tcx"],
            ["-F", "tcp and src port 80"],
            ["--filter-file", "x"],
        ] {
            let error = parse(line.into_iter().chain(more)).expect_err("both");
            assert!(error.contains("--on-target"), "{error}");
        }
    }

    #[test]
    fn bad_values_are_usage_errors_that_quote_them() {
        for (flag, value) in [
            ("-F", "udp prot 80"),
            ("--filter-file", "/nonexistent/filter"),
            ("-p", "0"),
            ("-D", "172.17.0.2"),
            ("-b", "example.org"),
            ("--route-idle", "0"),
            ("--cores", "x"),
        ] {
            let mut line = vec!["intercept-user", "-i", "eth0", flag, value];
            if !flag.contains(['F', 'f']) {
                line.extend(["-F", "tcp and src port 80"]);
            }
            let error = parse(line).expect_err(value);
            assert!(error.contains(value) && !error.contains('\n'), "{error}");
        }
    }
}
