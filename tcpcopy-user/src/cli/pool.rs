//! `--pool`: where targets answer to, if they answer to this program itself.

use session::AddressPool;
use std::ops::RangeInclusive;

/// Introduces a port range of the host's own address.
const OWN: &str = "self";
const EXPECTED: &str = "expected addresses that no host has, such as 10.0.0.128/25, or self:61000-65535, ports of this host";

/// Endpoints that replayed clients have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pool {
    /// Addresses that no host has.
    Addresses {
        /// These.
        addresses: AddressPool,
        /// As typed.
        text: String,
    },
    /// Ports of the host's own address, which depends on the target.
    Own(RangeInclusive<u16>),
}

impl std::str::FromStr for Pool {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(rest) = text.strip_prefix(OWN) {
            let ports = rest.strip_prefix(':').and_then(|r| r.split_once('-'));
            let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
            return match ports.map(|(first, last)| (port(first), port(last))) {
                Some((Some(first), Some(last))) if first <= last => Ok(Self::Own(first..=last)),
                _ => Err(format!("'{text}' is no range of ports, {EXPECTED}")),
            };
        }
        let addresses = text.parse().map_err(|e| format!("{e}; {EXPECTED}"))?;
        Ok(Self::Addresses {
            addresses,
            text: text.to_owned(),
        })
    }
}

impl std::fmt::Display for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Addresses { text, .. } => f.write_str(text),
            Self::Own(ports) => write!(f, "{OWN}:{}-{}", ports.start(), ports.end()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_or_own_ports() {
        let pool: Pool = "10.0.0.128/25".parse().unwrap();
        assert!(matches!(&pool, Pool::Addresses { addresses, .. } if addresses.len() == 126));
        assert_eq!(pool.to_string(), "10.0.0.128/25");
        let pool: Pool = "self:61000-65535".parse().unwrap();
        assert_eq!(pool, Pool::Own(61_000..=65_535));
        assert_eq!(pool.to_string(), "self:61000-65535");
        for bad in [
            "self",
            "self:",
            "self:1",
            "self:0-9",
            "self:9-1",
            "self:1-70000",
            "selfish",
            "",
            "10.0.0.1:80",
        ] {
            let error = bad.parse::<Pool>().unwrap_err();
            assert!(error.contains("self:61000-65535"), "{bad}: {error}");
        }
    }
}
