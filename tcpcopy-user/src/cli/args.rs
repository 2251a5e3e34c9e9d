//! The flags as they are typed. Letters that the C program has keep their meaning.

use clap::{ArgAction, Parser, ValueEnum};
use operator::log::{LogFormat, LogLevel};
use std::path::PathBuf;

/// Replay live TCP sessions of production against a target.
///
/// Requests that clients send to production are copied, rewritten and sent to the target; the target's
/// answers come back to this program itself (--pool), or go to intercept, which reports their headers back (-s).
#[derive(Clone, Debug, Parser)]
#[command(
    name = "tcpcopy-user",
    version,
    about,
    max_term_width = 100,
    after_help = "`tcpcopy-user doctor` with the same flags finds out why nothing arrives."
)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of its own on the command line"
)]
pub struct Args {
    /// What is replayed where: comma list of PORT-TARGET:PORT or ADDRESS:PORT-TARGET:PORT. Without an address any
    /// address matches. IPv6 addresses stand in brackets. A source that is given several times has several
    /// targets, and every session goes to each of them. An item that begins with udp: replays datagrams,
    /// such as udp:53-10.0.0.30:5353
    #[arg(short = 'x', long = "transfer", value_name = "LIST", required = true)]
    pub transfers: Vec<String>,

    /// Replay only clients whose packets pass this pcap filter too, such as 'src net 10.0.0.0/8'
    /// (pcap-filter(7))
    #[arg(short = 'F', long, value_name = "EXPR", conflicts_with = "filter_file")]
    pub filter: Option<String>,

    /// The same from a file, with # comments. SIGHUP reads it again
    #[arg(long, value_name = "FILE")]
    pub filter_file: Option<PathBuf>,

    /// Let -F judge the outermost packet of tunnelled traffic (--decap) instead of the one inside
    #[arg(long)]
    pub filter_outer: bool,

