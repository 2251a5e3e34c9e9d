//! A window on a stream of bytes that knows where in the stream it is.

use std::io::{ErrorKind, Read};
use std::ops::Range;

/// One read of a disk: larger ones are no faster.
const READ_BYTES: usize = 256 << 10;

/// Fewer bytes than were asked for.
#[derive(Debug)]
pub(super) struct Missing {
    /// How many there are.
    pub(super) there: usize,
    /// Why there are no more, if not for the end of the file.
    pub(super) error: Option<String>,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.error {
            Some(error) => f.write_str(error),
            None if self.there == 0 => f.write_str("the file is empty"),
            None => write!(f, "the file ends after {} bytes", self.there),
        }
    }
}

pub(super) struct Input {
    source: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    /// What is there and not consumed.
    start: usize,
    end: usize,
    /// Of `start`, in the stream.
    offset: u64,
    finished: bool,
    error: Option<String>,
}

impl Input {
    pub(super) fn new(source: Box<dyn Read + Send>) -> Self {
        Self {
            source,
            buffer: vec![0; READ_BYTES],
            start: 0,
            end: 0,
            offset: 0,
            finished: false,
            error: None,
        }
    }

    /// Of the next byte.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// The next `n` bytes, without consuming them. Callers bound `n`: it is memory.
    pub(super) fn peek(&mut self, n: usize) -> Result<&[u8], Missing> {
        while self.end - self.start < n && !self.finished {
            self.fill(n);
        }
        let there = self.end - self.start;
        if there < n {
            return Err(Missing {
                there,
                error: self.error.clone(),
            });
        }
        Ok(&self.buffer[self.start..self.start + n])
    }

    fn fill(&mut self, n: usize) {
        if self.buffer.len() - self.start < n {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            if self.buffer.len() < n {
                self.buffer.resize(n.next_multiple_of(READ_BYTES), 0);
            }
        }
        match self.source.read(&mut self.buffer[self.end..]) {
            Ok(0) => self.finished = true,
            Ok(n) => self.end = (self.end + n).min(self.buffer.len()),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => {
                self.finished = true;
                self.error = Some(e.to_string());
            }
        }
    }

    /// Nothing more comes, and not because of an error.
    pub(super) fn at_end(&mut self) -> bool {
        matches!(self.peek(1), Err(Missing { error: None, .. }))
    }

    /// Goes on behind the next `n` bytes, which must have been peeked at.
    pub(super) fn consume(&mut self, n: usize) {
        let n = n.min(self.end - self.start);
        self.start += n;
        self.offset += n as u64;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// A part of what was peeked at, counted from the next byte on.
    pub(super) fn window(&self, range: Range<usize>) -> &[u8] {
        let there = &self.buffer[self.start..self.end];
        there.get(range).unwrap_or_default()
    }
}
