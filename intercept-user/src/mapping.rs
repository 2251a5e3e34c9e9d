//! `-D`: the addresses that responses carry here, and those under which tcpcopy announced the session.
//!
//! ```text
//!  tcpcopy announces   client ──────────────▶ outer target
//!                               NAT, container network
//!  here is seen        client, or inner ◀──── inner target
//!
//!  response ─▶ source: endpoint, then longest prefix ─▶ outer ─▶ route, record
//!           └▶ destination: longest prefix ───────────▶ outer    (all that C's -D does)
//! ```

use common::flow::{BadBlock, Block, ResponseHeader};
use common::packet::{Addr, Endpoint};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// One `INNER-OUTER` of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    inner: Side,
    outer: Side,
}

/// An address, a network or an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Side {
    block: Block,
    port: Option<u16>,
}

impl Side {
    fn is_single(&self) -> bool {
        self.block.bits() == Block::MAX_BITS
    }
}

impl FromStr for Side {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            let Endpoint { addr, port } = socket.into();
            if port == 0 {
                return Err(format!("{text}: got port 0, expected 1 to 65535"));
            }
            return Ok(Self {
                block: Block::of(addr, Block::MAX_BITS),
                port: Some(port),
            });
        }
        let block: Block = text.parse().map_err(|bad| match bad {
            BadBlock::Address => format!(
                "got '{text}', expected an address, a network such as 172.17.0.0/16, or ADDRESS:PORT"
            ),
            BadBlock::Prefix { max } => {
                format!("{text}: expected a prefix length of 0 to {max}")
            }
        })?;
        let address = text.split('/').next().unwrap_or_default();
        if address.parse::<IpAddr>().map(Addr::from) != Ok(block.addr()) {
            return Err(format!(
                "{text}: bits behind the prefix are set, expected {block}"
            ));
        }
        Ok(Self { block, port: None })
    }
}

impl FromStr for Mapping {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((inner, outer)) = text.split_once('-') else {
            return Err(format!(
                "got '{text}', expected INNER-OUTER such as 172.17.0.2-10.0.0.5"
            ));
        };
        let (inner, outer): (Side, Side) = (inner.parse()?, outer.parse()?);
        if inner.block.addr().is_v4() != outer.block.addr().is_v4() {
            Err(format!(
                "{text}: got an IPv4 and an IPv6 side, expected one family"
            ))
        } else if inner.port.is_some() != outer.port.is_some() {
            Err(format!(
                "{text}: got a port on one side, expected one on both or on none"
            ))
        } else if inner.block.bits() != outer.block.bits() && !outer.is_single() {
            Err(format!(
                "{text}: got networks of different size, expected prefixes of one length, or a single outer address"
            ))
        } else {
            Ok(Self { inner, outer })
        }
    }
}

impl Mapping {
    /// Whether the inner address of an outer one is known. Not so where a network is behind one address.
    pub const fn invertible(&self) -> bool {
        self.inner.block.bits() == self.outer.block.bits()
    }

    fn inner_of(&self, outer: Endpoint) -> Option<Endpoint> {
        let (from, to) = (self.outer.block, self.inner.block);
        if let (Some(inner), Some(announced)) = (self.inner.port, self.outer.port) {
            let same = outer == Endpoint::new(from.addr(), announced);
            return same.then_some(Endpoint::new(to.addr(), inner));
        }
        let known = self.invertible() && from.contains(outer.addr);
        known.then(|| Endpoint::new(from.translate(outer.addr, to), outer.port))
    }
}

/// Networks of one prefix length.
#[derive(Clone, Debug)]
struct Length {
    bits: u8,
    /// Outer network, or the one outer address, by inner network.
    networks: HashMap<Block, Block>,
}

/// All of them, as a table.
#[derive(Clone, Debug, Default)]
pub struct Mappings {
    list: Vec<Mapping>,
    endpoints: HashMap<Endpoint, Endpoint>,
    /// Longest first.
    lengths: Vec<Length>,
}

impl Mappings {
    /// Of a list in any order; the longest prefix wins, and an endpoint before any. An error names what is there twice.
    pub fn new(list: &[Mapping]) -> Result<Self, String> {
        let mut all = Self {
            list: list.to_vec(),
            ..Self::default()
        };
        let mut sorted = list.to_vec();
        sorted.sort_by_key(|m| std::cmp::Reverse(m.inner.block.bits()));
        for Mapping { inner, outer } in sorted {
            let twice = if let (Some(a), Some(b)) = (inner.port, outer.port) {
                let a = Endpoint::new(inner.block.addr(), a);
                let b = Endpoint::new(outer.block.addr(), b);
                all.endpoints.insert(a, b).is_some()
            } else {
                all.insert_network(inner.block, outer.block)
            };
            if twice {
                return Err(format!(
                    "{} is mapped twice, expected one outer side for it",
                    inner.block.addr()
                ));
            }
        }
        Ok(all)
    }

