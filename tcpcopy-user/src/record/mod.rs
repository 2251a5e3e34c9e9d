//! What is captured, into files (`--write`).
//!
//! ```text
//!  capture ─▶ Tee ─▶ worker
//!              └─▶ ring of each source ─▶ writer thread ─▶ savefile::write ─▶ pcapng
//! ```
//! Workers never wait for the disk: what the writer cannot keep up with is missing from the file and
//! counted. A disk that is full ends the recording, not the replay.

use crate::cli::Recording;
use crate::worker::Counter;
use dataplane::tee::{TeeReceiver, tee};
use dataplane::{Capture, clock};
use savefile::write::{Statistics, Writer};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// All rings together: 20 ms at 10 Gbit/s, ten times the writer's nap.
pub const RING_BYTES_TOTAL: usize = 32 << 20;
/// Smallest ring: two merged packets of 64 KiB.
const RING_BYTES_MIN: usize = 256 << 10;
const NAP: Duration = Duration::from_millis(2);
/// What a reader of the growing file, or a crash, is behind at most.
const FLUSH_EVERY_NS: u64 = 1_000_000_000;

/// What became of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteReport {
    /// The last file.
    pub path: PathBuf,
    /// Files written.
    pub files: u32,
    /// Frames in them.
    pub packets: u64,
    /// Frames that were captured but are missing from the files.
    pub lost: u64,
    /// Why the recording ended early.
    pub error: Option<String>,
}

impl WriteReport {
    /// For the exit report.
    pub fn counters(&self) -> [Counter; 3] {
        [
            ("files", u64::from(self.files)),
            ("packets", self.packets),
            ("lost", self.lost),
        ]
        .map(|(name, value)| Counter {
            group: "write",
            name,
            value,
        })
    }
}

/// Why there is no recording.
#[derive(Debug, thiserror::Error)]
#[error("--write: cannot create {}: {source}", path.display())]
pub struct RecordError {
    path: PathBuf,
    source: io::Error,
}

/// A recording under way.
pub struct Recorder {
    writing: Option<Writing>,
    order: Arc<Order>,
    thread: Option<JoinHandle<WriteReport>>,
}

#[derive(Debug, Default)]
struct Order {
    stop: AtomicBool,
    /// Frames that the capture itself lost.
    lost_in_capture: AtomicU64,
}

impl Recorder {
    /// Creates the first file. `inputs` are files that must not be overwritten.
    pub fn create(
        recording: &Recording,
        interface: &str,
        inputs: &[PathBuf],
    ) -> Result<Self, RecordError> {
        let failed = |source| RecordError {
            path: recording.path.clone(),
            source,
        };
        if inputs.iter().any(|input| same_file(input, &recording.path)) {
            return Err(failed(io::Error::other(
                "it is the file that --read replays",
            )));
        }
        let offset = clock::epoch_offset();
        let writer = Writer::create(
            &recording.path,
            concat!("tcpcopy-user ", env!("CARGO_PKG_VERSION")),
            interface,
            recording.rotation,
            offset + clock::now().0,
        )
        .map_err(failed)?;
        let order = Arc::new(Order::default());
        Ok(Self {
            writing: Some(Writing {
                sources: Vec::new(),
                order: Arc::clone(&order),
                since_ns: offset + clock::now().0,
                offset,
                writer,
                packets: 0,
                missed: 0,
                error: None,
            }),
            order,
            thread: None,
        })
    }

    /// Puts a copy beside each of a worker's `sources`, of which all workers together have `all`.
    pub fn tee(&mut self, sources: &mut Vec<Box<dyn Capture>>, all: usize) {
        let Some(writing) = &mut self.writing else {
            return;
        };
        let bytes = (RING_BYTES_TOTAL / all.max(1)).max(RING_BYTES_MIN);
        for inner in std::mem::take(sources) {
            let (copying, copies) = tee(inner, bytes);
            writing.sources.push(copies);
            sources.push(Box::new(copying));
        }
    }

