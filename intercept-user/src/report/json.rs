//! The report for programs. Fields are only ever added; `version` changes if one changes its meaning.

use super::Report;
use crate::channel::OutputTotals;
use common::packet::DecodeError;
use operator::percentiles::Percentiles;
use serde::Serialize;
use std::collections::BTreeMap;

const VERSION: u32 = 1;

#[derive(Serialize)]
struct Json<'a> {
    version: u32,
    program: &'a str,
    program_version: &'a str,
    iface: &'a str,
    mode: &'a str,
    workers: usize,
    duration_s: f64,
    packets: Packets,
    routes: Routes,
    early: Early,
    records: Records,
    peers: Vec<Peer>,
    channel: Channel,
    latency_us: BTreeMap<&'static str, Percentiles>,
    clock: Clock,
    kernel: &'a BTreeMap<&'static str, u64>,
    capture: &'a BTreeMap<&'static str, u64>,
    unaccounted: Unaccounted,
}

#[derive(Serialize)]
struct Packets {
    received: u64,
    routed: u64,
    unrouted: u64,
    undecodable: BTreeMap<&'static str, u64>,
    /// IPv6 that could not be passed on: 0 since the channel carries it.
    not_ipv4: u64,
    mapped: u64,
    split: u64,
    handed_over: u64,
    handover_dropped: u64,
}

#[derive(Serialize)]
struct Routes {
    live: u64,
    added: u64,
    replaced: u64,
    expired: u64,
    closed: u64,
    evicted: u64,
}

#[derive(Serialize)]
struct Early {
    parked: u64,
    delivered: u64,
    expired: u64,
    displaced: u64,
    refused: u64,
    waiting: u64,
}

#[derive(Serialize)]
struct Records {
    sent: u64,
    frames: u64,
    dropped: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct Peer {
    /// Absent in the last element, the sum of those not listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    sent: u64,
    frames: u64,
    dropped_slow: u64,
    dropped_closed: u64,
    /// Longest time from the kernel's capture to the write.
    lag_max_us: f64,
}

#[derive(Serialize)]
struct Channel {
    accepted: u64,
    greeted: u64,
    not_hello: u64,
    not_native: u64,
    hello_timeouts: u64,
    refused_full: u64,
    key_refused: u64,
    displaced: u64,
    silent: u64,
    pings: u64,
    adds: u64,
    dels: u64,
    udp_targets: u64,
    unknown: u64,
}

#[derive(Serialize)]
struct Clock {
    source: &'static str,
    resolution_ns: u64,
}

#[derive(Serialize)]
struct Unaccounted {
    packets: i64,
    records: i64,
}

/// Names of the causes in [`crate::worker::PacketTotals::undecodable`].
pub const UNDECODABLE: [(&str, DecodeError); 6] = [
    ("truncated", DecodeError::Truncated),
    ("not_ip", DecodeError::NotIp),
    ("bad_ip", DecodeError::BadIp),
    ("fragment", DecodeError::Fragment),
    ("not_tcp", DecodeError::NotTcp),
    ("bad_tcp", DecodeError::BadTcp),
];

/// Causes of record losses with their counts, in the order of the way.
pub fn record_losses(report: &Report) -> [(&'static str, u64); 4] {
    let r = &report.records;
    [
        ("between_workers", r.link_dropped),
        ("peer_slow", r.outputs.dropped_full),
        ("peer_closed", r.outputs.dropped_closed),
        ("peer_gone", r.homeless),
    ]
}

/// Where times come from.
pub const CLOCK_SOURCE: &str =
    "CLOCK_MONOTONIC (bpf_ktime_get_ns in the kernel program, clock_gettime at the write)";

/// Renders the report as one JSON object with line breaks.
pub fn to_json(report: &Report) -> serde_json::Result<String> {
    let Report {
        setting,
        channel,
        packets,
        routes,
        parked,
        ..
    } = report;
    let (lost_packets, lost_records) = report.unaccounted();
    let json = Json {
        version: VERSION,
        program: env!("CARGO_PKG_NAME"),
        program_version: env!("CARGO_PKG_VERSION"),
        iface: &setting.iface,
        mode: setting.mode,
        workers: setting.workers,
        duration_s: setting.duration.0 as f64 / 1e9,
        packets: Packets {
            received: packets.received,
            routed: packets.routed,
            unrouted: report.unrouted(),
            undecodable: UNDECODABLE
                .into_iter()
                .map(|(name, e)| (name, packets.undecodable[e as usize]))
                .collect(),
            not_ipv4: 0,
            mapped: packets.mapped,
            split: packets.split,
            handed_over: packets.handed_over,
            handover_dropped: packets.handover_dropped,
        },
        routes: Routes {
            live: report.routes_live,
            added: routes.added,
            replaced: routes.replaced,
            expired: routes.expired,
            closed: routes.closed,
            evicted: routes.evicted,
        },
        early: Early {
            parked: parked.parked,
            delivered: parked.delivered,
            expired: parked.expired,
            displaced: parked.displaced,
            refused: parked.refused,
            waiting: report.parked_live,
        },
        records: Records {
            sent: report.records.outputs.sent,
            frames: report.records.outputs.frames,
            dropped: record_losses(report).into_iter().collect(),
        },
        peers: report
            .peers
            .iter()
            .map(|(address, totals)| peer(*address, totals))
            .collect(),
        channel: Channel {
            accepted: channel.accepted,
            greeted: channel.greeted,
            not_hello: channel.not_hello,
            not_native: channel.not_native,
            hello_timeouts: channel.hello_timeouts,
            refused_full: channel.refused_full,
            key_refused: channel.key_refused,
            displaced: channel.displaced,
            silent: channel.silent,
            pings: channel.pings,
            adds: channel.adds,
            dels: channel.dels,
            udp_targets: channel.udp_targets,
            unknown: channel.unknown,
        },
        latency_us: BTreeMap::from([("turnaround", Percentiles::of(&report.turnaround))]),
        clock: Clock {
            source: CLOCK_SOURCE,
            resolution_ns: setting.clock_resolution.0,
        },
        kernel: &report.kernel,
        capture: &report.capture,
        unaccounted: Unaccounted {
            packets: lost_packets,
            records: lost_records,
        },
    };
    serde_json::to_string_pretty(&json)
}

fn peer(address: Option<std::net::SocketAddr>, totals: &OutputTotals) -> Peer {
    Peer {
        address: address.map(|a| a.to_string()),
        sent: totals.sent,
        frames: totals.frames,
        dropped_slow: totals.dropped_full,
        dropped_closed: totals.dropped_closed,
        lag_max_us: totals.lag_max_ns as f64 / 1e3,
    }
}