    /// Where intercept listens: comma list of ADDRESS or ADDRESS:PORT
    #[arg(
        short = 's',
        long = "intercept",
        value_name = "LIST",
        required_unless_present = "pool"
    )]
    pub intercepts: Vec<String>,

    /// Take the target's answers here, without intercept and without a route on the target: the clients get
    /// addresses of the target's network that no host has, such as 10.0.0.128/25, for which this program
    /// answers ARP and neighbour discovery; or ports of this host itself, such as self:61000-65535, that no
    /// other program uses. Instead of -s and -c
    #[arg(long, value_name = "LIST|self:FIRST-LAST")]
    pub pool: Option<String>,

    /// Interface on which clients' packets arrive
    #[arg(
        short = 'i',
        long,
        value_name = "NAME",
        required_unless_present = "read",
        conflicts_with = "read"
    )]
    pub iface: Option<String>,

    #[command(flatten)]
    #[expect(missing_docs, reason = "its doc comment would replace the program's")]
    pub offline: super::offline::OfflineArgs,

    #[command(flatten)]
    #[expect(missing_docs, reason = "its doc comment would replace the program's")]
    pub record: super::record::RecordArgs,

    /// Port of intercepts given without one
    #[arg(short = 'p', long, value_name = "PORT", default_value = "36524")]
    pub port: String,

    /// Connections to each intercept, of each worker
    #[arg(short = 'C', long, value_name = "N", default_value = "2")]
    pub connections: String,

    /// File with a key (at least 32 bytes, as hex, base64 or raw; mode 600) that intercepts must prove to have, and
    /// this program to them; everything said is encrypted. All need the same. Without it anybody can be either
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// Addresses that stand in for the clients': comma list of addresses and blocks such as
    /// 10.1.0.0/24. The target must route them to the host of intercept
    #[arg(short = 'c', long = "clients", value_name = "LIST")]
    pub clients: Option<String>,

    /// Copies of every session, the original included; further ones get addresses of -c or other ports
    #[arg(short = 'n', long, value_name = "N", default_value = "1")]
    pub replicas: String,

    /// Move clients' ports up by this times 2048, so that several instances that replay the same
    /// clients keep apart
    #[arg(short = 'f', long, value_name = "N", default_value = "0")]
    pub port_shift: String,

    /// Share of the sessions that is replayed, in percent, such as 10 or 0.5
    #[arg(short = 'r', long, value_name = "PERCENT", default_value = "100")]
    pub percent: String,

    /// Begin with 1 % of the sessions and add 1 % each second
    #[arg(short = 'g', long)]
    pub ramp: bool,

    /// Replay only the sessions of shard K of N, K from 0 to N - 1: N instances that see the same stream, one
    /// for each K, replay every session once
    #[arg(long, value_name = "K/N", default_value = "0/1")]
    pub shard: String,

    /// Clients whose sessions are not replayed: comma list of addresses and blocks such as 192.0.2.0/24
    #[arg(long, value_name = "LIST")]
    pub deny: Vec<String>,

    /// The same from a file, separated by blanks, commas or lines, # begins a comment. SIGHUP reads it again
    #[arg(long, value_name = "FILE")]
    pub deny_file: Option<PathBuf>,

    /// Replay only sessions whose beginning was captured; others join at their next request otherwise
    #[arg(short = 'O', long)]
    pub only_whole: bool,

    /// Delay of replayed clients' acknowledgements: measured (as the captured client; none with
    /// --topspeed), none, or a time (a bare number is in milliseconds)
    #[arg(long, value_name = "WHICH", default_value = "measured")]
    pub rtt: String,

    /// Largest segment offered in handshakes that were not captured, in bytes
    #[arg(short = 'D', long, value_name = "BYTES", default_value = "1460")]
    pub mss: String,

    /// How packets are captured
    #[arg(long, value_enum, default_value_t = CaptureKind::Tap, conflicts_with = "read")]
    pub capture: CaptureKind,

    /// Which way captured packets go. `out` is for the host's end of a container's veth or a virtual machine's tap
    /// device, where the requests to it go out
    #[arg(long, value_enum, value_name = "WAY", default_value_t = WayKind::In, conflicts_with = "read")]
    pub direction: WayKind,

    /// Tunnels that packets of a mirror, or of files, come in: auto (any, or none), none, or a comma list of what alone is
    /// taken: plain or `KIND[:PORT][/ID][@SENDER]` of the outermost tunnel, such as
    /// vxlan:8472/100,erspan/7@192.0.2.1. Kinds: vxlan, geneve, gre, erspan, ipip, gtpu, mpls. With a list
    /// without plain the interface may be in use: what the list does not name reaches the host.
    /// Default: auto
    #[arg(long, value_name = "LIST")]
    pub decap: Option<String>,

    /// Let `--capture mirror` take packets away from an interface that looks in use
    #[arg(long, conflicts_with = "read")]
    pub force: bool,

    /// Cores that workers are pinned to, one worker each, such as 0-3,5. Default: one worker that is
    /// not pinned with `tap` and `packet`, one for each receive queue, at most 4, with `mirror`
    #[arg(long, value_name = "LIST")]
    pub cores: Option<String>,

    /// A session whose data the target does not acknowledge for this long is given up
    #[arg(short = 't', long, value_name = "TIME", default_value = "60s")]
    pub response_timeout: String,

    /// A session without any packet for this long is given up. Default: response timeout + 120s
    #[arg(short = 'k', long, value_name = "TIME")]
    pub idle_timeout: Option<String>,

    /// A UDP client that sends nothing for this long gives its address and port on the wire back
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub udp_idle: String,

    /// Longest wait for an answer of the target before a session goes on as captured
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub turn_limit: String,

    /// Send requests as captured, without waiting for the target's answers to those before
    #[arg(short = 'W', long)]
    pub no_turns: bool,

    /// Largest IP packet sent to a target, in bytes. Lowered to the MTU of the way there
    #[arg(short = 'M', long, value_name = "BYTES", default_value = "1500")]
    pub mtu: String,

    /// MAC addresses by hand: comma list of TARGET=MAC, where TARGET is an address of -x and MAC is its own or its
    /// gateway's. Others are found by ARP or neighbour discovery, and followed
    #[arg(long = "target-mac", value_name = "LIST")]
    pub target_macs: Vec<String>,

    /// Most memory to use, in MiB; beyond it whole new sessions are left out. Default: 2048, but at
    /// most a tenth of the machine's memory or of the cgroup's limit
    #[arg(short = 'm', long, value_name = "MIB")]
    pub memory: Option<String>,

    /// Start although an intercept or a target cannot be reached, and go on trying
    #[arg(short = 'L', long)]
    pub lonely: bool,

    /// How long open sessions may go on after the end was asked for
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub drain: String,

    /// Stop by itself after this time
    #[arg(long, value_name = "TIME")]
    pub duration: Option<String>,

    /// Write the exit report to this file too, as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// Time between two lines of statistics in the log (level info)
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub stats_interval: String,

    /// Do not look for the reason by itself when nothing is captured or answered: see `tcpcopy-user doctor`
    #[arg(long)]
    pub no_doctor: bool,

    /// Append the log to this file instead of writing it to stderr
    #[arg(short = 'l', long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,

    /// Form of the log
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Least severe level that is logged. From debug on the kernel programs log each packet
    #[arg(long, value_enum, default_value_t = LogLevel::Info)]
    pub log_level: LogLevel,

    /// One level more than --log-level; twice: two more
    #[arg(short = 'v', long, action = ArgAction::Count)]
    pub verbose: u8,
}

/// Ways to capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CaptureKind {
    /// Copy what the host receives; the host still receives it. By tcx, or as `packet` where the kernel has none
    Tap,
    /// The same by packet sockets (AF_PACKET), for kernels before 6.6: packets come some milliseconds later
    Packet,
    /// Take packets away from the interface, which must receive a switch's mirror
    Mirror,
}

/// Ways through an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WayKind {
    /// What arrives at the interface
    In,
    /// What leaves by it
    Out,
    /// Each of them
    Both,
}

impl CaptureKind {
    /// Name in reports, as on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tap => "tap",
            Self::Packet => "packet",
            Self::Mirror => "mirror",
        }
    }
}
