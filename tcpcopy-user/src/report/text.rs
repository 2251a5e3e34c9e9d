//! The report for people.

use super::Report;
use super::json::undelivered;
use crate::worker::Latency;
use common::packet::TunnelKind;
use operator::percentiles::Percentiles;
use session::{Outcome, Totals};
use std::fmt::Write;

/// Renders the report, ending with a line feed.
pub fn to_text(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = render(report, &mut out);
    out
}

/// Files that were read and written.
fn files(report: &Report, out: &mut String) -> std::fmt::Result {
    if let Some(read) = &report.read {
        for file in &read.files {
            write!(out, "  read {}: {} packets, ", file.path, file.packets)?;
            match (&file.damage, file.read) {
                (Some(damage), _) => writeln!(out, "{damage}")?,
                (None, true) => writeln!(out, "to its end")?,
                (None, false) => writeln!(out, "stopped before its end")?,
            }
        }
        writeln!(
            out,
            "  {} round{}, {} packets, {} of them requests",
            read.rounds,
            if read.rounds == 1 { "" } else { "s" },
            read.packets,
            read.requests
        )?;
    }
    if let Some(written) = &report.written {
        writeln!(
            out,
            "  written {}: {} packets in {} files, {} lost{}",
            written.path.display(),
            written.packets,
            written.files,
            written.lost,
            written
                .error
                .as_ref()
                .map_or_else(String::new, |e| format!(", {e}")),
        )?;
    }
    Ok(())
}

fn render(report: &Report, out: &mut String) -> std::fmt::Result {
    let (s, t) = (&report.setting, &report.totals);
    writeln!(
        out,
        "replay by {} on {}: {:.1} s, {} worker{}",
        s.capture,
        s.iface,
        s.duration.0 as f64 / 1e9,
        s.workers,
        if s.workers == 1 { "" } else { "s" }
    )?;
    files(report, out)?;
    writeln!(out, "\nsessions {:>22}", t.sessions)?;
    for o in Outcome::ALL {
        if t.outcome(o) > 0 {
            writeln!(out, "  {:<20} {:>8}", o.name(), t.outcome(o))?;
        }
    }

    if t.by_target.iter().len() > 1 {
        targets(t, out)?;
    }

    writeln!(out, "\nrequest bytes")?;
    writeln!(out, "  {:<20} {:>14}", "captured", t.bytes_captured)?;
    writeln!(out, "  {:<20} {:>14}", "delivered", t.bytes_delivered)?;
    for (cause, n) in undelivered(t) {
        writeln!(out, "  undelivered, {cause:<20} {n:>14}")?;
    }
    let sum: u64 = t.bytes_undelivered.iter().sum();
    writeln!(
        out,
        "  balance: {} captured {} {} delivered + {} undelivered",
        t.bytes_captured,
        if t.balanced() { "=" } else { "DOES NOT EQUAL" },
        t.bytes_delivered,
        sum
    )?;

    writeln!(out, "\npackets")?;
    writeln!(out, "  {:<20} {:>14}", "captured", report.intake.frames)?;
    writeln!(out, "  {:<20} {:>14}", "transmitted", report.sent.sent)?;
    writeln!(
        out,
        "  {:<20} {:>14}",
        "retransmitted", t.segments_retransmitted
    )?;
    writeln!(out, "  {:<20} {:>14}", "acknowledgements", t.acks_sent)?;
    writeln!(out, "  {:<20} {:>14}", "responses", t.responses)?;
    if let Some(udp) = &report.udp {
        super::udp::render(udp, out)?;
        writeln!(out, "\npackets of all kinds")?;
    }
    let dropped = report.dropped();
    if dropped.is_empty() {
        writeln!(out, "  nothing dropped")?;
    }
    for (cause, n) in dropped {
        writeln!(out, "  dropped, {cause:<24} {n:>14}")?;
    }

    if !report.doctor.is_empty() {
        writeln!(out, "\ndoctor, during the run")?;
    }
    for finding in &report.doctor {
        writeln!(out, "  {}: {finding}", finding.cause)?;
    }

    if !report.streams.is_empty() {
        writeln!(out, "\nmirror streams, by sequence number")?;
    }
    for (key, state) in &report.streams {
        writeln!(
            out,
            "  {} {} {} > {}: {} received, {} lost, {} late, {} repeated, {} restarts",
            key.tunnel_kind().map_or("?", TunnelKind::name),
            key.id,
            key.src,
            key.dst,
            state.received,
            state.missing,
            state.late,
            state.repeated,
            state.restarts
        )?;
    }

    writeln!(
        out,
        "\nlatency in microseconds (clock: CLOCK_MONOTONIC, resolution {} ns)",
        s.clock_resolution.0
    )?;
    writeln!(
        out,
        "  {:<12} {:>9} {:>11} {:>11} {:>11} {:>11} {:>11}",
        "", "count", "p50", "p90", "p99", "p99.9", "max"
    )?;
    for what in Latency::ALL {
        let p = Percentiles::of(report.latencies.get(what));
        writeln!(
            out,
            "  {:<12} {:>9} {:>11.1} {:>11.1} {:>11.1} {:>11.1} {:>11.1}",
            what.name(),
            p.count,
            p.p50,
            p.p90,
            p.p99,
            p.p99_9,
            p.max
        )?;
    }

    writeln!(out, "\ncounters")?;
    for ((group, name), value) in &report.counters {
        if *value > 0 {
            writeln!(out, "  {group:<10} {name:<28} {value:>14}")?;
        }
    }
    Ok(())
}

/// What became of the sessions of each target.
fn targets(totals: &Totals, out: &mut String) -> std::fmt::Result {
    for (target, t) in totals.by_target.iter() {
        writeln!(
            out,
            "\nto {target} {:>width$}",
            t.sessions,
            width = 27usize.saturating_sub(target.to_string().len())
        )?;
        for o in Outcome::ALL {
            if t.outcome(o) > 0 {
                writeln!(out, "  {:<20} {:>8}", o.name(), t.outcome(o))?;
            }
        }
        writeln!(
            out,
            "  {} bytes delivered, {} not",
            t.bytes_delivered, t.bytes_undelivered
        )?;
    }
    Ok(())
}
