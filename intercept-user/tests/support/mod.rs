//! A service over memory and real loopback peers.

use common::flow::{CaptureMeta, ResponseHeader};
use common::packet::{
    Addr, Endpoint, FrameAddresses, SeqNumber, TcpFlags, TcpFrame, TcpOptions, build_tcp_frame,
};
use common::wire::compat::{self, FrameDecoder, decode_record};
use dataplane::memory::MemoryCapture;
use dataplane::{Capture, clock};
use intercept_user::channel::{ControlOptions, TargetSink, listen};
use intercept_user::mapping::Mappings;
use intercept_user::report::{Report, Setting};
use intercept_user::routes::KernelRoutes;
use intercept_user::service::{Service, ServiceOptions};
use intercept_user::worker::Limits;
use socket2::{Domain, Socket, Type};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for something that must come: only a failure lasts so long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Sequence numbers from here on are probe responses.
const FIRST_PROBE: u32 = 0xffff_0000;

pub struct World {
    service: Service,
    queues: Vec<MemoryCapture>,
    address: SocketAddr,
    workers: usize,
    probes: AtomicU32,
}

impl World {
    pub fn new(workers: usize) -> Self {
        Self::with(workers, Limits::default(), ControlOptions::default())
    }

    pub fn with(workers: usize, limits: Limits, control: ControlOptions) -> Self {
        Self::learning(workers, limits, control, None)
    }

    /// A service on a target, each of whose workers has a `kernel` that must know its routes.
    pub fn on_target(
        workers: usize,
        limits: Limits,
        kernel: impl Fn() -> Box<dyn KernelRoutes>,
    ) -> Self {
        let kernel = (0..workers).map(|_| kernel()).collect();
        let control = ControlOptions {
            confirms: true,
            ..ControlOptions::default()
        };
        Self::build(workers, limits, control, None, Mappings::default(), kernel)
    }

    /// A service that tells `targets` of the targets it hears of.
    pub fn learning(
        workers: usize,
        limits: Limits,
        control: ControlOptions,
        targets: Option<TargetSink>,
    ) -> Self {
        let (mappings, kernel) = (Mappings::default(), Vec::new());
        Self::build(workers, limits, control, targets, mappings, kernel)
    }

    /// The same with addresses behind NAT.
    pub fn mapped(
        workers: usize,
        limits: Limits,
        control: ControlOptions,
        targets: Option<TargetSink>,
        mappings: Mappings,
    ) -> Self {
        Self::build(workers, limits, control, targets, mappings, Vec::new())
    }

    fn build(
        workers: usize,
        limits: Limits,
        control: ControlOptions,
        targets: Option<TargetSink>,
        mappings: Mappings,
        kernel: Vec<Box<dyn KernelRoutes>>,
    ) -> Self {
        let listener = listen("127.0.0.1:0".parse().expect("address")).expect("listen");
        let address = listener.local_addr().expect("address");
        let queues: Vec<MemoryCapture> = (0..workers)
            .map(|_| MemoryCapture::new().expect("queue"))
            .collect();
        let captures = queues
            .iter()
            .map(|q| vec![Box::new(q.clone()) as Box<dyn Capture>])
            .collect();
        let options = ServiceOptions {
            limits,
            control,
            mappings,
            ..ServiceOptions::default()
        };
        let service = Service::start(listener, captures, &options, targets, kernel).expect("start");
        Self {
            service,
            queues,
            address,
            workers,
            probes: AtomicU32::new(0),
        }
    }

    /// A connection that has said nothing yet.
    pub fn connect(&self) -> Peer {
        self.connect_from([127, 0, 0, 1])
    }

    /// The same from another address of loopback.
    pub fn connect_from(&self, ip: [u8; 4]) -> Peer {
        let stream = self.stream_from(ip).expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        Peer {
            stream,
            decoder: FrameDecoder::default(),
            records: VecDeque::new(),
        }
    }

