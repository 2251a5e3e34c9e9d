//! A line at the bottom of the terminal that tells how far something is, with the log above it.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The line that is shown. One per process, as there is one terminal.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn shown() -> MutexGuard<'static, Option<ProgressBar>> {
    // The slot is valid after every statement.
    SHOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The line; it goes when this is dropped.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// Shows a line on stderr if that is a terminal. `total`: when all is done; `None` if nobody knows.
    pub fn show(total: Option<u64>) -> Option<Self> {
        if !io::stderr().is_terminal() {
            return None;
        }
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
        let form = if total.is_some() {
            "{elapsed} {wide_bar} {percent}% {msg} {binary_bytes_per_sec} eta {eta}"
        } else {
            "{elapsed} {spinner} {binary_bytes} {msg} {binary_bytes_per_sec}"
        };
        if let Ok(style) = ProgressStyle::with_template(form) {
            bar.set_style(style);
        }
        *shown() = Some(bar.clone());
        Some(Self(bar))
    }

    /// How far it is.
    pub fn set(&self, position: u64, message: String) {
        self.0.set_position(position);
        self.0.set_message(message);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        *shown() = None;
        self.0.finish_and_clear();
    }
}

/// Writes to stderr, above the line if there is one.
pub struct AboveProgress;

impl Write for AboveProgress {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match shown().as_ref() {
            None => io::stderr().write(bytes),
            Some(bar) => bar
                .suspend(|| io::stderr().write_all(bytes))
                .map(|()| bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
