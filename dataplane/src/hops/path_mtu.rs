//! Finding out what packets the routers towards a target take.

use super::{DISCARD_PORT, NextHop, any_of_family};
use common::packet::Addr;
use std::collections::HashMap;
use std::io;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// A path is asked about again after this: routers change seldom, and what the kernel learns holds for ten
/// minutes (net.ipv4.route.mtu_expires). Until then what is too large is lost once and sent again without DF.
const INTERVAL: Duration = Duration::from_mins(1);
/// When to look at the route after a probe: a round trip over any network.
const ANSWERED: Duration = Duration::from_millis(300);
/// Which paths were asked about, and when.
#[derive(Default)]
pub(super) struct PathProbes(HashMap<Addr, Probe>);

struct Probe {
    /// The hop as it was seen last.
    hop: NextHop,
    at: Instant,
    /// Open until the next probe: the kernel ignores a router's answer to a socket that is gone
    /// (net/ipv4/udp.c, __udp4_lib_err).
    _socket: Option<UdpSocket>,
}

impl PathProbes {
    /// Sends a datagram that fills a packet, if the path is new or was not asked about lately. The kernel sets
    /// DF on it (ip(7), IP_PMTUDISC_WANT) and books the router's answer on the route. Returns when to look.
    pub(super) fn probe_at_times(&mut self, target: Addr, hop: &NextHop) -> Option<Duration> {
        // Nobody on the link cuts or refuses what the interface sends.
        if hop.local || hop.via == target {
            self.0.remove(&target);
            return None;
        }
        let now = Instant::now();
        if let Some(probe) = self.0.get_mut(&target) {
            let asked = &mut probe.hop;
            // Smaller is the answer; larger: the kernel has forgotten it, or the path is another.
            let same = asked.ifindex == hop.ifindex && asked.via == hop.via && hop.mtu <= asked.mtu;
            asked.mtu = hop.mtu;
            if same && now.duration_since(probe.at) < INTERVAL {
                return None;
            }
        }
        let socket = send(target, hop.mtu)
            .inspect_err(
                |error| tracing::debug!(%target, mtu = hop.mtu, %error, "path MTU not probed"),
            )
            .ok();
        let probe = Probe {
            hop: hop.clone(),
            at: now,
            _socket: socket,
        };
        self.0.insert(target, probe);
        Some(ANSWERED)
    }
}

fn send(target: Addr, mtu: u16) -> io::Result<UdpSocket> {
    let headers = if target.is_v4() { 20 + 8 } else { 40 + 8 };
    let bytes = vec![0; usize::from(mtu).saturating_sub(headers)];
    let socket = UdpSocket::bind(any_of_family(target))?;
    socket.send_to(&bytes, (target.to_ip(), DISCARD_PORT))?;
    Ok(socket)
}
