//! A flood of the smallest TCP packets, for a tap that must not cost production a packet.
//!
//! They are resets for connections that do not exist: production's stack takes each one through IP and TCP, looks
//! its socket up and is done (RFC 9293, 3.5.2: no answer to a reset), so what is measured is reception alone.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    num::NonZeroU32,
    thread,
    time::{Duration, Instant},
};

use rustix::net::{
    AddressFamily, Protocol, SendFlags, SocketFlags, SocketType, sendto, socket_with,
};

use crate::{LabError, world::Namespace};

/// IPPROTO_RAW: the packet comes with its IP header (raw(7)).
const RAW: NonZeroU32 = NonZeroU32::new(255).unwrap();
/// IP and TCP header and 6 bytes: with 14 of Ethernet and 4 of checksum, 64 on the wire.
const PACKET_BYTES: usize = 46;
/// Packets of one burst when paced: fits the 1000 packets of the receiver's backlog (net.core.netdev_max_backlog)
/// many times over, so that the pace and not the bursts is what is tested.
const BURST: u64 = 64;

/// A flood.
#[derive(Clone, Debug)]
pub struct Flood {
    /// Source address of every packet.
    pub from: Ipv4Addr,
    /// Where they go.
    pub to: (Ipv4Addr, u16),
    /// How long.
    pub duration: Duration,
    /// Packets per second; as many as the machine gives without.
    pub rate: Option<u64>,
}

/// What was sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FloodReport {
    /// Packets that the kernel took.
    pub sent: u64,
    /// Seconds it took.
    pub seconds: f64,
}

impl FloodReport {
    /// Packets per second.
    pub fn rate(&self) -> f64 {
        self.sent as f64 / self.seconds.max(0.001)
    }
}

impl Flood {
    /// Sends it from `namespace`.
    pub fn run(&self, namespace: &Namespace) -> Result<FloodReport, LabError> {
        namespace.enter(|| self.send())?
    }

    fn send(&self) -> Result<FloodReport, LabError> {
        let failed = |what: &str| {
            let what = format!("flood: {what}");
            move |errno: rustix::io::Errno| LabError::System {
                what,
                source: errno.into(),
            }
        };
        let socket = socket_with(
            AddressFamily::INET,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(Protocol::from_raw(RAW)),
        )
        .map_err(failed("raw socket"))?;
        let to = SocketAddrV4::new(self.to.0, 0);
        let start = Instant::now();
        let mut sent = 0;
        while start.elapsed() < self.duration {
            for _ in 0..BURST {
                // 60,000 ports: as many flows, none of them a live one of the kernel's ephemeral range by its
                // sequence number.
                let port = 1024 + (sent % 60_000) as u16;
                let packet = reset(self.from, self.to, port);
                sendto(&socket, &packet, SendFlags::empty(), &to).map_err(failed("send"))?;
                sent += 1;
            }
            if let Some(rate) = self.rate {
                let due = start + Duration::from_secs_f64(sent as f64 / rate.max(1) as f64);
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        }
        Ok(FloodReport {
            sent,
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

/// A reset with sequence number 0 from `port`.
fn reset(from: Ipv4Addr, to: (Ipv4Addr, u16), port: u16) -> [u8; PACKET_BYTES] {
    let mut packet = [0; PACKET_BYTES];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(PACKET_BYTES as u16).to_be_bytes());
    packet[8] = 64;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.0.octets());
    packet[20..22].copy_from_slice(&port.to_be_bytes());
    packet[22..24].copy_from_slice(&to.1.to_be_bytes());
    packet[32] = 0x50;
    packet[33] = 0x04;
    // The IP checksum is the kernel's (raw(7)); TCP's covers addresses, protocol and length too (RFC 9293, 3.1).
    let pseudo = 6 + (PACKET_BYTES as u32 - 20);
    let mut sum = pseudo;
    for pair in packet[12..].chunks_exact(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[36..38].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_makes_the_sum_zero() {
        let packet = reset(
            Ipv4Addr::new(10, 77, 2, 1),
            (Ipv4Addr::new(10, 77, 0, 20), 80),
            40_001,
        );
        let mut sum = 6 + (PACKET_BYTES as u32 - 20);
        for pair in packet[12..].chunks_exact(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
        }
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
