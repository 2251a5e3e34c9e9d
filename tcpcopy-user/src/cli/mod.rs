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
use operator::usage::one_line;

/// What parsing came to.
pub enum Parsed {
    /// Settings to run with.
    Run(Box<Config>),
    /// Text that was asked for (help, version), for stdout.
    Text(String),
}

/// Reads a command line, the program's name first.
pub fn parse<I, T>(argv: I) -> Result<Parsed, String>
where
    I: IntoIterator<Item = T>,
    T: Into<std::ffi::OsString> + Clone,
{
    use clap::error::ErrorKind;
    match Args::try_parse_from(argv) {
        Ok(args) => Config::from_args(args)
            .map(|c| Parsed::Run(Box::new(c)))
            .map_err(|e| e.to_string()),
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Parsed::Text(e.to_string()))
        }
        Err(e) => Err(one_line(&e.to_string())),
    }
}
