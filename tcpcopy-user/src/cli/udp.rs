//! The items of `-x` that begin with `udp:`; the rest of each is a transfer like any other.

use super::transfer::{Transfer, parse_transfers};

/// Marks an item.
const PREFIX: &str = "udp:";

/// TCP and UDP transfers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transfers {
    /// Without prefix.
    pub tcp: Vec<Transfer>,
    /// With it.
    pub udp: Vec<Transfer>,
}

/// Reads one or several lists of both kinds; at least one item in all.
pub fn parse_both<'a>(lists: impl IntoIterator<Item = &'a str>) -> Result<Transfers, String> {
    let mut both = Transfers::default();
    let (mut tcp, mut udp) = (Vec::new(), Vec::new());
    for item in lists.into_iter().flat_map(|l| l.split(',')).map(str::trim) {
        match item.split_at_checked(PREFIX.len()) {
            Some((prefix, rest)) if prefix.eq_ignore_ascii_case(PREFIX) => udp.push(rest),
            _ => tcp.push(item),
        }
    }
    if !udp.is_empty() {
        both.udp = parse_transfers(udp).map_err(|e| format!("{e}, after {PREFIX}"))?;
        for (at, transfer) in both.udp.iter().enumerate() {
            if both
                .udp
                .iter()
                .take(at)
                .any(|t| t.online == transfer.online)
            {
                return Err(format!(
                    "'{PREFIX}{transfer}' is a second target of its source, expected one: datagrams go to one target"
                ));
            }
        }
    }
    if !tcp.is_empty() || both.udp.is_empty() {
        both.tcp = parse_transfers(tcp)?;
    }
    Ok(both)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(lists: &[&str]) -> Result<(Vec<String>, Vec<String>), String> {
        let both = parse_both(lists.iter().copied())?;
        let list = |l: &[Transfer]| l.iter().map(ToString::to_string).collect();
        Ok((list(&both.tcp), list(&both.udp)))
    }

    #[test]
    fn both_kinds_stand_in_one_list() {
        let got = shown(&[
            "80-10.0.0.30:8080, udp:53-10.0.0.30:5353",
            "UDP:10.0.0.20:53-10.0.0.31:53,udp:[2001:db8::1]:53-[2001:db8::2]:53",
        ]);
        let want = (
            vec!["80-10.0.0.30:8080".to_owned()],
            vec![
                "53-10.0.0.30:5353".to_owned(),
                "10.0.0.20:53-10.0.0.31:53".to_owned(),
                "[2001:db8::1]:53-[2001:db8::2]:53".to_owned(),
            ],
        );
        assert_eq!(got, Ok(want));
        // The same port by both protocols is no contradiction; UDP alone is a list.
        assert!(shown(&["53-10.0.0.30:53,udp:53-10.0.0.30:53"]).is_ok());
        assert!(shown(&["udp:53-10.0.0.30:53"]).is_ok_and(|(tcp, _)| tcp.is_empty()));
    }

    #[test]
    fn bad_items_are_named() {
        for (list, text) in [
            ("", "empty item"),
            ("udp:", "empty item"),
            ("udp:53", "'53' has no '-'"),
            (
                "udp:53-10.0.0.30",
                "target '10.0.0.30' in '53-10.0.0.30' must have an address and a port",
            ),
            ("udp:0-10.0.0.30:53", "port '0' out of range"),
            ("udp:53-224.0.0.251:5353", "is no host's address"),
            (
                "udp:2001:db8::1:53-[2001:db8::2]:53",
                "looks like IPv6 without brackets",
            ),
            (
                "udp:53-10.0.0.30:53,udp:53-10.0.0.31:53",
                "'udp:53-10.0.0.31:53' is a second target of its source",
            ),
            ("tcp:53-10.0.0.30:53", "'tcp' is no IP address"),
            ("udp:53-10.0.0.30:53,", "empty item"),
        ] {
            let error = shown(&[list]).unwrap_err();
            assert!(error.contains(text), "{list}: {error}");
        }
    }
}
