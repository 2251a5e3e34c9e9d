//! See the library part, `intercept_user`.
#![forbid(unsafe_code)]

#[cfg(bpf_object)]
mod program {
    use doctor::options::log_level;
    use intercept_user::cli::{self, Args, Parsed};
    use intercept_user::doctor::Options;
    use intercept_user::{report, run};
    use operator::exit::{self, Failure};
    use std::process::ExitCode;

    pub fn main() -> ExitCode {
        let outcome = match cli::parse(std::env::args_os()) {
            Ok(Parsed::Run(args)) => go(&args),
            Ok(Parsed::Doctor(args, options)) => examine(&args, &options),
            Ok(Parsed::Text(text)) => {
                exit::print(&text);
                Ok(())
            }
            Err(text) => Err(Failure::Usage(text)),
        };
        exit::code("intercept-user", outcome)
    }

    fn examine(args: &Args, options: &Options) -> Result<(), Failure> {
        let level = log_level(args.level());
        operator::log::init(level, args.log_format, args.log_file.as_deref())
            .map_err(|e| Failure::of(&e))?;
        let object = operator::embed_object!("INTERCEPT_BPF_OBJECT");
        let found = intercept_user::doctor::diagnose(args, options, object);
        options.common.print(&found)
    }

    fn go(args: &Args) -> Result<(), Failure> {
        operator::log::init(args.level(), args.log_format, args.log_file.as_deref())
            .map_err(|e| Failure::of(&e))?;
        let object = operator::embed_object!("INTERCEPT_BPF_OBJECT");
        let report = run::run(args, object).map_err(|e| Failure::of(&e))?;
        exit::print(&report::to_text(&report));
        if let Some(path) = &args.report {
            let json = report::to_json(&report).map_err(|e| Failure::of(&e))?;
            exit::write_report(path, &json)?;
        }
        Ok(())
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
