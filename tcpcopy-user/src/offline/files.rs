//! Opening the files, with a count of what was read of them.

use crate::cli::is_stdin;
use savefile::{OpenError, Reader};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A file that cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[error("--read: {}: {source}", path.display())]
pub struct FileError {
    path: PathBuf,
    source: OpenError,
}

/// Adds what is read to a figure that others show.
struct Counting<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(out)?;
        self.bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// Opens one and looks at its beginning.
pub(super) fn open(path: &Path, bytes: &Arc<AtomicU64>) -> Result<Reader, FileError> {
    let bytes = Arc::clone(bytes);
    let opened = if is_stdin(path) {
        let inner = io::stdin();
        Reader::new(Counting { inner, bytes })
    } else {
        File::open(path)
            .map_err(OpenError::from)
            .and_then(|inner| Reader::new(Counting { inner, bytes }))
    };
    opened.map_err(|source| FileError {
        path: path.to_owned(),
        source,
    })
}

/// Checks that every file but standard input is a capture that can be read, before anything else is done,
/// and gives their size; `None` if not all have one (pipes).
pub fn check(files: &[PathBuf]) -> Result<Option<u64>, FileError> {
    let mut total = Some(0u64);
    for path in files {
        if is_stdin(path) {
            total = None;
            continue;
        }
        let about = std::fs::metadata(path).map_err(|e| FileError {
            path: path.clone(),
            source: e.into(),
        })?;
        // What is read from a pipe is gone.
        if about.is_file() {
            open(path, &Arc::default())?;
            total = total.map(|n| n.saturating_add(about.len()));
        } else {
            total = None;
        }
    }
    Ok(total)
}
