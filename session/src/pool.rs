//! Client addresses given by the operator (`-c`, `--pool`), and the ports that they use.

use common::packet::Addr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// Most addresses in a pool: a /16 of IPv4. Each address offers tens of thousands of ports.
const MAX_ADDRESSES: u128 = 65_536;

/// Ports handed out unless others are asked for: below are system services, which firewalls and logs treat specially.
pub const PORTS: RangeInclusive<u16> = 1024..=u16::MAX;

/// An ordered set of addresses that stand in for the clients', parsed from a comma list of addresses,
/// ranges `10.1.0.5-10.1.0.9`, CIDR blocks, and the C tools' `10.1.0.x` for .1 to .254. Network and broadcast addresses of IPv4 blocks larger than /31 are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressPool {
    addresses: Vec<Addr>,
    /// Those that were asked for.
    ports: Option<RangeInclusive<u16>>,
}

/// Why a pool was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressPoolError {
    /// An item is no address or block.
    BadItem(String),
    /// A prefix length is out of range.
    BadPrefix {
        /// The item.
        item: String,
        /// Longest prefix of its family.
        max: u8,
    },
    /// More addresses than a pool may have.
    TooLarge {
        /// The item that went over.
        item: String,
    },
    /// Both families in one pool.
    MixedFamilies,
    /// Nothing in it.
    Empty,
}

impl std::fmt::Display for AddressPoolError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BadItem(item) => {
                write!(
                    f,
                    "'{item}' is no address, expected an IP address, a range 10.1.0.5-10.1.0.9, \
                     a block 10.1.0.0/24 or 10.1.0.x"
                )
            }
            Self::BadPrefix { item, max } => {
                write!(
                    f,
                    "prefix length of '{item}' out of range, expected /0 to /{max}"
                )
            }
            Self::TooLarge { item } => {
                write!(
                    f,
                    "'{item}' makes the pool larger than {MAX_ADDRESSES} addresses; use a longer prefix"
                )
            }
            Self::MixedFamilies => {
                f.write_str("pool mixes IPv4 and IPv6 addresses, expected one family")
            }
            Self::Empty => f.write_str("empty pool, expected at least one address"),
        }
    }
}

impl std::error::Error for AddressPoolError {}

impl AddressPool {
    /// Number of addresses, at least 1.
    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    /// Never true; here because a length without it reads oddly.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// The addresses.
    pub fn addresses(&self) -> &[Addr] {
        &self.addresses
    }

    /// A single address with some of its ports; `None` if there are no ports in the range.
    pub fn with_ports(addr: Addr, ports: RangeInclusive<u16>) -> Option<Self> {
        (!ports.is_empty()).then(|| Self {
            addresses: vec![addr],
            ports: Some(ports),
        })
    }

    /// Ports of each address, at least one.
    pub fn ports(&self) -> RangeInclusive<u16> {
        self.ports.clone().unwrap_or(PORTS)
    }

    /// True if no other ports than [`AddressPool::ports`] may be used, not even those that clients had themselves.
    pub fn is_strict(&self) -> bool {
        self.ports.is_some()
    }

    /// Sessions to one target at a time: addresses by ports.
    pub fn capacity(&self) -> usize {
        self.len() * self.ports().len()
    }

    /// True for IPv4 pools.
    pub fn is_v4(&self) -> bool {
        self.addresses.first().is_some_and(Addr::is_v4)
    }

    /// Where the address stands that stands in for a client whose hash is `hash`: the same one each
    /// time.
    pub(crate) fn slot(&self, hash: u32) -> u16 {
        // There are at most 2^16.
        (hash as usize)
            .checked_rem(self.addresses.len())
            .unwrap_or(0) as u16
    }

    /// The address there.
    #[inline]
    pub(crate) fn at(&self, slot: u16) -> Option<Addr> {
        self.addresses.get(usize::from(slot)).copied()
    }
}

impl std::str::FromStr for AddressPool {
    type Err = AddressPoolError;

    fn from_str(list: &str) -> Result<Self, Self::Err> {
        let mut addresses = Vec::new();
        for item in list.split(',').map(str::trim).filter(|i| !i.is_empty()) {
            expand(item, &mut addresses)?;
        }
        if addresses.is_empty() {
            return Err(AddressPoolError::Empty);
        }
        if addresses.iter().any(|a| a.is_v4() != addresses[0].is_v4()) {
            return Err(AddressPoolError::MixedFamilies);
        }
        addresses.sort_unstable();
        addresses.dedup();
        Ok(Self {
            addresses,
            ports: None,
        })
    }
}

