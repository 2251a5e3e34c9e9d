//! Which counters mean that a packet is missing from the replay.

use super::Report;
use crate::worker::DECODE_ERROR_NAMES;
use std::collections::BTreeMap;

/// Counters of programs and ports that count losses, by group; everything else that they count is
/// information. `rx_fill_ring_empty` says why frames were dropped: the kernel counts each of them in
/// `rx_dropped` as well (__xsk_rcv, net/xdp/xsk.c). A kernel program passes what it cannot decode: production has it, the replay has not.
const LOSSES: [(&str, &[&str]); 7] = [
    (
        "kernel",
        &[
            "fragment",
            "truncated",
            "bad_ip",
            "bad_tcp",
            "bad_udp",
            "ring_full",
            "load_failed",
            "too_large",
            "redirect_failed",
            "tunnel_too_deep",
        ],
    ),
    (
        "capture",
        &[
            "rx_dropped",
            "rx_ring_full",
            "rx_invalid_descs",
            "rx_too_large",
            "tap_incomplete",
            "tap_malformed",
            "packet_malformed",
        ],
    ),
    (
        "fragments",
        &[
            "reassembly_incomplete",
            "reassembly_crowded_out",
            "reassembly_invalid",
        ],
    ),
    (
        "read",
        &[
            "fragment",
            "truncated",
            "bad_ip",
            "bad_tcp",
            "link_unknown",
            "other_family",
            "reassembly_incomplete",
            "reassembly_crowded_out",
            "reassembly_invalid",
        ],
    ),
    (
        "tx",
        &[
            "tx_no_frame",
            "tx_bad_length",
            "tx_invalid_descs",
            "tx_not_ip",
            "tx_handed_too_long",
            "tx_handover_dropped",
        ],
    ),
    (
        "pool",
        &[
            "fragment",
            "ring_full",
            "load_failed",
            "answer_failed",
            "tap_incomplete",
            "tap_malformed",
            "undecodable",
        ],
    ),
    (
        "channel",
        &["records_dropped", "responses_bad", "intercept_dropped"],
    ),
];
/// Followed by the name of an errno.
const TX_ERROR: &str = "tx_error_";

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
    put("intake_other_tunnel".to_owned(), intake.other_tunnel);
    put("intake_cut".to_owned(), intake.cut);
    put("mirror_lost".to_owned(), report.mirror_lost());
    put("intake_no_transfer".to_owned(), intake.no_transfer);
    put("intake_other_family".to_owned(), intake.other_family);
    put("handover_full".to_owned(), intake.handover_full);
    put("tx_not_a_target".to_owned(), sent.not_a_target);
    put("tx_no_route".to_owned(), sent.no_route);
    put("tx_link_down".to_owned(), sent.link_down);
    put("tx_no_neighbour".to_owned(), sent.no_neighbour);
    put("tx_not_built".to_owned(), sent.not_built);
    for ((group, name), value) in &report.counters {
        let listed = LOSSES
            .iter()
            .any(|(g, names)| g == group && names.contains(name));
        if listed || name.starts_with(TX_ERROR) {
            let prefixed = matches!(*group, "capture" | "tx");
            put(
                if prefixed {
                    (*name).to_owned()
                } else {
                    format!("{group}_{name}")
                },
                *value,
            );
        }
    }
    out
}
