//! One packet that is being put together.

use super::Key;
use arrayvec::ArrayVec;
use common::flow::Nanos;
use common::packet::{Fragment, Ip, checksum};
use std::ops::Range;

/// Pieces apart from each other. 64 KiB in fragments of a 1500-byte MTU are 45; smaller ones are an
/// attack on whoever puts them together.
const PIECES: usize = 64;
/// Longest packet that an IP header can tell of.
const PACKET_BYTES: usize = 65_535;
/// Ethernet with two tags, IPv6 with extension headers, or IPv4 with options: more than this in front
/// of the payload is no packet of this world.
const HEADERS_BYTES: usize = 512;

#[derive(Default)]
pub(super) struct Slot {
    /// None while it is spare.
    pub(super) key: Option<Key>,
    pub(super) since: Nanos,
    /// Ethernet and IP headers of the first fragment, IPv6 with its fragment header; empty until then.
    headers: ArrayVec<u8, HEADERS_BYTES>,
    l3: usize,
    is_v4: bool,
    /// The payload, with gaps.
    payload: Vec<u8>,
    /// What is there of it, in order.
    pieces: ArrayVec<Range<usize>, PIECES>,
    /// Its length, once the last fragment came.
    end: Option<usize>,
}

impl Slot {
    pub(super) fn begin(&mut self, key: Key, at: Nanos) {
        self.key = Some(key);
        self.since = at;
        self.headers.clear();
        self.payload.clear();
        self.pieces.clear();
        self.end = None;
    }

    /// Takes a piece; `None` if it contradicts the others or itself.
    pub(super) fn add(&mut self, bytes: &[u8], ip: &Ip, fragment: Fragment) -> Option<()> {
        // Padding of short frames is not part of it. What the capture has cut off is missing for ever.
        let total = usize::try_from(ip.total_len).ok()?;
        let payload = bytes.get(ip.l4..ip.l3.checked_add(total)?)?;
        let from = usize::try_from(fragment.offset).ok()?;
        let to = from + payload.len();
        // Every piece but the last is a multiple of the unit of offsets.
        let odd = fragment.more && !payload.len().is_multiple_of(8);
        let too_long = ip.l4 - ip.l3 + to > PACKET_BYTES;
        if payload.is_empty() || odd || too_long {
            return None;
        }
        let end = if fragment.more { self.end } else { Some(to) };
        let beyond =
            end.is_some_and(|end| to > end || self.pieces.last().is_some_and(|p| p.end > end));
        if beyond || (self.end.is_some() && end != self.end) {
            return None;
        }
        self.end = end;
        if from == 0 {
            self.headers.clear();
            self.headers
                .try_extend_from_slice(bytes.get(..ip.l4)?)
                .ok()?;
            self.l3 = ip.l3;
            self.is_v4 = ip.src.is_v4();
        }
        if self.pieces.contains(&(from..to)) {
            return Some(());
        }
        let at = self.pieces.iter().position(|p| p.start > from);
        let at = at.unwrap_or(self.pieces.len());
        let overlaps = at > 0 && self.pieces.get(at - 1).is_some_and(|p| p.end > from)
            || self.pieces.get(at).is_some_and(|p| p.start < to);
        if overlaps {
            return None;
        }
        self.pieces.try_insert(at, from..to).ok()?;
        if self.payload.len() < to {
            self.payload.resize(to, 0);
        }
        self.payload.get_mut(from..to)?.copy_from_slice(payload);
        Some(())
    }

    pub(super) fn is_whole(&self) -> bool {
        // Pieces do not overlap: as many bytes as there should be are all of them.
        let there: usize = self.pieces.iter().map(ExactSizeIterator::len).sum();
        !self.headers.is_empty() && self.end == Some(there)
    }

    /// Puts the packet into `frame` as if it had never been cut; the slot is spare.
    pub(super) fn finish(&mut self, frame: &mut Vec<u8>) {
        self.key = None;
        frame.clear();
        frame.extend_from_slice(&self.headers);
        frame.extend_from_slice(&self.payload);
        let total = frame.len() - self.l3;
        if let Some(ip) = frame.get_mut(self.l3..) {
            if self.is_v4 {
                mend_v4(ip, total, self.headers.len() - self.l3);
            } else {
                mend_v6(ip, total, self.headers.len() - self.l3);
            }
        }
    }
}

/// Total length, no fragment, checksum (RFC 791 section 3.1).
fn mend_v4(ip: &mut [u8], total: usize, header: usize) {
    let Some(h) = ip.get_mut(..header) else {
        return;
    };
    let total = u16::try_from(total).unwrap_or(0);
    h[2..4].copy_from_slice(&total.to_be_bytes());
    let dont_fragment = h[6] & 0x40;
    h[6..8].copy_from_slice(&[dont_fragment, 0]);
    h[10..12].fill(0);
    let sum = checksum::finish(checksum::sum(h));
    h[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Payload length; the fragment header stays and says that all is in it (RFC 6946).
fn mend_v6(ip: &mut [u8], total: usize, headers: usize) {
    let len = u16::try_from(total - 40).unwrap_or(0);
    if let Some(field) = ip.get_mut(4..6) {
        field.copy_from_slice(&len.to_be_bytes());
    }
    if let Some(field) = ip.get_mut(headers - 6..headers - 4) {
        field.fill(0);
    }
}
