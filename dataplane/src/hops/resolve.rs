//! One target at a time: route, then link, then neighbour.

use super::{DISCARD_PORT, HopError, NextHop, any_of_family};
use crate::iface::{Interface, describe};
use crate::netlink::Netlink;
use common::packet::{Addr, FrameAddresses, MacAddr};
use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use rustix::io::Errno;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket};

/// A neighbour on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub(super) ifindex: u32,
    pub(super) ifname: String,
    pub(super) via: Addr,
}

pub(super) enum Resolution {
    /// Usable now. `aging` if the kernel has not confirmed the neighbour lately.
    Ready { hop: NextHop, aging: bool },
    /// The neighbour's link-layer address is not known. `failed` if the kernel has asked in vain.
    Pending { neighbour: Neighbour, failed: bool },
}

/// What the kernel's neighbour table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// Its address, and whether it was not confirmed lately.
    Known { mac: MacAddr, aging: bool },
    /// Never asked, or being asked.
    Unknown,
    /// Asked in vain.
    Failed,
}

struct Route {
    oif: u32,
    gateway: Option<Addr>,
    mtu: Option<u32>,
    local: bool,
}

pub(super) struct Resolver {
    netlink: Netlink,
    /// Links seen in this pass.
    links: HashMap<u32, Interface>,
    /// Link-layer addresses by hand.
    macs: Vec<(Addr, MacAddr)>,
    /// NTF_USE was refused (no CAP_NET_ADMIN): neighbours are probed by datagrams.
    by_datagram: bool,
}

impl Resolver {
    pub(super) fn open(macs: Vec<(Addr, MacAddr)>) -> io::Result<Self> {
        Ok(Self {
            macs,
            netlink: Netlink::open()?,
            links: HashMap::new(),
            by_datagram: false,
        })
    }

    /// Start of a pass: links may have changed.
    pub(super) fn forget_links(&mut self) {
        self.links.clear();
    }

    pub(super) fn resolve(&mut self, target: Addr) -> Result<Resolution, HopError> {
        let route = self.route(target)?;
        let link = self.link(route.oif)?.clone();
        let mtu = route
            .mtu
            .unwrap_or(link.mtu)
            .min(link.mtu)
            .min(u32::from(u16::MAX)) as u16;
        let via = route.gateway.unwrap_or(target);
        let hop = |macs, local| NextHop {
            ifindex: link.index,
            ifname: link.name.clone(),
            macs,
            mtu,
            local,
            via,
        };
        if route.local || link.is_loopback || !link.is_ethernet {
            let hop = hop(FrameAddresses::default(), true);
            return Ok(Resolution::Ready { hop, aging: false });
        }
        if !link.up {
            return Err(HopError::Down {
                target,
                ifname: link.name,
            });
        }
        if let Some((_, dst)) = self.macs.iter().find(|(addr, _)| *addr == target) {
            let hop = hop(
                FrameAddresses {
                    src: link.mac,
                    dst: *dst,
                },
                false,
            );
            return Ok(Resolution::Ready { hop, aging: false });
        }
        Ok(match self.neighbour(link.index, via)? {
            Asked::Known { mac, aging } => {
                let macs = FrameAddresses {
                    src: link.mac,
                    dst: mac,
                };
                let hop = hop(macs, false);
                Resolution::Ready { hop, aging }
            }
            unknown => Resolution::Pending {
                neighbour: Neighbour {
                    ifindex: link.index,
                    ifname: link.name.clone(),
                    via,
                },
                failed: unknown == Asked::Failed,
            },
        })
    }

    /// Interface and neighbour, without asking for the neighbour.
    pub(super) fn way_to(&mut self, addr: Addr) -> Result<(String, Addr), HopError> {
        let route = self.route(addr)?;
        let name = self.link(route.oif)?.name.clone();
        Ok((name, route.gateway.unwrap_or(addr)))
    }

