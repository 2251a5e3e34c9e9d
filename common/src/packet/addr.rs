//! Addresses: one 16-byte form for both families.

use bytemuck::{Pod, Zeroable};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An IP address, IPv4 as IPv4-mapped IPv6 (RFC 4291 section 2.5.5.2), so that maps, hashes and
/// sessions have one code path for both families.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct Addr(pub [u8; 16]);

const _: () = assert!(size_of::<Addr>() == 16);

/// The lower 32 bits of an IPv4 address's second half.
const V4_PREFIX: u32 = u32::from_le_bytes([0, 0, 0xff, 0xff]);

impl Addr {
    /// All zero: "any address" in transfer lists.
    pub const ANY: Self = Self([0; 16]);

    /// From the four bytes of an IPv4 header.
    #[inline(always)]
    pub const fn v4(b: [u8; 4]) -> Self {
        Self([
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, b[0], b[1], b[2], b[3],
        ])
    }

    /// The IPv4 bytes if this is an IPv4 address.
    #[inline(always)]
    pub const fn as_v4(&self) -> Option<[u8; 4]> {
        let [upper, lower] = self.halves();
        if upper == 0 && lower as u32 == V4_PREFIX {
            Some(((lower >> 32) as u32).to_le_bytes())
        } else {
            None
        }
    }

    /// True for IPv4.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        let [upper, lower] = self.halves();
        upper == 0 && lower as u32 == V4_PREFIX
    }

    /// Both halves as little-endian numbers. Everything that looks into an address on a fast path does
    /// it by these, as comparison does: an address that is also read by smaller pieces is kept in
    /// pieces, and put together with shifts.
    #[inline(always)]
    pub const fn halves(&self) -> [u64; 2] {
        let whole = u128::from_le_bytes(self.0);
        [whole as u64, (whole >> 64) as u64]
    }

    /// True for [`Addr::ANY`].
    pub const fn is_any(&self) -> bool {
        u128::from_ne_bytes(self.0) == 0
    }

    /// The standard library's form.
    pub const fn to_ip(self) -> IpAddr {
        match self.as_v4() {
            Some([a, b, c, d]) => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            None => IpAddr::V6(Ipv6Addr::from_octets(self.0)),
        }
    }

    /// The four native-endian words, for hashing.
    #[inline(always)]
    pub(crate) const fn words(&self) -> [u32; 4] {
        let b = &self.0;
        [
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
            u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        ]
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(ip: Ipv4Addr) -> Self {
        Self::v4(ip.octets())
    }
}

impl core::fmt::Display for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.to_ip(), f)
    }
}

impl core::fmt::Debug for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

/// Address and port (host byte order).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
#[repr(C)]
pub struct Endpoint {
    /// Address.
    pub addr: Addr,
    /// Port, host byte order.
    pub port: u16,
}

const _: () = assert!(size_of::<Endpoint>() == 18);

impl Endpoint {
    /// No endpoint: all zero.
    pub const ANY: Self = Self::new(Addr::ANY, 0);

    /// Puts both together.
    #[inline(always)]
    pub const fn new(addr: Addr, port: u16) -> Self {
        Self { addr, port }
    }

    /// An IPv4 endpoint as one number: address above port.
    pub const fn v4_number(&self) -> Option<u64> {
        match self.addr.as_v4() {
            Some(b) => Some((u32::from_be_bytes(b) as u64) << 16 | self.port as u64),
            None => None,
        }
    }

    /// The standard library's form.
    pub const fn to_socket(self) -> SocketAddr {
        SocketAddr::new(self.addr.to_ip(), self.port)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(s: SocketAddr) -> Self {
        Self::new(s.ip().into(), s.port())
    }
}

impl core::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&self.to_socket(), f)
    }
}

impl core::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}
