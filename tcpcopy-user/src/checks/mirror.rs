//! Whether an interface may be emptied.

use super::CheckError;
use common::abi::DecapConfig;
use common::packet::Addr;
use dataplane::iface::Interface;

/// Refuses interfaces that look as if their packets were meant for this host. If only what comes in
/// tunnels is taken, and the operator named these, an interface in use is where they end.
pub fn check_mirror(iface: &Interface, decap: &DecapConfig) -> Result<(), CheckError> {
    if !decap.plain() && !iface.is_loopback {
        return Ok(());
    }
    match in_use(iface) {
        None => Ok(()),
        Some(why) => Err(CheckError::MirrorRefused {
            iface: iface.name.clone(),
            why,
        }),
    }
}

fn in_use(iface: &Interface) -> Option<String> {
    if iface.is_loopback {
        return Some("it is the loopback interface".to_owned());
    }
    if let Some((addr, _)) = iface
        .addresses
        .iter()
        .find(|(addr, _)| !is_link_local(*addr))
    {
        return Some(format!("it has the address {addr}"));
    }
    if let Some(master) = iface.master {
        return Some(format!(
            "it belongs to the device with index {master} (bridge or bond)"
        ));
    }
    if iface.has_upper {
        return Some("another device (VLAN, macvlan) is on top of it".to_owned());
    }
    if iface.peer_in_other_netns {
        return Some("it is a veth whose peer is in another namespace (a container's)".to_owned());
    }
    None
}

fn is_link_local(addr: Addr) -> bool {
    match addr.to_ip() {
        std::net::IpAddr::V4(v4) => v4.is_link_local(),
        std::net::IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
