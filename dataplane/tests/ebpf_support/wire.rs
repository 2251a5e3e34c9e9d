//! Raw frames onto an interface, by a packet socket.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use dataplane::iface::Interface;

/// Sends frames from the namespace in which it was made.
pub struct Wire {
    socket: OwnedFd,
    address: libc::sockaddr_ll,
}

impl Wire {
    pub fn new(ifname: &str) -> Self {
        let interface = Interface::by_name(ifname).unwrap();
        // SAFETY: a new socket; protocol 0 receives nothing.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            assert!(
                fd >= 0,
                "packet socket: {}",
                std::io::Error::last_os_error()
            );
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: plain integers.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = interface.index as i32;
        Self { socket, address }
    }

    pub fn send(&self, frame: &[u8]) {
        loop {
            // SAFETY: buffer and address are valid for their lengths.
            let sent = unsafe {
                libc::sendto(
                    self.socket.as_raw_fd(),
                    frame.as_ptr().cast(),
                    frame.len(),
                    0,
                    (&raw const self.address).cast(),
                    size_of::<libc::sockaddr_ll>() as u32,
                )
            };
            if sent == frame.len() as isize {
                return;
            }
            let error = std::io::Error::last_os_error();
            assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS), "send: {error}");
        }
    }
}
