//! Responses without requests: what loads intercept alone, with the time of sending in each.
//!
//! ```text
//!  sender (target) ── seq and ack: CLOCK_MONOTONIC ──▶ intercept ── C format ──▶ peer ── minus its own clock ─▶ delays
//! ```
//! Sender and peer are threads of one process, so both times are of one clock.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    num::NonZeroU32,
    os::fd::OwnedFd,
    sync::atomic::{AtomicBool, Ordering},
    sync::mpsc,
    time::Duration,
};

use rustix::{
    net::{AddressFamily, Protocol, SendFlags, SocketFlags, SocketType, sendto, socket_with},
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, Timespec, clock_gettime},
};

use crate::{LabError, world::Namespace};

/// IPPROTO_RAW: the packet comes with its IP header (raw(7)).
const RAW: NonZeroU32 = NonZeroU32::new(255).unwrap();
const HEADERS_BYTES: usize = 40;
const ETHERNET_BYTES: usize = 14;
const FIRST_PORT: u16 = 1024;
/// Packets between two looks at the clock of the pace.
const BURST: u64 = 8;
/// Sent before the measured ones, and left out: routes are in place and code is in the caches.
const WARM_UP: (Duration, Pace) = (Duration::from_millis(200), Pace::Rate(2_000));
/// A process that is stopped still works for a moment.
const HOLD: Duration = Duration::from_millis(2);
/// Enough to work a burst off.
const DRAIN: Duration = Duration::from_millis(20);
/// What has not come so long after the last one is lost.
const SETTLE: Duration = Duration::from_millis(300);
const RECORD_BYTES: usize = 64;

/// What to send, and to whom it is announced.
#[derive(Clone, Debug)]
pub struct Responses {
    /// Where responses come from.
    pub target: (Ipv4Addr, u16),
    /// Client of all sessions, which differ in its port.
    pub client: Ipv4Addr,
    /// Number of sessions.
    pub sessions: u16,
    /// Bytes of each frame from the Ethernet header on, at least 54.
    pub bytes: usize,
    /// How long.
    pub duration: Duration,
    /// How many.
    pub pace: Pace,
    /// Where intercept listens; without, nobody is told and nothing comes back.
    pub intercept: Option<SocketAddrV4>,
    /// Core of the sender, which the receive path of a veth shares.
    pub sender_core: usize,
}

/// How many responses are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As many as the sender can.
    Full,
    /// So many per second.
    Rate(u64),
    /// So many at once, while the receiver is held; then it is let go and works them off.
    Bursts(u64),
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct ResponsesReport {
    /// Packets that the kernel took.
    pub sent: u64,
    /// Seconds it took.
    pub seconds: f64,
    /// Processor time of the sending thread: sending, and the receive path of the other end.
    pub sender_ns: u64,
    /// Records that the peer has read.
    pub received: u64,
    /// From sending to the end of the peer's read, in nanoseconds, sorted.
    pub delays_ns: Vec<u64>,
}

impl ResponsesReport {
    /// Packets per second.
    pub fn rate(&self) -> f64 {
        self.sent as f64 / self.seconds.max(0.001)
    }

    /// Quantile of the delay in microseconds; `None` without any.
    pub fn delay_us(&self, quantile: f64) -> Option<f64> {
        let last = self.delays_ns.len().checked_sub(1)?;
        let at = (last as f64 * quantile) as usize;
        self.delays_ns.get(at).map(|ns| *ns as f64 / 1e3)
    }
}

