//! Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use super::Addr;

/// Sum of `bytes` as big-endian 16-bit words, odd byte padded with zero, folded to 16 bits.
#[inline]
pub fn sum(bytes: &[u8]) -> u16 {
    u16::from_be(fold(partial(bytes)))
}

/// Sum of `bytes` as 16-bit words in the order in which they lie in memory, below 2^34. Byte order does
/// not matter for a sum but for a final swap (RFC 1071 section 2 (B)); eight bytes at a time, the carry
/// added back at the lower end (section 2 (C)).
#[inline(always)]
pub fn partial(bytes: &[u8]) -> u64 {
    let (words, tail) = bytes.as_chunks::<8>();
    let mut acc: u64 = 0;
    for w in words {
        let (sum, carry) = acc.overflowing_add(u64::from_ne_bytes(*w));
        acc = sum + u64::from(carry);
    }
    let mut rest = (acc & 0xffff_ffff) + (acc >> 32);
    let (words, tail) = tail.as_chunks::<4>();
    for w in words {
        rest += u64::from(u32::from_ne_bytes(*w));
    }
    let (pairs, tail) = tail.as_chunks::<2>();
    for w in pairs {
        rest += u64::from(u16::from_ne_bytes(*w));
    }
    for b in tail {
        rest += u64::from(u16::from_ne_bytes([*b, 0]));
    }
    rest
}

/// Copies `from` to the beginning of `to`, and sums it as [`partial`] does: in one pass, as each word is
/// at hand. `to` must be as long as `from`; what it is longer stays as it is.
#[inline(always)]
pub fn copy(to: &mut [u8], from: &[u8]) -> u64 {
    // Four words a step: the counting of a loop costs as much as two of them.
    let (groups, tail) = from.as_chunks::<32>();
    let (to_groups, to_tail) = to.as_chunks_mut::<32>();
    let mut acc: u64 = 0;
    for (to, group) in to_groups.iter_mut().zip(groups) {
        *to = *group;
        for word in group.as_chunks::<8>().0 {
            let (sum, carry) = acc.overflowing_add(u64::from_ne_bytes(*word));
            acc = sum + u64::from(carry);
        }
    }
    if tail.is_empty() {
        return (acc & 0xffff_ffff) + (acc >> 32);
    }
    let (words, tail) = tail.as_chunks::<8>();
    let (to_words, to_tail) = to_tail.as_chunks_mut::<8>();
    for (to, word) in to_words.iter_mut().zip(words) {
        *to = *word;
        let (sum, carry) = acc.overflowing_add(u64::from_ne_bytes(*word));
        acc = sum + u64::from(carry);
    }
    for (to, byte) in to_tail.iter_mut().zip(tail) {
        *to = *byte;
    }
    (acc & 0xffff_ffff) + (acc >> 32) + partial(tail)
}

/// Folds a sum of words of 16, 32 or 64 bits to 16 bits. A number added to itself with its halves
/// exchanged has in its upper half the sum of the halves, carry included.
#[inline(always)]
pub const fn fold(s: u64) -> u16 {
    let s = (s.wrapping_add(s.rotate_left(32)) >> 32) as u32;
    (s.wrapping_add(s.rotate_left(16)) >> 16) as u16
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
