//! Whether addresses of a link are in use: asked as hosts ask before they take one.
//!
//! ```text
//!   IPv4: ARP probe (RFC 5227 section 2.1.1)                       ─▶ any ARP packet from the address
//!   IPv6: solicitation of duplicate detection (RFC 4862 section 5.4) ─▶ an advertisement of the address
//! ```
//! Both have no source address, so that nobody's table changes.

use crate::afpacket::{bind, filter, instruction, unbound};
use crate::iface::{Interface, solicited_node};
use crate::poll::PollSet;
use common::flow::Nanos;
use common::packet::{Addr, Bytes, MacAddr, checksum, ethertype, protocol};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};
use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Addresses that are asked for; of larger pools so many, evenly spread. At the pace below this is 0.7 seconds.
pub const MAX_PROBES: usize = 4096;
/// Each question is asked so often: one may be lost.
const ROUNDS: u32 = 2;
/// Questions without a pause, and the pause: 13,000 a second, some 6 Mb/s.
const BURST: usize = 64;
const PAUSE: Duration = Duration::from_millis(5);
/// Hosts answer within microseconds, those that are asleep or behind wireless links later.
const WAIT: Duration = Duration::from_millis(250);
/// Room for a frame: what is looked at lies in the first 86 bytes.
const FRAME_BYTES: usize = 128;

/// The first of `addresses`, of one family, that somebody on the interface's link has, and whose interface said so. Takes
/// half a second at least.
pub fn in_use(interface: &Interface, addresses: &[Addr]) -> io::Result<Option<(Addr, MacAddr)>> {
    let Some(v4) = addresses.first().map(Addr::is_v4) else {
        return Ok(None);
    };
    let step = addresses.len().div_ceil(MAX_PROBES).max(1);
    let asked: Vec<Addr> = addresses.iter().step_by(step).copied().collect();
    let wanted: HashSet<Addr> = addresses.iter().copied().collect();
    let socket = open(interface, v4)?;
    for _ in 0..ROUNDS {
        for burst in asked.chunks(BURST) {
            for addr in burst {
                let frame = question(interface.mac, *addr);
                match rustix::net::send(&socket, &frame, SendFlags::empty()) {
                    // Not sent now: there is another round.
                    Ok(_) | Err(Errno::NOBUFS | Errno::AGAIN | Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if let Some(found) = listen(&socket, v4, &wanted, PAUSE)? {
                return Ok(Some(found));
            }
        }
        if let Some(found) = listen(&socket, v4, &wanted, WAIT)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// A packet socket that hears the answers.
fn open(interface: &Interface, v4: bool) -> io::Result<OwnedFd> {
    let socket = unbound(SocketFlags::NONBLOCK)?;
    if !v4 {
        // Of a busy link's IPv6 nothing but advertisements: next header and type.
        let load = |at| instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, at, 0, 0);
        let is = |value, otherwise| {
            instruction(
                libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                value,
                0,
                otherwise,
            )
        };
        let give = |bytes| instruction(libc::BPF_RET | libc::BPF_K, bytes, 0, 0);
        let program = [
            load(20),
            is(u32::from(protocol::ICMP6), 3),
            load(54),
            is(u32::from(ADVERTISEMENT), 1),
            give(FRAME_BYTES as u32),
            give(0),
        ];
        filter(&socket, program)?;
    }
    let ethertype = if v4 {
        libc::ETH_P_ARP
    } else {
        libc::ETH_P_IPV6
    };
    bind(&socket, interface.index, ethertype)?;
    Ok(socket)
}

/// Hears answers for so long.
fn listen(
    socket: &OwnedFd,
    v4: bool,
    wanted: &HashSet<Addr>,
    time: Duration,
) -> io::Result<Option<(Addr, MacAddr)>> {
    let end = Instant::now() + time;
    let mut poll = PollSet::new();
    poll.add(socket.as_raw_fd(), false);
    loop {
        let mut frame = [0; FRAME_BYTES];
        match rustix::net::recv(socket, &mut frame, RecvFlags::empty()) {
            Ok((_, len)) => {
                let frame = frame.get(..len).unwrap_or(&frame);
                let claim = if v4 {
                    arp_claim(frame)
                } else {
                    advertised(frame)
                };
                if let Some(found) = claim.filter(|(addr, _)| wanted.contains(addr)) {
                    return Ok(Some(found));
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(None);
                }
                poll.wait(Nanos(left.as_nanos() as u64));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

fn question(own: MacAddr, addr: Addr) -> Vec<u8> {
    addr.as_v4()
        .map_or_else(|| solicitation(own, addr), |v4| arp_probe(own, v4))
}

fn arp_probe(own: MacAddr, addr: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(own.0);
    frame.extend(ethertype::ARP.to_be_bytes());
    // Ethernet, IPv4, the lengths of their addresses, a request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(own.0);
    frame.extend([0; 4]);
    frame.extend([0; 6]);
    frame.extend(addr);
    frame
}

fn solicitation(own: MacAddr, addr: Addr) -> Vec<u8> {
    let group = solicited_node(addr);
    let [.., a, b, c, d] = group;
    let mut frame = vec![0x33, 0x33, a, b, c, d];
    frame.extend(own.0);
    frame.extend(ethertype::IPV6.to_be_bytes());
    // Version; a message of 24 bytes; hop limit 255.
    frame.extend([0x60, 0, 0, 0, 0, 24, protocol::ICMP6, 255]);
    frame.extend([0; 16]);
    frame.extend(group);
    let pseudo = checksum::pseudo_header(Addr::ANY, Addr(group), protocol::ICMP6, 24);
    let kind = u16::from_be_bytes([SOLICITATION, 0]);
    let sum = checksum::add(pseudo, checksum::add(kind, checksum::sum(&addr.0)));
    frame.extend([SOLICITATION, 0]);
    frame.extend(checksum::finish(sum).to_be_bytes());
    frame.extend([0; 4]);
    frame.extend(addr.0);
    frame
}

/// Whose address an ARP packet says the sender's is.
fn arp_claim(frame: &[u8]) -> Option<(Addr, MacAddr)> {
    if frame.read::<6>(14)? != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    Some((Addr::v4(frame.read(28)?), MacAddr(frame.read(22)?)))
}

/// The address that a neighbour advertisement is of.
fn advertised(frame: &[u8]) -> Option<(Addr, MacAddr)> {
    if frame.u8(20)? != protocol::ICMP6 || frame.u8(54)? != ADVERTISEMENT {
        return None;
    }
    Some((Addr(frame.read(62)?), MacAddr(frame.read(6)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_have_no_source_address_and_a_right_sum() {
        let mac = MacAddr([2, 0, 0, 0, 0, 9]);
        let arp = question(mac, Addr::v4([10, 0, 0, 7]));
        assert_eq!(arp.len(), 42);
        assert_eq!(arp_claim(&arp), Some((Addr::v4([0; 4]), mac)));
        let mut addr = [0x20; 16];
        addr[13..].copy_from_slice(&[1, 2, 3]);
        let ns = question(mac, Addr(addr));
        assert_eq!((ns.len(), &ns[..6]), (78, &[0x33, 0x33, 0xff, 1, 2, 3][..]));
        let pseudo =
            checksum::pseudo_header(Addr::ANY, Addr(ns[38..54].try_into().unwrap()), 58, 24);
        assert_eq!(checksum::add(pseudo, checksum::sum(&ns[54..])), 0xffff);
        assert_eq!(advertised(&ns), None);
        let mut answer = ns;
        answer[54] = ADVERTISEMENT;
        assert_eq!(advertised(&answer), Some((Addr(addr), mac)));
    }
}
