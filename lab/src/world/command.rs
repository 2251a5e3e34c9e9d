//! Short child processes: run, wait, and say what failed.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use crate::LabError;

/// Lines of a failed command's output that go into an error message.
const ERROR_LINES: usize = 12;

/// Runs a command to its end and returns its output, or an error with its last words.
pub fn run(command: &mut Command) -> Result<Output, LabError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| spawn_error(command, source))?;
    succeeded(command, output)
}

/// Same, with `input` on its standard input.
pub fn run_with_input(command: &mut Command, input: &str) -> Result<Output, LabError> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| spawn_error(command, source))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A child that ends without reading says why on stderr; EPIPE here would hide that.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(LabError::system("wait for a child"))?;
    succeeded(command, output)
}

/// The last `lines` lines of `text`, joined for one line of an error message.
pub fn last_lines(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    all[all.len().saturating_sub(lines)..].join(" | ")
}

/// The command line for messages.
pub(crate) fn words(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

pub(crate) fn spawn_error(command: &Command, source: std::io::Error) -> LabError {
    LabError::Spawn {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    }
}

fn succeeded(command: &Command, output: Output) -> Result<Output, LabError> {
    if output.status.success() {
        return Ok(output);
    }
    Err(LabError::Command {
        command: words(command),
        status: output.status.to_string(),
        stderr: last_lines(&String::from_utf8_lossy(&output.stderr), ERROR_LINES),
    })
}
