//! `cargo xtask bench intercept` runs: responses come back each way, whatever the figures are.

mod support;

use serde_json::Value;
use support::measured;

#[test]
fn every_way_is_measured() {
    let report = measured("intercept");
    let rows = report["rows"].as_array().expect("rows");
    for way in ["xdp", "tcx"] {
        for load in ["full", "90 %", "50 %", "10 %"] {
            let row = rows.iter().find(|r| r["way"] == way && r["load"] == load);
            let row = row.unwrap_or_else(|| panic!("no {way} at {load} in {report:#}"));
            for field in [
                "/received_per_second",
                "/worker_ns",
                "/send_to_read_us/p99",
                "/capture_to_write_us/p99",
            ] {
                let value = row.pointer(field).and_then(Value::as_f64);
                assert!(value > Some(0.0), "{field} in {row}");
            }
            // A tenth of what goes through: nothing may be lost of that.
            assert!(load != "10 %" || row["lost_percent"] == 0.0, "{row}");
        }
        let bursts = rows
            .iter()
            .find(|r| r["way"] == way && r["load"] == "bursts");
        let bursts = bursts.unwrap_or_else(|| panic!("no bursts of {way} in {report:#}"));
        assert!(bursts["per_core_second"].as_f64() > Some(0.0), "{bursts}");
    }
}
