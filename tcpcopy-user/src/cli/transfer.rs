//! Grammar of `-x`.
//!
//! ```text
//!  list     := transfer ("," transfer)*
//!  transfer := [address ":"] port "-" address ":" port
//! ```
//! No address, `0.0.0.0` and `[::]` mean any address. A source may stand several times, with different
//! targets.

use super::endpoint::{Item, parse_item};
use common::packet::{Addr, Endpoint};
use hashbrown::{HashMap, HashSet};

const EXPECTED: &str = "expected [address:]port-target:port such as 80-10.0.0.30:8080";

/// Most targets of one source. Together with the most replicas (1023) they number the copies of a session,
/// in 16 bits.
const MAX_TARGETS: usize = 64;

/// One item of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transfer {
    /// Where clients send their requests; the address is [`Addr::ANY`] if any will do.
    pub online: Endpoint,
    /// Where they are replayed.
    pub target: Endpoint,
}

impl std::fmt::Display for Transfer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.online.addr.is_any() {
            write!(f, "{}-{}", self.online.port, self.target)
        } else {
            write!(f, "{}-{}", self.online, self.target)
        }
    }
}

/// Reads one or several lists.
pub fn parse_transfers<'a>(
    lists: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<Transfer>, String> {
    let mut out: Vec<Transfer> = Vec::new();
    let mut known = HashSet::new();
    let mut lanes: HashMap<Endpoint, usize> = HashMap::new();
    for text in lists.into_iter().flat_map(|l| l.split(',')).map(str::trim) {
        let transfer = parse_transfer(text)?;
        if !known.insert(transfer) {
            return Err(format!(
                "'{text}' is given twice, expected each source and target once"
            ));
        }
        let targets = lanes.entry(transfer.online).or_default();
        *targets += 1;
        if *targets > MAX_TARGETS {
            return Err(format!(
                "'{text}' is target number {targets} of its source, expected at most {MAX_TARGETS}"
            ));
        }
        out.push(transfer);
    }
    if out.is_empty() {
        return Err(format!("empty list, {EXPECTED}"));
    }
    Ok(out)
}

fn parse_transfer(text: &str) -> Result<Transfer, String> {
    if text.is_empty() {
        return Err(format!("empty item, {EXPECTED}"));
    }
    let Some((online, target)) = text.split_once('-') else {
        return Err(format!("'{text}' has no '-', {EXPECTED}"));
    };
    let item = |side: &str| parse_item(side).map_err(|e| format!("{e} in '{text}', {EXPECTED}"));
    let Item {
        addr,
        port: Some(port),
    } = item(online)?
    else {
        return Err(format!("'{online}' in '{text}' has no port, {EXPECTED}"));
    };
    let addr = addr.filter(|a| !is_unspecified(*a)).unwrap_or(Addr::ANY);
    let Some(target) = item(target)?.endpoint() else {
        return Err(format!(
            "target '{target}' in '{text}' must have an address and a port, {EXPECTED}"
        ));
    };
    let ip = target.addr.to_ip();
    if ip.is_unspecified() || ip.is_multicast() || target.addr == Addr::v4([255; 4]) {
        return Err(format!(
            "target '{target}' in '{text}' is no host's address, {EXPECTED}"
        ));
    }
    Ok(Transfer {
        online: Endpoint::new(addr, port),
        target,
    })
}

fn is_unspecified(addr: Addr) -> bool {
    addr.to_ip().is_unspecified()
}