impl Responses {
    /// Announces the sessions from `peer`, sends from `target` and reads what comes back.
    /// `begin` and `end` are called around the measured part, `hold` to hold the receiver and let it go.
    pub fn run(
        &self,
        target: &Namespace,
        peer: &Namespace,
        begin: impl FnOnce() + Send,
        end: impl FnOnce() + Send,
        hold: impl Fn(bool) + Send + Sync,
    ) -> Result<ResponsesReport, LabError> {
        let over = AtomicBool::new(false);
        let (tell, ready) = mpsc::channel();
        std::thread::scope(|scope| {
            let reader = self.intercept.map(|address| {
                let over = &over;
                scope.spawn(move || {
                    peer.enter(|| {
                        let channel = self.announce(address);
                        // The sender waits for it whatever became of it.
                        let _ = tell.send(());
                        read(channel?, over)
                    })?
                })
            });
            if reader.is_some() {
                let _ = ready.recv();
            }
            let sent = target.enter(|| {
                self.send(WARM_UP.0, WARM_UP.1, &|_| ())?;
                begin();
                let start = now();
                let report = self.send(self.duration, self.pace, &hold);
                end();
                report.map(|report| (start, report))
            });
            std::thread::sleep(SETTLE);
            over.store(true, Ordering::Release);
            let read = reader.map_or(Ok(Vec::new()), |reader| match reader.join() {
                Ok(read) => read,
                Err(panic) => std::panic::resume_unwind(panic),
            })?;
            let (start, mut report) = sent??;
            let measured = read.into_iter().filter(|(sent, _)| *sent >= start);
            report.delays_ns = measured
                .map(|(sent, read)| read.saturating_sub(sent))
                .collect();
            report.delays_ns.sort_unstable();
            report.received = report.delays_ns.len() as u64;
            Ok(report)
        })
    }

    /// Hello and one CLIENT_ADD for each session, as a C tcpcopy sends them.
    fn announce(&self, address: SocketAddrV4) -> Result<TcpStream, LabError> {
        let failed = || LabError::system(format!("announce sessions to {address}"));
        let mut stream = TcpStream::connect(address).map_err(failed())?;
        let mut bytes = vec![0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0];
        for n in 0..self.sessions {
            bytes.extend(self.client.octets());
            bytes.extend((FIRST_PORT + n).to_be_bytes());
            bytes.extend([0, 1]);
            bytes.extend(self.target.0.octets());
            bytes.extend(self.target.1.to_be_bytes());
        }
        stream.write_all(&bytes).map_err(failed())?;
        stream.set_read_timeout(Some(SETTLE)).map_err(failed())?;
        Ok(stream)
    }

    fn send(
        &self,
        duration: Duration,
        pace: Pace,
        hold: &dyn Fn(bool),
    ) -> Result<ResponsesReport, LabError> {
        let mut core = CpuSet::new();
        core.set(self.sender_core);
        sched_setaffinity(None, &core).map_err(failed("pin the sender"))?;
        let mut sender = Sender::new(self)?;
        let (start, cpu) = (now(), thread_cpu());
        let end = start + duration.as_nanos() as u64;
        let mut time = start;
        while time < end {
            match pace {
                Pace::Full => sender.send(BURST)?,
                Pace::Rate(rate) => {
                    sender.send(BURST)?;
                    let due = start + (sender.sent as f64 * 1e9 / rate.max(1) as f64) as u64;
                    // A sleep is later by more than the time between two packets.
                    while now() < due.min(end) {
                        std::hint::spin_loop();
                    }
                }
                Pace::Bursts(packets) => {
                    hold(true);
                    std::thread::sleep(HOLD);
                    let sent = sender.send(packets);
                    hold(false);
                    sent?;
                    std::thread::sleep(DRAIN);
                }
            }
            time = now();
        }
        Ok(ResponsesReport {
            sent: sender.sent,
            seconds: (time - start) as f64 / 1e9,
            sender_ns: thread_cpu() - cpu,
            ..ResponsesReport::default()
        })
    }

    /// A data segment. Its TCP checksum is wrong, and nobody is to look at it.
    fn packet(&self) -> Vec<u8> {
        let length = self.bytes.max(ETHERNET_BYTES + HEADERS_BYTES) - ETHERNET_BYTES;
        let mut packet = vec![0; length];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        packet[8..10].copy_from_slice(&[64, 6]);
        packet[12..16].copy_from_slice(&self.target.0.octets());
        packet[16..20].copy_from_slice(&self.client.octets());
        packet[20..22].copy_from_slice(&self.target.1.to_be_bytes());
        packet[32..36].copy_from_slice(&[0x50, 0x10, 1, 0]);
        packet
    }
}

