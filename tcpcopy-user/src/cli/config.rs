//! Validated settings.

use super::UsageError;
use super::args::{Args, CaptureKind, WayKind};
use super::decap::parse_decap;
use super::endpoint::{parse_item, parse_port};
use super::offline::{Offline, Speed};
use super::pool::Pool;
use super::record::Recording;
use super::select::{Deny, parse_shard, parse_share};
use super::target_mac::parse_macs;
use super::transfer::Transfer;
use super::udp::parse_both;
use channel_crypto::Key;
use common::abi::DecapConfig;
use common::flow::{Nanos, Shard, Share};
use common::packet::{Addr, Endpoint, MacAddr};
use dataplane::bpf::{Direction, Filter};
use dataplane::cores::CoreList;
use operator::duration::parse_duration;
use operator::log::{LogFormat, LogLevel};
use session::{AddressPool, Rtt};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Most workers: the owner hash spreads over far more, but each has its own rings, sockets and
/// connections, and machines with more cores than this do not exist where this runs.
pub const MAX_WORKERS: usize = 256;
/// Most intercepts, as in the C program.
const MAX_INTERCEPTS: usize = 32;
/// Most connections to one intercept, as in the C program.
const MAX_CONNECTIONS: u8 = 11;
/// Smallest packet size that every IPv4 host must take (RFC 791 section 3.1).
const MIN_MTU_BYTES: u16 = 576;
/// A frame lives in one 2 KiB UMEM frame together with its headroom.
const MAX_MTU_BYTES: u16 = 1500;
/// Copies, as in the C program; ports and addresses run out long before.
const MAX_REPLICAS: u16 = 1023;
/// Steps of 2048 ports within 65536.
const MAX_PORT_SHIFT: u8 = 31;
/// Smallest segment size that Linux works with (TCP_MIN_MSS).
const MIN_MSS_BYTES: u16 = 88;
/// What fits the largest packet.
const MAX_MSS_BYTES: u16 = MAX_MTU_BYTES - 40;
/// Longest emulated round trip; satellite links have 600 ms.
const MAX_RTT: Duration = Duration::from_secs(10);
/// What the C program adds to the response timeout to get the idle timeout.
const IDLE_SURPLUS: Duration = Duration::from_mins(2);

/// Everything that the program was told, checked as far as is possible without looking at the host.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of its own on the command line"
)]
pub struct Config {
    /// Transfer list; empty only if that of UDP is not.
    pub transfers: Vec<Transfer>,
    /// What captured packets must pass in addition.
    pub filter: Option<Filter>,
    /// Where it came from, if it was a file.
    pub filter_file: Option<PathBuf>,
    /// Transfers of UDP.
    pub udp_transfers: Vec<Transfer>,
    /// Intercepts, at most 32; none with `pool` only.
    pub intercepts: Vec<Endpoint>,
    /// Where targets answer to instead.
    pub pool: Option<Pool>,
    /// Capture interface; empty with `offline`.
    pub iface: String,
    /// Files to read instead of capturing.
    pub offline: Option<Offline>,
    /// Where what is captured is written to.
    pub record: Option<Recording>,
    /// Connections per worker and intercept, 1 to 11.
    pub connections: u8,
    /// What intercepts must prove to have.
    pub key: Option<Arc<Key>>,
    /// Addresses that stand in for clients'.
    pub clients: Option<AddressPool>,
    /// Copies of every session, at least 1.
    pub replicas: u16,
    /// Steps of 2048 that clients' ports are moved by.
    pub port_shift: u8,
    /// Share of sessions, not none.
    pub share: Share,
    /// Share grows by 1 % per second.
    pub ramp: bool,
    /// This instance's shard.
    pub shard: Shard,
    /// Clients that are not replayed.
    pub deny: Option<Deny>,
    /// Sessions without captured SYN are skipped.
    pub only_whole: bool,
    /// Emulated part of the clients in round trips.
    pub rtt: Rtt,
    /// MSS of handshakes of our own.
    pub mss: u16,
    /// How to capture.
    pub capture: CaptureKind,
    /// Which way captured packets go.
    pub direction: Direction,
    /// Which tunnels are opened.
    pub decap: DecapConfig,
    /// Capture by mirror although the interface looks in use.
    pub force: bool,
    /// Cores to pin workers to.
    pub cores: Option<CoreList>,
    /// Time for the target to acknowledge.
    pub response_timeout: Duration,
    /// Time without any packet.
    pub idle_timeout: Duration,
    /// Time after which a silent UDP client's flow ends.
    pub udp_idle: Duration,
    /// Longest wait for a turn.
    pub turn_limit: Duration,
    /// No waiting for turns.
    pub no_turns: bool,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// MAC addresses of targets or their gateways, given by hand.
    pub target_macs: Vec<(Addr, MacAddr)>,
    /// Start without intercept, and without a next hop of a target.
    pub lonely: bool,
    /// The doctor looks by itself when nothing is captured or answered.
    pub doctor: bool,
    /// Time for open sessions after the end was asked for.
    pub drain: Duration,
    /// Stop after this time.
    pub duration: Option<Duration>,
    /// Where the JSON report goes.
    pub report: Option<PathBuf>,
    /// Time between statistics lines.
    pub stats_interval: Duration,
    /// Where the log goes; stderr if none.
    pub log_file: Option<PathBuf>,
    /// Memory budget in MiB, if one was given.
    pub memory_mib: Option<usize>,
    /// Form of the log.
    pub log_format: LogFormat,
    /// Level of the log.
    pub log_level: LogLevel,
}

