//! Which counters mean that a packet is missing from the replay.

use super::Report;
use crate::worker::DECODE_ERROR_NAMES;
use std::collections::BTreeMap;

/// Suffixes and names of port and program counters that count losses; everything else that ports
/// count is information.
const LOSS_WORDS: [&str; 9] = [
    "dropped", "drop", "full", "failed", "too_large", "no_frame", "invalid", "ring_empty", "error",
];

/// Collects them, zero counts left out.
pub fn dropped(report: &Report) -> BTreeMap<String, u64> {
    let mut out = BTreeMap::new();
    let mut put = |name: String, n: u64| {
        if n > 0 {
            *out.entry(name).or_default() += n;
        }
    };
    let (intake, sent) = (&report.intake, &report.sent);
    for ((_, name), n) in DECODE_ERROR_NAMES.iter().zip(intake.undecodable) {
        put(format!("intake_{name}"), n);
    }
    put("intake_no_transfer".to_owned(), intake.no_transfer);
    put("intake_other_family".to_owned(), intake.other_family);
    put("handover_full".to_owned(), intake.handover_full);
    put("tx_not_a_target".to_owned(), sent.not_a_target);
    put("tx_no_next_hop".to_owned(), sent.no_next_hop);
    put("tx_no_frame".to_owned(), sent.no_frame);
    put("tx_not_built".to_owned(), sent.not_built);
    for ((group, name), value) in &report.counters {
        // What the worker counts itself is in the list above already.
        let counted = *group == "handover" || *name == "tx_no_frame";
        if !counted && is_loss(group, name) {
            let prefix = format!("{group}_");
            let name = if name.starts_with(&prefix) { (*name).to_owned() } else { prefix + name };
            put(name, *value);
        }
    }
    out
}

fn is_loss(group: &str, name: &str) -> bool {
    // Fragments pass and are counted; what the program could not decode passes too.
    let undecoded =
        group == "kernel" && DECODE_ERROR_NAMES.iter().any(|(_, text)| *text == name);
    undecoded || LOSS_WORDS.iter().any(|word| name.ends_with(word) || name.contains(&format!("{word}_")))
}
