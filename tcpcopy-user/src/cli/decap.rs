//! `--decap`: which tunnels are opened.
//!
//! ```text
//!  auto                      frames in no tunnel, and whatever is in tunnels of any kind
//!  none                      frames in no tunnel
//!  ITEM[,ITEM…]              only what comes in these
//!  ITEM = plain              frames in no tunnel
//!       | KIND[:PORT][/ID][@SENDER]
//! ```
//! An item names the outermost tunnel; what is in it is opened as with `auto`.

use common::abi::{
    DecapConfig, DecapPort, DecapRule, MAX_DECAP_PORTS, MAX_DECAP_RULES, decap_flags,
};
use common::packet::{Addr, TunnelKind};
use std::net::IpAddr;

const EXPECTED: &str = "expected auto, none or a list such as vxlan:4789/100,erspan/7@192.0.2.1";

/// Reads the list.
pub fn parse_decap(text: &str) -> Result<DecapConfig, String> {
    match text.trim() {
        "auto" => return Ok(DecapConfig::AUTO),
        "none" => return Ok(DecapConfig::NONE),
        _ => {}
    }
    let mut config = DecapConfig::with_flags(0);
    let (mut rules, mut ports) = (0, 0);
    for item in text.split(',').map(str::trim) {
        match item {
            "plain" => config.flags |= decap_flags::PLAIN,
            "auto" => config.flags |= DecapConfig::AUTO.flags,
            _ => {
                let rule = parse_item(item)?;
                config.flags |= decap_flags::TUNNELS;
                if rule.port != 0 && config.port_kind(rule.port) != rule.kind {
                    if config.port_kind(rule.port) != 0 {
                        return Err(format!("port {} is given to two kinds", rule.port));
                    }
                    *config.ports.get_mut(ports).ok_or_else(|| {
                        format!("more than {MAX_DECAP_PORTS} ports, expected fewer")
                    })? = DecapPort {
                        port: rule.port,
                        kind: rule.kind,
                        reserved: 0,
                    };
                    ports += 1;
                }
                *config.rules.get_mut(rules).ok_or_else(|| {
                    format!("more than {MAX_DECAP_RULES} tunnels, expected fewer")
                })? = rule;
                rules += 1;
            }
        }
    }
    Ok(config)
}

fn parse_item(item: &str) -> Result<DecapRule, String> {
    let (rest, peer) = match item.split_once('@') {
        Some((rest, peer)) => (rest, parse_peer(peer)?),
        None => (item, Addr::ANY),
    };
    let (rest, id) = match rest.split_once('/') {
        Some((rest, id)) => (rest, Some(id)),
        None => (rest, None),
    };
    let (name, port) = match rest.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (rest, None),
    };
    let Some(kind) = TunnelKind::ALL.iter().find(|k| k.name() == name).copied() else {
        let names: Vec<_> = TunnelKind::ALL.iter().map(|k| k.name()).collect();
        return Err(format!(
            "got '{item}', {EXPECTED}; kinds are {}",
            names.join(", ")
        ));
    };
    let port = match port {
        None => 0,
        Some(_) if !in_udp(kind) => return Err(format!("'{item}': {name} has no ports")),
        Some(text) => match text.parse::<u16>() {
            Ok(port) if port != 0 => port,
            _ => return Err(format!("'{item}': got port '{text}', expected 1 to 65535")),
        },
    };
    let (id, flags) = match id {
        None => (0, 0),
        Some(text) => (parse_id(item, kind, text)?, decap_flags::HAS_ID),
    };
    Ok(DecapRule {
        peer,
        id,
        port,
        kind: kind as u8,
        flags,
    })
}

const fn in_udp(kind: TunnelKind) -> bool {
    matches!(
        kind,
        TunnelKind::Vxlan | TunnelKind::Geneve | TunnelKind::Gtpu | TunnelKind::Mpls
    )
}

/// Bits of a kind's id: what its header has room for.
const fn id_bits(kind: TunnelKind) -> u32 {
    match kind {
        TunnelKind::Vxlan | TunnelKind::Geneve => 24,
        TunnelKind::Gre | TunnelKind::Gtpu => 32,
        TunnelKind::Erspan => 10,
        TunnelKind::Mpls => 20,
        TunnelKind::Ipip => 0,
    }
}

fn parse_id(item: &str, kind: TunnelKind, text: &str) -> Result<u32, String> {
    let bits = id_bits(kind);
    if bits == 0 {
        return Err(format!("'{item}': {} has no id", kind.name()));
    }
    let number = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    let max = u32::MAX >> (32 - bits);
    match number {
        Ok(id) if id <= max => Ok(id),
        _ => Err(format!("'{item}': got id '{text}', expected 0 to {max}")),
    }
}

fn parse_peer(text: &str) -> Result<Addr, String> {
    match text.parse::<IpAddr>() {
        Ok(ip) if !ip.is_unspecified() => Ok(ip.into()),
        _ => Err(format!(
            "got '{text}', expected the address that sends the tunnel's packets"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_rules_and_ports() {
        assert_eq!(parse_decap("auto").unwrap(), DecapConfig::AUTO);
        assert_eq!(parse_decap("none").unwrap(), DecapConfig::NONE);
        let config =
            parse_decap("vxlan:8472/0x64@192.0.2.1, erspan/7,gre@2001:db8::1,vxlan:8472").unwrap();
        assert_eq!(config.flags, decap_flags::TUNNELS);
        assert!(!config.plain());
        let rule = |kind: TunnelKind, port, id: Option<u32>, peer: Option<&str>| DecapRule {
            peer: peer.map_or(Addr::ANY, |p| p.parse::<IpAddr>().unwrap().into()),
            id: id.unwrap_or(0),
            port,
            kind: kind as u8,
            flags: u8::from(id.is_some()),
        };
        assert_eq!(
            config.rules[..5],
            [
                rule(TunnelKind::Vxlan, 8472, Some(100), Some("192.0.2.1")),
                rule(TunnelKind::Erspan, 0, Some(7), None),
                rule(TunnelKind::Gre, 0, None, Some("2001:db8::1")),
                rule(TunnelKind::Vxlan, 8472, None, None),
                DecapConfig::NONE.rules[0],
            ]
        );
        assert_eq!(config.port_kind(8472), TunnelKind::Vxlan as u8);
        assert_eq!((config.ports[1].port, config.port_kind(0)), (0, 0));
        let both = parse_decap("auto,vxlan:5555").unwrap();
        assert!(both.plain() && both.flags & decap_flags::ANY_TUNNEL != 0);
        assert!(parse_decap("plain,ipip").unwrap().plain());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("", "expected auto, none"),
            ("vxlam", "vxlam"),
            ("none,gre", "none"),
            ("gre:47", "gre has no ports"),
            ("vxlan:0", "port '0'"),
            ("vxlan:x", "port 'x'"),
            ("vxlan/16777216", "expected 0 to 16777215"),
            ("erspan/1024", "expected 0 to 1023"),
            ("ipip/1", "ipip has no id"),
            ("gre@host", "'host'"),
            ("gre@0.0.0.0", "'0.0.0.0'"),
            ("vxlan:5000,geneve:5000", "port 5000 is given to two kinds"),
            (
                "vxlan:1,vxlan:2,vxlan:3,vxlan:4,vxlan:5,vxlan:6,vxlan:7,vxlan:8,vxlan:9",
                "8 ports",
            ),
        ] {
            let error = parse_decap(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        let many = ["gre"; MAX_DECAP_RULES + 1].join(",");
        assert!(parse_decap(&many).unwrap_err().contains("16 tunnels"));
    }
}
