//! `--write` and what goes with it.

use super::UsageError;
use super::config::{number, time};
use clap::Args;
use savefile::write::Rotation;
use std::path::PathBuf;

/// A tebibyte: more is a typing error.
const MAX_FILE_MIB: u64 = 1 << 20;

/// The flags as they are typed.
#[derive(Clone, Debug, Args)]
pub struct RecordArgs {
    /// Write the captured packets to this pcapng file too; a name that ends in .zst asks for zstd
    #[arg(long, value_name = "FILE")]
    pub write: Option<PathBuf>,

    /// Begin a new file, with the next number in its name, when one has this size in MiB
    #[arg(long, value_name = "MIB", requires = "write")]
    pub write_size: Option<String>,

    /// Begin a new file when one is this old
    #[arg(long, value_name = "TIME", requires = "write")]
    pub write_time: Option<String>,
}

/// A recording, checked as far as is possible without opening files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// The file, or what numbered files are named after.
    pub path: PathBuf,
    /// When files end.
    pub rotation: Rotation,
}

impl Recording {
    pub(super) fn from_args(args: &RecordArgs) -> Result<Option<Self>, UsageError> {
        let Some(path) = args.write.clone() else {
            return Ok(None);
        };
        if path.file_name().is_none() {
            return Err(UsageError::new(
                "--write",
                format_args!(
                    "'{}' names no file, expected one such as traffic.pcapng",
                    path.display()
                ),
            ));
        }
        let size = args
            .write_size
            .as_deref()
            .map(|text| number("--write-size", text, 1..=MAX_FILE_MIB))
            .transpose()?;
        let age = args
            .write_time
            .as_deref()
            .map(|text| time("--write-time", text))
            .transpose()?;
        Ok(Some(Self {
            path,
            rotation: Rotation {
                max_bytes: size.map(|mib| mib << 20),
                max_age_ns: age.map(|time| time.as_nanos() as u64),
            },
        }))
    }
}
