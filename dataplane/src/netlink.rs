//! Requests to the kernel's routing subsystem (rtnetlink(7)), without a runtime.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// An answer that takes longer than this will not come; the kernel answers within the call.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Receive buffer: a dump message is at most 32 KiB (net/netlink/af_netlink.c, netlink_dump).
const BUFFER_BYTES: usize = 64 * 1024;

/// A connection for requests.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(BUFFER_BYTES),
        })
    }

    /// All objects of a kind. Messages that this library cannot decode are left out.
    pub(crate) fn dump(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.request(message, NLM_F_DUMP)
    }

    /// One object, or a change. The kernel's refusal comes as its error code.
    pub(crate) fn ask(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.request(message, NLM_F_ACK | flags)
    }

    fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut answers = Vec::new();
        loop {
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, 0)?;
            let mut rest = self.buffer.as_slice();
            while let Some(length) = message_length(rest) {
                let (one, others) = rest.split_at(length);
                rest = others
                    .get(length.next_multiple_of(4) - length..)
                    .unwrap_or_default();
                let message = match NetlinkMessage::<RouteNetlinkMessage>::deserialize(one) {
                    Ok(message) => message,
                    Err(error) => {
                        // A newer kernel's attribute; the object is left out, not the answer.
                        tracing::debug!(%error, "netlink message skipped");
                        continue;
                    }
                };
                // Left over from a request that timed out.
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => return Ok(answers),
                    _ => {}
                }
            }
        }
    }
}

/// Length field of the message at the start of `bytes`, if the message is all there.
fn message_length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    (16..=bytes.len()).contains(&length).then_some(length)
}

/// A subscription to changes. Only that something changed is of interest, not what.
pub(crate) struct Changes(Socket);

impl Changes {
    /// Subscribes to multicast `groups` (`RTNLGRP_*`).
    pub(crate) fn subscribe(groups: &[u32]) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        for &group in groups {
            socket.add_membership(group)?;
        }
        Ok(Self(socket))
    }

    /// Takes all notifications; true if there was one, or if some were lost (ENOBUFS).
    pub(crate) fn drain(&self, buffer: &mut Vec<u8>) -> bool {
        let mut any = false;
        loop {
            buffer.clear();
            match self.0.recv(buffer, 0) {
                Ok(_) => any = true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return any,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // ENOBUFS: the kernel dropped notifications, and clears the error by reporting it.
                Err(_) if !any => any = true,
                Err(_) => return true,
            }
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
