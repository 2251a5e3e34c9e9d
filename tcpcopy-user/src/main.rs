//! See the library part, `tcpcopy_user`.
#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;
use tcpcopy_user::cli::{self, Config, Parsed};
use tcpcopy_user::{report, run};

/// Wrong command line.
const USAGE: u8 = 2;
/// Anything else.
const FAILED: u8 = 1;

/// The object file, aligned as its loader reads it: ELF headers are 8-byte words.
#[repr(C)]
struct Aligned<T: ?Sized> {
    align: [u64; 0],
    bytes: T,
}

static OBJECT: &Aligned<[u8]> = &Aligned {
    align: [],
    bytes: *include_bytes!(env!("TCPCOPY_BPF_OBJECT")),
};

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Ok(Parsed::Run(config)) => match go(&config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(text) => fail(&text, FAILED),
        },
        Ok(Parsed::Text(text)) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(text) => fail(&text, USAGE),
    }
}

fn go(config: &Config) -> Result<(), String> {
    run::init_logging(config).map_err(|e| e.to_string())?;
    let report = run::run(config, &OBJECT.bytes).map_err(|e| e.to_string())?;
    print(&report::to_text(&report));
    if let Some(path) = &config.report {
        let json = report::to_json(&report).map_err(|e| e.to_string())?;
        std::fs::write(path, json + "\n")
            .map_err(|e| format!("cannot write the report {}: {e}", path.display()))?;
    }
    Ok(())
}

/// A reader that went away is no reason to end with a panic.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn fail(text: &str, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "tcpcopy-user: {text}");
    ExitCode::from(code)
}
