//! DNS over UDP: dnsmasq on a host of the lab, and a client whose every query has a name of its own.

use std::{
    collections::HashMap,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use crate::{
    LabError,
    world::{CLIENT_SOURCE, CLIENT_SOURCE6, Host, Lab, Process, address6},
};

/// Binding a port takes milliseconds; the rest is for a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// An answer of a host on the same switch takes microseconds; no answer within this is none.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Pause after each query. A replay with three replicas asks the target three times as much, from rings
/// that are emptied in bursts, and dnsmasq's socket holds some 250 queries.
const PAUSE: Duration = Duration::from_millis(1);
/// Names below this are answered.
const ZONE: &str = "lab.test";

/// A running dnsmasq that logs each query.
#[derive(Debug)]
pub struct Dns {
    process: Process,
}

impl Dns {
    /// Starts one on `host`, on its IPv4 address and, after [`crate::world::enable_ipv6`], on its IPv6 address too.
    pub fn start(lab: &Lab, host: Host, port: u16, v6: bool) -> Result<Self, LabError> {
        let name = format!("dnsmasq-{}", host.name());
        let mut command = lab.command(host, "dnsmasq");
        command
            .args([
                "--keep-in-foreground",
                "--user=root",
                "--conf-file=/dev/null",
                "--pid-file=",
            ])
            // To standard error, with client address and port, one number for each query.
            .args(["--log-facility=-", "--log-queries=extra"])
            .args([
                "--no-resolv",
                "--no-hosts",
                "--cache-size=0",
                "--bind-interfaces",
            ])
            .arg(format!("--address=/{ZONE}/10.77.9.9"))
            .arg(format!("--port={port}"))
            .arg(format!("--listen-address={}", host.address()));
        if v6 {
            command.arg(format!("--listen-address={}", address6(host)));
        }
        let mut process = Process::start(&name, &mut command, lab.folder())?;
        process.wait_until("started", READY_LIMIT, |process| {
            process.stderr().contains("started")
        })?;
        Ok(Self { process })
    }

    /// The process, for waits.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Every query in the log: the name without the zone, and who asked.
    pub fn queries(&self) -> Vec<(String, SocketAddr)> {
        let log = self.process.stderr();
        log.lines().filter_map(query).collect()
    }
}

/// `… dnsmasq: 12 10.77.2.1/40000 query[A] tap-7.lab.test from 10.77.2.1`
fn query(line: &str) -> Option<(String, SocketAddr)> {
    let (head, rest) = line.split_once(" query[A] ")?;
    let (addr, port) = head.rsplit_once(' ')?.1.rsplit_once('/')?;
    let name = rest.split(' ').next()?.strip_suffix(ZONE)?;
    let from = SocketAddr::new(addr.parse().ok()?, port.parse().ok()?);
    Some((name.strip_suffix('.')?.to_owned(), from))
}

/// What a client saw.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Name and source of each query.
    pub queries: HashMap<String, SocketAddr>,
    /// Queries with one good answer from the server that was asked.
    pub answered: u64,
    /// Everything else that came.
    pub strays: Vec<String>,
}

/// Asks `server` for `count` names that begin with `prefix`, one after the other, from `sockets` sockets
/// in turn, every tenth time from a new one. Runs on the client.
pub fn ask(
    lab: &Lab,
    server: SocketAddr,
    prefix: &str,
    count: u32,
    sockets: usize,
) -> Result<Asked, LabError> {
    lab.host(Host::Client)
        .enter(|| asked(server, prefix, count, sockets))?
        .map_err(LabError::system(format!("ask {server}")))
}

fn asked(server: SocketAddr, prefix: &str, count: u32, sockets: usize) -> std::io::Result<Asked> {
    let source = if server.is_ipv4() {
        IpAddr::V4(CLIENT_SOURCE)
    } else {
        IpAddr::V6(CLIENT_SOURCE6)
    };
    // Not connected: what others send must show.
    let open = || {
        let socket = UdpSocket::bind((source, 0))?;
        socket.set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok::<_, std::io::Error>(socket)
    };
    let mut all = (0..sockets)
        .map(|_| open())
        .collect::<Result<Vec<_>, _>>()?;
    let mut asked = Asked::default();
    let mut buffer = [0; 2048];
    for n in 0..count {
        if n % 10 == 9 {
            all.push(open()?);
        }
        let at = if n % 10 == 9 {
            all.len() - 1
        } else {
            n as usize % sockets
        };
        let socket = &all[at];
        let name = format!("{prefix}-{n}");
        socket.send_to(&message(n as u16, &name), server)?;
        asked.queries.insert(name.clone(), socket.local_addr()?);
        match socket.recv_from(&mut buffer) {
            Ok((len, from)) if from == server && good(n as u16, &buffer[..len]) => {
                asked.answered += 1;
            }
            Ok((len, from)) => asked
                .strays
                .push(format!("{len} bytes from {from} for {name}")),
            Err(e) => asked.strays.push(format!("{e} for {name}")),
        }
        std::thread::sleep(PAUSE);
    }
    // A second answer, the target's, would be waiting by now or come soon.
    let deadline = Instant::now() + Duration::from_millis(500);
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
        for socket in &all {
            socket.set_nonblocking(true)?;
            match socket.recv_from(&mut buffer) {
                Ok((len, from)) => asked.strays.push(format!("{len} bytes from {from} later")),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => asked.strays.push(e.to_string()),
            }
        }
    }
    Ok(asked)
}

/// A query for the address of a name in the zone (RFC 1035 section 4).
fn message(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    // Recursion desired, one question.
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.').chain(ZONE.split('.')) {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    // The root, type A, class IN.
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// An answer without error and with one record, for this query.
fn good(id: u16, bytes: &[u8]) -> bool {
    bytes.len() > 12
        && bytes[..2] == id.to_be_bytes()
        && bytes[2] & 0x80 != 0
        && bytes[3] << 4 == 0
        && bytes[6..8] == [0, 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_read() {
        let line =
            "Nov 25 09:00:00 dnsmasq[7]: 12 10.77.2.1/40000 query[A] tap-7.lab.test from 10.77.2.1";
        let want = ("tap-7".to_owned(), "10.77.2.1:40000".parse().unwrap());
        assert_eq!(query(line), Some(want));
        let v6 = "dnsmasq: 3 2001:db8::1/7 query[A] x-1.lab.test from 2001:db8::1";
        assert_eq!(query(v6).unwrap().1, "[2001:db8::1]:7".parse().unwrap());
        assert_eq!(
            query("dnsmasq: 12 10.77.2.1/40000 config tap-7.lab.test is 10.77.9.9"),
            None
        );
    }
}
