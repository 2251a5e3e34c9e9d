//! IPv6 beside the lab's IPv4, for tests that want it.

use std::net::Ipv6Addr;

use super::{HOSTS, Host, Lab, run};
use crate::LabError;

/// The IPv6 address of a host, once [`enable_ipv6`] gave it.
pub fn address6(host: Host) -> Ipv6Addr {
    Ipv6Addr::new(
        0x2001,
        0xdb8,
        0x77,
        0,
        0,
        0,
        0,
        host.address().octets()[3].into(),
    )
}

/// Where requests over IPv6 come from: outside the servers' network, like [`CLIENT_SOURCE`](super::CLIENT_SOURCE).
pub const CLIENT_SOURCE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x77, 2, 0, 0, 0, 1);

/// Gives all hosts IPv6 addresses and the routes that IPv4 has.
pub fn enable_ipv6(lab: &Lab) -> Result<(), LabError> {
    for host in HOSTS {
        for scope in ["all", "eth0"] {
            let setting = format!("net.ipv6.conf.{scope}.disable_ipv6=0");
            run(lab.command(host, "sysctl").args(["-q", "-w", &setting]))?;
        }
        let ip = |arguments: String| {
            run(lab.command(host, "ip").arg("-6").args(arguments.split(' '))).map(drop)
        };
        ip(format!("addr add {}/64 dev eth0 nodad", address6(host)))?;
        match host {
            Host::Client => ip(format!("addr add {CLIENT_SOURCE6}/128 dev eth0 nodad"))?,
            Host::Production => ip("route add 2001:db8:77:2::/64 dev eth0".to_owned())?,
            _ => {}
        }
        if host == Host::Target {
            let assistant = address6(Host::Assistant);
            ip(format!("route add 2001:db8:77:2::/64 via {assistant}"))?;
        }
    }
    Ok(())
}
