//! IP fragments.
//!
//! ```text
//!  client ── 1500, no DF ──▶ router on the switch ── 576 ──▶ production        TCP, UDP over IPv4
//!  client ── datagrams larger than its route's MTU ────────▶ production        UDP over IPv6
//! ```

use super::scene::{LIMIT, Scene, ip, sysctl};
use lab::{
    Host, Lab, LabOptions,
    replay::{Capture, Copy, PRODUCTION_PORT},
    testing::require_root,
    world::{CLIENT_SOURCE, CLIENT_SOURCE6, address6, enable_ipv6, run},
};
use rustix::process::Signal;
use std::{
    collections::BTreeMap,
    fs,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

const ROUTER: &str = "10.77.0.60";
const UDP_PORT: u16 = 53;
const TARGET_UDP_PORT: u16 = 5353;
/// Of each family.
const DATAGRAMS: usize = 100;

/// A lab with the router, in which all of the client's packets to production that are larger than 576 bytes
/// arrive in fragments.
fn narrow() -> Lab {
    let lab = Lab::up(&LabOptions {
        queues: 2,
        ..LabOptions::default()
    })
    .unwrap();
    enable_ipv6(&lab).unwrap();
    let production = Host::Production.address();
    let on_switch = |program: &str, words: String| {
        run(lab.switch().command(program).args(words.split(' '))).unwrap();
    };
    on_switch("ip", format!("addr add {ROUTER}/24 dev br0"));
    on_switch("ip", format!("route add {CLIENT_SOURCE}/32 dev br0"));
    on_switch(
        "ip",
        format!("route add {production}/32 dev br0 mtu lock 576"),
    );
    for setting in [
        "ip_forward=1",
        "conf.all.send_redirects=0",
        "conf.br0.send_redirects=0",
    ] {
        on_switch("sysctl", format!("-qw net.ipv4.{setting}"));
    }
    sysctl(&lab, Host::Client, &["net.ipv4.ip_no_pmtu_disc=1"]);
    ip(
        &lab,
        Host::Client,
        &format!("route add {production}/32 via {ROUTER} src {CLIENT_SOURCE}"),
    );
    let production6 = address6(Host::Production);
    ip(
        &lab,
        Host::Client,
        &format!("-6 route add {production6}/128 dev eth0 mtu lock 1280 src {CLIENT_SOURCE6}"),
    );
    lab
}

/// A socket on a host.
fn socket(lab: &Lab, host: Host, at: SocketAddr) -> UdpSocket {
    let socket = lab
        .host(host)
        .enter(|| UdpSocket::bind(at))
        .unwrap()
        .unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// A server's socket and what came to it.
struct Sink {
    socket: UdpSocket,
    datagrams: BTreeMap<Vec<u8>, usize>,
}

impl Sink {
    fn new(lab: &Lab, host: Host, v6: bool, port: u16) -> Self {
        let address = if v6 {
            IpAddr::V6(address6(host))
        } else {
            IpAddr::V4(host.address())
        };
        Self {
            socket: socket(lab, host, SocketAddr::new(address, port)),
            datagrams: BTreeMap::new(),
        }
    }

    /// Takes what is there; the number of datagrams so far.
    fn read(&mut self) -> usize {
        let mut buffer = [0; 8192];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(len) => *self.datagrams.entry(buffer[..len].to_vec()).or_default() += 1,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => panic!("{e}"),
            }
        }
        self.datagrams.values().sum()
    }
}

/// Sends datagrams of `sizes` from the client, each with a content of its own, to production's sink; both sinks
/// are read meanwhile.
fn send(lab: &Lab, v6: bool, sizes: &[usize], production: &mut Sink, target: &mut Sink) {
    let source = if v6 {
        IpAddr::V6(CLIENT_SOURCE6)
    } else {
        IpAddr::V4(CLIENT_SOURCE)
    };
    let sockets: Vec<_> = (0..5)
        .map(|_| socket(lab, Host::Client, SocketAddr::new(source, 0)))
        .collect();
    let to = production.socket.local_addr().unwrap();
    for n in 0..DATAGRAMS {
        let size = sizes[n % sizes.len()];
        let mut payload = format!("{n:06}").repeat(size.div_ceil(6)).into_bytes();
        payload.truncate(size);
        sockets[n % sockets.len()].send_to(&payload, to).unwrap();
        let deadline = Instant::now() + LIMIT;
        // The target's socket holds some thirty of the large ones.
        while production.read() <= n || target.read() + 10 < n {
            assert!(Instant::now() < deadline, "datagram {n}");
            thread::sleep(Duration::from_millis(1));
        }
    }
    let deadline = Instant::now() + LIMIT;
    while target.read() < DATAGRAMS && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
}