    /// True if it was there. Networks come with descending prefix length.
    fn insert_network(&mut self, inner: Block, outer: Block) -> bool {
        if self.lengths.last().is_none_or(|l| l.bits != inner.bits()) {
            self.lengths.push(Length {
                bits: inner.bits(),
                networks: HashMap::new(),
            });
        }
        self.lengths
            .last_mut()
            .is_some_and(|l| l.networks.insert(inner, outer).is_some())
    }

    /// Nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The header as tcpcopy knows it; true if it was another.
    pub fn apply(&self, header: &mut ResponseHeader) -> bool {
        let (target, client) = (self.outer(header.target), self.network(header.client));
        let mapped = (target, client) != (header.target, header.client);
        (header.target, header.client) = (target, client);
        mapped
    }

    /// Where answers of an announced target may come from, beside itself.
    pub fn inner(&self, outer: Endpoint) -> impl Iterator<Item = Endpoint> {
        self.list.iter().filter_map(move |m| m.inner_of(outer))
    }

    fn outer(&self, inner: Endpoint) -> Endpoint {
        match self.endpoints.get(&inner) {
            Some(outer) => *outer,
            None => self.network(inner),
        }
    }

    fn network(&self, inner: Endpoint) -> Endpoint {
        let found = self.lengths.iter().find_map(|length| {
            let network = Block::of(inner.addr, length.bits);
            let outer = *length.networks.get(&network)?;
            Some(if outer.bits() == length.bits {
                network.translate(inner.addr, outer)
            } else {
                outer.addr()
            })
        });
        Endpoint::new(found.unwrap_or(inner.addr), inner.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mappings(list: &[&str]) -> Mappings {
        let list: Vec<Mapping> = list.iter().map(|m| m.parse().expect(m)).collect();
        Mappings::new(&list).expect("no doubles")
    }

    fn e(text: &str) -> Endpoint {
        text.parse::<SocketAddr>().expect(text).into()
    }

    #[test]
    fn the_most_specific_one_decides() {
        let all = mappings(&[
            "172.17.0.0/16-10.5.0.0/16",
            "172.17.9.0/24-10.9.9.9",
            "172.17.0.2-10.0.0.5",
            "172.17.0.2:80-10.0.0.6:8080",
            "fd00:1::/64-2001:db8::/64",
            "[fd00:1::7]:443-[2001:db8::9]:8443",
        ]);
        for (inner, outer) in [
            ("172.17.3.4:80", "10.5.3.4:80"),
            ("172.17.9.200:80", "10.9.9.9:80"),
            ("172.17.0.2:81", "10.0.0.5:81"),
            ("172.17.0.2:80", "10.0.0.6:8080"),
            ("[fd00:1::3]:443", "[2001:db8::3]:443"),
            ("[fd00:1::7]:443", "[2001:db8::9]:8443"),
            ("10.0.0.5:80", "10.0.0.5:80"),
        ] {
            assert_eq!(all.outer(e(inner)), e(outer), "{inner}");
        }
        // A client's address is mapped as in C, its port never.
        assert_eq!(all.network(e("172.17.0.2:80")), e("10.0.0.5:80"));
    }

    #[test]
    fn where_an_announced_target_answers_from() {
        let all = mappings(&[
            "172.17.0.0/16-10.5.0.0/16",
            "172.18.0.0/16-10.0.0.7",
            "172.17.0.2:80-10.0.0.6:8080",
        ]);
        let inner = |outer| all.inner(e(outer)).collect::<Vec<_>>();
        assert_eq!(inner("10.5.1.2:90"), [e("172.17.1.2:90")]);
        assert_eq!(inner("10.0.0.6:8080"), [e("172.17.0.2:80")]);
        assert_eq!(inner("10.0.0.6:81"), []);
        assert_eq!(inner("10.0.0.7:80"), [], "one of 65536, nobody knows which");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [
            ("172.17.0.2", "INNER-OUTER"),
            ("172.17.0.300-10.0.0.1", "172.17.0.300"),
            ("172.17.0.0/33-10.0.0.1", "0 to 32"),
            ("172.17.0.1/16-10.0.0.0/16", "172.17.0.0/16"),
            ("172.17.0.0/16-10.0.0.0/8", "different size"),
            ("172.17.0.1-2001:db8::1", "one family"),
            ("172.17.0.1:80-10.0.0.1", "on both"),
            ("172.17.0.1:0-10.0.0.1:1", "port 0"),
        ] {
            let error = text.parse::<Mapping>().expect_err(text);
            assert!(
                error.contains(word) && !error.contains('\n'),
                "{text}: {error}"
            );
        }
        let twice = ["10.1.0.1-10.0.0.1", "10.1.0.1-10.0.0.2"].map(|m| m.parse().expect(m));
        assert!(
            Mappings::new(&twice)
                .expect_err("twice")
                .contains("10.1.0.1 is mapped twice")
        );
    }

    #[test]
    fn a_whole_family_and_none() {
        let all = mappings(&["0.0.0.0/0-192.0.2.1"]);
        assert_eq!(all.outer(e("10.1.2.3:5")), e("192.0.2.1:5"));
        assert_eq!(all.outer(e("[2001:db8::1]:5")), e("[2001:db8::1]:5"));
        assert!(Mappings::default().is_empty() && !all.is_empty());
    }
}