    /// A stream, within [`PATIENCE`]: a backlog that is full for a moment costs SYN retransmissions.
    pub fn stream_from(&self, ip: [u8; 4]) -> std::io::Result<TcpStream> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((ip, 0)).into())?;
        socket.connect_timeout(&self.address.into(), PATIENCE)?;
        Ok(socket.into())
    }

    /// A connection that has said hello.
    pub fn tcpcopy(&self) -> Peer {
        self.tcpcopy_from([127, 0, 0, 1])
    }

    /// The same from another address of loopback.
    pub fn tcpcopy_from(&self, ip: [u8; 4]) -> Peer {
        let mut peer = self.connect_from(ip);
        peer.send(&compat::hello());
        peer
    }

    /// A response arrives on a queue.
    pub fn respond(&self, queue: usize, client: Endpoint, seq: u32) {
        let frame = response_frame(client, TARGET, seq, TcpFlags::ACK, &[]);
        let meta = CaptureMeta {
            at: clock::now(),
            ..CaptureMeta::default()
        };
        self.queues[queue].push(&frame, meta);
    }

    /// Pushes raw bytes as a frame.
    pub fn push(&self, queue: usize, frame: &[u8], frame_len: u32) {
        let meta = CaptureMeta {
            at: clock::now(),
            frame_len,
            ..CaptureMeta::default()
        };
        self.queues[queue].push(frame, meta);
    }

    /// Waits until workers have taken all frames.
    pub fn settle(&self) {
        let end = Instant::now() + PATIENCE;
        while self.queues.iter().any(|q| q.waiting() > 0) {
            assert!(Instant::now() < end, "workers do not take frames");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Announces a route and waits until it works: a probe response is delivered. Where the route leads
    /// elsewhere so far, a probe may overtake the announcement and go there; another one follows.
    pub fn announce(&self, peer: &mut Peer, client: Endpoint) {
        peer.add(client);
        // A number of its own: probes of an earlier announcement may still be on their way.
        let number = FIRST_PROBE + self.probes.fetch_add(1, Ordering::Relaxed);
        let end = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < end, "no probe comes back");
            self.respond(0, client, number);
            if peer.probe(number, Duration::from_millis(100)) {
                return;
            }
        }
    }

    pub fn stop(self) -> Report {
        let outcome = self.service.stop().expect("stop");
        let setting = Setting {
            iface: "memory".to_owned(),
            mode: "native",
            workers: self.workers,
            duration: common::flow::Nanos::from_secs(1),
            clock_resolution: clock::resolution(),
        };
        Report::new(setting, outcome, [("captured", 0)])
    }
}

pub const TARGET: Endpoint = Endpoint::new(Addr::v4([10, 77, 0, 30]), 8080);

pub fn client(n: u16) -> Endpoint {
    Endpoint::new(Addr::v4([10, 77, 2, 1]), 20_000 + n)
}

pub fn response_frame(
    client: Endpoint,
    target: Endpoint,
    seq: u32,
    flags: TcpFlags,
    payload: &[u8],
) -> Vec<u8> {
    let mut buf = [0; 2048];
    let segment = TcpFrame {
        src: target,
        dst: client,
        seq: SeqNumber(seq),
        ack: SeqNumber(1),
        flags,
        window: 500,
        options: TcpOptions::default(),
        payload,
        ip_id: 1,
    };
    let len = build_tcp_frame(&mut buf, FrameAddresses::default(), &segment).expect("frame");
    buf[..len].to_vec()
}

pub struct Peer {
    pub stream: TcpStream,
    decoder: FrameDecoder,
    records: VecDeque<ResponseHeader>,
}

impl Peer {
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("send");
    }

    pub fn add(&mut self, client: Endpoint) {
        self.send(&compat::add(client, TARGET).expect("IPv4"));
    }

    /// The next response header that is no probe; fails if none comes.
    pub fn next(&mut self) -> ResponseHeader {
        loop {
            while let Some(record) = self.records.pop_front() {
                if record.seq.0 < FIRST_PROBE {
                    return record;
                }
            }
            self.read().expect("a response in time");
        }
    }

    /// Waits for the probe response `number`.
    fn probe(&mut self, number: u32, at_most: Duration) -> bool {
        self.stream
            .set_read_timeout(Some(at_most))
            .expect("timeout");
        let found = loop {
            let is_it = |r: &ResponseHeader| r.seq.0 == number;
            if let Some(at) = self.records.iter().position(is_it) {
                self.records.remove(at);
                break true;
            }
            match self.read() {
                Ok(()) => {}
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    break false;
                }
                Err(e) => panic!("{e}"),
            }
        };
        self.stream
            .set_read_timeout(Some(PATIENCE))
            .expect("timeout");
        found
    }

    fn read(&mut self) -> std::io::Result<()> {
        let mut bytes = [0; 4096];
        let n = self.stream.read(&mut bytes)?;
        assert_ne!(n, 0, "closed instead of a response");
        let records = &mut self.records;
        self.decoder
            .feed(&bytes[..n], |r| {
                records.push_back(decode_record(r).expect("record"));
            })
            .expect("framing");
        Ok(())
    }

    /// Sequence numbers of the next `n` responses.
    pub fn sequence(&mut self, n: usize) -> Vec<u32> {
        (0..n).map(|_| self.next().seq.0).collect()
    }

    /// Fills `bytes` from the stream; `None` at its end or when the time is over.
    pub fn take_exact(&mut self, bytes: &mut [u8]) -> Option<()> {
        self.stream.read_exact(bytes).ok()
    }

    /// Waits until the other side has closed.
    pub fn expect_closed(&mut self) {
        let mut bytes = [0; 4096];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return,
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return,
                Err(e) => panic!("expected the connection to be closed, got {e}"),
            }
        }
    }
}
