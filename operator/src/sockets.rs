//! Which sockets use a port of this host, and whose they are, from /proc (proc_pid_net(5)).

use std::path::Path;

/// Value of a socket's state: waits for connections (include/net/tcp_states.h).
pub const LISTEN: u8 = 0x0a;
/// Of one that is closed and only remembered.
pub const TIME_WAIT: u8 = 0x06;

/// A line of a table of /proc/net/tcp's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Local port.
    pub port: u16,
    /// State.
    pub state: u8,
    /// Number by which processes hold it; 0 if none does.
    pub inode: u64,
}

/// The sockets of this network namespace in `tables`, such as `tcp`; those that cannot be read have none.
pub fn entries(tables: &[&str]) -> Vec<Entry> {
    tables
        .iter()
        .filter_map(|table| std::fs::read_to_string(format!("/proc/self/net/{table}")).ok())
        .flat_map(|table| parse(&table))
        .collect()
}

/// " by NAME (pid N)" of a process that holds one of the sockets; `None` if it cannot be seen, as for processes of
/// other users.
pub fn holder(inodes: &[u64]) -> Option<String> {
    let links: Vec<String> = inodes.iter().map(|i| format!("socket:[{i}]")).collect();
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let pid = process.file_name();
        let Some(pid) = pid
            .to_str()
            .filter(|p| p.bytes().all(|b| b.is_ascii_digit()))
        else {
            continue;
        };
        if owns(&process.path(), &links) {
            return Some(format!(" by {} (pid {pid})", process_name(pid)));
        }
    }
    None
}

/// Name of a process; empty if there is none.
pub fn process_name(pid: &str) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim().to_owned()
}

fn owns(process: &Path, links: &[String]) -> bool {
    let Ok(fds) = std::fs::read_dir(process.join("fd")) else {
        return false;
    };
    fds.flatten()
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .any(|link| link.to_str().is_some_and(|l| links.iter().any(|i| i == l)))
}

fn parse(table: &str) -> impl Iterator<Item = Entry> + use<> {
    let entries: Vec<Entry> = table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (_, port) = fields.next()?.rsplit_once(':')?;
            let state = fields.nth(1)?;
            let inode = fields.nth(5)?;
            Some(Entry {
                port: u16::from_str_radix(port, 16).ok()?,
                state: u8::from_str_radix(state, 16).ok()?,
                inode: inode.parse().ok()?,
            })
        })
        .collect();
    entries.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:8EAC 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n\
            1: 0000000000000000FFFF00000100007F:8EAC 0100007F:1234 06 00000000:00000000 00:00000000 00000000     0        0 0 1 0\n";
        let entry = |state, inode| Entry {
            port: 36_524,
            state,
            inode,
        };
        let parsed: Vec<Entry> = parse(table).collect();
        assert_eq!(parsed, [entry(LISTEN, 4711), entry(TIME_WAIT, 0)]);
        assert_eq!(parse("").count() + parse("head\n1: x").count(), 0);
    }

    #[test]
    fn an_own_socket_is_found_and_its_holder_named() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let all = entries(&["tcp"]);
        let own = all.iter().find(|e| e.port == port && e.state == LISTEN);
        let text = holder(&[own.unwrap().inode]).unwrap();
        assert!(
            text.contains(&format!("(pid {})", std::process::id())),
            "{text}"
        );
    }
}
