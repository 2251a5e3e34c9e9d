//! The program itself, as far as it gets without root: refusals are one line and name the way out.

use std::net::TcpListener;
use std::process::{Command, Output};

const FILTER: [&str; 2] = ["-F", "tcp and src port 80"];

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_intercept-user"))
        .args(args)
        .output()
        .expect("run")
}

/// Exit code and the one line on stderr.
fn refused(args: &[&str]) -> (Option<i32>, String) {
    let output = run(args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(stderr.lines().count(), 1, "one line: {stderr}");
    assert!(output.stdout.is_empty());
    (output.status.code(), stderr)
}

#[test]
fn usage_errors_exit_with_2() {
    for (args, word) in [
        (
            vec!["-i", "lo", "-F", "udp prot 80"],
            "filter 'udp prot 80': can't parse filter expression",
        ),
        (vec!["-F", "tcp and src port 80"], "--iface <NAME>"),
        (
            vec!["-i", "lo", "-F", "tcp and src port 80", "-p", "0"],
            "0",
        ),
        (
            vec!["-i", "lo", "-F", "tcp and src port 80", "--cores", "3-1"],
            "3-1",
        ),
        (
            vec!["-i", "lo", "-F", "tcp and src port 80", "--frobnicate"],
            "--frobnicate",
        ),
    ] {
        let (code, line) = refused(&args);
        assert_eq!(code, Some(2), "{line}");
        assert!(
            line.starts_with("intercept-user: ") && line.contains(word),
            "{line}"
        );
    }
}

#[test]
fn an_unknown_interface_is_named_with_those_that_exist() {
    let (code, line) = refused(&["-i", "nosuch0", FILTER[0], FILTER[1]]);
    assert_eq!(code, Some(1), "{line}");
    assert!(line.contains("nosuch0") && line.contains("lo"), "{line}");
}

#[test]
fn a_busy_port_is_named_with_its_holder() {
    let holder = TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = holder.local_addr().expect("address").port().to_string();
    let (code, line) = refused(&[
        "-i",
        "lo",
        FILTER[0],
        FILTER[1],
        "-b",
        "127.0.0.1",
        "-p",
        port.as_str(),
    ]);
    assert_eq!(code, Some(1), "{line}");
    let pid = format!("(pid {})", std::process::id());
    assert!(
        line.contains(&port) && line.contains(&pid) && line.contains("-p PORT"),
        "{line}"
    );
}

#[test]
fn a_foreign_address_and_an_unwritable_log_are_refused() {
    let (code, line) = refused(&["-i", "lo", FILTER[0], FILTER[1], "-b", "192.0.2.1"]);
    assert_eq!(code, Some(1), "{line}");
    assert!(
        line.contains("192.0.2.1 is not an address of this host"),
        "{line}"
    );
    let (code, line) = refused(&["-i", "lo", FILTER[0], FILTER[1], "-l", "/nonexistent/log"]);
    assert_eq!(code, Some(1), "{line}");
    assert!(line.contains("/nonexistent/log"), "{line}");
}

#[test]
fn help_and_version_go_to_stdout() {
    for flag in ["--help", "--version"] {
        let output = run(&[flag]);
        assert!(output.status.success() && output.stderr.is_empty());
        assert!(String::from_utf8_lossy(&output.stdout).contains("intercept-user"));
    }
}
