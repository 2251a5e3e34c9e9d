//! Files that end when they are full or old.

use super::{blocks, names};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What is written at a time: enough for zstd to find repetitions, little to lose.
const CHUNK_BYTES: usize = 256 << 10;

/// When a file ends and the next one begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// At this size on the disk, within a chunk of 256 KiB.
    pub max_bytes: Option<u64>,
    /// At this age.
    pub max_age_ns: Option<u64>,
}

impl Rotation {
    const fn is_none(&self) -> bool {
        self.max_bytes.is_none() && self.max_age_ns.is_none()
    }
}

/// What stands at the end of a file, counted from the beginning of the recording.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Beginning, in nanoseconds since 1970.
    pub since_ns: u64,
    /// End.
    pub until_ns: u64,
    /// Frames that were taken from the capture.
    pub received: u64,
    /// Frames that the capture lost before.
    pub lost_in_capture: u64,
    /// Frames that were lost because the writer was behind.
    pub lost_in_queue: u64,
}

/// Writes frames to a file, or to one after the other.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    interface: String,
    application: String,
    rotation: Rotation,
    packed: bool,
    file: File,
    current: PathBuf,
    /// Blocks that are not in the file yet.
    chunk: Vec<u8>,
    /// On the disk.
    written: u64,
    frames: u64,
    opened_ns: u64,
    files: u32,
}

impl Writer {
    /// Creates the first file; existing ones are replaced, as tcpdump does. A name that ends in `.zst`
    /// asks for zstd. With a rotation files are numbered from 1.
    pub fn create(
        path: &Path,
        application: &str,
        interface: &str,
        rotation: Rotation,
        now_ns: u64,
    ) -> io::Result<Self> {
        let current = if rotation.is_none() {
            path.to_owned()
        } else {
            names::numbered(path, 1)
        };
        let mut writer = Self {
            path: path.to_owned(),
            interface: interface.to_owned(),
            application: application.to_owned(),
            rotation,
            packed: path.extension().is_some_and(|e| e == "zst"),
            file: File::create(&current)?,
            current,
            chunk: Vec::with_capacity(2 * CHUNK_BYTES),
            written: 0,
            frames: 0,
            opened_ns: now_ns,
            files: 1,
        };
        writer.header();
        writer.flush()?;
        Ok(writer)
    }

    /// The file that is written now.
    pub fn current(&self) -> &Path {
        &self.current
    }

    /// Files so far.
    pub const fn files(&self) -> u32 {
        self.files
    }

    fn header(&mut self) {
        blocks::header(&mut self.chunk, &self.application, &self.interface);
    }

    /// Adds a frame of `len` bytes on the wire; `tag` is a VLAN tag that is not in `bytes`.
    pub fn frame(
        &mut self,
        at_ns: u64,
        bytes: &[u8],
        len: u32,
        tag: Option<u16>,
    ) -> io::Result<()> {
        blocks::packet(&mut self.chunk, at_ns, bytes, len, tag);
        self.frames += 1;
        if self.chunk.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Brings everything into the file.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let written = if self.packed {
            let packed = compress_to_vec(self.chunk.as_slice(), CompressionLevel::Fastest);
            self.file.write_all(&packed)?;
            packed.len()
        } else {
            self.file.write_all(&self.chunk)?;
            self.chunk.len()
        };
        self.written += written as u64;
        self.chunk.clear();
        Ok(())
    }

    /// The file is full or old, and not empty: [`Writer::rotate`] is due.
    pub fn rotation_due(&self, now_ns: u64) -> bool {
        let full = self
            .rotation
            .max_bytes
            .is_some_and(|max| self.written >= max);
        let age = now_ns.saturating_sub(self.opened_ns);
        let old = self.rotation.max_age_ns.is_some_and(|max| age >= max);
        self.frames > 0 && (full || old)
    }

    /// Ends this file and begins the next one.
    pub fn rotate(&mut self, statistics: &Statistics, now_ns: u64) -> io::Result<()> {
        self.end(statistics)?;
        // Named first, so that an error names it.
        self.current = names::numbered(&self.path, self.files + 1);
        self.file = File::create(&self.current)?;
        self.files += 1;
        self.written = 0;
        self.frames = 0;
        self.opened_ns = now_ns;
        self.header();
        self.flush()
    }

    /// Ends the last file.
    pub fn end(&mut self, statistics: &Statistics) -> io::Result<()> {
        blocks::statistics(&mut self.chunk, statistics);
        self.flush()
    }
}