/// A tebibyte: more is a typing error.
const MAX_MEMORY_MIB: usize = 1 << 20;

impl Config {
    /// Checks what was typed.
    pub fn from_args(args: Args) -> Result<Self, UsageError> {
        const X: &str = "-x, --transfer";
        const S: &str = "-s, --intercept";
        let transfers = parse_both(args.transfers.iter().map(String::as_str))
            .map_err(|e| UsageError::new(X, e))?;
        let all: Vec<Transfer> = transfers
            .tcp
            .iter()
            .chain(&transfers.udp)
            .copied()
            .collect();
        let target_macs =
            parse_macs(&args.target_macs, &all).map_err(|e| UsageError::new("--target-mac", e))?;
        let port = parse_port(&args.port).map_err(|e| UsageError::new("-p, --port", e))?;
        let pool = pool(&args)?;
        let intercepts = if pool.is_some() {
            Vec::new()
        } else {
            parse_intercepts(&args.intercepts, port).map_err(|e| UsageError::new(S, e))?
        };
        let offline = Offline::from_args(&args.offline)?;
        let record = Recording::from_args(&args.record)?;
        let iface = args.iface.as_deref().unwrap_or_default().trim().to_owned();
        if iface.is_empty() && offline.is_none() {
            return Err(UsageError::new(
                "-i, --iface",
                "empty name, expected an interface such as eth0",
            ));
        }
        let filter = match (&args.filter, &args.filter_file) {
            (Some(text), _) => {
                Some(Filter::compile(text).map_err(|e| UsageError::new("-F, --filter", e))?)
            }
            (None, Some(path)) => {
                Some(Filter::from_file(path).map_err(|e| UsageError::new("--filter-file", e))?)
            }
            (None, None) => None,
        };
        let decap = decap(args.capture, offline.is_some(), args.decap.as_deref())?;
        let filter = filter_scope(filter, args.filter_outer, &decap)?;
        let clients = match &args.clients {
            None => None,
            Some(list) => Some(
                list.parse::<AddressPool>()
                    .map_err(|e| UsageError::new("-c, --clients", e))?,
            ),
        };
        let cores = match &args.cores {
            None => None,
            Some(list) => Some(
                list.parse::<CoreList>()
                    .map_err(|e| UsageError::new("--cores", e))?,
            ),
        };
        if args.force && args.capture != CaptureKind::Mirror {
            return Err(UsageError::new(
                "--force",
                format_args!(
                    "given with --capture {}, which refuses no interface; expected --capture mirror",
                    args.capture.name()
                ),
            ));
        }
        let direction = match args.direction {
            WayKind::In => Direction::In,
            WayKind::Out => Direction::Out,
            WayKind::Both => Direction::Both,
        };
        if direction != Direction::In && args.capture == CaptureKind::Mirror {
            return Err(UsageError::new(
                "--direction",
                "given with --capture mirror, which takes what arrives; expected --capture tap",
            ));
        }
        let mut rtt = parse_rtt(&args.rtt).map_err(|e| UsageError::new("--rtt", e))?;
        if rtt == Rtt::Measured && offline.as_ref().is_some_and(|o| o.speed == Speed::Top) {
            // Without the pauses of the file there is nothing to measure.
            rtt = Rtt::None;
        }
        let response_timeout = time("-t, --response-timeout", &args.response_timeout)?;
        let idle_timeout = match &args.idle_timeout {
            Some(text) => time("-k, --idle-timeout", text)?,
            None => response_timeout + IDLE_SURPLUS,
        };
        let duration = args
            .duration
            .as_deref()
            .map(|text| time("--duration", text))
            .transpose()?;
        let drain = parse_duration(&args.drain).map_err(|e| UsageError::new("--drain", e))?;
        let key = args
            .key_file
            .map(|path| Key::read(&path).map(Arc::new))
            .transpose()
            .map_err(|e| UsageError::new("--key-file", e))?;
        Ok(Self {
            filter,
            filter_file: args.filter_file,
            transfers: transfers.tcp,
            udp_transfers: transfers.udp,
            intercepts,
            pool,
            iface,
            offline,
            record,
            connections: number("-C, --connections", &args.connections, 1..=MAX_CONNECTIONS)?,
            key,
            clients,
            replicas: number("-n, --replicas", &args.replicas, 1..=MAX_REPLICAS)?,
            port_shift: number("-f, --port-shift", &args.port_shift, 0..=MAX_PORT_SHIFT)?,
            share: parse_share(&args.percent).map_err(|e| UsageError::new("-r, --percent", e))?,
            ramp: args.ramp,
            shard: parse_shard(&args.shard).map_err(|e| UsageError::new("--shard", e))?,
            deny: Deny::new(&args.deny, args.deny_file)?,
            only_whole: args.only_whole,
            rtt,
            mss: number("-D, --mss", &args.mss, MIN_MSS_BYTES..=MAX_MSS_BYTES)?,
            capture: args.capture,
            direction,
            decap,
            force: args.force,
            cores,
            response_timeout,
            idle_timeout,
            udp_idle: time("--udp-idle", &args.udp_idle)?,
            turn_limit: time("--turn-limit", &args.turn_limit)?,
            no_turns: args.no_turns,
            mtu: number("-M, --mtu", &args.mtu, MIN_MTU_BYTES..=MAX_MTU_BYTES)?,
            target_macs,
            memory_mib: args
                .memory
                .as_deref()
                .map(|text| number("-m, --memory", text, 1..=MAX_MEMORY_MIB))
                .transpose()?,
            lonely: args.lonely,
            doctor: !args.no_doctor,
            drain,
            duration,
            report: args.report,
            stats_interval: time("--stats-interval", &args.stats_interval)?,
            log_file: args.log_file,
            log_format: args.log_format,
            log_level: args.log_level.more(args.verbose),
        })
    }

