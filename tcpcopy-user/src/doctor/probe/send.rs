//! Sends the probes of one target and follows them.

use super::{Answer, ClientProbe, Frame, Plain, ProbeFacts};
use crate::channel::{Channel, Received};
use common::packet::{
    Addr, Endpoint, FrameAddresses, MacAddr, SeqNumber, TcpFlags, TcpFrame, TcpOptions,
    build_tcp_frame, decode_ethernet, decode_frame, ethertype,
};
use dataplane::hops::{NextHop, source_address};
use dataplane::netfilter::RawPath;
use dataplane::wake::Waker;
use dataplane::watch::{Seen, Way};
use dataplane::{Transmit, clock, egress};
use doctor::look::{Names, look};
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// A SYN and two more answers' time within a data centre, one of them lost and sent again after a second.
const LIMIT: Duration = Duration::from_millis(2500);
/// A plain connection: one SYN that is lost is sent again after a second.
const PLAIN_LIMIT: Duration = Duration::from_millis(1500);
/// When SYNs are sent again; the target answers a repeated SYN again.
const AGAIN: [Duration; 2] = [Duration::from_millis(400), Duration::from_millis(1200)];
/// How long a reset may take behind the handshake: a client's stack answers at once.
const RESET_LIMIT: Duration = Duration::from_millis(400);
/// Every system has a window of that size.
const WINDOW_BYTES: u16 = 64_240;
/// What fits any way.
const MSS_BYTES: u16 = 536;
/// Ports of probes: below those of sessions, above those of known servers.
const PORTS: std::ops::Range<u16> = 640..980;

/// What is known before.
#[derive(Clone, Debug)]
pub struct Given<'a> {
    /// The target.
    pub target: Endpoint,
    /// The way there.
    pub hop: &'a NextHop,
    /// An address of a client.
    pub client: Option<Addr>,
    /// The MAC address given by hand and what the network says.
    pub mac: Option<(MacAddr, Option<MacAddr>)>,
    /// Every intercept that takes routes has been silent.
    pub silent: bool,
}

/// One of our ends of a connection to the target.
struct End {
    at: Endpoint,
    seq: SeqNumber,
}

