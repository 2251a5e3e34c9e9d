//! Fragments of IP packets, put together again.
//!
//! ```text
//!  fragment ─ (source, destination, protocol, id) ─▶ slot: header of the first, payload so far ─ all there? ─▶ frame
//! ```
//! In files by their reader, live by the worker that the fragment hash names.
//! Bounded in every way: so many packets at a time, so many pieces of each, 64 KiB, a few seconds. The
//! oldest makes room for the newest. Pieces that overlap end their packet (RFC 5722 section 3; with
//! IPv4, too, nobody sends such but to deceive), pieces that come again do not.

mod slot;

use common::flow::{CaptureMeta, Captured, Nanos};
use common::packet::{Addr, DecodeError, Fragment, Ip, decode_ethernet, decode_ip, protocol};
use slot::Slot;

/// Packets that are put together at a time, by one worker: 4 MiB at most ([`MAX_BYTES`]). A host that sends
/// fragments sends those of a packet in a row.
const SLOTS: usize = 64;
/// Memory that one worker needs for all of it, in bytes.
pub const MAX_BYTES: usize = (SLOTS + 1) << 16;
/// A piece that is missing after so long will not come: Linux waits 30 s because it does not know the
/// network, but between two copies of one stream there is none.
const PATIENCE: Nanos = Nanos::from_secs(5);

/// Names a packet that comes in fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    src: Addr,
    dst: Addr,
    protocol: u8,
    id: u32,
}

/// What became of fragments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReassemblyCounters {
    /// Fragments taken.
    pub fragments: u64,
    /// Packets put together.
    pub whole: u64,
    /// Packets given up because a piece was missing for too long.
    pub incomplete: u64,
    /// Packets given up to make room for newer ones.
    pub crowded_out: u64,
    /// Packets given up, or fragments left out, because they contradict each other or themselves.
    pub invalid: u64,
}

impl ReassemblyCounters {
    /// With names for reports.
    pub fn named(&self) -> [(&'static str, u64); 5] {
        [
            ("fragments", self.fragments),
            ("reassembled", self.whole),
            ("reassembly_incomplete", self.incomplete),
            ("reassembly_crowded_out", self.crowded_out),
            ("reassembly_invalid", self.invalid),
        ]
    }
}

/// The headers of a frame that is a fragment of a TCP packet or of a datagram.
pub fn fragment(bytes: &[u8]) -> Result<(Ip, Fragment), DecodeError> {
    let ether = decode_ethernet(bytes)?;
    let ip = decode_ip(bytes, ether.l3)?;
    if !matches!(ip.protocol, protocol::TCP | protocol::UDP) {
        return Err(DecodeError::NotTcp);
    }
    Ok((ip, Fragment::decode(bytes, &ip)?))
}

/// The fragments that one worker gathers.
#[derive(Default)]
pub struct Reassembler {
    /// Those in use and spare ones, at most [`SLOTS`].
    slots: Vec<Slot>,
    /// The last packet that became whole.
    frame: Vec<u8>,
    counters: ReassemblyCounters,
}

impl Reassembler {
    /// What became of fragments so far.
    pub fn counters(&self) -> ReassemblyCounters {
        self.counters
    }

    /// Gives up what is not whole: nothing more will come.
    pub fn end(&mut self) {
        for slot in &mut self.slots {
            if slot.key.take().is_some() {
                self.counters.incomplete += 1;
            }
        }
    }

    /// Takes a fragment whose header is `ip`. The whole packet, as one frame, if this was the last
    /// piece that was missing; it belongs to the caller until the next call.
    pub fn take(&mut self, frame: &Captured<'_>, ip: &Ip) -> Option<Captured<'_>> {
        self.counters.fragments += 1;
        let at = frame.meta.at;
        self.expire(at);
        let slot = match Fragment::decode(frame.bytes, ip) {
            Ok(fragment) => self.add(frame, ip, fragment),
            Err(DecodeError::Truncated) => None,
            Err(_) => {
                self.counters.invalid += 1;
                None
            }
        }?;
        self.counters.whole += 1;
        self.slots.get_mut(slot)?.finish(&mut self.frame);
        let bytes = self.frame.as_slice();
        let meta = CaptureMeta {
            at,
            frame_len: bytes.len() as u32,
            ..frame.meta
        };
        Some(Captured { bytes, meta })
    }

    /// The slot that became whole.
    fn add(&mut self, frame: &Captured<'_>, ip: &Ip, fragment: Fragment) -> Option<usize> {
        let key = Key {
            src: ip.src,
            dst: ip.dst,
            protocol: ip.protocol,
            id: fragment.id,
        };
        let n = match self.slots.iter().position(|s| s.key == Some(key)) {
            Some(n) => n,
            None => self.vacate(key, frame.meta.at),
        };
        let slot = self.slots.get_mut(n)?;
        if slot.add(frame.bytes, ip, fragment).is_none() {
            slot.key = None;
            self.counters.invalid += 1;
            return None;
        }
        slot.is_whole().then_some(n)
    }

    /// A slot for a new packet.
    fn vacate(&mut self, key: Key, at: Nanos) -> usize {
        let free = self.slots.iter().position(|s| s.key.is_none());
        let n = match free {
            Some(n) => n,
            None if self.slots.len() < SLOTS => {
                self.slots.push(Slot::default());
                self.slots.len() - 1
            }
            None => {
                self.counters.crowded_out += 1;
                let oldest = self.slots.iter().enumerate().min_by_key(|(_, s)| s.since);
                oldest.map_or(0, |(n, _)| n)
            }
        };
        if let Some(slot) = self.slots.get_mut(n) {
            slot.begin(key, at);
        }
        n
    }

    /// Gives up what began too long before `now`.
    pub fn expire(&mut self, now: Nanos) {
        for slot in &mut self.slots {
            if slot.key.is_some() && now.since(slot.since) > PATIENCE {
                slot.key = None;
                self.counters.incomplete += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests;
