//! See the library part, `intercept_user`.
#![forbid(unsafe_code)]

#[cfg(bpf_object)]
mod program {
    use clap::Parser;
    use intercept_user::cli::Args;
    use intercept_user::{report, run};
    use std::io::Write;
    use std::process::ExitCode;

    /// The object file, aligned as its loader reads it: ELF headers are 8-byte words.
    #[repr(C)]
    struct Aligned<T: ?Sized> {
        align: [u64; 0],
        bytes: T,
    }

    static OBJECT: &Aligned<[u8]> = &Aligned {
        align: [],
        bytes: *include_bytes!(env!("INTERCEPT_BPF_OBJECT")),
    };

    pub fn main() -> ExitCode {
        // Usage errors end the process here, with exit code 2.
        let args = Args::parse();
        match go(&args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(text) => {
                let _ = writeln!(std::io::stderr(), "intercept-user: {text}");
                ExitCode::FAILURE
            }
        }
    }

    fn go(args: &Args) -> Result<(), String> {
        run::init_logging(args).map_err(|e| e.to_string())?;
        let report = run::run(args, &OBJECT.bytes).map_err(|e| e.to_string())?;
        // A reader that went away is no reason to end with a panic.
        let _ = std::io::stdout().write_all(report::to_text(&report).as_bytes());
        if let Some(path) = &args.report {
            let json = report::to_json(&report).map_err(|e| e.to_string())?;
            std::fs::write(path, json + "\n")
                .map_err(|e| format!("cannot write the report {}: {e}", path.display()))?;
        }
        Ok(())
    }
}

#[cfg(bpf_object)]
use program::main;

#[cfg(not(bpf_object))]
compile_error!(
    "the BPF object target/bpf/intercept-ebpf is missing; build it with `cargo xtask build-ebpf`"
);

#[cfg(not(bpf_object))]
fn main() {}
