//! Takes what comes to `mir0` and sends it on in tunnels, as a mirroring fabric would.
//!
//! ```text
//!  mir0 ── packet socket ──▶ wrap, double, hold back, skip a number ──▶ wrap-a ══ wrap-b ── tcpcopy
//! ```

use std::{
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use lab::{
    faults::wrap::{Layer, wrap},
    world::Namespace,
};
use nix::{ifaddrs::getifaddrs, sys::socket::bind};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, eth, recv, send, socket_with,
        sockopt::set_socket_recv_buffer_size_force,
    },
};

/// The wrapper's end.
pub const FROM: &str = "wrap-a";
/// Where tcpcopy captures.
pub const TO: &str = "wrap-b";
/// Every so many packets one is sent twice, one is held back behind the next, one number is skipped.
const DOUBLE_EACH: u64 = 7;
const HOLD_EACH: u64 = 11;
const SKIP_EACH: u64 = 50;
/// Every so many packets' own checksums are wrong, those of the IP header and of TCP or UDP: prime to the number of tunnels.
const GARBLE_EACH: u64 = 3;
const SOCKET_BUFFER_BYTES: usize = 64 << 20;
const FRAME_BYTES: usize = 1 << 16;
const PAUSE: Duration = Duration::from_micros(100);

/// What the wrapper did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Frames that came.
    pub frames: u64,
    /// Of these, sent twice.
    pub doubled: u64,
    /// Sent after the one behind them.
    pub held: u64,
    /// Sequence numbers that no packet got.
    pub skipped: u64,
}

/// A running wrapper.
pub struct Wrapper {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Sent>,
}

impl Wrapper {
    /// Starts one in `namespace`, between `mir0` and [`FROM`].
    /// Tags come only with `vlan`: they are no tunnel.
    pub fn start(namespace: &Namespace, vlan: bool) -> Self {
        let sockets = namespace
            .enter(|| ["mir0", FROM].map(open))
            .expect("enter the capture host");
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let thread = std::thread::spawn(move || forward(&sockets, vlan, &ended));
        Self { stop, thread }
    }

    /// Ends it when nothing more comes.
    pub fn stop(self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the wrapper")
    }
}

/// The tunnels, and the sequence number where there is one.
fn layers(number: u32) -> [Layer; 11] {
    [
        Layer::Vxlan {
            port: 4789,
            vni: 100,
        },
        Layer::Geneve {
            vni: 7,
            options: 3,
            ip: false,
        },
        Layer::Gre {
            checksum: true,
            key: Some(5),
            sequence: None,
            ip: true,
        },
        Layer::Erspan {
            version: 2,
            session: 9,
            sequence: number,
            platform: false,
        },
        Layer::Ipip,
        Layer::Gtpu {
            teid: 77,
            extensions: 2,
            sequence: true,
        },
        Layer::Mpls {
            labels: 2,
            pseudowire: false,
        },
        Layer::Erspan {
            version: 1,
            session: 0,
            sequence: 0,
            platform: false,
        },
        Layer::Mpls {
            labels: 1,
            pseudowire: true,
        },
        Layer::Vlan(0x88a8),
        Layer::Geneve {
            vni: 8,
            options: 0,
            ip: true,
        },
    ]
}

fn forward(sockets: &[OwnedFd; 2], vlan: bool, stop: &AtomicBool) -> Sent {
    let ends: [IpAddr; 2] =
        ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().expect("an address"));
    let mut buffer = vec![0; FRAME_BYTES];
    let (mut sent, mut number) = (Sent::default(), 0);
    let mut held: Option<Vec<u8>> = None;
    loop {
        let length = match recv(&sockets[0], &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((length, _)) => length,
            // The link was down for a moment: an XDP program came to its other end.
            Err(Errno::INTR | Errno::NETDOWN) => continue,
            Err(Errno::AGAIN) => {
                if let Some(frame) = held.take() {
                    put(&sockets[1], &frame);
                }
                if stop.load(Ordering::Relaxed) {
                    return sent;
                }
                std::thread::sleep(PAUSE);
                continue;
            }
            Err(errno) => panic!("mir0: {errno}"),
        };
        let frame = &mut buffer[..length];
        if frame.get(12..14) != Some(&[8, 0]) {
            continue;
        }
        let n = sent.frames;
        sent.frames += 1;
        // Sums as a switch may mirror them: half ones of a local peer, which come by themselves, and plainly wrong ones.
        if n.is_multiple_of(GARBLE_EACH) {
            let (header, udp) = (14 + usize::from(frame[14] & 0x0f) * 4, frame[23] == 17);
            for sum in [24, header + if udp { 6 } else { 16 }] {
                frame[sum..sum + 2].copy_from_slice(&(n as u16 ^ 0xa5a5).to_be_bytes());
            }
        }
        let layer = match layers(number)[(n % 11) as usize] {
            Layer::Vlan(_) if !vlan => Layer::Ipip,
            layer => layer,
        };
        if matches!(layer, Layer::Erspan { version: 2, .. }) {
            number += 1;
            // What is skipped before the first number, nobody can know of.
            if n / 11 % SKIP_EACH == SKIP_EACH - 1 {
                number += 1;
                sent.skipped += 1;
            }
        }
        let wrapped = wrap(layer, ends, frame);
        if n.is_multiple_of(HOLD_EACH) && held.is_none() {
            sent.held += 1;
            held = Some(wrapped);
            continue;
        }
        put(&sockets[1], &wrapped);
        if n.is_multiple_of(DOUBLE_EACH) {
            sent.doubled += 1;
            put(&sockets[1], &wrapped);
        }
        if let Some(frame) = held.take() {
            put(&sockets[1], &frame);
        }
    }
}

fn put(socket: &OwnedFd, frame: &[u8]) {
    loop {
        match send(socket, frame, SendFlags::empty()) {
            Ok(_) => return,
            Err(Errno::INTR) => {}
            // The queue of a veth with XDP is short.
            Err(Errno::NOBUFS | Errno::AGAIN | Errno::NETDOWN) => std::thread::sleep(PAUSE),
            Err(errno) => panic!("{FROM}: {errno} for {} bytes", frame.len()),
        }
    }
}

/// A packet socket (packet(7)) on `interface`.
fn open(interface: &str) -> OwnedFd {
    let socket = socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(eth::ALL),
    )
    .expect("a packet socket");
    set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_BYTES).expect("a receive buffer");
    let address = getifaddrs()
        .expect("interfaces")
        .filter(|each| each.interface_name == interface)
        .find_map(|each| each.address?.as_link_addr().copied())
        .unwrap_or_else(|| panic!("no interface {interface}"));
    bind(socket.as_raw_fd(), &address).expect("bind");
    socket
}
