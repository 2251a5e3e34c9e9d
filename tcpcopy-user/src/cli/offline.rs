//! `--read` and what goes with it.

use super::UsageError;
use super::config::number;
use clap::Args;
use common::flow::Nanos;
use operator::duration::parse_duration;
use operator::fraction::{PARTS, parse_factor};
use std::path::{Path, PathBuf};

/// Largest acceleration: a day in a minute and a half. Beyond it `--topspeed` says what is meant.
const MAX_FACTOR: u64 = 1000;
/// Largest number of rounds: each takes a port of every client.
const MAX_ROUNDS: u32 = 1_000_000;
/// Standard input.
const STDIN: &str = "-";

/// The flags as they are typed.
#[derive(Clone, Debug, Args)]
pub struct OfflineArgs {
    /// Replay this capture file instead of capturing: pcap or pcapng, also packed by gzip or zstd; -
    /// reads standard input. Several files, each with --read, are one after the other
    #[arg(long, value_name = "FILE")]
    pub read: Vec<PathBuf>,

    /// Replay the file this many times as fast; 0.5 takes twice the time
    #[arg(short = 'a', long, value_name = "FACTOR")]
    pub accelerate: Option<String>,

    /// Longest pause between packets, by the file's clock; longer ones are cut to it (a bare number is
    /// in milliseconds)
    #[arg(short = 'I', long, value_name = "TIME")]
    pub gap_limit: Option<String>,

    /// How often the file is replayed: each time as new sessions, from other ports
    #[arg(short = 'T', long, value_name = "N")]
    pub rounds: Option<String>,

    /// Replay the file as fast as the target answers, without its pauses
    #[arg(long, conflicts_with_all = ["accelerate", "gap_limit"])]
    pub topspeed: bool,
}

impl OfflineArgs {
    /// clap does not require `--read` for these flags when `--iface`, which excludes it, is there.
    fn refuse_without_file(&self) -> Result<(), UsageError> {
        for (given, flag) in [
            (self.accelerate.is_some(), "-a, --accelerate"),
            (self.gap_limit.is_some(), "-I, --gap-limit"),
            (self.rounds.is_some(), "-T, --rounds"),
            (self.topspeed, "--topspeed"),
        ] {
            if given {
                return Err(UsageError::new(
                    flag,
                    "given without a file to replay, expected --read FILE",
                ));
            }
        }
        Ok(())
    }
}

/// How fast files are replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speed {
    /// By the file's clock.
    Paced {
        /// How many times as fast, in millionths.
        millionths: u64,
        /// Longest pause by the file's clock.
        gap_limit: Option<Nanos>,
    },
    /// As fast as turns and windows allow.
    Top,
}

/// Files to replay, checked as far as is possible without opening them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offline {
    /// Not empty.
    pub files: Vec<PathBuf>,
    /// How fast.
    pub speed: Speed,
    /// How often, at least once.
    pub rounds: u32,
}

impl Offline {
    pub(super) fn from_args(args: &OfflineArgs) -> Result<Option<Self>, UsageError> {
        const READ: &str = "--read";
        if args.read.is_empty() {
            return args.refuse_without_file().map(|()| None);
        }
        let millionths = match &args.accelerate {
            None => PARTS,
            Some(text) => parse_factor(text, MAX_FACTOR)
                .map_err(|e| UsageError::new("-a, --accelerate", e))?,
        };
        let rounds = match &args.rounds {
            None => 1,
            Some(text) => number("-T, --rounds", text, 1..=MAX_ROUNDS)?,
        };
        let stdin = args.read.iter().filter(|file| is_stdin(file)).count();
        if stdin > 1 || (stdin == 1 && rounds > 1) {
            return Err(UsageError::new(
                READ,
                "standard input (-) can be read only once; expected a file to read it again",
            ));
        }
        let gap_limit = args.gap_limit.as_deref().map(parse_gap).transpose()?;
        let speed = if args.topspeed {
            Speed::Top
        } else {
            Speed::Paced {
                millionths,
                gap_limit,
            }
        };
        Ok(Some(Self {
            files: args.read.clone(),
            speed,
            rounds,
        }))
    }

    /// The files, for reports.
    pub fn names(&self) -> String {
        let names: Vec<_> = self.files.iter().map(|f| f.display().to_string()).collect();
        names.join(",")
    }
}

/// The name stands for standard input.
pub fn is_stdin(file: &Path) -> bool {
    file.as_os_str() == STDIN
}

/// In the C program the number means milliseconds.
fn parse_gap(text: &str) -> Result<Nanos, UsageError> {
    const GAP: &str = "-I, --gap-limit";
    let bare = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let with_unit = if bare {
        format!("{text}ms")
    } else {
        text.to_owned()
    };
    let time = parse_duration(&with_unit).map_err(|e| UsageError::new(GAP, e))?;
    if time.is_zero() {
        return Err(UsageError::new(
            GAP,
            format_args!(
                "'{text}' is zero, expected more than 0; --topspeed leaves all pauses out"
            ),
        ));
    }
    Ok(Nanos(time.as_nanos() as u64))
}
