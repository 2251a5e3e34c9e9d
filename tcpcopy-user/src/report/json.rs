//! The report for programs. Fields are only ever added; `version` changes if one changes its meaning.

use super::Report;
use super::udp::Udp;
use crate::worker::Latency;
use common::packet::TunnelKind;
use doctor::Finding;
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
    targets: Vec<Target>,
    packets: Packets,
    #[serde(skip_serializing_if = "Option::is_none")]
    udp: Option<Udp>,
    latency_us: BTreeMap<&'static str, Percentiles>,
    clock: Clock,
    counters: BTreeMap<&'static str, BTreeMap<&'static str, u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read: Option<Read>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write: Option<Write>,
    mirror_streams: Vec<Stream>,
    doctor: &'a [Finding],
}

#[derive(Serialize)]
struct Read {
    files: Vec<ReadFile>,
    rounds: u32,
    packets: u64,
    requests: u64,
}

#[derive(Serialize)]
struct ReadFile {
    path: String,
    packets: u64,
    /// Read to its end, without damage.
    complete: bool,
    damage: Option<Damaged>,
}

#[derive(Serialize)]
struct Damaged {
    offset: u64,
    /// The offset counts bytes of what the file unpacks to.
    unpacked: bool,
    found: String,
}

#[derive(Serialize)]
struct Write {
    path: String,
    files: u32,
    packets: u64,
    lost: u64,
    error: Option<String>,
}

fn read(report: &Report) -> Option<Read> {
    let read = report.read.as_ref()?;
    let files = read.files.iter().map(|file| ReadFile {
        path: file.path.clone(),
        packets: file.packets,
        complete: file.read && file.damage.is_none(),
        damage: file.damage.as_ref().map(|damage| Damaged {
            offset: damage.offset,
            unpacked: damage.unpacked,
            found: damage.found.clone(),
        }),
    });
    Some(Read {
        files: files.collect(),
        rounds: read.rounds,
        packets: read.packets,
        requests: read.requests,
    })
}

fn write(report: &Report) -> Option<Write> {
    report.written.as_ref().map(|w| Write {
        path: w.path.display().to_string(),
        files: w.files,
        packets: w.packets,
        lost: w.lost,
        error: w.error.clone(),
    })
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
struct Target {
    address: String,
    sessions: u64,
    by_outcome: BTreeMap<&'static str, u64>,
    bytes_delivered: u64,
    bytes_undelivered: u64,
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
        targets: t
            .by_target
            .iter()
            .map(|(target, t)| Target {
                address: target.to_string(),
                sessions: t.sessions,
                by_outcome: Outcome::ALL
                    .iter()
                    .map(|o| (o.name(), t.outcome(*o)))
                    .filter(|(_, n)| *n > 0)
                    .collect(),
                bytes_delivered: t.bytes_delivered,
                bytes_undelivered: t.bytes_undelivered,
            })
            .collect(),
        packets: Packets {
            captured: report.intake.frames,
            transmitted: report.sent.sent,
            retransmitted: t.segments_retransmitted,
            responses: t.responses,
            dropped: report.dropped(),
        },
        udp: report.udp.as_ref().map(Udp::new),
        latency_us: Latency::ALL
            .iter()
            .map(|what| (what.name(), Percentiles::of(report.latencies.get(*what))))
            .collect(),
        clock: Clock {
            source: "CLOCK_MONOTONIC",
            resolution_ns: s.clock_resolution.0,
        },
        counters,
        read: read(report),
        write: write(report),
        doctor: &report.doctor,
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
