//! The log: stderr or a file, lines or JSON.

use crate::cli::{Config, LogFormat, LogLevel};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the log file {path}: {source}; expected a path that this user may append to")]
pub struct LogError {
    path: PathBuf,
    source: std::io::Error,
}

/// Sets the log up for the whole process. Only the first call has an effect.
pub fn init_logging(config: &Config) -> Result<(), LogError> {
    let (writer, ansi) = match &config.log_file {
        None => (
            BoxMakeWriter::new(std::io::stderr),
            std::io::stderr().is_terminal(),
        ),
        Some(path) => {
            let file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|source| LogError {
                    path: path.clone(),
                    source,
                })?;
            (BoxMakeWriter::new(Arc::new(file)), false)
        }
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(config.log_level))
        .with_target(false)
        .with_ansi(ansi)
        .with_writer(writer);
    let _ = match config.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// The loader tells each relocation at debug level, hundreds of lines before the first of ours.
fn filter(own: LogLevel) -> EnvFilter {
    let level = level(own);
    let loader = if own == LogLevel::Trace {
        level
    } else {
        level.min(LevelFilter::WARN)
    };
    EnvFilter::new(format!("{level},aya={loader},aya_obj={loader}"))
}

fn level(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
