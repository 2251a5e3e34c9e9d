//! Promiscuous mode for as long as a value lives.
//!
//! Membership of a packet socket (packet(7), PACKET_ADD_MEMBERSHIP) and not IFF_PROMISC: the kernel
//! counts it, and takes it back when the socket goes with a process that was killed.

use super::Interface;
use crate::afpacket::{set, unbound};
use rustix::net::SocketFlags;
use std::io;
use std::os::fd::OwnedFd;

/// The interface takes frames for every address.
#[derive(Debug)]
pub struct Promiscuous {
    _socket: OwnedFd,
    ifname: String,
}

impl Promiscuous {
    /// Switches it on, or adds one to those who have.
    pub fn enter(interface: &Interface) -> io::Result<Self> {
        let socket = membership(interface, libc::PACKET_MR_PROMISC)?;
        tracing::info!(
            interface = interface.name,
            "promiscuous mode on, as long as this program runs"
        );
        Ok(Self {
            _socket: socket,
            ifname: interface.name.clone(),
        })
    }
}

impl Drop for Promiscuous {
    fn drop(&mut self) {
        tracing::debug!(interface = self.ifname, "promiscuous mode given back");
    }
}

/// A socket that makes the interface take more than its own frames as long as it lives: `PACKET_MR_PROMISC` or
/// `PACKET_MR_ALLMULTI`.
pub(super) fn membership(interface: &Interface, kind: i32) -> io::Result<OwnedFd> {
    let socket = unbound(SocketFlags::empty())?;
    let request = libc::packet_mreq {
        mr_ifindex: interface.index as i32,
        mr_type: kind as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set(
        &socket,
        libc::SOL_PACKET,
        libc::PACKET_ADD_MEMBERSHIP,
        &request,
    )?;
    Ok(socket)
}
