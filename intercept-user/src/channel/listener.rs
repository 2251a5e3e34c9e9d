//! The listening socket, and who has the port if it is taken.

use operator::sockets;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};

/// Connections not yet accepted. tcpcopy opens up to 11 per instance at once; the C value of 5 makes its
/// blocking connects wait for SYN retransmissions.
const BACKLOG: i32 = 128;

/// Why there is no listening socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else listens there.
    #[error(
        "port {port} on {ip} is already in use{holder}; stop that process, \
         or choose another port with -p PORT (and give it to tcpcopy with -p PORT)"
    )]
    Busy {
        /// Address asked for.
        ip: std::net::IpAddr,
        /// Port asked for.
        port: u16,
        /// " by NAME (pid N)" as far as it could be found out.
        holder: String,
    },
    /// The address is not of this host.
    #[error("{ip} is not an address of this host; -b takes one of its own, 0.0.0.0 or ::")]
    NotLocal {
        /// Address asked for.
        ip: std::net::IpAddr,
    },
    /// Ports below 1024 need a capability.
    #[error(
        "no permission to listen on port {port}: choose one above 1023 with -p, or run as root"
    )]
    Denied {
        /// Port asked for.
        port: u16,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Other {
        /// Address asked for.
        address: SocketAddr,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// Listens on `address`, nonblocking.
pub fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    try_listen(address).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => {
            let holder = holder(address.port()).unwrap_or_default();
            ListenError::Busy {
                ip: address.ip(),
                port: address.port(),
                holder,
            }
        }
        io::ErrorKind::AddrNotAvailable => ListenError::NotLocal { ip: address.ip() },
        io::ErrorKind::PermissionDenied => ListenError::Denied {
            port: address.port(),
        },
        _ => ListenError::Other { address, source },
    })
}

fn try_listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // As C: a restart must not wait for connections of the last run in TIME-WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// " by NAME (pid N)" of who listens on the port; `None` if it cannot be seen.
fn holder(port: u16) -> Option<String> {
    let inodes: Vec<u64> = sockets::entries(&["tcp", "tcp6"])
        .iter()
        .filter(|entry| entry.port == port && entry.state == sockets::LISTEN)
        .map(|entry| entry.inode)
        .collect();
    sockets::holder(&inodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_names_its_holder_and_the_option() {
        let first = listen("127.0.0.1:0".parse().expect("address")).expect("free port");
        let address = first.local_addr().expect("address");
        let text = listen(address).expect_err("busy").to_string();
        let pid = std::process::id().to_string();
        assert!(text.contains(&address.port().to_string()), "{text}");
        assert!(text.contains(&format!("(pid {pid})")), "{text}");
        assert!(text.contains("-p PORT") && !text.contains('\n'), "{text}");
    }

    #[test]
    fn a_foreign_address_is_explained() {
        let text = listen("192.0.2.1:0".parse().expect("address"))
            .expect_err("foreign")
            .to_string();
        assert!(
            text.contains("192.0.2.1 is not an address of this host"),
            "{text}"
        );
    }
}
