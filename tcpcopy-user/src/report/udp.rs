//! The group `udp` of both forms of the report.

use serde::Serialize;
use session::{UdpDrop, UdpTotals};
use std::collections::BTreeMap;
use std::fmt::Write;

#[derive(Serialize)]
pub(super) struct Udp {
    flows: Flows,
    datagrams: Datagrams,
    bytes_sent: u64,
    balanced: bool,
}

#[derive(Serialize)]
struct Flows {
    total: u64,
    expired: u64,
    open: u64,
}

#[derive(Serialize)]
struct Datagrams {
    captured: u64,
    duplicates: u64,
    copies: u64,
    sent: u64,
    dropped: BTreeMap<&'static str, u64>,
}

impl Udp {
    pub(super) fn new(t: &UdpTotals) -> Self {
        Self {
            flows: Flows {
                total: t.flows,
                expired: t.flows_expired,
                open: t.flows_open,
            },
            datagrams: Datagrams {
                captured: t.captured,
                duplicates: t.duplicates,
                copies: t.copies,
                sent: t.sent,
                dropped: dropped(t),
            },
            bytes_sent: t.bytes_sent,
            balanced: t.balanced(),
        }
    }
}

/// Copies that were not sent by cause, zero counts left out.
fn dropped(t: &UdpTotals) -> BTreeMap<&'static str, u64> {
    UdpDrop::ALL
        .iter()
        .map(|why| (why.name(), t.dropped(*why)))
        .filter(|(_, n)| *n > 0)
        .collect()
}

/// The part of the report for people.
pub(super) fn render(t: &UdpTotals, out: &mut String) -> std::fmt::Result {
    writeln!(out, "\nudp")?;
    for (name, n) in [
        ("flows", t.flows),
        ("datagrams captured", t.captured),
        ("mirrored again", t.duplicates),
        ("copies due", t.copies),
        ("sent", t.sent),
    ] {
        writeln!(out, "  {name:<20} {n:>14}")?;
    }
    for (cause, n) in dropped(t) {
        writeln!(out, "  dropped, {cause:<24} {n:>14}")?;
    }
    writeln!(
        out,
        "  balance: {} copies {} {} sent + {} dropped",
        t.copies,
        if t.balanced() { "=" } else { "DOES NOT EQUAL" },
        t.sent,
        t.dropped.iter().sum::<u64>()
    )
}
