use super::*;
use crate::worker::Latency;
use serde_json::Value;

fn target_at(port: u16) -> common::packet::Endpoint {
    common::packet::Endpoint::new(common::packet::Addr::v4([10, 0, 0, 30]), port)
}

fn worker(n: u64) -> WorkerReport {
    let mut totals = Totals {
        sessions: 3 * n,
        bytes_captured: 100 * n,
        bytes_delivered: 90 * n,
        ..Totals::default()
    };
    totals.outcomes[session::Outcome::Completed as usize] = 2 * n;
    totals.outcomes[session::Outcome::TimedOut as usize] = n;
    totals.bytes_undelivered[session::Outcome::TimedOut as usize] = 10 * n;
    totals.not_sampled = n;
    for (port, sessions, outcome, delivered) in [
        (8080, 2 * n, session::Outcome::Completed, 90 * n),
        (8081, n, session::Outcome::TimedOut, 0),
    ] {
        let mut target = session::TargetTotals {
            sessions,
            bytes_delivered: delivered,
            bytes_undelivered: 10 * sessions - delivered / 90 * 20,
            ..session::TargetTotals::default()
        };
        target.outcomes[outcome as usize] = sessions;
        totals.by_target.book(target_at(port), |t| *t = target);
    }
    let mut latencies = Latencies::default();
    for us in 1..=1000 {
        latencies.record(Latency::Connect, Nanos::from_micros(us * n));
    }
    let mut intake = IntakeCounters {
        frames: 50 * n,
        ..IntakeCounters::default()
    };
    intake.undecodable(common::packet::DecodeError::Fragment);
    WorkerReport {
        totals,
        udp: None,
        latencies,
        sent: SendCounters {
            sent: 40 * n,
            no_neighbour: n,
            ..SendCounters::default()
        },
        intake,
        counters: vec![
            Counter {
                group: "tx",
                name: "tx_frames",
                value: 40 * n,
            },
            Counter {
                group: "tx",
                name: "tx_error_enobufs",
                value: n,
            },
            Counter {
                group: "capture",
                name: "rx_ring_full",
                value: 2 * n,
            },
        ],
    }
}

fn report() -> Report {
    let setting = Setting {
        capture: "tap",
        iface: "eth0".to_owned(),
        workers: 2,
        duration: Nanos::from_millis(2500),
        clock_resolution: Nanos(1),
    };
    let kernel = [
        Counter {
            group: "kernel",
            name: "captured",
            value: 107,
        },
        Counter {
            group: "kernel",
            name: "ring_full",
            value: 7,
        },
        Counter {
            group: "kernel",
            name: "not_sampled",
            value: 40,
        },
        Counter {
            group: "kernel",
            name: "denied",
            value: 5,
        },
    ];
    Report::new(setting, &[worker(1), worker(1)], &kernel)
}

