//! Client addresses given by the operator (`-c`).

use common::packet::Addr;
use std::net::IpAddr;

/// Most addresses in a pool: a /16 of IPv4. Each address offers tens of thousands of ports.
const MAX_ADDRESSES: u128 = 65_536;

/// An ordered set of addresses that stand in for the clients', parsed from a comma list of addresses
/// and CIDR blocks. Network and broadcast addresses of IPv4 blocks larger than /31 are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressPool {
    addresses: Vec<Addr>,
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
                    "'{item}' is no address, expected an IP address or a CIDR block such as 10.1.0.0/24"
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

    /// True for IPv4 pools.
    pub fn is_v4(&self) -> bool {
        self.addresses.first().is_some_and(Addr::is_v4)
    }

    /// The address that stands in for a client whose hash is `hash`: the same one each time.
    pub(crate) fn pick(&self, hash: u32) -> Option<Addr> {
        let at = (hash as usize).checked_rem(self.addresses.len())?;
        self.addresses.get(at).copied()
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
        Ok(Self { addresses })
    }
}

fn expand(item: &str, out: &mut Vec<Addr>) -> Result<(), AddressPoolError> {
    let bad = || AddressPoolError::BadItem(item.to_owned());
    let (ip, prefix) = match item.split_once('/') {
        Some((ip, prefix)) => (ip, Some(prefix)),
        None => (item, None),
    };
    let ip: IpAddr = ip.parse().map_err(|_| bad())?;
    let (bits, width) = match ip {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32u8),
        IpAddr::V6(v6) => (v6.to_bits(), 128u8),
    };
    let prefix = match prefix {
        None => width,
        Some(p) => {
            p.parse::<u8>()
                .ok()
                .filter(|p| *p <= width)
                .ok_or(AddressPoolError::BadPrefix {
                    item: item.to_owned(),
                    max: width,
                })?
        }
    };
    let too_large = || AddressPoolError::TooLarge {
        item: item.to_owned(),
    };
    let size = 1u128
        .checked_shl(u32::from(width - prefix))
        .ok_or_else(too_large)?;
    if size > MAX_ADDRESSES || out.len() as u128 + size > MAX_ADDRESSES {
        return Err(too_large());
    }
    let first = bits & !(size - 1);
    let ends = u128::from(width == 32 && size > 2);
    for n in ends..size - ends {
        out.push(match ip {
            IpAddr::V4(_) => Addr::v4(((first + n) as u32).to_be_bytes()),
            IpAddr::V6(_) => Addr((first + n).to_be_bytes()),
        });
    }
    Ok(())
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
    fn errors_name_the_item() {
        for (list, text) in [
            ("10.1.0.x", "'10.1.0.x' is no address"),
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
