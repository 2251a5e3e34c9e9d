//! Command line: typed flags in, validated settings out.
//!
//! ```text
//!  argv ──clap──▶ Args (strings) ──Config::from_args──▶ Config (nothing in it can be wrong by itself)
//!                                                          │ checks/ compare it with this host
//!                                                          ▼ run/
//! ```
//! Every refusal is one line: flag, value got, value expected. Exit code 2.

mod args;
mod config;
mod decap;
mod endpoint;
mod error;
mod offline;
mod pool;
mod record;
mod select;
mod target_mac;
mod transfer;
mod udp;

pub use args::{Args, CaptureKind};
pub use config::{Config, MAX_WORKERS};
pub use decap::parse_decap;
pub use error::UsageError;
pub use offline::{Offline, Speed, is_stdin};
pub use pool::Pool;
pub use record::Recording;
pub use select::Deny;
pub use transfer::{Transfer, parse_transfers};
pub use udp::{Transfers, parse_both};

use clap::Parser;
use doctor::Options;
use doctor::options::{self, Asked};
use operator::usage::one_line;

/// What parsing came to.
pub enum Parsed {
    /// Settings to run with.
    Run(Box<Config>),
    /// The same settings, to be looked at.
    Doctor(Box<Config>, Options),
    /// Text that was asked for (help, version), for stdout.
    Text(String),
}

/// Find out why nothing arrives: looks at every hop of a run with the same flags.
///
/// Captures beside production for some seconds, connects to intercept and to the target, and opens a session by the way
/// of the replay. Says which hop fails and what to do. Exit code: 0 nothing found, 4 found.
#[derive(Debug, Parser)]
#[command(name = "tcpcopy-user doctor", version, max_term_width = 100)]
struct DoctorArgs {
    #[command(flatten)]
    options: Options,

    #[command(flatten)]
    run: Args,
}

/// Reads a command line, the program's name first.
pub fn parse<I, T>(argv: I) -> Result<Parsed, String>
where
    I: IntoIterator<Item = T>,
    T: Into<std::ffi::OsString> + Clone,
{
    use clap::error::ErrorKind;
    match options::parse::<Args, DoctorArgs>(argv) {
        Ok(Asked::Run(args)) => Config::from_args(args)
            .map(|config| Parsed::Run(Box::new(config)))
            .map_err(|e| e.to_string()),
        Ok(Asked::Doctor(asked)) => Config::from_args(asked.run)
            .map(|config| Parsed::Doctor(Box::new(config), asked.options))
            .map_err(|e| e.to_string()),
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Parsed::Text(e.to_string()))
        }
        Err(e) => Err(one_line(&e.to_string())),
    }
}
