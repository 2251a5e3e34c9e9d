//! The program as a shell sees it: exit codes, one line of error, streams that were closed.

use std::process::{Command, Output, Stdio};

fn tcpcopy(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tcpcopy-user"))
        .args(args)
        .output()
        .unwrap()
}

#[test]
fn a_wrong_command_line_is_one_line_and_exit_code_2() {
    for args in [
        &[] as &[&str],
        &["--no-such-flag"],
        &["-i", "eth0", "-x", "80", "-s", "10.0.0.40"],
        &["-i", "eth0", "-x", "80-10.0.0.30:8080", "-s", "somewhere"],
        &[
            "-i",
            "eth0",
            "-x",
            "80-10.0.0.30:8080",
            "-s",
            "10.0.0.40",
            "--cores",
            "3-1",
        ],
    ] {
        let output = tcpcopy(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert_eq!(output.stdout, b"", "{args:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.starts_with("tcpcopy-user: "), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
    }
}

#[test]
fn help_goes_to_stdout_even_if_nobody_reads_it() {
    let output = tcpcopy(&["--help"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    for flag in [
        "--transfer",
        "--intercept",
        "--iface",
        "--cores",
        "--capture",
        "--drain",
        "--report",
    ] {
        assert!(text.contains(flag), "{flag}");
    }

    let mut command = Command::new(env!("CARGO_BIN_EXE_tcpcopy-user"));
    let mut child = command
        .arg("--help")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stderr, b"");
}

#[test]
fn a_log_file_that_cannot_be_opened_is_named() {
    let output = tcpcopy(&[
        "-i",
        "no-such-iface",
        "-x",
        "80-10.0.0.30:8080",
        "-s",
        "10.0.0.40",
        "-l",
        "/no/such/folder/log",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("cannot open the log file /no/such/folder/log"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
}
