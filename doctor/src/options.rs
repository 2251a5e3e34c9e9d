//! What a look is asked for beside the flags of a run.

use crate::Diagnosis;
use clap::Parser;
use operator::duration::parse_positive;
use operator::exit::{self, Failure};
use operator::log::LogLevel;
use std::ffi::{OsStr, OsString};
use std::time::Duration;

/// The word behind the program's name.
const COMMAND: &str = "doctor";

/// Flags of `doctor`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How long packets are looked at
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_positive)]
    pub window: Duration,

    /// Print what was found as JSON
    #[arg(long)]
    pub json: bool,
}

impl Options {
    /// Prints a diagnosis in the form that was asked for.
    pub fn print(&self, diagnosis: &Diagnosis) -> Result<(), Failure> {
        let text = if self.json {
            let json = diagnosis.to_json().map_err(|e| Failure::of(&e))?;
            format!("{json}\n")
        } else {
            diagnosis.to_text()
        };
        exit::print(&text);
        diagnosis.outcome()
    }
}

/// The level of a look's log: what a run says while it starts would hide the findings.
pub fn log_level(asked: LogLevel) -> LogLevel {
    if asked == LogLevel::Info {
        LogLevel::Error
    } else {
        asked
    }
}

/// A command line, read.
#[derive(Debug)]
pub enum Asked<R, D> {
    /// Of a run.
    Run(R),
    /// Of a look.
    Doctor(D),
}

/// Reads a command line as `D` if its first word is `doctor`, which is left out, and as `R` otherwise.
pub fn parse<R: Parser, D: Parser>(
    argv: impl IntoIterator<Item = impl Into<OsString>>,
) -> Result<Asked<R, D>, clap::Error> {
    let (doctor, argv) = without_command(argv.into_iter().map(Into::into));
    if doctor {
        D::try_parse_from(argv).map(Asked::Doctor)
    } else {
        R::try_parse_from(argv).map(Asked::Run)
    }
}

/// The command line without the word `doctor`, if that is what it begins with.
fn without_command(argv: impl IntoIterator<Item = OsString>) -> (bool, Vec<OsString>) {
    let mut argv: Vec<_> = argv.into_iter().collect();
    let asked = argv.get(1).is_some_and(|word| word == OsStr::new(COMMAND));
    if asked {
        argv.remove(1);
    }
    (asked, argv)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_word_is_the_command() {
        let of = |words: &[&str]| without_command(words.iter().map(OsString::from));
        assert_eq!(of(&["p", "doctor", "-i", "eth0"]).1, ["p", "-i", "eth0"]);
        assert!(of(&["p", "doctor"]).0);
        assert!(!of(&["p", "-i", "doctor"]).0);
        assert!(!of(&["p"]).0);
    }
}