/// Sends and follows; an error if nothing can be sent or seen here.
pub fn follow(given: &Given<'_>, channel: &mut Channel) -> Result<ProbeFacts, String> {
    let target = given.target;
    let plain = std::thread::spawn(move || connect(target));
    // What is looked at must begin before anything is sent, and sending ports say in the log how they send.
    let mut port = Port::open(given)?;
    let now = clock::now().0;
    let source = PORTS.start + (now % u64::from(PORTS.end - PORTS.start)) as u16;
    let seq = SeqNumber((now >> 6) as u32);
    let own = (!given.hop.local)
        .then(|| source_address(target.addr).ok())
        .flatten()
        .map(|addr| End {
            at: Endpoint::new(addr, source),
            seq,
        });
    let client = given
        .client
        .filter(|addr| addr.is_v4() == target.addr.is_v4())
        .map(|addr| End {
            at: Endpoint::new(addr, source),
            seq,
        });
    if let Some(client) = &client {
        channel.announce(client.at, target);
        channel.flush(clock::now());
    }
    let mut seen = Sightings {
        target,
        names: Names::now(),
        own: own.as_ref().map(|end| end.at),
        client: client.as_ref().map(|end| end.at),
        to_own: None,
        asked: false,
        astray: None,
        reset: false,
    };
    let shared = std::cell::RefCell::new(&mut seen);
    let mut heard = Received::default();
    let (mut answer, mut acked_at, mut reset_later) = (None, None, false);
    let begun = Instant::now();
    let mut due: Vec<Duration> = [Duration::ZERO].into_iter().chain(AGAIN).rev().collect();
    look(
        LIMIT,
        |packet| shared.borrow_mut().see(packet),
        || {
            let own_answered = shared.borrow().to_own.is_some();
            if due.last().is_some_and(|at| begun.elapsed() >= *at) {
                due.pop();
                for end in own.iter().filter(|_| !own_answered) {
                    port.send(end, TcpFlags::SYN, None);
                }
                for end in client.iter().filter(|_| answer.is_none()) {
                    port.send(end, TcpFlags::SYN, None);
                }
            }
            let now = clock::now();
            channel.service(now, &mut heard);
            channel.flush(now);
            heard.confirmed.clear();
            for header in heard.headers.drain(..) {
                let Some(end) = client.as_ref().filter(|end| end.at == header.client) else {
                    continue;
                };
                let is = answer_by(header.flags);
                if answer.is_none() {
                    answer = Some(is);
                    if is == Answer::SynAck {
                        port.send(end, TcpFlags::ACK, Some(header.seq + 1));
                        acked_at = Some(Instant::now());
                    }
                } else if is == Answer::Reset {
                    reset_later = true;
                }
            }
            let settled = match (answer, acked_at) {
                (Some(Answer::SynAck), Some(at)) => reset_later || at.elapsed() >= RESET_LIMIT,
                (Some(_), _) => true,
                (None, _) => client.is_none(),
            };
            settled && (own.is_none() || own_answered)
        },
    )
    .map_err(|e| format!("packets of this host cannot be looked at: {e}"))?;
    for end in own.iter().chain(&client) {
        port.send(end, TcpFlags::RST, None);
    }
    port.close();
    if let Some(client) = &client {
        channel.retire(client.at, target);
        channel.flush(clock::now());
    }
    Ok(ProbeFacts {
        target,
        plain: plain
            .join()
            .unwrap_or_else(|_| Plain::Failed("the thread that connected ended".to_owned())),
        own: match (own, seen.to_own) {
            (None, _) => Frame::NotTried,
            (Some(_), None) => Frame::Lost,
            (Some(_), Some(answer)) => Frame::Answered(answer),
        },
        client: client.map(|end| ClientProbe {
            client: end.at,
            answer,
            reset_later,
        }),
        asked_for_client: seen.asked,
        astray: seen.astray,
        client_reset: seen.reset,
        mac: given.mac,
        channel: channel.is_up(),
        silent: given.silent,
        cloud: cloud(),
    })
}

fn answer_by(flags: TcpFlags) -> Answer {
    if flags.has(TcpFlags::RST) {
        Answer::Reset
    } else if flags.has(TcpFlags::SYN) {
        Answer::SynAck
    } else {
        Answer::Other
    }
}

/// What passed this host.
struct Sightings {
    target: Endpoint,
    names: Names,
    own: Option<Endpoint>,
    client: Option<Endpoint>,
    to_own: Option<Answer>,
    asked: bool,
    astray: Option<String>,
    reset: bool,
}

impl Sightings {
    fn see(&mut self, packet: &Seen<'_>) {
        if packet.way == Way::Out {
            return;
        }
        let Ok(p) = decode_frame(packet.frame) else {
            self.asked |= self
                .client
                .is_some_and(|client| asks(packet.frame, self.target.addr, client.addr));
            return;
        };
        let from = Endpoint::new(p.ip.src, p.tcp.sport);
        let to = Endpoint::new(p.ip.dst, p.tcp.dport);
        if from == self.target && Some(to) == self.own {
            self.to_own.get_or_insert(answer_by(p.tcp.flags));
        }
        if from == self.target && Some(to) == self.client && packet.way == Way::In {
            self.astray = Some(self.names.of(packet.ifindex));
        }
        if Some(from) == self.client && to == self.target && p.tcp.flags.has(TcpFlags::RST) {
            self.reset = true;
        }
    }
}

/// An ARP request (RFC 826) of `who` for `whom`.
fn asks(frame: &[u8], who: Addr, whom: Addr) -> bool {
    const REQUEST: [u8; 2] = [0, 1];
    let Ok(ether) = decode_ethernet(frame) else {
        return false;
    };
    let at = |from: usize, len: usize| frame.get(ether.l3 + from..ether.l3 + from + len);
    ether.ethertype == ethertype::ARP
        && at(6, 2) == Some(&REQUEST)
        && at(14, 4) == who.as_v4().as_ref().map(<[u8; 4]>::as_slice)
        && at(24, 4) == whom.as_v4().as_ref().map(<[u8; 4]>::as_slice)
}

