//! Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use super::Addr;

/// Sum of `bytes` as big-endian 16-bit words, odd byte padded with zero, folded to 16 bits.
/// Additions are done 8 bytes at a time in native order with end-around carry; byte order does not
/// matter for the sum but for a final swap (RFC 1071 section 2 (B)).
#[inline]
pub fn sum(bytes: &[u8]) -> u16 {
    let (words, tail) = bytes.as_chunks::<8>();
    let mut acc: u64 = 0;
    let mut carry: u64 = 0;
    for w in words {
        let (s, c) = acc.overflowing_add(u64::from_ne_bytes(*w));
        acc = s;
        carry += u64::from(c);
    }
    let mut last = [0u8; 8];
    if let Some(to) = last.get_mut(..tail.len()) {
        to.copy_from_slice(tail);
    }
    let (s, c) = acc.overflowing_add(u64::from_ne_bytes(last));
    let (s, c2) = s.overflowing_add(carry + u64::from(c));
    let total = u128::from(s) + u128::from(c2);
    u16::from_be(fold(total))
}

#[inline]
fn fold(mut s: u128) -> u16 {
    while s >> 16 != 0 {
        s = (s & 0xffff) + (s >> 16);
        if s > 0xffff_ffff {
            s = (s & 0xffff_ffff) + (s >> 32);
        }
    }
    s as u16
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
        (Some(s), Some(d)) => add(sum(&s), sum(&d)),
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
