//! How a program ends: text on stdout, one line on stderr, and a code.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Why a program ends without having done its work, or not all of it.
#[derive(Debug)]
pub enum Failure {
    /// Wrong command line: code 2.
    Usage(String),
    /// Anything else: code 1.
    Failed(String),
    /// The work was done and reported, but part of what it was to be done on could not be read: code 3.
    Incomplete(String),
    /// `doctor` has found why something does not work: code 4.
    Found(String),
}

impl Failure {
    /// Anything but a wrong command line.
    pub fn of(error: &dyn std::error::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Prints a failure as `program: text` and gives the code.
pub fn code(program: &str, outcome: Result<(), Failure>) -> ExitCode {
    let (text, code) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(text)) => (text, 2),
        Err(Failure::Failed(text)) => (text, 1),
        Err(Failure::Incomplete(text)) => (text, 3),
        Err(Failure::Found(text)) => (text, 4),
    };
    let _ = writeln!(std::io::stderr(), "{program}: {text}");
    ExitCode::from(code)
}

/// Writes to stdout. A reader that went away is no reason to end with a panic.
pub fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Writes a report's JSON to the file that was asked for.
pub fn write_report(path: &Path, json: &str) -> Result<(), Failure> {
    std::fs::write(path, format!("{json}\n"))
        .map_err(|e| Failure::Failed(format!("cannot write the report {}: {e}", path.display())))
}

/// The BPF object whose path is in the given environment variable at build time, as a static byte slice,
/// aligned as its loader reads it: ELF headers are 8-byte words.
#[macro_export]
macro_rules! embed_object {
    ($variable:literal) => {{
        #[repr(C)]
        struct Aligned<T: ?Sized> {
            align: [u64; 0],
            bytes: T,
        }
        static OBJECT: &Aligned<[u8]> = &Aligned {
            align: [],
            bytes: *include_bytes!(env!($variable)),
        };
        &OBJECT.bytes
    }};
}