    /// The targets, each once, sorted.
    pub fn targets(&self) -> Vec<Endpoint> {
        targets(&self.transfers)
    }

    /// The targets of UDP, each once, sorted.
    pub fn udp_targets(&self) -> Vec<Endpoint> {
        targets(&self.udp_transfers)
    }

    /// Everything that is ever sent to, each once, sorted.
    pub fn all_targets(&self) -> Vec<Endpoint> {
        let mut all = self.targets();
        all.extend(self.udp_targets());
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The online endpoints of UDP.
    pub fn udp_online(&self) -> Vec<Endpoint> {
        self.udp_transfers.iter().map(|t| t.online).collect()
    }

    /// Name of the capture in reports, as on the command line.
    pub const fn capture_name(&self) -> &'static str {
        match self.offline {
            Some(_) => "read",
            None => self.capture.name(),
        }
    }

    /// What is captured: the interface, or the files.
    pub fn source_name(&self) -> String {
        self.offline
            .as_ref()
            .map_or_else(|| self.iface.clone(), Offline::names)
    }

    /// The online endpoints, each once, sorted.
    pub fn online(&self) -> Vec<Endpoint> {
        let mut online: Vec<Endpoint> = self.transfers.iter().map(|t| t.online).collect();
        online.sort_unstable();
        online.dedup();
        online
    }
}

fn targets(transfers: &[Transfer]) -> Vec<Endpoint> {
    let mut targets: Vec<Endpoint> = transfers.iter().map(|t| t.target).collect();
    targets.sort_unstable();
    targets.dedup();
    targets
}

/// `--pool`, which leaves no part to intercept, and gives the addresses that `-c` would.
fn pool(args: &Args) -> Result<Option<Pool>, UsageError> {
    const FLAG: &str = "--pool";
    let Some(text) = &args.pool else {
        return Ok(None);
    };
    if !args.intercepts.is_empty() {
        return Err(UsageError::new(
            FLAG,
            "given together with -s: with a pool the target answers to this program and no intercept takes part; expected one of both",
        ));
    }
    if args.clients.is_some() {
        return Err(UsageError::new(
            FLAG,
            "given together with -c: clients get the addresses of the pool, no others would be answered here; expected one of both",
        ));
    }
    text.parse()
        .map(Some)
        .map_err(|e: String| UsageError::new(FLAG, e))
}

