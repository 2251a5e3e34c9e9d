//! The report for people.

use super::Report;
use super::json::{CLOCK_SOURCE, UNDECODABLE, record_losses};
use operator::percentiles::Percentiles;
use std::fmt::Write;

/// Peers that are printed; JSON has all that were kept.
const PEER_LINES: usize = 32;

/// Renders the report as lines of text, each ended by a line break.
pub fn to_text(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    let _ = render(report, &mut out);
    out
}

fn render(report: &Report, out: &mut String) -> std::fmt::Result {
    let Report {
        setting,
        channel,
        packets,
        routes,
        parked,
        records,
        ..
    } = report;
    writeln!(
        out,
        "intercept-user: {} for {:.1} s, {} worker(s), {}",
        setting.iface,
        setting.duration.0 as f64 / 1e9,
        setting.workers,
        match setting.mode {
            "tcx" => "tcx".to_owned(),
            mode => format!("{mode} XDP"),
        },
    )?;
    writeln!(
        out,
        "responses   {} received, {} routed at once, {} early and delivered, {} unrouted",
        packets.received,
        packets.routed,
        parked.delivered,
        report.unrouted(),
    )?;
    let mut losses: Vec<(&str, u64)> = UNDECODABLE
        .into_iter()
        .map(|(name, e)| (name, packets.undecodable[e as usize]))
        .collect();
    losses.push(("hand-over ring full", packets.handover_dropped));
    list(out, "  dropped   ", &losses)?;
    writeln!(
        out,
        "early       {} parked, {} expired, {} displaced, {} refused, {} waiting",
        parked.parked, parked.expired, parked.displaced, parked.refused, report.parked_live,
    )?;
    writeln!(
        out,
        "routes      {} live, {} added, {} replaced, {} expired, {} with their connection, {} evicted",
        report.routes_live,
        routes.added,
        routes.replaced,
        routes.expired,
        routes.closed,
        routes.evicted,
    )?;
    let outputs = &records.outputs;
    writeln!(
        out,
        "records     {} sent in {} frames",
        outputs.sent, outputs.frames
    )?;
    list(out, "  dropped   ", &record_losses(report))?;
    writeln!(
        out,
        "channel     {} connections, {} said hello, {} no hello, {} silent, {} over the limit, {} unknown records",
        channel.accepted,
        channel.greeted,
        channel.not_hello,
        channel.hello_timeouts,
        channel.refused_full,
        channel.unknown,
    )?;
    let refused = [
        ("refused because of a key", channel.key_refused),
        ("refused with the C format", channel.not_native),
        ("displaced before a hello", channel.displaced),
        ("peers stopped to ping", channel.silent),
    ];
    list(out, "            ", &refused)?;
    for (peer, totals) in report.peers.iter().take(PEER_LINES) {
        let name = peer.map_or_else(|| "others".to_owned(), |p| p.to_string());
        writeln!(
            out,
            "  {name:<22} {} sent, {} dropped (slow), {} dropped (closed), lag at most {:.1} ms",
            totals.sent,
            totals.dropped_full,
            totals.dropped_closed,
            totals.lag_max_ns as f64 / 1e6,
        )?;
    }
    if report.peers.len() > PEER_LINES {
        writeln!(
            out,
            "  and {} more (--report has them)",
            report.peers.len() - PEER_LINES
        )?;
    }
    let t = Percentiles::of(&report.turnaround);
    writeln!(
        out,
        "turnaround  us: p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1}  ({} records)",
        t.p50, t.p90, t.p99, t.p99_9, t.max, t.count,
    )?;
    writeln!(
        out,
        "  clock     {CLOCK_SOURCE}, resolution {} ns",
        setting.clock_resolution.0
    )?;
    let figures = |map: &std::collections::BTreeMap<&'static str, u64>| {
        map.iter()
            .map(|(&name, &value)| (name, value))
            .collect::<Vec<_>>()
    };
    list(out, "kernel      ", &figures(&report.kernel))?;
    list(out, "capture     ", &figures(&report.capture))?;
    let (lost_packets, lost_records) = report.unaccounted();
    if (lost_packets, lost_records) != (0, 0) {
        writeln!(
            out,
            "unaccounted {lost_packets} packets, {lost_records} records"
        )?;
    }
    Ok(())
}

/// A line of figures that are not zero; no line if all are.
fn list(out: &mut String, head: &str, figures: &[(&str, u64)]) -> std::fmt::Result {
    let parts: Vec<String> = figures
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(name, n)| format!("{n} {name}"))
        .collect();
    if parts.is_empty() {
        Ok(())
    } else {
        writeln!(out, "{head}{}", parts.join(", "))
    }
}
