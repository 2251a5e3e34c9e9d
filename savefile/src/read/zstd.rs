//! Zstandard frames one after the other (RFC 8878 section 3.1), unpacked as far as they go.
//!
//! The decoder keeps the last window of its output until the frame is over, up to megabytes. Where a file
//! ends within a frame, what the decoder holds is good and wanted: it is told that the frame ends there,
//! by a last block of no bytes.

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::io::{self, Read};

/// Header and content of a block (RFC 8878 section 3.1.1.2).
const BLOCK_HEADER_BYTES: usize = 3;
const MAX_BLOCK_BYTES: usize = 128 << 10;
const BUFFER_BYTES: usize = 2 * (BLOCK_HEADER_BYTES + MAX_BLOCK_BYTES);
/// The largest window that is decoded (`zstd --long=27`): it is memory.
const MAX_WINDOW_BYTES: u64 = 128 << 20;
const RLE_BLOCK: u32 = 1;
/// A raw block of no bytes that is the last one, and a checksum for frames that have one.
const FAREWELL: [u8; BLOCK_HEADER_BYTES + 4] = [1, 0, 0, 0, 0, 0, 0];

/// The bytes of a file, some of them looked at before they are read.
struct Ahead<R> {
    source: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl<R: Read> Ahead<R> {
    /// Up to `n` next bytes; fewer only at the end.
    fn peek(&mut self, n: usize) -> io::Result<&[u8]> {
        while self.end - self.start < n {
            if self.buffer.len() - self.start < n {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => break,
                Ok(n) => self.end += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(&self.buffer[self.start..self.end.min(self.start + n)])
    }
}

impl<R: Read> Read for Ahead<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.start == self.end {
            self.peek(1)?;
        }
        let n = out.len().min(self.end - self.start);
        out[..n].copy_from_slice(&self.buffer[self.start..self.start + n]);
        self.start += n;
        Ok(n)
    }
}

pub(super) struct ZstdReader<R> {
    source: Ahead<R>,
    decoder: FrameDecoder,
    in_frame: bool,
    /// Said once what is decoded has been read.
    error: Option<io::Error>,
    failed: bool,
}

impl<R: Read> ZstdReader<R> {
    pub(super) fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW_BYTES);
        Self {
            source: Ahead {
                source,
                buffer: vec![0; BUFFER_BYTES],
                start: 0,
                end: 0,
            },
            decoder,
            in_frame: false,
            error: None,
            failed: false,
        }
    }

    /// The next frame, if there is one.
    fn begin(&mut self) -> io::Result<bool> {
        loop {
            if self.source.peek(1)?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => {
                    self.in_frame = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let mut skipped = self.source.by_ref().take(u64::from(length));
                    io::copy(&mut skipped, &mut io::sink())?;
                }
                Err(e) => return Err(broken(&e)),
            }
        }
    }

    /// Decodes one block, or ends the frame where the file does.
    fn block(&mut self) -> io::Result<()> {
        let header = self.source.peek(BLOCK_HEADER_BYTES)?;
        let size = match header {
            [a, b, c] => {
                let word = u32::from_le_bytes([*a, *b, *c, 0]);
                let size = if (word >> 1) & 3 == RLE_BLOCK {
                    1
                } else {
                    (word >> 3) as usize
                };
                Some(BLOCK_HEADER_BYTES + size.min(MAX_BLOCK_BYTES))
            }
            _ => None,
        };
        let whole = match size {
            Some(size) => self.source.peek(size)?.len() == size,
            None => false,
        };
        let one = BlockDecodingStrategy::UptoBlocks(1);
        if whole {
            // Should the checksum behind the last block be cut off, it is wrong, not the content.
            let with_checksum = self.source.by_ref().chain([0; 4].as_slice());
            return match self.decoder.decode_blocks(with_checksum, one) {
                Ok(_) => Ok(()),
                Err(e) => Err(broken(&e)),
            };
        }
        self.error = Some(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the file ends within a zstd frame",
        ));
        match self.decoder.decode_blocks(FAREWELL.as_slice(), one) {
            Ok(_) => Ok(()),
            Err(e) => Err(broken(&e)),
        }
    }

    fn checksum(&self) -> io::Result<()> {
        match (
            self.decoder.get_checksum_from_data(),
            self.decoder.get_calculated_checksum(),
        ) {
            (Some(said), Some(is)) if said != is => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a zstd frame with checksum {is:08x}, expected {said:08x}"),
            )),
            _ => Ok(()),
        }
    }

    fn step(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame {
                if !self.begin()? {
                    return Ok(0);
                }
                continue;
            }
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(out);
            }
            if !self.decoder.is_finished() {
                self.block()?;
                continue;
            }
            self.in_frame = false;
            if let Some(error) = self.error.take() {
                return Err(error);
            }
            self.checksum()?;
        }
    }
}

impl<R: Read> Read for ZstdReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.failed || out.is_empty() {
            return Ok(0);
        }
        self.step(out).inspect_err(|_| self.failed = true)
    }
}

fn broken(error: &FrameDecoderError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("broken zstd: {error}"))
}