/// A time that must not be zero.
pub(super) fn time(flag: &'static str, text: &str) -> Result<Duration, UsageError> {
    let time = parse_duration(text).map_err(|e| UsageError::new(flag, e))?;
    if time.is_zero() {
        return Err(UsageError::new(
            flag,
            format_args!("'{text}' is zero, expected more than 0"),
        ));
    }
    Ok(time)
}

fn decap(capture: CaptureKind, files: bool, text: Option<&str>) -> Result<DecapConfig, UsageError> {
    const FLAG: &str = "--decap";
    match (capture, text) {
        (CaptureKind::Tap | CaptureKind::Packet, None) if !files => Ok(DecapConfig::NONE),
        (CaptureKind::Tap | CaptureKind::Packet, Some(_)) if !files => Err(UsageError::new(
            FLAG,
            format_args!(
                "given with --capture {}, which takes what comes in no tunnel; expected --capture mirror \
                 or --read",
                capture.name()
            ),
        )),
        (_, text) => parse_decap(text.unwrap_or("auto")).map_err(|e| UsageError::new(FLAG, e)),
    }
}

/// Filters judge what is in tunnels, where some are opened and the outer packet is not asked for.
fn filter_scope(
    filter: Option<Filter>,
    outer: bool,
    decap: &DecapConfig,
) -> Result<Option<Filter>, UsageError> {
    if outer && (filter.is_none() || !decap.tunnels()) {
        let missing = if filter.is_none() {
            "-F or --filter-file"
        } else {
            "--capture mirror or --read, and --decap with a tunnel"
        };
        return Err(UsageError::new(
            "--filter-outer",
            format!("given without tunnels or a filter; expected {missing}"),
        ));
    }
    Ok(filter.map(|filter| {
        if outer || !decap.tunnels() {
            filter
        } else {
            filter.of_inner_packets()
        }
    }))
}

pub(super) fn number<T>(
    flag: &'static str,
    text: &str,
    range: RangeInclusive<T>,
) -> Result<T, UsageError>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    match text.parse::<T>() {
        Ok(n) if range.contains(&n) => Ok(n),
        _ => Err(UsageError::new(
            flag,
            format_args!(
                "got '{text}', expected {} to {}",
                range.start(),
                range.end()
            ),
        )),
    }
}

fn parse_rtt(text: &str) -> Result<Rtt, String> {
    match text {
        "measured" => return Ok(Rtt::Measured),
        "none" => return Ok(Rtt::None),
        _ => {}
    }
    let bare = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let with_unit = if bare {
        format!("{text}ms")
    } else {
        text.to_owned()
    };
    match parse_duration(&with_unit) {
        Ok(time) if time <= MAX_RTT => Ok(Rtt::Fixed(Nanos(time.as_nanos() as u64))),
        Ok(_) => Err(format!("'{text}' is too long, expected at most 10s")),
        Err(_) => Err(format!(
            "got '{text}', expected measured, none or a time such as 20ms"
        )),
    }
}

fn parse_intercepts(lists: &[String], default_port: u16) -> Result<Vec<Endpoint>, String> {
    const EXPECTED: &str = "expected address[:port] such as 10.0.0.40";
    let mut out = Vec::new();
    for text in lists.iter().flat_map(|l| l.split(',')).map(str::trim) {
        let item = parse_item(text).map_err(|e| format!("{e}, {EXPECTED}"))?;
        let Some(addr) = item.addr else {
            return Err(format!("'{text}' is only a port, {EXPECTED}"));
        };
        if addr.to_ip().is_unspecified() {
            return Err(format!("'{text}' is no host's address, {EXPECTED}"));
        }
        let intercept = Endpoint::new(addr, item.port.unwrap_or(default_port));
        if out.contains(&intercept) {
            return Err(format!(
                "'{text}' is given twice, expected each intercept once"
            ));
        }
        out.push(intercept);
    }
    if out.is_empty() {
        return Err(format!("empty list, {EXPECTED}"));
    }
    if out.len() > MAX_INTERCEPTS {
        return Err(format!(
            "{} intercepts, expected at most {MAX_INTERCEPTS}",
            out.len()
        ));
    }
    Ok(out)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