    /// Begins to write.
    pub fn start(&mut self) -> io::Result<()> {
        if let Some(mut writing) = self.writing.take() {
            let thread = std::thread::Builder::new().name("writer".to_owned());
            self.thread = Some(thread.spawn(move || writing.run())?);
        }
        Ok(())
    }

    /// Tells how many frames the capture has lost.
    pub fn set_lost_in_capture(&self, lost: u64) {
        self.order.lost_in_capture.store(lost, Ordering::Relaxed);
    }

    /// Writes what is left. The workers must be gone.
    pub fn finish(&mut self) -> Option<WriteReport> {
        self.order.stop.store(true, Ordering::Release);
        self.thread.take()?.join().ok()
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// What the thread owns.
struct Writing {
    sources: Vec<TeeReceiver>,
    order: Arc<Order>,
    writer: Writer,
    /// From the capture's clock to nanoseconds since 1970. Looked up for each file, so that a clock that
    /// was set is right from the next file on.
    offset: u64,
    since_ns: u64,
    packets: u64,
    /// Taken from the rings after an error.
    missed: u64,
    error: Option<String>,
}

impl Writing {
    fn run(&mut self) -> WriteReport {
        let mut flushed_ns = self.since_ns;
        loop {
            // Asked before looking: what came until then is written.
            let last = self.order.stop.load(Ordering::Acquire);
            let worked = self.take();
            let now_ns = clock::now().0 + self.offset;
            if self.writer.rotation_due(now_ns) {
                self.rotate();
                flushed_ns = now_ns;
            } else if now_ns.saturating_sub(flushed_ns) >= FLUSH_EVERY_NS {
                flushed_ns = now_ns;
                self.attempt(Writer::flush);
            }
            if !worked {
                if last {
                    break;
                }
                std::thread::sleep(NAP);
            }
        }
        let statistics = self.statistics();
        self.attempt(|writer| writer.end(&statistics));
        let dropped: u64 = self.sources.iter().map(TeeReceiver::lost).sum();
        WriteReport {
            path: self.writer.current().to_owned(),
            files: self.writer.files(),
            packets: self.packets,
            lost: dropped + self.missed,
            error: self.error.clone(),
        }
    }

    /// A batch of each source; false if there was none.
    fn take(&mut self) -> bool {
        let mut sources = std::mem::take(&mut self.sources);
        let mut worked = false;
        for source in &mut sources {
            let n = source.recv(&mut |batch| {
                for frame in batch {
                    let at_ns = frame.meta.at.0 + self.offset;
                    let meta = &frame.meta;
                    if self.attempt(|writer| {
                        writer.frame(at_ns, frame.bytes, meta.frame_len, meta.vlan_tci)
                    }) {
                        self.packets += 1;
                    } else {
                        self.missed += 1;
                    }
                }
            });
            worked |= n > 0;
        }
        self.sources = sources;
        worked
    }

    fn rotate(&mut self) {
        let statistics = self.statistics();
        self.offset = clock::epoch_offset();
        let now_ns = clock::now().0 + self.offset;
        self.attempt(|writer| writer.rotate(&statistics, now_ns));
    }

    /// The first error is the last attempt.
    fn attempt(&mut self, act: impl FnOnce(&mut Writer) -> io::Result<()>) -> bool {
        if self.error.is_some() {
            return false;
        }
        match act(&mut self.writer) {
            Ok(()) => true,
            Err(e) => {
                let path = self.writer.current().display();
                let error = format!("cannot write {path}: {e}");
                tracing::error!("{error}; the recording ends here, the replay goes on");
                self.error = Some(error);
                false
            }
        }
    }

    fn statistics(&self) -> Statistics {
        Statistics {
            since_ns: self.since_ns,
            until_ns: clock::now().0 + self.offset,
            received: self.sources.iter().map(|s| s.copied() + s.lost()).sum(),
            lost_in_capture: self.order.lost_in_capture.load(Ordering::Relaxed),
            lost_in_queue: self.sources.iter().map(TeeReceiver::lost).sum(),
        }
    }
}

#[cfg(test)]
mod tests;
