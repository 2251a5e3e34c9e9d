//! `cargo xtask bench capture` runs: each way receives what is sent, whatever the figures are.

mod support;

use support::measured;

#[test]
fn every_scenario_is_measured() {
    let report = measured("capture");
    let runs = report["runs"].as_array().expect("runs");
    let run = |name: &str| {
        let run = runs.iter().find(|r| r["scenario"] == name);
        run.unwrap_or_else(|| panic!("no scenario {name} in {report:#}"))
    };
    for (scenario, ways) in [
        (
            "tap",
            &[
                "none",
                "packet",
                "tap",
                "none-miss",
                "packet-miss",
                "tap-miss",
            ][..],
        ),
        ("mirror", &["bare", "mirror"]),
        ("transmit", &["bare", "transmit"]),
        ("forward", &["bare", "forward"]),
    ] {
        let list = run(scenario)["ways"].as_array().expect("ways");
        for way in ways {
            let found = list.iter().filter(|w| w["way"] == *way);
            let rates: Vec<_> = found.map(|w| w["mpps"].as_f64().expect("a rate")).collect();
            assert!(
                !rates.is_empty() && rates.iter().all(|r| *r > 0.001),
                "{scenario}, {way}: {rates:?} million packets a second"
            );
        }
    }
    // A third of what any way takes: nothing may be lost of that.
    for way in run("tap")["ways"].as_array().expect("ways") {
        assert!(
            way["load"] != "steady" || way["lost_percent"] == 0.0,
            "lost at the steady rate: {way}"
        );
    }
    for connection in run("bulk")["connections"].as_array().expect("connections") {
        let speed = connection["gigabits_per_second"].as_f64().expect("a speed");
        assert!(speed > 0.01, "{connection}");
    }
    let programs = run("single")["programs"].as_array().expect("programs");
    for name in ["tap", "mirror", "responses"] {
        let program = programs.iter().find(|p| p["program"] == name).expect(name);
        let ns = |field: &str| program[field].as_f64().expect("a time");
        assert!(program["instructions"].as_u64() > Some(100), "{program}");
        assert!(ns("hit_ns") > ns("empty_ns"), "{program}");
    }
    let findings = report["findings"].as_array().expect("findings");
    assert!(findings.len() > 10, "{findings:#?}");
    assert!(
        findings
            .iter()
            .all(|f| f["verdict"] != "met" && f["verdict"] != "MISSED"),
        "one short pair judges nothing"
    );
}