    fn route(&mut self, target: Addr) -> Result<Route, HopError> {
        let unreachable = |reason: String| HopError::Unreachable { target, reason };
        let mut message = RouteMessage::default();
        message.header.address_family = family(target);
        message.header.destination_prefix_length = if target.is_v4() { 32 } else { 128 };
        message
            .attributes
            .push(RouteAttribute::Destination(target.to_ip().into()));
        let answers = match self.netlink.ask(Message::GetRoute(message), 0) {
            Ok(answers) => answers,
            Err(error) => {
                return Err(match Errno::from_io_error(&error) {
                    // What `unreachable`, `prohibit` and `blackhole` routes, and none at all, give.
                    Some(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::ACCESS | Errno::INVAL) => {
                        unreachable(error.to_string())
                    }
                    _ => HopError::Netlink(error),
                });
            }
        };
        let answer = answers.into_iter().find_map(|m| match m {
            Message::NewRoute(route) => Some(route),
            _ => None,
        });
        let answer = answer.ok_or_else(|| unreachable("the kernel named no route".to_owned()))?;
        let kind = answer.header.kind;
        if !matches!(kind, RouteType::Unicast | RouteType::Local) {
            return Err(unreachable(format!("the route is of type {kind:?}")));
        }
        let mut route = Route {
            oif: 0,
            gateway: None,
            mtu: None,
            local: kind == RouteType::Local,
        };
        for attribute in answer.attributes {
            match attribute {
                RouteAttribute::Oif(index) => route.oif = index,
                // "Via" names a gateway of the other family (RFC 5549).
                RouteAttribute::Gateway(RouteAddress::Inet(ip))
                | RouteAttribute::Via(RouteVia::Inet(ip)) => route.gateway = Some(ip.into()),
                RouteAttribute::Gateway(RouteAddress::Inet6(ip))
                | RouteAttribute::Via(RouteVia::Inet6(ip)) => {
                    route.gateway = Some(IpAddr::V6(ip).into());
                }
                RouteAttribute::Metrics(metrics) => {
                    route.mtu = metrics.iter().find_map(|m| match m {
                        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Ok(route)
    }

    fn link(&mut self, index: u32) -> Result<&Interface, HopError> {
        if !self.links.contains_key(&index) {
            let mut message = LinkMessage::default();
            message.header.index = index;
            let answers = self.netlink.ask(Message::GetLink(message), 0)?;
            let link = answers.iter().find_map(|m| match m {
                Message::NewLink(link) => Some(describe(link)),
                _ => None,
            });
            if let Some(link) = link {
                self.links.insert(index, link);
            }
        }
        self.links.get(&index).ok_or_else(|| {
            HopError::Netlink(io::Error::other(format!(
                "no link with index {index} was described"
            )))
        })
    }

    fn neighbour(&mut self, ifindex: u32, via: Addr) -> io::Result<Asked> {
        use NeighbourState as S;
        let answers = match self
            .netlink
            .ask(Message::GetNeighbour(neighbour(ifindex, via)), 0)
        {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {
                return Ok(Asked::Unknown);
            }
            answers => answers?,
        };
        let answer = answers.into_iter().find_map(|m| match m {
            Message::NewNeighbour(neighbour) => Some(neighbour),
            _ => None,
        });
        let Some(answer) = answer else {
            return Ok(Asked::Unknown);
        };
        let aging = match answer.header.state {
            S::Reachable | S::Permanent | S::Noarp | S::Delay | S::Probe => false,
            S::Stale => true,
            S::Failed => return Ok(Asked::Failed),
            _ => return Ok(Asked::Unknown),
        };
        let mac = answer.attributes.iter().find_map(|a| match a {
            NeighbourAttribute::LinkLayerAddress(mac) => {
                Some(MacAddr(mac.as_slice().try_into().ok()?))
            }
            _ => None,
        });
        Ok(mac.map_or(Asked::Unknown, |mac| Asked::Known { mac, aging }))
    }

    /// Asks the kernel to resolve a neighbour, or to check one that it knows. The answer comes as a
    /// change notification.
    pub(super) fn probe(&mut self, to: &Neighbour) {
        if !self.by_datagram {
            let mut message = neighbour(to.ifindex, to.via);
            // "Use": as if a packet were sent to it (net/core/neighbour.c, neigh_add).
            message.header.flags = NeighbourFlags::Use;
            match self
                .netlink
                .ask(Message::NewNeighbour(message), NLM_F_CREATE)
            {
                Ok(_) => return,
                Err(error) => {
                    tracing::debug!(via = %to.via, ifname = %to.ifname, %error, "probing by datagram instead");
                    self.by_datagram = true;
                }
            }
        }
        let sent = datagram(to);
        if let Err(error) = sent {
            tracing::debug!(via = %to.via, %error, "probe not sent");
        }
    }
}

/// An empty datagram to the discard port: the kernel must resolve the neighbour to send it.
fn datagram(to: &Neighbour) -> io::Result<()> {
    let destination: SocketAddr = match to.via.to_ip() {
        IpAddr::V4(ip) => (ip, DISCARD_PORT).into(),
        // The scope is needed for link-local gateways and ignored otherwise.
        IpAddr::V6(ip) => SocketAddrV6::new(ip, DISCARD_PORT, 0, to.ifindex).into(),
    };
    UdpSocket::bind(any_of_family(to.via))?
        .send_to(&[], destination)
        .map(drop)
}

fn neighbour(ifindex: u32, via: Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(via);
    message.header.ifindex = ifindex;
    message.header.kind = RouteType::Unspec;
    message
        .attributes
        .push(NeighbourAttribute::Destination(match via.to_ip() {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        }));
    message
}

const fn family(addr: Addr) -> AddressFamily {
    if addr.is_v4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}