fn expand(item: &str, out: &mut Vec<Addr>) -> Result<(), AddressPoolError> {
    let bad = || AddressPoolError::BadItem(item.to_owned());
    let parse = |text: &str| text.parse::<IpAddr>().map_err(|_| bad());
    let (from, to) = if let Some(prefix) = item.strip_suffix('x') {
        (
            parse(&format!("{prefix}1"))?,
            parse(&format!("{prefix}254"))?,
        )
    } else if let Some((from, to)) = item.split_once('-') {
        (parse(from.trim())?, parse(to.trim())?)
    } else if let Some((ip, prefix)) = item.split_once('/') {
        block(item, parse(ip)?, prefix)?
    } else {
        (parse(item)?, parse(item)?)
    };
    let (first, last) = match (from, to) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits())),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits()),
        _ => return Err(AddressPoolError::MixedFamilies),
    };
    if first > last {
        return Err(bad());
    }
    if last - first >= MAX_ADDRESSES - out.len() as u128 {
        return Err(AddressPoolError::TooLarge {
            item: item.to_owned(),
        });
    }
    out.extend((first..=last).map(|bits| match from {
        IpAddr::V4(_) => Addr::v4((bits as u32).to_be_bytes()),
        IpAddr::V6(_) => Addr(bits.to_be_bytes()),
    }));
    Ok(())
}

/// First and last usable address of a CIDR block.
fn block(item: &str, ip: IpAddr, prefix: &str) -> Result<(IpAddr, IpAddr), AddressPoolError> {
    let max = if ip.is_ipv4() { 32 } else { 128 };
    let prefix =
        prefix
            .parse::<u8>()
            .ok()
            .filter(|p| *p <= max)
            .ok_or(AddressPoolError::BadPrefix {
                item: item.to_owned(),
                max,
            })?;
    let host_bits = u32::from(max - prefix);
    Ok(match ip {
        IpAddr::V4(v4) => {
            let hosts = u32::MAX.checked_shr(32 - host_bits).unwrap_or(0);
            let first = v4.to_bits() & !hosts;
            // Network and broadcast addresses are no clients, but in /31 (RFC 3021) and /32.
            let ends = u32::from(hosts > 1);
            (
                Ipv4Addr::from(first + ends).into(),
                Ipv4Addr::from((first | hosts) - ends).into(),
            )
        }
        IpAddr::V6(v6) => {
            let hosts = u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
            let first = v6.to_bits() & !hosts;
            (
                Ipv6Addr::from(first).into(),
                Ipv6Addr::from(first | hosts).into(),
            )
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_leave_out_network_and_broadcast() {
        let p: AddressPool = "10.1.0.77/24".parse().unwrap();
        assert_eq!(p.len(), 254);
        assert_eq!(p.addresses()[0], Addr::v4([10, 1, 0, 1]));
        assert_eq!(p.addresses()[253], Addr::v4([10, 1, 0, 254]));
        assert_eq!("10.1.0.4/31".parse::<AddressPool>().unwrap().len(), 2);
        assert_eq!(
            "10.1.0.4, 10.1.0.4,10.1.0.5"
                .parse::<AddressPool>()
                .unwrap()
                .len(),
            2
        );
        assert_eq!("2001:db8::/120".parse::<AddressPool>().unwrap().len(), 256);
    }

    #[test]
    fn ranges_and_the_wildcard_of_the_c_tools() {
        let p: AddressPool = "10.1.0.250-10.1.1.4".parse().unwrap();
        assert_eq!((p.len(), p.addresses()[10]), (11, Addr::v4([10, 1, 1, 4])));
        let p: AddressPool = "62.135.200.x".parse().unwrap();
        assert_eq!(
            (p.len(), p.addresses()[253]),
            (254, Addr::v4([62, 135, 200, 254]))
        );
        assert_eq!("0.0.0.0/16".parse::<AddressPool>().unwrap().len(), 65_534);
    }

    #[test]
    fn capacity_is_addresses_by_ports() {
        let p: AddressPool = "10.1.0.0/29".parse().unwrap();
        assert_eq!((p.ports(), p.capacity()), (1024..=65_535, 6 * 64_512));
        let own = Addr::v4([10, 0, 0, 2]);
        let p = AddressPool::with_ports(own, 61_000..=65_535).unwrap();
        assert_eq!((p.addresses(), p.capacity()), (&[own][..], 4536));
        #[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
        let none = AddressPool::with_ports(own, 2..=1);
        assert_eq!(none, None);
    }

    #[test]
    fn errors_name_the_item() {
        for (list, text) in [
            ("10.1.x.x", "'10.1.x.x' is no address"),
            ("10.1.0.9-10.1.0.5", "'10.1.0.9-10.1.0.5' is no address"),
            ("10.1.0.1-::1", "mixes"),
            (
                "10.1.0.0/33",
                "prefix length of '10.1.0.0/33' out of range, expected /0 to /32",
            ),
            ("10.0.0.0/8", "'10.0.0.0/8' makes the pool larger"),
            ("::/0", "'::/0' makes the pool larger"),
            ("10.1.0.1,::1", "mixes"),
            (" , ", "empty pool"),
        ] {
            let e = list.parse::<AddressPool>().unwrap_err().to_string();
            assert!(e.contains(text), "{list}: {e}");
        }
    }
}