fn replay(capture: Capture) {
    require_root();
    let lab = narrow();
    let mut copy = Copy::new(capture);
    // All fragments of a packet meet on one of two workers, and the packet goes on to its owner. Packet sockets hand
    // over milliseconds at a time: what comes by way of another worker may overtake a SYN then.
    if capture != Capture::Packet {
        "0,1".clone_into(&mut copy.cores);
    }
    copy.transfer = format!(
        "{},udp:{UDP_PORT}-{}:{TARGET_UDP_PORT},udp:[{}]:{UDP_PORT}-[{}]:{TARGET_UDP_PORT}",
        copy.transfer,
        Host::Target.address(),
        address6(Host::Production),
        address6(Host::Target),
    );
    let mut sinks = [false, true].map(|v6| {
        (
            v6,
            Sink::new(&lab, Host::Production, v6, UDP_PORT),
            Sink::new(&lab, Host::Target, v6, TARGET_UDP_PORT),
        )
    });
    let web = (Host::Production.address(), PRODUCTION_PORT);
    let scene = Scene::set(lab, &copy, Host::Production, web);
    for (v6, production, target) in &mut sinks {
        // Whole, in some pieces, and in more that the target gets in pieces too.
        let sizes: &[usize] = if *v6 {
            &[1000, 1300, 4000]
        } else {
            &[500, 1400, 4000]
        };
        send(&scene.lab, *v6, sizes, production, target);
    }
    scene.load(web);
    let report = scene.finish();
    for (v6, production, target) in &sinks {
        assert_eq!(production.datagrams.len(), DATAGRAMS);
        assert!(
            production.datagrams == target.datagrams,
            "IPv6 {v6}: {} of {DATAGRAMS} datagrams at the target, {} different ones; {}",
            target.datagrams.values().sum::<usize>(),
            target.datagrams.len(),
            report.json["counters"]
        );
    }
    let counted = |name: &str| report.number(&format!("counters/fragments/{name}"));
    // Two thirds of the datagrams, and every full segment of a request.
    assert!(
        counted("reassembled") > 2 * DATAGRAMS as u64 * 2 / 3,
        "{}",
        counted("reassembled")
    );
    assert_eq!(
        counted("fragments"),
        report.number("counters/kernel/fragment_taken")
    );
    assert_eq!(report.json["udp"]["balanced"], true);
}

#[test]
fn fragments_by_tap() {
    replay(Capture::Tap);
}

#[test]
fn fragments_by_mirror() {
    replay(Capture::Mirror);
}

#[test]
fn fragments_by_packet_sockets() {
    replay(Capture::Packet);
}

/// Ports that filters tell apart; of a datagram's fragments, only the first has them.
const SOURCES: [u16; 2] = [4001, 4002];
/// From each source, under each filter.
const OF_EACH: usize = 20;

/// SIGHUP changes the filter while datagrams come in fragments.
fn a_new_filter_judges_fragments(capture: Capture) {
    require_root();
    let lab = narrow();
    let file = lab.file("filter");
    let passes = |port: u16| fs::write(&file, format!("tcp or udp src port {port}")).unwrap();
    passes(SOURCES[0]);
    // One worker: what it judged came in the order in which it was sent.
    let mut copy = Copy::new(capture);
    copy.transfer = format!(
        "{},udp:{UDP_PORT}-{}:{TARGET_UDP_PORT}",
        copy.transfer,
        Host::Target.address()
    );
    let argument = file.display().to_string();
    copy.more.extend(["--filter-file".to_owned(), argument]);
    let mut production = Sink::new(&lab, Host::Production, false, UDP_PORT);
    let mut target = Sink::new(&lab, Host::Target, false, TARGET_UDP_PORT);
    let web = (Host::Production.address(), PRODUCTION_PORT);
    let mut scene = Scene::set(lab, &copy, Host::Production, web);
    let clients = SOURCES.map(|port| {
        let at = SocketAddr::new(IpAddr::V4(CLIENT_SOURCE), port);
        socket(&scene.lab, Host::Client, at)
    });
    let to = production.socket.local_addr().unwrap();
    let content = |part: usize, source: usize, n: usize| {
        format!("{part} {source} {n:03} ").repeat(400).into_bytes()
    };
    for part in 0..2 {
        if part == 1 {
            passes(SOURCES[1]);
            scene.tcpcopy.signal(Signal::HUP).unwrap();
            scene
                .tcpcopy
                .wait_for_line("filter replaced", LIMIT)
                .unwrap();
        }
        let deadline = Instant::now() + LIMIT;
        for n in 0..OF_EACH {
            // First the one that must not arrive.
            for source in [1 - part, part] {
                clients[source]
                    .send_to(&content(part, source, n), to)
                    .unwrap();
            }
            let sent = 2 * (part * OF_EACH + n + 1);
            while production.read() < sent || target.read() < sent / 2 {
                assert!(Instant::now() < deadline, "part {part}, datagram {n}");
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
    scene.load(web);
    let report = scene.finish();
    target.read();
    let expected: BTreeMap<_, _> = (0..2)
        .flat_map(|part| (0..OF_EACH).map(move |n| (content(part, part, n), 1)))
        .collect();
    assert!(target.datagrams == expected, "{}", report.json["counters"]);
    let filtered = report.number("counters/fragments/filtered");
    assert_eq!(filtered, 2 * OF_EACH as u64);
}

#[test]
fn a_new_filter_judges_fragments_of_tap_and_mirror() {
    for capture in [Capture::Tap, Capture::Mirror] {
        a_new_filter_judges_fragments(capture);
    }
}
