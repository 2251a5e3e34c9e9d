//! Responses per second through one worker, frames in memory to a real loopback connection.
//!
//! `cargo bench -p intercept-user`. The figure includes the reader of the other end, which shares the
//! machine; "unrouted" leaves the socket out and shows the worker alone.

use common::flow::{CaptureMeta, Captured};
use common::packet::{
    Addr, Endpoint, FrameAddresses, SeqNumber, TcpFlags, TcpFrame, TcpOptions, build_tcp_frame,
};
use common::wire::compat;
use dataplane::{BATCH, Capture, CounterSink, clock};
use intercept_user::channel::listen;
use intercept_user::service::{Service, ServiceOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SESSIONS: u16 = 50_000;
const PACKETS: u64 = 4_000_000;
const TARGET: Endpoint = Endpoint::new(Addr::v4([10, 77, 0, 30]), 8080);

fn client(n: u16) -> Endpoint {
    Endpoint::new(Addr::v4([10, 77, 2, 1]), 10_000 + n)
}

/// Yields prepared frames, session after session, as fast as they are taken.
struct Endless {
    frames: Vec<Vec<u8>>,
    next: usize,
    /// Frames still to be given; set by the benchmark.
    left: Arc<AtomicU64>,
}

impl Capture for Endless {
    fn recv(&mut self, act: &mut dyn FnMut(&[Captured<'_>])) -> usize {
        let left = self.left.load(Ordering::Acquire);
        let n = left.min(BATCH as u64) as usize;
        if n == 0 {
            return 0;
        }
        let at = clock::now();
        let empty = Captured {
            bytes: &[],
            meta: CaptureMeta::default(),
        };
        let mut batch = [empty; BATCH];
        for slot in &mut batch[..n] {
            let bytes = &self.frames[self.next][..];
            *slot = Captured {
                bytes,
                meta: CaptureMeta {
                    at,
                    frame_len: 1454,
                    ..CaptureMeta::default()
                },
            };
            self.next = (self.next + 1) % self.frames.len();
        }
        act(&batch[..n]);
        self.left.fetch_sub(n as u64, Ordering::AcqRel);
        n
    }

    fn arm(&mut self) -> bool {
        // No descriptor tells of frames: never sleep in poll.
        false
    }

    fn fds(&self) -> Vec<RawFd> {
        Vec::new()
    }

    fn counters(&mut self, _: CounterSink<'_>) {}
}

fn frame(client: Endpoint) -> Vec<u8> {
    let mut buf = [0; 256];
    let segment = TcpFrame {
        src: TARGET,
        dst: client,
        seq: SeqNumber(1),
        ack: SeqNumber(1),
        flags: TcpFlags::ACK,
        window: 500,
        options: TcpOptions::default(),
        payload: &[],
        ip_id: 0,
    };
    let len = build_tcp_frame(&mut buf, FrameAddresses::default(), &segment).expect("frame");
    buf[..len].to_vec()
}

fn run(name: &str, routed: bool) {
    let listener = listen("127.0.0.1:0".parse().expect("address")).expect("listen");
    let address = listener.local_addr().expect("address");
    let left = Arc::new(AtomicU64::new(0));
    let frames = (0..SESSIONS).map(|n| frame(client(n))).collect();
    let source = Endless {
        frames,
        next: 0,
        left: Arc::clone(&left),
    };
    let service = Service::start(
        listener,
        vec![vec![Box::new(source)]],
        &ServiceOptions::default(),
        None,
        Vec::new(),
    )
    .expect("start");
    let mut peer = TcpStream::connect(address).expect("connect");
    let mut hello = compat::hello().to_vec();
    if routed {
        hello.extend((0..SESSIONS).flat_map(|n| compat::add(client(n), TARGET).expect("IPv4")));
    }
    peer.write_all(&hello).expect("announce");
    // Time for the announcements; the report shows whether it was enough.
    std::thread::sleep(Duration::from_millis(500));
    let reader = std::thread::spawn(move || {
        let mut bytes = vec![0; 1 << 18];
        while peer.read(&mut bytes).is_ok_and(|n| n > 0) {}
    });
    let start = Instant::now();
    left.store(PACKETS, Ordering::Release);
    while left.load(Ordering::Acquire) > 0 {
        std::thread::sleep(Duration::from_micros(100));
    }
    let elapsed = start.elapsed();
    let outcome = service.stop().expect("stop");
    reader.join().expect("reader");
    let worker = &outcome.workers[0];
    let sent: u64 = worker.peers.iter().map(|(_, t)| t.sent).sum();
    let ns = elapsed.as_nanos() as f64 / PACKETS as f64;
    println!(
        "{name:<9} {ns:6.1} ns/packet  {:5.2} Mpps  {:3.0} % delivered  {} routed at once",
        1e3 / ns,
        sent as f64 * 100.0 / PACKETS as f64,
        worker.packets.routed,
    );
}

fn main() {
    for _ in 0..3 {
        run("routed", true);
        run("unrouted", false);
    }
}
