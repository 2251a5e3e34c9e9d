//! `address`, `address:port` and `[v6]:port` as they stand in lists.

use common::packet::{Addr, Endpoint};
use std::net::{IpAddr, Ipv6Addr};

/// Parts of one item of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// The address, if one stands there.
    pub addr: Option<Addr>,
    /// The port, if one stands there.
    pub port: Option<u16>,
}

impl Item {
    /// Both, if both are there.
    pub fn endpoint(self) -> Option<Endpoint> {
        Some(Endpoint::new(self.addr?, self.port?))
    }
}

/// Reads `port`, `address`, `address:port`, `[address]` or `[address]:port`; the error says what is
/// wrong with `text`, expected forms are the caller's to name.
pub fn parse_item(text: &str) -> Result<Item, String> {
    if text.is_empty() {
        return Err("empty item".to_owned());
    }
    if let Some(rest) = text.strip_prefix('[') {
        let Some((inside, after)) = rest.split_once(']') else {
            return Err(format!("'{text}' has no closing bracket"));
        };
        let v6: Ipv6Addr = inside
            .parse()
            .map_err(|_| format!("'{inside}' in '{text}' is no IPv6 address"))?;
        let port = match after.strip_prefix(':') {
            Some(port) => Some(parse_port(port)?),
            None if after.is_empty() => None,
            None => return Err(format!("'{after}' follows the bracket of '{text}'")),
        };
        return Ok(Item {
            addr: Some(IpAddr::V6(v6).into()),
            port,
        });
    }
    if text.contains('@') {
        return Err(format!(
            "'{text}' names a MAC address; they are found by themselves, or given with --target-mac"
        ));
    }
    if text.matches(':').count() > 1 {
        return Err(format!(
            "'{text}' looks like IPv6 without brackets, write [{text}]:port"
        ));
    }
    if let Some((addr, port)) = text.split_once(':') {
        return Ok(Item {
            addr: Some(parse_addr(addr)?),
            port: Some(parse_port(port)?),
        });
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(Item {
            addr: None,
            port: Some(parse_port(text)?),
        });
    }
    Ok(Item {
        addr: Some(parse_addr(text)?),
        port: None,
    })
}

fn parse_addr(text: &str) -> Result<Addr, String> {
    text.parse::<IpAddr>()
        .map(Addr::from)
        .map_err(|_| format!("'{text}' is no IP address (host names are not looked up)"))
}

/// A port, 1 to 65535.
pub fn parse_port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(format!("port '{text}' out of range, expected 1 to 65535")),
    }
}