fn failed(what: &'static str) -> impl Fn(rustix::io::Errno) -> LabError {
    move |errno| LabError::system(format!("responses: {what}"))(errno.into())
}

struct Sender {
    socket: OwnedFd,
    to: SocketAddrV4,
    packet: Vec<u8>,
    sessions: u64,
    sent: u64,
}

impl Sender {
    fn new(responses: &Responses) -> Result<Self, LabError> {
        let raw = Some(Protocol::from_raw(RAW));
        let socket = socket_with(
            AddressFamily::INET,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            raw,
        );
        Ok(Self {
            socket: socket.map_err(failed("raw socket"))?,
            to: SocketAddrV4::new(responses.client, 0),
            packet: responses.packet(),
            sessions: u64::from(responses.sessions.max(1)),
            sent: 0,
        })
    }

    /// One of each session in turn.
    fn send(&mut self, packets: u64) -> Result<(), LabError> {
        for _ in 0..packets {
            let port = FIRST_PORT + (self.sent % self.sessions) as u16;
            self.packet[22..24].copy_from_slice(&port.to_be_bytes());
            self.packet[24..32].copy_from_slice(&now().to_be_bytes());
            sendto(&self.socket, &self.packet, SendFlags::empty(), &self.to)
                .map_err(failed("send"))?;
            self.sent += 1;
        }
        Ok(())
    }
}

/// Reads frames to the end; sending and reading time of each record.
fn read(mut stream: TcpStream, over: &AtomicBool) -> Result<Vec<(u64, u64)>, LabError> {
    let mut times = Vec::with_capacity(1 << 20);
    let (mut bytes, mut filled) = (vec![0; 1 << 18], 0);
    loop {
        match stream.read(&mut bytes[filled..]) {
            Ok(0) => return Ok(times),
            Ok(n) => {
                let time = now();
                filled += n;
                let used = records(&bytes[..filled], |sent| times.push((sent, time)));
                bytes.copy_within(used..filled, 0);
                filled -= used;
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if over.load(Ordering::Acquire) {
                    return Ok(times);
                }
            }
            Err(e) => return Err(LabError::system("read responses")(e)),
        }
    }
}

/// Gives the sending time of each record of whole frames; returns the bytes of those.
fn records(bytes: &[u8], mut each: impl FnMut(u64)) -> usize {
    let mut at = 0;
    while let Some(head) = bytes.get(at..at + 2) {
        let count = usize::from(u16::from_be_bytes([head[0], head[1]]));
        let Some(frame) = bytes.get(at + 2..at + 2 + count * RECORD_BYTES) else {
            break;
        };
        for record in frame.as_chunks::<RECORD_BYTES>().0 {
            if let Some(time) = record[24..].first_chunk() {
                each(u64::from_be_bytes(*time));
            }
        }
        at += 2 + frame.len();
    }
    at
}

fn now() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

fn thread_cpu() -> u64 {
    nanoseconds(clock_gettime(ClockId::ThreadCPUTime))
}

fn nanoseconds(time: Timespec) -> u64 {
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_out_of_whole_frames_only() {
        let responses = Responses {
            target: (Ipv4Addr::new(10, 77, 0, 30), 8080),
            client: Ipv4Addr::new(10, 77, 1, 1),
            sessions: 1,
            bytes: 64,
            duration: Duration::ZERO,
            pace: Pace::Full,
            intercept: None,
            sender_core: 0,
        };
        let mut record = responses.packet();
        assert_eq!(record.len(), 50);
        record.resize(RECORD_BYTES, 0);
        let mut frames = Vec::new();
        for time in [7u64, 1 << 40] {
            record[24..32].copy_from_slice(&time.to_be_bytes());
            frames.extend([0, 1]);
            frames.extend(&record);
        }
        let mut times = Vec::new();
        assert_eq!(records(&frames[..100], |t| times.push(t)), 66);
        assert_eq!(records(&frames, |t| times.push(t)), 132);
        assert_eq!(times, [7, 7, 1 << 40]);
    }
}
