//! The log: stderr or a file, lines or JSON.

use clap::ValueEnum;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Forms of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

/// Levels of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum LogLevel {
    /// What stops the program
    Error,
    /// What makes its work incomplete
    Warn,
    /// Start, peers, statistics, end
    Info,
    /// Decisions, and packets in the kernel
    Debug,
    /// Everything
    Trace,
}

impl LogLevel {
    /// `steps` levels more talkative.
    #[must_use]
    pub fn more(self, steps: u8) -> Self {
        const ALL: [LogLevel; 5] = [
            LogLevel::Error,
            LogLevel::Warn,
            LogLevel::Info,
            LogLevel::Debug,
            LogLevel::Trace,
        ];
        let at = self as usize + usize::from(steps);
        ALL.get(at).copied().unwrap_or(Self::Trace)
    }

    fn filter(self) -> LevelFilter {
        match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the log file {path}: {source}; expected a path that this user may append to")]
pub struct LogError {
    path: PathBuf,
    source: std::io::Error,
}

/// Sets the log up for the whole process. Only the first call has an effect.
pub fn init(level: LogLevel, format: LogFormat, file: Option<&Path>) -> Result<(), LogError> {
    let (writer, ansi) = match file {
        None => (
            BoxMakeWriter::new(|| crate::progress::AboveProgress),
            std::io::stderr().is_terminal(),
        ),
        Some(path) => {
            let file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|source| LogError {
                    path: path.to_owned(),
                    source,
                })?;
            (BoxMakeWriter::new(Arc::new(file)), false)
        }
    };
    let level = level.filter();
    // The loader tells each relocation at debug level, hundreds of lines before the first of ours.
    let loader = if level == LevelFilter::TRACE {
        level
    } else {
        level.min(LevelFilter::WARN)
    };
    let targets = Targets::new()
        .with_default(level)
        .with_target("aya", loader)
        .with_target("aya_obj", loader);
    let layer = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_ansi(ansi)
        .with_writer(writer);
    let layer = match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    let _ = tracing_subscriber::registry()
        .with(layer)
        .with(targets)
        .try_init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_add_up_and_stop_at_the_last() {
        assert_eq!(LogLevel::Info.more(1), LogLevel::Debug);
        assert_eq!(LogLevel::Error.more(9), LogLevel::Trace);
    }

    #[test]
    fn a_log_file_that_cannot_be_opened_is_named() {
        let path = Path::new("/nonexistent/folder/log");
        let error = init(LogLevel::Info, LogFormat::Text, Some(path)).expect_err("no such folder");
        let text = error.to_string();
        assert!(
            text.contains("/nonexistent/folder/log") && text.contains("expected"),
            "{text}"
        );
    }
}
