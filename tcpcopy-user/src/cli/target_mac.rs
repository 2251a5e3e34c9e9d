//! Grammar of `--target-mac`.
//!
//! ```text
//!  list := item ("," item)*
//!  item := address "=" mac          address: a target's of -x
//!  mac  := hh ":" hh ":" hh ":" hh ":" hh ":" hh
//! ```

use super::transfer::Transfer;
use common::packet::{Addr, MacAddr};
use std::net::IpAddr;

const EXPECTED: &str = "expected TARGET=MAC such as 10.0.0.30=52:54:00:12:34:56";

/// Reads one or several lists.
pub fn parse_macs(
    lists: &[String],
    transfers: &[Transfer],
) -> Result<Vec<(Addr, MacAddr)>, String> {
    let mut out: Vec<(Addr, MacAddr)> = Vec::new();
    for item in lists.iter().flat_map(|l| l.split(',')).map(str::trim) {
        let Some((addr, mac)) = item.split_once('=') else {
            return Err(format!("'{item}' has no '=', {EXPECTED}"));
        };
        let bare = addr.trim_start_matches('[').trim_end_matches(']');
        let addr: Addr = bare
            .parse::<IpAddr>()
            .map_err(|_| format!("'{addr}' in '{item}' is no IP address, {EXPECTED}"))?
            .into();
        let mac = parse_mac(mac).ok_or_else(|| {
            format!("'{mac}' in '{item}' is no MAC address of one host, {EXPECTED}")
        })?;
        if !transfers.iter().any(|t| t.target.addr == addr) {
            return Err(format!(
                "{bare} is the target of no transfer, expected one of -x"
            ));
        }
        if out.iter().any(|(other, _)| *other == addr) {
            return Err(format!("{bare} has two MAC addresses, expected one"));
        }
        out.push((addr, mac));
    }
    Ok(out)
}

/// Six pairs of hexadecimal digits; neither a group's address (IEEE 802-2014, 8.2.2) nor all zero.
fn parse_mac(text: &str) -> Option<MacAddr> {
    let mut parts = text.split([':', '-']);
    let mut mac = [0; 6];
    for byte in &mut mac {
        let part = parts.next()?;
        if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    let usable = parts.next().is_none() && mac[0] & 1 == 0 && mac != [0; 6];
    usable.then_some(MacAddr(mac))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parse_transfers;

    #[test]
    fn macs_by_hand() {
        let transfers = parse_transfers(["80-10.0.0.30:80,81-10.0.0.31:80"]).unwrap();
        let parse = |list: &str| parse_macs(&[list.to_owned()], &transfers);
        let mac = MacAddr([2, 0, 0xab, 0xCD, 0, 9]);
        assert_eq!(
            parse("10.0.0.30=02:00:ab:CD:00:09, 10.0.0.31=02-00-ab-cd-00-09"),
            Ok(vec![
                (Addr::v4([10, 0, 0, 30]), mac),
                (Addr::v4([10, 0, 0, 31]), mac)
            ])
        );
        for (list, text) in [
            ("", "'' has no '='"),
            ("10.0.0.30", "'10.0.0.30' has no '='"),
            ("host=02:00:ab:cd:00:09", "'host' in"),
            ("10.0.0.30=02:00:ab:cd:00", "'02:00:ab:cd:00' in"),
            ("10.0.0.30=02:00:ab:cd:00:+9", "'02:00:ab:cd:00:+9' in"),
            (
                "10.0.0.30=02:00:ab:cd:00:09:01",
                "'02:00:ab:cd:00:09:01' in",
            ),
            ("10.0.0.30=ff:ff:ff:ff:ff:ff", "'ff:ff:ff:ff:ff:ff' in"),
            ("10.0.0.30=00:00:00:00:00:00", "'00:00:00:00:00:00' in"),
            (
                "10.0.0.32=02:00:ab:cd:00:09",
                "10.0.0.32 is the target of no transfer",
            ),
            (
                "10.0.0.30=02:00:ab:cd:00:09,10.0.0.30=02:00:ab:cd:00:08",
                "10.0.0.30 has two",
            ),
        ] {
            let got = parse(list).unwrap_err();
            assert!(got.starts_with(text), "{list}: {got}");
        }
    }
}
