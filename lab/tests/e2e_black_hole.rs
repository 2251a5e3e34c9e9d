//! How intercept takes responses: by tcx where it is told to, and where XDP is not to be had.

use lab::{
    Host, Lab, LabError, Process,
    replay::{Capture, Programs, RunOptions, RunResult, run_prepared, stop},
    testing::{programs, require_root},
};

/// All of them are replayed, whatever way the responses go.
const REQUESTS: u64 = 4000;
/// 50 kept connections, and half of the requests on one each.
const SESSIONS: u64 = 2050;

fn options(seed: u64) -> RunOptions {
    let mut options = RunOptions::new(Capture::Tap);
    options.requests = REQUESTS;
    options.seed = seed;
    let report = ["--report".to_owned(), "intercept.json".to_owned()];
    options.intercept.more.extend(report);
    options
}

/// Replays; the result, and what intercept reports.
fn replay(
    programs: &Programs,
    mut options: RunOptions,
    prepare: &mut dyn FnMut(&Lab) -> Result<(), LabError>,
) -> (RunResult, serde_json::Value) {
    let report = std::env::temp_dir().join(format!(
        "black-hole-{}-{}.json",
        std::process::id(),
        options.seed
    ));
    if let Some(name) = options.intercept.more.last_mut() {
        *name = report.display().to_string();
    }
    let result =
        run_prepared(programs, &options, prepare, &mut |text| eprintln!("{text}")).unwrap();
    let text = std::fs::read_to_string(&report).unwrap();
    std::fs::remove_file(&report).unwrap();
    assert_eq!(result.faults(), Vec::<String>::new());
    assert_eq!(result.comparison.production_requests, REQUESTS);
    assert_eq!(result.report.imbalance(), Vec::<String>::new());
    let outcomes = result.report.outcomes();
    assert_eq!(outcomes.get("completed"), Some(&SESSIONS), "{outcomes:?}");
    (result, serde_json::from_str(&text).unwrap())
}

/// Every response was taken by tcx and reached a worker with its headers alone.
fn assert_by_tcx(intercept: &serde_json::Value) {
    assert_eq!(intercept["mode"], "tcx");
    let kernel = &intercept["kernel"];
    assert_eq!(kernel["captured"], intercept["packets"]["received"]);
    assert!(kernel["trimmed"].as_u64().unwrap() > 0, "{kernel}");
    assert_eq!(
        (&kernel["ring_full"], &kernel["load_failed"]),
        (&0.into(), &0.into())
    );
}

#[test]
fn by_tcx_with_a_filter_and_with_learned_targets() {
    require_root();
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    for (seed, filtered) in [(31, true), (32, false)] {
        let mut options = options(seed);
        options
            .intercept
            .more
            .splice(0..0, ["--capture".to_owned(), "tcx".to_owned()]);
        // One queue, two workers: by tcx each gets the responses of its clients.
        options.intercept.cores = "0,1".to_owned();
        if !filtered {
            options.intercept.filter = None;
        }
        let (_, intercept) = replay(&programs, options, &mut |_| Ok(()));
        assert_by_tcx(&intercept);
        assert_eq!(intercept["packets"]["handed_over"], 0);
    }
}

/// Another XDP program is on the interface: here that of a second intercept, which takes nothing of ours.
#[test]
fn by_itself_where_xdp_is_in_use() {
    require_root();
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let mut other = None;
    let start = &mut |lab: &Lab| {
        let mut command = lab.command(Host::Assistant, &programs.intercept);
        command.args(["--iface", "eth0", "--capture", "xdp", "-p", "36525"]);
        command.args(["-F", "tcp and src port 9"]);
        let mut process = Process::start("other-intercept", &mut command, lab.folder())?;
        process.wait_for_line("ready", std::time::Duration::from_secs(30))?;
        other = Some(process);
        Ok(())
    };
    let (_, intercept) = replay(&programs, options(33), start);
    assert_by_tcx(&intercept);
    // The lab is gone, and its processes with it.
    let _ = stop(&mut other.unwrap());
}
