//! The channel with a key: a whole replay behind it, and who is refused on either side.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use lab::{
    Host, Lab, LabOptions, Process,
    replay::{Capture, Copy, Intercept, RunOptions, run},
    testing::{programs, require_root},
};

/// A greeting that is not answered is given up after 3 s.
const LIMIT: Duration = Duration::from_secs(30);
/// As a C tcpcopy begins, and a route for 10.77.2.1:20000.
const C_TCPCOPY: &str = r"trap '' PIPE; exec 3<>/dev/tcp/10.77.0.40/36524
printf '\0\0\0\0\0\0\0\6\0\0\0\0\0\0' >&3
printf '\12\115\2\1\116\40\0\1\12\115\0\36\37\220' >&3
cat <&3 | wc -c";

struct KeyFile(PathBuf);

impl KeyFile {
    fn new(name: &str, fill: char) -> Self {
        let path = std::env::temp_dir().join(format!("e2e-{}-{name}.key", std::process::id()));
        fs::write(&path, fill.to_string().repeat(64)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Self(path)
    }

    fn flag(&self) -> [String; 2] {
        ["--key-file".to_owned(), self.0.display().to_string()]
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_replay_behind_a_key() {
    require_root();
    let key = KeyFile::new("replay", 'a');
    let mut options = RunOptions::new(Capture::Tap);
    options.requests = 4000;
    options.copy.more.extend(key.flag());
    options.intercept.more.extend(key.flag());
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let result = run(&programs, &options, &mut |text| eprintln!("{text}")).unwrap();
    eprintln!("{}", result.table());
    assert_eq!(result.faults(), Vec::<String>::new());
    let report = &result.report;
    assert_eq!(report.imbalance(), Vec::<String>::new());
    assert_eq!(report.number("sessions/total"), 2050);
    let channel = report.numbers("counters/channel");
    assert!(channel["pongs"] > 0, "{channel:?}");
    assert_eq!((channel["losses"], channel["key_refused"]), (0, 0));
    assert_eq!(channel["intercept_dropped"], 0);
}

#[test]
fn who_has_no_key_or_another_one_is_refused_and_told_why() {
    require_root();
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let lab = Lab::up(&LabOptions::default()).unwrap();
    let (ours, other) = (KeyFile::new("ours", 'a'), KeyFile::new("other", 'b'));
    let copy = |more: &[String]| {
        let mut copy = Copy::new(Capture::Tap);
        copy.more.extend_from_slice(more);
        let mut command = copy.command(&lab, &programs, &lab.file("report.json"));
        let mut process = Process::start("copy", &mut command, lab.folder()).unwrap();
        assert_eq!(
            process.wait(LIMIT).unwrap().code(),
            Some(1),
            "{}",
            process.stderr()
        );
        process.stderr()
    };
    let mut keyed = Intercept::default();
    keyed.more.extend(ours.flag());
    let intercept = keyed.start(&lab, &programs).unwrap();
    let said = copy(&other.flag());
    assert!(
        said.contains("10.77.0.40:36524 does not accept our key"),
        "{said}"
    );
    let heard = lab
        .command(Host::Production, "bash")
        .args(["-c", C_TCPCOPY])
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&heard.stdout).trim(),
        "0",
        "{heard:?}"
    );
    let log = intercept.stderr();
    assert!(
        log.contains("another key") && log.contains("--key-file"),
        "{log}"
    );
    assert!(log.contains("C tcpcopy, which knows no keys"), "{log}");
    assert!(!log.contains("tcpcopy connected"), "{log}");
    drop(intercept);

    let _keyless = Intercept::default().start(&lab, &programs).unwrap();
    let said = copy(&ours.flag());
    assert!(said.contains("10.77.0.40:36524 has no key"), "{said}");
}
