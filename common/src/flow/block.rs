//! Blocks of addresses (CIDR, RFC 4632) of both families in one form.

use crate::packet::Addr;

/// An address and how many of its leading bits count, in the 128-bit form of [`Addr`]: an IPv4 block
/// of /24 has 120 bits. The other bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    addr: Addr,
    bits: u8,
}

impl Block {
    /// Bits of an address.
    pub const MAX_BITS: u8 = 128;

    /// The block of `addr` with this prefix length in its own family (at most 32 for IPv4, 128 for
    /// IPv6); `None` beyond that. Bits of `addr` behind the prefix are cleared.
    pub fn new(addr: Addr, prefix: u8) -> Option<Self> {
        let in_front = if addr.is_v4() { 96 } else { 0 };
        let bits = prefix.checked_add(in_front)?;
        (bits <= Self::MAX_BITS).then(|| Self::of(addr, bits))
    }

    /// The first `bits` bits of the 128-bit form; more than 128 are 128.
    pub fn of(addr: Addr, bits: u8) -> Self {
        let bits = bits.min(Self::MAX_BITS);
        // A shift by all 128 bits is none in Rust.
        let mask = u128::MAX
            .checked_shl(u32::from(Self::MAX_BITS - bits))
            .unwrap_or(0);
        Self {
            addr: Addr((u128::from_be_bytes(addr.0) & mask).to_be_bytes()),
            bits,
        }
    }

    /// Lowest address.
    pub const fn addr(self) -> Addr {
        self.addr
    }

    /// How many leading bits of the 128-bit form count.
    pub const fn bits(self) -> u8 {
        self.bits
    }

    /// The address is in the block.
    pub fn contains(self, addr: Addr) -> bool {
        Self::of(addr, self.bits).addr == self.addr
    }
}

impl core::fmt::Display for Block {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let prefix = if self.addr.is_v4() && self.bits >= 96 {
            self.bits - 96
        } else {
            self.bits
        };
        write!(f, "{}/{prefix}", self.addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;
    use std::string::ToString;

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn blocks_hold_what_their_prefix_says() {
        let block = |text: &str, prefix| Block::new(addr(text), prefix).unwrap();
        for (block, text, inside, outside) in [
            (
                block("10.1.2.3", 24),
                "10.1.2.0/24",
                "10.1.2.255",
                "10.1.3.0",
            ),
            (block("10.1.2.3", 32), "10.1.2.3/32", "10.1.2.3", "10.1.2.2"),
            (
                block("10.1.2.3", 0),
                "0.0.0.0/0",
                "255.1.1.1",
                "2001:db8::1",
            ),
            (
                block("2001:db8::1", 32),
                "2001:db8::/32",
                "2001:db8:f::",
                "2001:db9::",
            ),
            (
                block("2001:db8::1", 128),
                "2001:db8::1/128",
                "2001:db8::1",
                "10.1.2.3",
            ),
        ] {
            assert_eq!(block.to_string(), text);
            assert!(block.contains(addr(inside)), "{text} and {inside}");
            assert!(!block.contains(addr(outside)), "{text} and {outside}");
        }
        assert!(
            Block::new(Addr::ANY, 0)
                .unwrap()
                .contains(addr("2001:db8::1"))
        );
        assert_eq!(Block::new(addr("10.1.2.3"), 33), None);
        assert_eq!(Block::new(addr("::1"), 129), None);
        assert_eq!(Block::new(addr("10.1.2.3"), 255), None);
    }
}
