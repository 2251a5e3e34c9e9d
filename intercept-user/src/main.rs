//! See the library part, `intercept_user`.
#![forbid(unsafe_code)]

#[cfg(bpf_object)]
mod program {
    use intercept_user::cli::{self, Args, Parsed};
    use intercept_user::{report, run};
    use std::io::Write;
    use std::process::ExitCode;

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
        bytes: *include_bytes!(env!("INTERCEPT_BPF_OBJECT")),
    };

    pub fn main() -> ExitCode {
        match cli::parse(std::env::args_os()) {
            Ok(Parsed::Run(args)) => match go(&args) {
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

    fn go(args: &Args) -> Result<(), String> {
        run::init_logging(args).map_err(|e| e.to_string())?;
        let report = run::run(args, &OBJECT.bytes).map_err(|e| e.to_string())?;
        print(&report::to_text(&report));
        if let Some(path) = &args.report {
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
        let _ = writeln!(std::io::stderr(), "intercept-user: {text}");
        ExitCode::from(code)
    }
}

#[cfg(bpf_object)]
fn main() -> std::process::ExitCode {
    program::main()
}

#[cfg(not(bpf_object))]
compile_error!(
    "the BPF object target/bpf/intercept-ebpf is missing; build it with `cargo xtask build-ebpf`"
);

#[cfg(not(bpf_object))]
fn main() {}
