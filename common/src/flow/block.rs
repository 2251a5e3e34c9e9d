//! Blocks of addresses (CIDR, RFC 4632) of both families in one form.

use crate::packet::Addr;
use core::net::IpAddr;
use core::str::FromStr;

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

    /// `addr` with the leading bits of `to` in place of this block's own, both of one length.
    pub fn translate(self, addr: Addr, to: Self) -> Addr {
        let number = |a: Addr| u128::from_be_bytes(a.0);
        let host = number(addr) ^ number(Self::of(addr, self.bits).addr);
        Addr((number(to.addr) | host).to_be_bytes())
    }

    /// The address is in the block.
    pub fn contains(self, addr: Addr) -> bool {
        Self::of(addr, self.bits).addr == self.addr
    }
}

/// Why a text is no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadBlock {
    /// What is in front of the prefix is no IP address.
    Address,
    /// The prefix is no number, or longer than the family's addresses.
    Prefix {
        /// Their bits.
        max: u8,
    },
}

/// `ADDRESS/PREFIX`, or `ADDRESS` for it alone.
impl FromStr for Block {
    type Err = BadBlock;

    fn from_str(text: &str) -> Result<Self, BadBlock> {
        let (addr, prefix) = match text.split_once('/') {
            Some((addr, prefix)) => (addr, Some(prefix)),
            None => (text, None),
        };
        let ip: IpAddr = addr.parse().map_err(|_| BadBlock::Address)?;
        let max = if ip.is_ipv4() { 32 } else { Self::MAX_BITS };
        let prefix = prefix
            .map_or(Ok(max), str::parse)
            .ok()
            .filter(|prefix| *prefix <= max)
            .ok_or(BadBlock::Prefix { max })?;
        // As it is written: the prefix of an IPv4-mapped IPv6 address counts from the first of its 128 bits.
        Ok(Self::of(ip.into(), Self::MAX_BITS - max + prefix))
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

    #[test]
    fn texts_are_read_and_what_is_wrong_with_them_is_told() {
        for (text, shown) in [
            ("10.1.2.3", "10.1.2.3/32"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("2001:db8::7/64", "2001:db8::/64"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            assert_eq!(text.parse::<Block>().unwrap().to_string(), shown);
        }
        for (text, bad) in [
            ("10.1.2/8", BadBlock::Address),
            ("", BadBlock::Address),
            ("10.1.2.3/33", BadBlock::Prefix { max: 32 }),
            ("10.1.2.3/", BadBlock::Prefix { max: 32 }),
            ("::/129", BadBlock::Prefix { max: 128 }),
        ] {
            assert_eq!(text.parse::<Block>(), Err(bad), "{text}");
        }
    }

    #[test]
    fn translating_keeps_what_lies_behind_the_prefix() {
        let block = |text: &str| text.parse::<Block>().unwrap();
        let (inner, outer) = (block("172.17.0.0/16"), block("10.5.0.0/16"));
        assert_eq!(inner.translate(addr("172.17.3.4"), outer), addr("10.5.3.4"));
        let (inner, outer) = (block("fd00:1::/64"), block("2001:db8::/64"));
        assert_eq!(
            inner.translate(addr("fd00:1::9"), outer),
            addr("2001:db8::9")
        );
        let (inner, outer) = (block("10.0.0.1"), block("10.0.0.2"));
        assert_eq!(inner.translate(addr("10.0.0.1"), outer), addr("10.0.0.2"));
    }
}
