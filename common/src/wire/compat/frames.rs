//! Cuts what a C intercept of any build sends into records.
//!
//! Nothing on the wire names the build; it shows in the bytes:
//!
//! ```text
//!  default                       count, n x 64 bytes, count, …      first byte 0
//!  --disable-combined                   64 bytes, 64 bytes, …       first byte 0x45 to 0x4f: an IPv4 header
//!  --with-resp-payload           192 bytes instead of 64, the first 64 of which mean the same
//! ```
//! So the first record is given out as soon as its 64 bytes are there, and what comes behind it tells the size:
//! the next count or header, or the first record's other 128 bytes, which hold its payload or zeros.

use super::{MAX_RECORDS, RECORD_BYTES};
use crate::packet::protocol;

/// Size of a record of an intercept built with `--with-resp-payload`.
pub const PAYLOAD_RECORD_BYTES: usize = 192;
/// Most records in a frame of such an intercept.
pub const MAX_PAYLOAD_RECORDS: usize = 6;
/// Its records end with this much of what the 64 bytes do not have.
const PAYLOAD_REST: usize = PAYLOAD_RECORD_BYTES - RECORD_BYTES;
/// Longer payloads are not copied at all.
const MAX_PAYLOAD: usize = 128;

/// What a C intercept was built to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Frames begin with a count; not with `--disable-combined`.
    pub counted: bool,
    /// Bytes of a record: 64, or 192 with `--with-resp-payload`.
    pub record_bytes: usize,
}

impl core::fmt::Display for Variant {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let frames = if self.counted { "with" } else { "without" };
        write!(f, "records of {} bytes, {frames} counts", self.record_bytes)
    }
}

/// Neither a count that the format allows nor a header where one of them is due: the stream is out of step and the
/// connection must be closed. The two bytes that came instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadCount(pub u16);

impl core::fmt::Display for BadCount {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "got {:#06x}, expected a count of 0 to {MAX_RECORDS} response records ({MAX_PAYLOAD_RECORDS} with payload), \
             or an IPv4 header from an intercept built with --disable-combined; is it an intercept that listens there?",
            self.0
        )
    }
}

impl core::error::Error for BadCount {}

/// Where in the stream the decoder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing has come.
    Start,
    /// Up to the end of the first record's 64 bytes.
    First,
    /// Behind them: the size of records is not known yet.
    Behind,
    /// Everything is known.
    Known,
}

/// Cuts a byte stream, arriving in pieces of any size, into records.
#[derive(Clone, Debug)]
pub struct FrameDecoder {
    step: Step,
    variant: Variant,
    /// Records still to come in this frame; 0 means that a count is due.
    due: u16,
    /// Bytes to pass over: the rest of a record that has been given out.
    skip: usize,
    /// Where the first record's payload is in it, if it has one that is copied.
    payload: (usize, usize),
    /// The unit that is gathered, or what has come behind the first record.
    bytes: [u8; PAYLOAD_RECORD_BYTES],
    filled: usize,
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self {
            step: Step::Start,
            variant: Variant {
                counted: true,
                record_bytes: RECORD_BYTES,
            },
            due: 0,
            skip: 0,
            payload: (0, 0),
            bytes: [0; PAYLOAD_RECORD_BYTES],
            filled: 0,
        }
    }
}

impl FrameDecoder {
    /// What the other side was built to send, once it has shown.
    pub fn variant(&self) -> Option<Variant> {
        (self.step == Step::Known).then_some(self.variant)
    }

