//! See the library part, `tcpcopy_user`.
#![forbid(unsafe_code)]

use doctor::Options;
use doctor::options::log_level;
use operator::exit::{self, Failure};
use std::process::ExitCode;
use tcpcopy_user::cli::{self, Config, Parsed};
use tcpcopy_user::offline::ReadReport;
use tcpcopy_user::{report, run};

fn main() -> ExitCode {
    let outcome = match cli::parse(std::env::args_os()) {
        Ok(Parsed::Run(config)) => go(&config),
        Ok(Parsed::Doctor(config, options)) => examine(&config, &options),
        Ok(Parsed::Text(text)) => {
            exit::print(&text);
            Ok(())
        }
        Err(text) => Err(Failure::Usage(text)),
    };
    exit::code("tcpcopy-user", outcome)
}

fn examine(config: &Config, options: &Options) -> Result<(), Failure> {
    operator::log::init(
        log_level(config.log_level),
        config.log_format,
        config.log_file.as_deref(),
    )
    .map_err(|e| Failure::of(&e))?;
    let object = operator::embed_object!("TCPCOPY_BPF_OBJECT");
    options.print(&tcpcopy_user::doctor::diagnose(
        config,
        object,
        options.window,
    ))
}

fn go(config: &Config) -> Result<(), Failure> {
    operator::log::init(
        config.log_level,
        config.log_format,
        config.log_file.as_deref(),
    )
    .map_err(|e| Failure::of(&e))?;
    let object = operator::embed_object!("TCPCOPY_BPF_OBJECT");
    let report = run::run(config, object).map_err(|e| Failure::of(&e))?;
    exit::print(&report::to_text(&report));
    if let Some(path) = &config.report {
        let json = report::to_json(&report).map_err(|e| Failure::of(&e))?;
        exit::write_report(path, &json)?;
    }
    let damages: Vec<String> = report.read.iter().flat_map(ReadReport::damages).collect();
    if damages.is_empty() {
        Ok(())
    } else {
        Err(Failure::Incomplete(damages.join("; ")))
    }
}
