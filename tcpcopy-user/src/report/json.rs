//! The report for programs. Fields are only ever added; `version` changes if one changes its meaning.

use super::Report;
use crate::worker::Latency;
use common::packet::TunnelKind;
use operator::percentiles::Percentiles;
use serde::Serialize;
use session::{Outcome, Totals};
use std::collections::BTreeMap;

const VERSION: u32 = 1;

#[derive(Serialize)]
struct Json<'a> {
    version: u32,
    capture: &'a str,
    iface: &'a str,
    workers: usize,
    duration_s: f64,
    sessions: Sessions,
    bytes: Bytes,
    packets: Packets,
    latency_us: BTreeMap<&'static str, Percentiles>,
    clock: Clock,
    counters: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    mirror_streams: Vec<Stream>,
}

/// What sequence numbers told of one sender.
#[derive(Serialize)]
struct Stream {
    kind: &'static str,
    id: u32,
    sender: String,
    receiver: String,
    received: u64,
    lost: u64,
    late: u64,
    repeated: u64,
    restarts: u32,
}

#[derive(Serialize)]
struct Sessions {
    total: u64,
    by_outcome: BTreeMap<&'static str, u64>,
}

#[derive(Serialize)]
struct Bytes {
    captured: u64,
    delivered: u64,
    undelivered: BTreeMap<&'static str, u64>,
    balanced: bool,
}

#[derive(Serialize)]
struct Packets {
    captured: u64,
    transmitted: u64,
    retransmitted: u64,
    responses: u64,
    dropped: BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct Clock {
    source: &'static str,
    resolution_ns: u64,
}

/// Undelivered bytes by cause, zero counts left out.
pub fn undelivered(totals: &Totals) -> BTreeMap<&'static str, u64> {
    Outcome::ALL
        .iter()
        .map(|o| (o.name(), totals.undelivered(*o)))
        .filter(|(_, n)| *n > 0)
        .collect()
}

/// Renders the report as one JSON object with line breaks.
pub fn to_json(report: &Report) -> serde_json::Result<String> {
    let (s, t) = (&report.setting, &report.totals);
    let mut counters: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
    for ((group, name), value) in &report.counters {
        counters.entry(*group).or_default().insert(*name, *value);
    }
    let json = Json {
        version: VERSION,
        capture: s.capture,
        iface: &s.iface,
        workers: s.workers,
        duration_s: s.duration.0 as f64 / 1e9,
        sessions: Sessions {
            total: t.sessions,
            by_outcome: Outcome::ALL
                .iter()
                .map(|o| (o.name(), t.outcome(*o)))
                .filter(|(_, n)| *n > 0)
                .collect(),
        },
        bytes: Bytes {
            captured: t.bytes_captured,
            delivered: t.bytes_delivered,
            undelivered: undelivered(t),
            balanced: t.balanced(),
        },
        packets: Packets {
            captured: report.intake.frames,
            transmitted: report.sent.sent,
            retransmitted: t.segments_retransmitted,
            responses: t.responses,
            dropped: report.dropped(),
        },
        latency_us: Latency::ALL
            .iter()
            .map(|what| (what.name(), Percentiles::of(report.latencies.get(*what))))
            .collect(),
        clock: Clock {
            source: "CLOCK_MONOTONIC",
            resolution_ns: s.clock_resolution.0,
        },
        counters,
        mirror_streams: report
            .streams
            .iter()
            .map(|(key, state)| Stream {
                kind: key.tunnel_kind().map_or("unknown", TunnelKind::name),
                id: key.id,
                sender: key.src.to_string(),
                receiver: key.dst.to_string(),
                received: state.received,
                lost: state.missing,
                late: state.late,
                repeated: state.repeated,
                restarts: state.restarts,
            })
            .collect(),
    };
    serde_json::to_string_pretty(&json)
}