    /// Feeds bytes and calls `record` for each record, with its first 64 bytes.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut record: impl FnMut(&[u8; RECORD_BYTES]),
    ) -> Result<(), BadCount> {
        if let (Step::Start, Some(&first)) = (self.step, bytes.first()) {
            self.variant.counted = !begins_header(first);
            self.step = Step::First;
        }
        while !bytes.is_empty() {
            if self.step != Step::Behind {
                self.cut(&mut bytes, &mut record)?;
                continue;
            }
            // Byte by byte, once a connection: where TCP cut the stream must not decide.
            self.fill(self.filled + 1, &mut bytes);
            let behind = self.bytes;
            let behind = behind.get(..self.filled).unwrap_or_default();
            if self.size(behind)? {
                self.filled = 0;
                let mut behind = behind;
                while !behind.is_empty() {
                    self.cut(&mut behind, &mut record)?;
                }
            }
        }
        Ok(())
    }

    /// Takes one unit off the front of `bytes`, or all of them.
    fn cut(
        &mut self,
        bytes: &mut &[u8],
        record: &mut impl FnMut(&[u8; RECORD_BYTES]),
    ) -> Result<(), BadCount> {
        let over = self.skip.min(bytes.len());
        self.skip -= over;
        *bytes = bytes.get(over..).unwrap_or_default();
        let count_due = self.variant.counted && self.due == 0;
        // The rest of a longer record is passed over like that of the first one.
        let want = if count_due { 2 } else { RECORD_BYTES };
        if self.skip > 0 || !self.fill(want, bytes) {
            return Ok(());
        }
        self.filled = 0;
        let head = u16::from_be_bytes([self.bytes[0], self.bytes[1]]);
        if count_due {
            if usize::from(head) > self.variant.max_records() {
                return Err(BadCount(head));
            }
            self.due = head;
            return Ok(());
        }
        if !self.variant.counted && !begins_header(self.bytes[0]) {
            return Err(BadCount(head));
        }
        if let Some(unit) = self.bytes.first_chunk() {
            self.payload = payload_place(unit);
            record(unit);
        }
        self.due = self.due.saturating_sub(1);
        if self.step == Step::First {
            self.step = Step::Behind;
        } else {
            self.skip = self.variant.record_bytes - RECORD_BYTES;
        }
        Ok(())
    }

    /// Gathers up to `want` bytes; true when they are there.
    fn fill(&mut self, want: usize, bytes: &mut &[u8]) -> bool {
        let missing = want.saturating_sub(self.filled).min(bytes.len());
        let (head, rest) = bytes.split_at(missing);
        if let Some(to) = self.bytes.get_mut(self.filled..self.filled + missing) {
            to.copy_from_slice(head);
            self.filled += missing;
        }
        *bytes = rest;
        self.filled >= want
    }

    /// Tells the size of records from what follows the first one's 64 bytes; false while both are possible.
    fn size(&mut self, behind: &[u8]) -> Result<bool, BadCount> {
        let small = self.continues(behind, MAX_RECORDS);
        let large = self.holds_payload(behind).and(|| {
            self.continues(
                behind.get(PAYLOAD_REST..).unwrap_or_default(),
                MAX_PAYLOAD_RECORDS,
            )
        });
        let is_large = match (small, large) {
            (Fit::No, Fit::No) => {
                // A record that is no header, as in the middle of a frame, does not say that it is another size.
                if !self.variant.counted || self.due == 0 {
                    let two = behind.first_chunk().copied().unwrap_or_default();
                    return Err(BadCount(u16::from_be_bytes(two)));
                }
                false
            }
            (Fit::Yes, _) | (Fit::Open, Fit::No) => false,
            (_, Fit::Yes) => true,
            // Counts of 0 without end, which nobody sends, look like the zeros of a record without payload.
            (_, Fit::Open) if behind.len() >= PAYLOAD_REST => true,
            (_, Fit::Open) => return Ok(false),
        };
        if is_large {
            self.variant.record_bytes = PAYLOAD_RECORD_BYTES;
            self.skip = PAYLOAD_REST;
        }
        self.step = Step::Known;
        Ok(true)
    }

    /// What may follow a whole record: the frame's next one, or counts and the next frame's first.
    fn continues(&self, mut bytes: &[u8], most: usize) -> Fit {
        if usize::from(self.due) >= most {
            return Fit::No;
        }
        if self.variant.counted && self.due == 0 {
            loop {
                let Some((count, rest)) = bytes.split_first_chunk() else {
                    return match bytes {
                        [] | [0] => Fit::Open,
                        _ => Fit::No,
                    };
                };
                let count = usize::from(u16::from_be_bytes(*count));
                if count > most {
                    return Fit::No;
                }
                bytes = rest;
                if count > 0 {
                    break;
                }
            }
        }
        header(bytes)
    }

    /// The first record's other bytes: its payload, and zeros.
    fn holds_payload(&self, behind: &[u8]) -> Fit {
        let (from, to) = self.payload;
        let rest = behind.get(..PAYLOAD_REST.min(behind.len()));
        let rest = rest.unwrap_or_default();
        for (at, &byte) in rest.iter().enumerate() {
            let at = RECORD_BYTES + at;
            if byte != 0 && !(from <= at && at < to) {
                return Fit::No;
            }
        }
        if rest.len() < PAYLOAD_REST {
            Fit::Open
        } else {
            Fit::Yes
        }
    }
}

impl Variant {
    const fn max_records(self) -> usize {
        if self.record_bytes == RECORD_BYTES {
            MAX_RECORDS
        } else {
            MAX_PAYLOAD_RECORDS
        }
    }
}

/// Whether bytes are what they are taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    No,
    /// Too few to say.
    Open,
    Yes,
}

impl Fit {
    fn and(self, next: impl FnOnce() -> Self) -> Self {
        if self == Self::Yes { next() } else { self }
    }
}

/// First byte of an IPv4 header.
const fn begins_header(byte: u8) -> bool {
    byte >= 0x45 && byte <= 0x4f
}

/// Where `--with-resp-payload` puts the payload: behind the TCP header, if it is short enough.
fn payload_place(record: &[u8; RECORD_BYTES]) -> (usize, usize) {
    let total = usize::from(u16::from_be_bytes([record[2], record[3]]));
    let tcp_len = usize::from(record[32] >> 4) * 4;
    let len = total.saturating_sub(usize::from(record[0] & 15) * 4 + tcp_len);
    if len > MAX_PAYLOAD {
        return (0, 0);
    }
    // A long header is cut behind 24 bytes of options, and the payload is put behind the whole all the same.
    (20 + tcp_len, 20 + tcp_len + len)
}

/// Whether a record begins here, by the bytes that every one has: IPv4, TCP, a header length.
fn header(bytes: &[u8]) -> Fit {
    let mut fits = [
        (0, 0x45, 0x4f),
        (9, protocol::TCP, protocol::TCP),
        (32, 0x50, 0xff),
    ]
    .into_iter()
    .map(|(at, least, most)| match bytes.get(at) {
        None => Fit::Open,
        Some(byte) if *byte < least || *byte > most => Fit::No,
        Some(_) => Fit::Yes,
    });
    fits.find(|fit| *fit != Fit::Yes).unwrap_or(Fit::Yes)
}
