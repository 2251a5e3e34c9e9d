//! The listening socket, and who has the port if it is taken.

use socket2::{Domain, Protocol, Socket, Type};
use std::fmt::Write as _;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

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

/// " by NAME (pid N)" of who listens on the port, from /proc (proc_pid_net(5)); `None` if it cannot be
/// seen, as for processes of other users.
fn holder(port: u16) -> Option<String> {
    let inodes: Vec<String> = ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let pid = process.file_name();
        let Some(pid) = pid
            .to_str()
            .filter(|p| p.bytes().all(|b| b.is_ascii_digit()))
        else {
            continue;
        };
        if owns(&process.path(), &inodes) {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            let mut text = String::new();
            // Writing to a String does not fail.
            let _ = write!(text, " by {} (pid {pid})", name.trim());
            return Some(text);
        }
    }
    None
}

fn owns(process: &Path, inodes: &[String]) -> bool {
    let Ok(fds) = std::fs::read_dir(process.join("fd")) else {
        return false;
    };
    fds.flatten()
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .any(|link| link.to_str().is_some_and(|l| inodes.iter().any(|i| i == l)))
}

/// Inodes of sockets in state LISTEN (0A) on `port` in a table of /proc/net/tcp's form.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let local = fields.next()?;
            let state = fields.nth(1)?;
            let inode = fields.nth(5)?;
            (local.ends_with(&suffix) && state == "0A").then(|| inode.parse().ok())?
        })
        .collect()
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

    #[test]
    fn proc_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:8EAC 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n\
            1: 0100007F:8EAC 0100007F:1234 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0\n\
            2: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0\n";
        assert_eq!(listening_inodes(table, 36_524), [4711]);
        assert_eq!(listening_inodes("", 36_524), [] as [u64; 0]);
        assert_eq!(listening_inodes("head\n1: x", 36_524), [] as [u64; 0]);
    }
}