#[test]
fn json_has_the_agreed_fields() {
    let json: Value = serde_json::from_str(&to_json(&report()).unwrap()).unwrap();
    for (path, want) in [
        ("/version", Value::from(1)),
        ("/capture", "tap".into()),
        ("/duration_s", 2.5.into()),
        ("/sessions/total", 6.into()),
        ("/sessions/by_outcome/completed", 4.into()),
        ("/sessions/by_outcome/timed_out", 2.into()),
        ("/bytes/captured", 200.into()),
        ("/bytes/delivered", 180.into()),
        ("/bytes/undelivered/timed_out", 20.into()),
        ("/bytes/balanced", true.into()),
        ("/packets/captured", 100.into()),
        ("/packets/transmitted", 80.into()),
        ("/packets/dropped/kernel_ring_full", 7.into()),
        ("/packets/dropped/rx_ring_full", 4.into()),
        ("/packets/dropped/tx_error_enobufs", 2.into()),
        ("/packets/dropped/tx_no_neighbour", 2.into()),
        ("/packets/dropped/intake_fragment", 2.into()),
        ("/latency_us/connect/count", 2000.into()),
        ("/latency_us/hold/count", 0.into()),
        ("/latency_us/hold/p99_9", 0.0.into()),
        ("/clock/source", "CLOCK_MONOTONIC".into()),
        ("/clock/resolution_ns", 1.into()),
        ("/counters/kernel/captured", 107.into()),
        // Of the kernel and of the engines, at one place.
        ("/counters/engine/sessions_not_sampled", 42.into()),
        ("/counters/engine/sessions_denied", 5.into()),
        ("/counters/engine/sessions_other_shard", 0.into()),
        ("/targets/0/address", "10.0.0.30:8080".into()),
        ("/targets/0/by_outcome/completed", 4.into()),
        ("/targets/0/bytes_delivered", 180.into()),
        ("/targets/1/sessions", 2.into()),
        ("/targets/1/by_outcome/timed_out", 2.into()),
        ("/targets/1/bytes_undelivered", 20.into()),
    ] {
        assert_eq!(json.pointer(path), Some(&want), "{path} in {json:#}");
    }
    for name in ["connect", "response", "processing", "hold", "lag"] {
        for point in ["count", "p50", "p90", "p99", "p99_9", "max"] {
            let path = format!("/latency_us/{name}/{point}");
            assert!(json.pointer(&path).is_some_and(Value::is_number), "{path}");
        }
    }
    let p50 = json
        .pointer("/latency_us/connect/p50")
        .and_then(Value::as_f64)
        .unwrap();
    assert!((p50 - 500.0).abs() < 1.0, "{p50}");
    // What is no loss is not in the list of losses.
    assert_eq!(
        json.pointer("/packets/dropped")
            .and_then(Value::as_object)
            .map(serde_json::Map::len),
        Some(5)
    );
}

#[test]
fn text_shows_the_balance() {
    let text = to_text(&report());
    assert!(
        text.contains("balance: 200 captured = 180 delivered + 20 undelivered"),
        "{text}"
    );
    assert!(text.contains("dropped, kernel_ring_full"), "{text}");
    assert!(text.contains("to 10.0.0.30:8081"), "{text}");
    assert!(text.contains("CLOCK_MONOTONIC, resolution 1 ns"), "{text}");

    let mut bad = worker(1);
    bad.totals.bytes_delivered += 1;
    let text = to_text(&Report::new(report().setting, &[bad], &[]));
    assert!(
        text.contains("100 captured DOES NOT EQUAL 91 delivered + 10 undelivered"),
        "{text}"
    );
}

#[test]
fn udp_has_a_group_of_its_own_that_balances() {
    let with_udp = |sent: u64| {
        let mut udp = UdpTotals {
            flows: 5,
            flows_expired: 4,
            flows_open: 1,
            captured: 10,
            copies: 20,
            sent,
            bytes_sent: 99,
            ..UdpTotals::default()
        };
        udp.dropped[session::UdpDrop::NotBuilt as usize] = 2;
        WorkerReport {
            udp: Some(udp),
            ..worker(1)
        }
    };
    // One worker without: a report has the group if any worker has books.
    let report = Report::new(report().setting, &[with_udp(18), with_udp(18)], &[]);
    let json: Value = serde_json::from_str(&to_json(&report).unwrap()).unwrap();
    for (path, want) in [
        ("/udp/flows/total", Value::from(10)),
        ("/udp/flows/expired", 8.into()),
        ("/udp/flows/open", 2.into()),
        ("/udp/datagrams/captured", 20.into()),
        ("/udp/datagrams/copies", 40.into()),
        ("/udp/datagrams/sent", 36.into()),
        ("/udp/datagrams/dropped/not_built", 4.into()),
        ("/udp/bytes_sent", 198.into()),
        ("/udp/balanced", true.into()),
    ] {
        assert_eq!(json.pointer(path), Some(&want), "{path} in {json:#}");
    }
    let text = to_text(&report);
    assert!(
        text.contains("balance: 40 copies = 36 sent + 4 dropped"),
        "{text}"
    );
    let bad = Report::new(report.setting, &[with_udp(17)], &[]);
    let text = to_text(&bad);
    assert!(
        text.contains("20 copies DOES NOT EQUAL 17 sent + 2 dropped"),
        "{text}"
    );
    assert!(!to_text(&super::tests::report()).contains("udp"));
}
