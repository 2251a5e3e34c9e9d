//! Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use super::Addr;

/// Sum of `bytes` as big-endian 16-bit words, odd byte padded with zero, folded to 16 bits.
/// Added four bytes at a time in native order into 64 bits, which cannot overflow below 16 GiB; byte
/// order does not matter for the sum but for a final swap (RFC 1071 section 2 (B)).
#[inline]
pub fn sum(bytes: &[u8]) -> u16 {
    let (words, tail) = bytes.as_chunks::<8>();
    let mut acc: u64 = 0;
    for w in words {
        let w = u64::from_ne_bytes(*w);
        acc += (w & 0xffff_ffff) + (w >> 32);
    }
    if !tail.is_empty() {
        let mut last = [0u8; 8];
        if let Some(to) = last.get_mut(..tail.len()) {
            to.copy_from_slice(tail);
        }
        let w = u64::from_ne_bytes(last);
        acc += (w & 0xffff_ffff) + (w >> 32);
    }
    u16::from_be(fold(acc))
}

/// Folds a sum of 16- or 32-bit words to 16 bits.
#[inline]
pub const fn fold(s: u64) -> u16 {
    let s = (s & 0xffff_ffff) + (s >> 32);
    let s = (s & 0xffff) + ((s >> 16) & 0xffff) + (s >> 32);
    let s = (s & 0xffff) + (s >> 16);
    ((s & 0xffff) + (s >> 16)) as u16
}

/// One's-complement addition of two folded sums.
#[inline]
pub const fn add(a: u16, b: u16) -> u16 {
    let (s, c) = a.overflowing_add(b);
    s + c as u16
}

/// Sum of the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1). `len` is header + payload.
/// IPv4-mapped prefixes are left out, as the IPv4 pseudo header has four-byte addresses.
#[inline]
pub fn pseudo_header(src: Addr, dst: Addr, protocol: u8, len: u32) -> u16 {
    let addrs = match (src.as_v4(), dst.as_v4()) {
        (Some(s), Some(d)) => fold(u32::from_be_bytes(s) as u64 + u32::from_be_bytes(d) as u64),
        _ => add(sum(&src.0), sum(&dst.0)),
    };
    let len = add((len >> 16) as u16, len as u16);
    add(addrs, add(u16::from(protocol), len))
}

/// The field value for a sum: its complement.
#[inline]
pub const fn finish(sum: u16) -> u16 {
    !sum
}
