//! Network interfaces of this host (of its network namespace), by netlink.

mod channels;
mod ethtool;
mod groups;
mod promiscuous;

pub use groups::SolicitedGroups;
pub(crate) use groups::solicited_node;
pub use promiscuous::Promiscuous;

use crate::netlink::Netlink;
use common::packet::{Addr, MacAddr};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use std::io;

/// What is known of an interface at the moment it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, each named as the kernel does"
)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// Index.
    pub index: u32,
    /// Link-layer address, zero if it has none of six bytes.
    pub mac: MacAddr,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// There is a cable with somebody at its other end.
    pub carrier: bool,
    /// Receive queues in use.
    pub rx_queues: u32,
    /// Transmit queues in use.
    pub tx_queues: u32,
    /// Driver kind of virtual interfaces: "veth", "bridge", "vlan", ….
    pub kind: Option<String>,
    /// Addresses with prefix lengths.
    pub addresses: Vec<(Addr, u8)>,
    /// Index of the bridge, bond or team that it is a port of.
    pub master: Option<u32>,
    /// Another interface sits on it: a master, or a VLAN, macvlan, … device.
    pub has_upper: bool,
    /// It is one end of a pair whose other end is in another network namespace: a container's uplink.
    pub peer_in_other_netns: bool,
    /// The loopback interface.
    pub is_loopback: bool,
    /// Frames on it begin with an Ethernet header (false for tun, ipip, …; true for loopback).
    pub is_ethernet: bool,
}

/// Why an interface could not be described.
#[derive(Debug, thiserror::Error)]
pub enum IfaceError {
    /// There is none of that name.
    #[error("got interface '{name}', expected one of: {existing}")]
    Unknown {
        /// The name.
        name: String,
        /// The names that exist.
        existing: String,
    },
    /// The kernel did not answer.
    #[error("cannot ask the kernel for its {what}: {source}")]
    Netlink {
        /// What was asked for.
        what: &'static str,
        /// Its reason.
        source: io::Error,
    },
}

impl Interface {
    /// Looks an interface up.
    pub fn by_name(name: &str) -> Result<Self, IfaceError> {
        let mut netlink = open()?;
        let links = links(&mut netlink)?;
        let Some(link) = links.iter().find(|l| link_name(l) == Some(name)) else {
            return Err(IfaceError::Unknown {
                name: name.to_owned(),
                existing: links
                    .iter()
                    .filter_map(link_name)
                    .collect::<Vec<_>>()
                    .join(", "),
            });
        };
        let mut interface = describe(link);
        interface.has_upper = interface.master.is_some() || links.iter().any(|l| sits_on(l, link));
        interface.addresses = addresses(&mut netlink)?
            .iter()
            .filter(|a| a.header.index == interface.index)
            .filter_map(|a| Some((own_address(a)?, a.header.prefix_len)))
            .collect();
        let queues = channels::queues(&interface.name, interface.index);
        interface.rx_queues = queues.rx.unwrap_or(interface.rx_queues);
        interface.tx_queues = queues.tx.unwrap_or(interface.tx_queues);
        Ok(interface)
    }

    /// Names of all interfaces with their indexes, read now.
    pub fn names() -> Result<Vec<(u32, String)>, IfaceError> {
        let links = links(&mut open()?)?;
        let named = links.iter().map(|l| (l.header.index, link_name(l)));
        Ok(named
            .filter_map(|(index, name)| Some((index, name?.to_owned())))
            .collect())
    }

    /// Memory node of the device, read now; none for virtual interfaces and where there is one node only.
    pub fn numa_node(&self) -> Option<u32> {
        channels::numa_node(&self.name, self.index)
    }

    /// Names of the offloads that are on (`ethtool -k` calls some by another name), read now; none if the kernel
    /// does not say.
    pub fn features(&self) -> Vec<String> {
        ethtool::features(&self.name).unwrap_or_default()
    }

    /// Name of the device's driver, read now; none for virtual interfaces.
    pub fn driver(&self) -> Option<String> {
        channels::driver(&self.name, self.index)
    }

    /// Features that a virtio device and its driver have agreed on, by bit (linux/virtio_net.h), read now; none for
    /// other devices.
    pub fn virtio_features(&self) -> Option<u64> {
        channels::virtio_features(&self.name, self.index)
    }

    /// The receive queue of each entry of the RSS indirection table, read now; none without such a table.
    pub fn rss_indirection(&self) -> Option<Vec<u32>> {
        ethtool::rss_indirection(&self.name)
    }

    /// All addresses of this host, loopback included.
    pub fn local_addresses() -> Result<Vec<Addr>, IfaceError> {
        Ok(addresses(&mut open()?)?
            .iter()
            .filter_map(own_address)
            .collect())
    }
}

