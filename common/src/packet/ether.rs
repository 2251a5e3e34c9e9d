//! Ethernet and VLAN tags.

use super::{Bytes, DecodeError};

/// Destination, source, ethertype.
pub const ETH_HEADER_BYTES: usize = 14;
/// Tags that are looked behind: 802.1ad outer and 802.1Q inner.
pub const MAX_VLAN_TAGS: usize = 2;
const VLAN_TAG_BYTES: usize = 4;

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl core::fmt::Display for MacAddr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl core::fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

/// Ethertypes (IEEE 802 numbers).
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// Address resolution of IPv4.
    pub const ARP: u16 = 0x0806;
    /// 802.1Q customer tag.
    pub const VLAN: u16 = 0x8100;
    /// 802.1ad service tag.
    pub const QINQ: u16 = 0x88a8;
    /// Service tag of switches from before 802.1ad.
    pub const QINQ_OLD: u16 = 0x9100;
    /// MPLS, and MPLS with a label that upstream assigned.
    pub const MPLS: u16 = 0x8847;
    /// See [`MPLS`].
    pub const MPLS_MULTICAST: u16 = 0x8848;
    /// Transparent Ethernet bridging: an Ethernet frame in a tunnel.
    pub const BRIDGED: u16 = 0x6558;
    /// ERSPAN types I and II, in GRE.
    pub const ERSPAN_II: u16 = 0x88be;
    /// ERSPAN type III, in GRE.
    pub const ERSPAN_III: u16 = 0x22eb;
}

/// Link layer of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ether {
    /// Ethertype behind all tags.
    pub ethertype: u16,
    /// Offset of the network header.
    pub l3: usize,
    /// Number of VLAN tags in the frame, 0 to [`MAX_VLAN_TAGS`].
    pub vlan_tags: u8,
}

impl Ether {
    /// True if the ethertype is that of IPv4 or IPv6.
    #[inline(always)]
    pub const fn is_ip(&self) -> bool {
        matches!(self.ethertype, ethertype::IPV4 | ethertype::IPV6)
    }
}

/// Decodes the Ethernet header and up to [`MAX_VLAN_TAGS`] tags.
#[inline(always)]
pub fn decode_ethernet<B: Bytes + ?Sized>(bytes: &B) -> Result<Ether, DecodeError> {
    let mut ethertype = bytes.be16(12).ok_or(DecodeError::Truncated)?;
    let mut l3 = ETH_HEADER_BYTES;
    let mut vlan_tags = 0;
    for _ in 0..MAX_VLAN_TAGS {
        if !matches!(
            ethertype,
            ethertype::VLAN | ethertype::QINQ | ethertype::QINQ_OLD
        ) {
            break;
        }
        ethertype = bytes.be16(l3 + 2).ok_or(DecodeError::Truncated)?;
        l3 += VLAN_TAG_BYTES;
        vlan_tags += 1;
    }
    Ok(Ether {
        ethertype,
        l3,
        vlan_tags,
    })
}
