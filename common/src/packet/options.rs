//! TCP options (RFC 9293 section 3.2, RFC 7323, RFC 2018): what is read from peers and what we send.

use super::SeqNumber;

/// Most SACK blocks that fit beside timestamps (RFC 2018 section 3).
pub const MAX_SACK_BLOCKS: usize = 4;
/// Largest window shift (RFC 7323 section 2.3).
const MAX_WINDOW_SHIFT: u8 = 14;

/// TSval and TSecr (RFC 7323 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Timestamps {
    /// Sender's clock.
    pub val: u32,
    /// Echo of the peer's clock.
    pub ecr: u32,
}

/// A received block `[left, right)` (RFC 2018 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SackBlock {
    /// First byte.
    pub left: SeqNumber,
    /// One past the last byte.
    pub right: SeqNumber,
}

/// The options that the replay knows; all others are skipped when read and never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TcpOptions {
    /// Maximum segment size (SYN only).
    pub mss: Option<u16>,
    /// Window shift (SYN only), at most 14.
    pub window_scale: Option<u8>,
    /// SACK permitted (SYN only).
    pub sack_permitted: bool,
    /// Timestamps.
    pub timestamps: Option<Timestamps>,
}

/// What a segment reports as received out of order (RFC 2018). Apart from [`TcpOptions`], which is
/// copied with each segment: few have blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SackBlocks {
    blocks: [SackBlock; MAX_SACK_BLOCKS],
    count: u8,
}

impl SackBlocks {
    /// The first [`MAX_SACK_BLOCKS`] of `blocks`.
    #[must_use]
    pub fn new(blocks: &[SackBlock]) -> Self {
        let mut out = Self::default();
        for (slot, block) in out.blocks.iter_mut().zip(blocks) {
            *slot = *block;
            out.count += 1;
        }
        out
    }

    /// From the body of a SACK option; an incomplete block at its end is left out.
    fn read(body: &[u8]) -> Self {
        let (blocks, _) = body.as_chunks::<8>();
        let mut out = Self::default();
        for (slot, &[a, b, c, d, e, f, g, h]) in out.blocks.iter_mut().zip(blocks) {
            *slot = SackBlock {
                left: SeqNumber(u32::from_be_bytes([a, b, c, d])),
                right: SeqNumber(u32::from_be_bytes([e, f, g, h])),
            };
            out.count += 1;
        }
        out
    }

    /// The blocks, at most [`MAX_SACK_BLOCKS`].
    #[inline]
    pub fn as_slice(&self) -> &[SackBlock] {
        self.blocks.get(..self.count as usize).unwrap_or_default()
    }

    /// Nothing is reported.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl TcpOptions {
    /// Reads an option area. Never fails and never loops: a malformed option (length below 2 or beyond
    /// the area, RFC 9293 MUST-7) ends the reading, what came before it counts.
    #[must_use]
    pub fn parse(area: &[u8]) -> Self {
        Self::walk(area, |_| {})
    }

    /// As [`TcpOptions::parse`], with the SACK blocks.
    #[must_use]
    pub fn parse_with_sack(area: &[u8]) -> (Self, SackBlocks) {
        let mut sack = SackBlocks::default();
        let options = Self::walk(area, |body| sack = SackBlocks::read(body));
        (options, sack)
    }

    /// `sack` gets the body of each SACK option.
    #[inline(always)]
    fn walk(mut area: &[u8], mut sack: impl FnMut(&[u8])) -> Self {
        let mut out = Self::default();
        loop {
            match area {
                [] | [0, ..] => return out,
                [1, rest @ ..] => {
                    area = rest;
                    continue;
                }
                // By far the most frequent area: NOP NOP timestamps is handled by the arms here.
                &[8, 10, a, b, c, d, e, f, g, h, ..] => {
                    out.timestamps = Some(Timestamps {
                        val: u32::from_be_bytes([a, b, c, d]),
                        ecr: u32::from_be_bytes([e, f, g, h]),
                    });
                }
                &[2, 4, a, b, ..] => out.mss = Some(u16::from_be_bytes([a, b])),
                &[3, 3, shift, ..] => out.window_scale = Some(shift.min(MAX_WINDOW_SHIFT)),
                [4, 2, ..] => out.sack_permitted = true,
                [5, len, rest @ ..] => {
                    sack(
                        rest.get(..(*len as usize).saturating_sub(2))
                            .unwrap_or_default(),
                    );
                }
                _ => {}
            }
            let Some(&len) = area.get(1) else { return out };
            if len < 2 {
                return out;
            }
            let Some(rest) = area.get(len as usize..) else {
                return out;
            };
            area = rest;
        }
    }

    /// There are options that only a SYN has.
    #[inline]
    pub const fn has_syn_options(&self) -> bool {
        self.mss.is_some() || self.window_scale.is_some() || self.sack_permitted
    }

    /// Writes the options in the order Linux uses, padded with NOPs to whole words; returns the number
    /// of bytes, 0 to 40. SACK blocks are not written: we never have holes to report to a target.
    #[inline]
    pub fn emit(&self, area: &mut [u8; 40]) -> usize {
        if !self.has_syn_options() {
            // Every segment but the SYN.
            let Some(ts) = self.timestamps else { return 0 };
            area[..4].copy_from_slice(&[1, 1, 8, 10]);
            area[4..8].copy_from_slice(&ts.val.to_be_bytes());
            area[8..12].copy_from_slice(&ts.ecr.to_be_bytes());
            return 12;
        }
        let mut n = 0;
        let mut put = |bytes: &[u8]| {
            if let Some(to) = area.get_mut(n..n + bytes.len()) {
                to.copy_from_slice(bytes);
                n += bytes.len();
            }
        };
        if let Some(mss) = self.mss {
            let [a, b] = mss.to_be_bytes();
            put(&[2, 4, a, b]);
        }
        match (self.sack_permitted, self.timestamps.is_some()) {
            (true, true) => put(&[4, 2]),
            (true, false) => put(&[1, 1, 4, 2]),
            (false, true) => put(&[1, 1]),
            (false, false) => {}
        }
        if let Some(ts) = self.timestamps {
            let [a, b, c, d] = ts.val.to_be_bytes();
            let [e, f, g, h] = ts.ecr.to_be_bytes();
            put(&[8, 10, a, b, c, d, e, f, g, h]);
        }
        if let Some(shift) = self.window_scale {
            put(&[1, 3, 3, shift]);
        }
        n
    }
}