fn open() -> Result<Netlink, IfaceError> {
    Netlink::open().map_err(|source| IfaceError::Netlink {
        what: "interfaces",
        source,
    })
}

fn links(netlink: &mut Netlink) -> Result<Vec<LinkMessage>, IfaceError> {
    let answers = netlink
        .dump(Message::GetLink(LinkMessage::default()))
        .map_err(|source| IfaceError::Netlink {
            what: "interfaces",
            source,
        })?;
    Ok(answers
        .into_iter()
        .filter_map(|m| {
            if let Message::NewLink(link) = m {
                Some(link)
            } else {
                None
            }
        })
        .collect())
}

fn addresses(netlink: &mut Netlink) -> Result<Vec<AddressMessage>, IfaceError> {
    let answers = netlink
        .dump(Message::GetAddress(AddressMessage::default()))
        .map_err(|source| IfaceError::Netlink {
            what: "addresses",
            source,
        })?;
    Ok(answers
        .into_iter()
        .filter_map(|m| {
            if let Message::NewAddress(address) = m {
                Some(address)
            } else {
                None
            }
        })
        .collect())
}

/// The host's own address: IFA_LOCAL on point-to-point links, where IFA_ADDRESS is the peer's; IPv6
/// without a peer has IFA_ADDRESS only.
fn own_address(message: &AddressMessage) -> Option<Addr> {
    let local = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let address = || {
        message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    };
    local.or_else(address).map(Addr::from)
}

fn link_name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn link_kind(link: &LinkMessage) -> Option<&InfoKind> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|i| match i {
            LinkInfo::Kind(kind) => Some(kind),
            _ => None,
        }),
        _ => None,
    })
}

fn has_netns_id(link: &LinkMessage) -> bool {
    link.attributes
        .iter()
        .any(|a| matches!(a, LinkAttribute::LinkNetNsId(_)))
}

/// True if `upper` is stacked on `lower`. IFLA_LINK names the lower device, except for veth, where it
/// names the peer, and with IFLA_LINK_NETNSID, where it is an index of another namespace.
fn sits_on(upper: &LinkMessage, lower: &LinkMessage) -> bool {
    upper.header.index != lower.header.index
        && !has_netns_id(upper)
        && link_kind(upper).is_some_and(|kind| *kind != InfoKind::Veth)
        && upper
            .attributes
            .iter()
            .any(|a| matches!(a, LinkAttribute::Link(index) if *index == lower.header.index))
}

/// Everything that the link message itself says.
pub(crate) fn describe(link: &LinkMessage) -> Interface {
    let mut interface = Interface {
        name: link_name(link).unwrap_or_default().to_owned(),
        index: link.header.index,
        mac: MacAddr::default(),
        mtu: 0,
        up: link.header.flags.contains(LinkFlags::Up),
        carrier: link.header.flags.contains(LinkFlags::LowerUp),
        rx_queues: 1,
        tx_queues: 1,
        kind: link_kind(link).map(ToString::to_string),
        addresses: Vec::new(),
        master: None,
        has_upper: false,
        peer_in_other_netns: has_netns_id(link) && link_kind(link) == Some(&InfoKind::Veth),
        is_loopback: link.header.flags.contains(LinkFlags::Loopback),
        is_ethernet: matches!(
            link.header.link_layer_type,
            LinkLayerType::Ether | LinkLayerType::Loopback
        ),
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(mac) => {
                interface.mac = mac.as_slice().try_into().map(MacAddr).unwrap_or_default();
            }
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            LinkAttribute::Controller(index) if *index != 0 => interface.master = Some(*index),
            // Allocated, not in use: only for want of better.
            LinkAttribute::NumRxQueues(n) => interface.rx_queues = (*n).max(1),
            LinkAttribute::NumTxQueues(n) => interface.tx_queues = (*n).max(1),
            _ => {}
        }
    }
    interface
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_described() {
        let lo = Interface::by_name("lo").expect("lo");
        assert!(lo.is_loopback && lo.is_ethernet);
        assert_eq!(lo.index, 1);
        assert!(lo.mtu >= 1500, "{lo:?}");
        assert!(lo.rx_queues >= 1 && lo.tx_queues >= 1);
        assert_eq!((lo.master, lo.peer_in_other_netns), (None, false));
    }

    #[test]
    fn an_unknown_name_lists_those_that_exist() {
        let text = Interface::by_name("nosuch0")
            .expect_err("nosuch0")
            .to_string();
        assert!(
            text.starts_with("got interface 'nosuch0', expected one of: "),
            "{text}"
        );
        assert!(text.contains("lo"), "{text}");
    }
}
