//! The process in the middle of a faulty cable: two packet sockets, one thread.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{ifaddrs::getifaddrs, sys::socket::bind};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, eth, recv, send, socket_with,
        sockopt::set_socket_recv_buffer_size_force,
    },
};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

use super::{
    path::Path,
    report::FaultReport,
    rule::{Direction, Rule},
};
use crate::LabError;

/// Holds seconds of what a test sends: a frame that the kernel dropped here would be a fault that no rule asked for.
const SOCKET_BUFFER_BYTES: usize = 64 << 20;
/// Larger than any frame of the lab.
const FRAME_BYTES: usize = 1 << 16;
/// Frames taken from one side before the other has its turn.
const BATCH: usize = 64;
/// A signal that comes just before poll(2) begins is seen after this.
const LONGEST_POLL: Duration = Duration::from_millis(100);
/// When the other end's queue is full (256 frames of a veth with XDP), its reader needs this to make room…
const FULL_PAUSE: Duration = Duration::from_micros(50);
/// … and has this many pauses for it.
const FULL_TRIES: u32 = 2000;

/// Forwards between the interfaces `ends` (switch, host) until SIGINT or SIGTERM, and says what was done.
pub fn run(ends: [&str; 2], seed: u64, rules: &[Rule]) -> Result<FaultReport, LabError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register(signal, Arc::clone(&stop)).map_err(LabError::system("watch signals"))?;
    }
    let sockets = [open(ends[0])?, open(ends[1])?];
    let of = |direction, seed| {
        let rules = rules.iter().copied();
        Path::new(
            rules.filter(|rule| rule.direction == direction).collect(),
            seed,
        )
    };
    let mut cable = Cable {
        sockets,
        // Different draws for the two directions.
        paths: [of(Direction::In, seed), of(Direction::Out, !seed)],
        sent: [0; 2],
        buffer: vec![0; FRAME_BYTES],
    };
    eprintln!("ready between {} and {}", ends[0], ends[1]);
    // What has arrived is still forwarded and counted.
    while cable.round()? > 0 || !stop.load(Ordering::Relaxed) {}
    Ok(cable.report())
}

struct Cable {
    /// Of the switch's side, of the host's side.
    sockets: [OwnedFd; 2],
    /// What each socket's frames go through, to the other socket.
    paths: [Path; 2],
    sent: [u64; 2],
    buffer: Vec<u8>,
}

impl Cable {
    /// Waits for frames and forwards them; how many came.
    fn round(&mut self) -> Result<u64, LabError> {
        let now = Instant::now();
        let due = self.paths.iter().filter_map(Path::next_due).min();
        let wait = due.map_or(LONGEST_POLL, |due| {
            due.saturating_duration_since(now).min(LONGEST_POLL)
        });
        let wait = Timespec {
            tv_sec: 0,
            tv_nsec: wait.as_nanos() as _,
        };
        let mut polled = self
            .sockets
            .each_ref()
            .map(|socket| PollFd::new(socket, PollFlags::IN));
        match poll(&mut polled, Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(failed("poll", errno)),
        }
        let received =
            |paths: &[Path; 2]| -> u64 { paths.iter().map(|path| path.report().received).sum() };
        let before = received(&self.paths);
        for side in 0..2 {
            let frames = self.receive(side)?;
            for frame in frames {
                self.send(side, &frame)?;
            }
        }
        Ok(received(&self.paths) - before)
    }

    /// Takes what waits at `side`; gives what is to be sent to the other one.
    fn receive(&mut self, side: usize) -> Result<Vec<Vec<u8>>, LabError> {
        let now = Instant::now();
        let mut out = Vec::new();
        self.paths[side].release(now, &mut out);
        for _ in 0..BATCH {
            let length = match recv(
                &self.sockets[side],
                &mut self.buffer[..],
                RecvFlags::DONTWAIT,
            ) {
                Ok((length, _)) => length,
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(errno) => return Err(failed("receive", errno)),
            };
            self.paths[side].take(now, &self.buffer[..length], &mut out);
        }
        Ok(out)
    }

    /// Sends a frame that came in at `side` out of the other one.
    fn send(&mut self, side: usize, frame: &[u8]) -> Result<(), LabError> {
        let mut tries = 0;
        loop {
            match send(&self.sockets[1 - side], frame, SendFlags::empty()) {
                Ok(_) => {
                    self.sent[side] += 1;
                    return Ok(());
                }
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS | Errno::AGAIN) if tries < FULL_TRIES => {
                    tries += 1;
                    thread::sleep(FULL_PAUSE);
                }
                Err(errno) => return Err(failed("send", errno)),
            }
        }
    }

    fn report(&self) -> FaultReport {
        let of = |side: usize| {
            let mut report = self.paths[side].report().clone();
            report.sent = self.sent[side];
            report
        };
        FaultReport {
            inward: of(0),
            outward: of(1),
        }
    }
}

/// A packet socket (packet(7)) on `interface`.
fn open(interface: &str) -> Result<OwnedFd, LabError> {
    let socket = socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(eth::ALL),
    )
    .map_err(|errno| failed("packet socket", errno))?;
    set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES)
        .map_err(|errno| failed("receive buffer", errno))?;
    // The kernel's own list of addresses has each interface's link address, which is what a packet socket is bound to.
    let address = getifaddrs()
        .map_err(|errno| failed("list interfaces", errno))?
        .filter(|each| each.interface_name == interface)
        .find_map(|each| each.address?.as_link_addr().copied())
        .ok_or_else(|| LabError::Argument(format!("no interface {interface:?} here")))?;
    bind(socket.as_raw_fd(), &address).map_err(|errno| failed(interface, errno))?;
    Ok(socket)
}

fn failed(what: &str, source: impl Into<std::io::Error>) -> LabError {
    LabError::System {
        what: format!("faults: {what}"),
        source: source.into(),
    }
}
