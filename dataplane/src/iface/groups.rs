//! The groups that questions for IPv6 addresses go to (RFC 4291 section 2.7.1), joined for as long as a value lives.
//!
//! Joined by a socket as programs do, so that the NIC's filter lets such frames in, `ip maddr` shows them, and the kernel
//! reports them to switches that forward to members only (RFC 3810). The kernel leaves them when the socket goes.

use super::Interface;
use super::promiscuous::membership;
use crate::afpacket::set;
use common::packet::Addr;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;

/// Most groups that are joined one by one. NICs filter a few dozen exactly, and each takes 48 bytes of a socket's option
/// memory (net.core.optmem_max, 20 KiB on old kernels).
const MAX_GROUPS: usize = 256;

/// What arrives for the addresses' groups reaches this host.
#[derive(Debug)]
pub struct SolicitedGroups {
    _socket: OwnedFd,
}

impl SolicitedGroups {
    /// Joins the groups of these IPv6 addresses, of which up to 2^104 share one; all groups of the link if they are too
    /// many. `None` if there are none.
    pub fn join(interface: &Interface, addresses: &[Addr]) -> io::Result<Option<Self>> {
        let groups: BTreeSet<[u8; 16]> = addresses
            .iter()
            .filter(|addr| !addr.is_v4())
            .map(|addr| solicited_node(*addr))
            .collect();
        if groups.is_empty() {
            return Ok(None);
        }
        if groups.len() > MAX_GROUPS {
            tracing::warn!(
                interface = interface.name,
                groups = groups.len(),
                at_most = MAX_GROUPS,
                "too many groups to join one by one, so frames to all groups are taken; where a switch forwards to \
                 members only (MLD snooping), take a smaller pool"
            );
            let socket = membership(interface, libc::PACKET_MR_ALLMULTI)?;
            return Ok(Some(Self { _socket: socket }));
        }
        let socket = socket_with(
            AddressFamily::INET6,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        for group in &groups {
            let request = libc::ipv6_mreq {
                ipv6mr_multiaddr: libc::in6_addr { s6_addr: *group },
                ipv6mr_interface: interface.index,
            };
            set(
                &socket,
                libc::IPPROTO_IPV6,
                libc::IPV6_ADD_MEMBERSHIP,
                &request,
            )?;
        }
        tracing::info!(
            interface = interface.name,
            groups = groups.len(),
            "joined the groups that ask for the pool's addresses"
        );
        Ok(Some(Self { _socket: socket }))
    }
}

/// ff02::1:ff00:0/104 and the last three bytes.
pub(crate) fn solicited_node(addr: Addr) -> [u8; 16] {
    let [.., a, b, c] = addr.0;
    [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]
}