/// By which frames leave.
struct Port {
    transmit: Box<dyn Transmit>,
    macs: FrameAddresses,
    target: Endpoint,
    ip_id: u16,
}

impl Port {
    fn open(given: &Given<'_>) -> Result<Self, String> {
        let raw = RawPath::default();
        let opened = if given.hop.local {
            egress::raw_all(1, &raw)
        } else {
            let waker =
                Waker::new().map_err(|e| format!("cannot make an event descriptor: {e}"))?;
            egress::open_all(
                &given.hop.ifname,
                1,
                &[waker.handle()],
                vec![None],
                true,
                &raw,
            )
        };
        let opened = opened.map_err(|e| e.to_string())?;
        let transmit = opened.into_iter().next();
        Ok(Self {
            transmit: transmit.ok_or("no way to send was opened")?,
            macs: given.hop.macs,
            target: given.target,
            ip_id: 1,
        })
    }

    /// A frame that cannot be sent is as one that is lost.
    fn send(&mut self, from: &End, flags: TcpFlags, ack: Option<SeqNumber>) {
        let syn = flags.has(TcpFlags::SYN);
        let segment = TcpFrame {
            src: from.at,
            dst: self.target,
            seq: if syn { from.seq } else { from.seq + 1 },
            ack: ack.unwrap_or(SeqNumber(0)),
            flags,
            window: WINDOW_BYTES,
            options: TcpOptions {
                mss: syn.then_some(MSS_BYTES),
                ..TcpOptions::default()
            },
            payload: &[],
            ip_id: self.ip_id,
        };
        self.ip_id = self.ip_id.wrapping_add(1);
        let Some(buffer) = self.transmit.reserve() else {
            return;
        };
        if let Ok(len) = build_tcp_frame(buffer, self.macs, &segment) {
            self.transmit.commit(len);
        }
        self.transmit.flush();
    }

    /// Waits until what was sent has left: closing the socket takes back what has not.
    fn close(mut self) {
        let end = Instant::now() + Duration::from_millis(100);
        while self.transmit.busy() && Instant::now() < end {
            self.transmit.flush();
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn connect(target: Endpoint) -> Plain {
    let mut stream = match TcpStream::connect_timeout(&target.to_socket(), PLAIN_LIMIT) {
        Ok(stream) => stream,
        Err(e) => {
            return match e.kind() {
                ErrorKind::ConnectionRefused => Plain::Refused,
                ErrorKind::TimedOut | ErrorKind::WouldBlock => Plain::TimedOut,
                _ => Plain::Failed(e.to_string()),
            };
        }
    };
    let quiet = stream
        .set_read_timeout(Some(RESET_LIMIT))
        .and_then(|()| stream.read(&mut [0; 1]));
    // Servers that speak first stay, too.
    let stays = match quiet {
        Ok(n) => n > 0,
        Err(e) => matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    };
    Plain::Open { stays }
}

/// Clouds whose networks drop packets with foreign sources unless told otherwise, by what DMI says of the machine.
fn cloud() -> Option<String> {
    const CLOUDS: [&str; 7] = [
        "Amazon EC2",
        "Google",
        "Microsoft Corporation",
        "Alibaba Cloud",
        "DigitalOcean",
        "Hetzner",
        "OpenStack Foundation",
    ];
    let vendor = std::fs::read_to_string("/sys/class/dmi/id/sys_vendor").ok()?;
    let vendor = vendor.trim();
    CLOUDS.contains(&vendor).then(|| vendor.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arp_requests_are_read() {
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend([
            2, 0, 0, 0, 0, 1, 10, 0, 0, 30, 0, 0, 0, 0, 0, 0, 10, 1, 0, 7,
        ]);
        let (who, whom) = (Addr::v4([10, 0, 0, 30]), Addr::v4([10, 1, 0, 7]));
        assert!(asks(&frame, who, whom));
        assert!(!asks(&frame, whom, who));
        frame[21] = 2;
        assert!(!asks(&frame, who, whom), "a reply");
        assert!(!asks(&frame[..30], who, whom));
    }
}
