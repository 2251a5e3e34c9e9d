//! The XDP programs on live interfaces, with their sockets: attach modes, what reaches the sockets and
//! what the stack, other people's programs, and the way out.

mod ebpf_support;

use std::net::{TcpListener, TcpStream};
use std::thread;

use common::abi::{InterceptCounter, TapCounter};
use common::flow::CaptureMeta;
use common::packet::{Addr, Endpoint, decode_frame};
use dataplane::Capture;
use dataplane::bpf::responses::Sources;
use dataplane::bpf::{
    BpfError, Filter, Mirror, MirrorConfig, QueuePort, Responses, ResponsesConfig, Sessions,
    UdpRules,
};
use dataplane::iface::Interface;
use ebpf_support::foreign::{Foreign, XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE};
use ebpf_support::frames::*;
use ebpf_support::netns::{Pair, tcp_segments};
use ebpf_support::privileged;
use ebpf_support::programs::object;
use ebpf_support::wire::Wire;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const HERE: [u8; 4] = [10, 99, 0, 2];
const THERE: [u8; 4] = [10, 99, 0, 1];
/// Long enough for any machine, so that a wait that ends is a wake-up.
const PATIENCE: Timespec = Timespec {
    tv_sec: 20,
    tv_nsec: 0,
};

fn mirror(ifname: &str, transfers: &[Endpoint]) -> Result<Mirror, BpfError> {
    let config = MirrorConfig {
        ifname,
        workers: 2,
        transfers,
        decap: &common::abi::DecapConfig::AUTO,
        targets: &[v4(HERE, 8080)],
        sessions: Sessions::default(),
        filter: None,
        udp: UdpRules::default(),
        also_tx: true,
        log_packets: false,
    };
    Mirror::attach(&object("tcpcopy-ebpf"), &config)
}

/// Takes the responses of one source, by a filter.
fn responses(ifname: &str, port: u16) -> Result<Responses, BpfError> {
    let filter = Filter::compile(&format!("tcp src port {port}")).unwrap();
    responses_from(ifname, Sources::Filtered(&filter))
}

fn responses_from(ifname: &str, sources: Sources<'_>) -> Result<Responses, BpfError> {
    let config = ResponsesConfig {
        ifname,
        workers: 1,
        sources,
        log_packets: false,
    };
    Responses::attach(&object("intercept-ebpf"), &config)
}

/// Receives `n` frames from any of the ports.
fn receive(ports: &mut [QueuePort], n: usize) -> Vec<(Vec<u8>, CaptureMeta)> {
    let mut frames = Vec::new();
    loop {
        let mut got = 0;
        for port in &mut *ports {
            got += port.rx.recv(&mut |batch| {
                frames.extend(batch.iter().map(|c| (c.bytes.to_vec(), c.meta)));
            });
        }
        if frames.len() >= n {
            return frames;
        }
        if got == 0 && ports.iter_mut().all(|port| port.rx.arm()) {
            let fds: Vec<_> = ports.iter().flat_map(|port| port.rx.fds()).collect();
            let mut polls: Vec<_> = fds
                .iter()
                // SAFETY: the ports keep their fds open.
                .map(|fd| unsafe { std::os::fd::BorrowedFd::borrow_raw(*fd) })
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
                .collect();
            assert!(poll(&mut polls, Some(&PATIENCE)).unwrap() > 0, "no frame");
        }
    }
}

fn wire(pair: &Pair) -> Wire {
    pair.enter_far();
    let wire = Wire::new("va");
    pair.enter_near();
    wire
}

#[test]
fn learned_sources_are_taken_from_then_on_but_never_from_this_host() {
    privileged();
    let pair = Pair::new(1);
    let wire = wire(&pair);
    let mut responses = responses_from("vb", Sources::Learned).unwrap();
    let mut rules = responses.take_rules().unwrap();
    assert!(responses.take_rules().is_none());
    let mut ports = responses.take_ports(0);
    let client = [10, 88, 0, 1];
    wire.send(&tcp(v4(THERE, 8080), v4(client, 4000), b"before"));
    rules.add(v4(THERE, 8080)).unwrap();
    wire.send(&tcp(v4(THERE, 8080), v4(client, 4001), b"taken"));
    wire.send(&tcp(v4(THERE, 8080), v4(HERE, 4002), b"to this host"));
    wire.send(&tcp(v4(THERE, 8081), v4(client, 4003), b"another port"));
    wire.send(&tcp(v4(THERE, 8080), v4(client, 4004), b"taken"));
    let ports_taken: Vec<u16> = receive(&mut ports, 2)
        .iter()
        .map(|(bytes, _)| decode_frame(&bytes[..]).unwrap().tcp.dport)
        .collect();
    assert_eq!(ports_taken, [4001, 4004]);
    let captured = responses.counters()[InterceptCounter::Captured.index() as usize];
    assert_eq!(captured, (InterceptCounter::Captured, 2));
    drop(ports);
}

#[test]
fn mirror_takes_what_matches_and_passes_the_rest() {
    privileged();
    let pair = Pair::new(2);
    let wire = wire(&pair);
    // The second covers the target, too.
    let online = [v4(HERE, 80), Endpoint::new(Addr::ANY, 8080)];
    let mut mirror = mirror("vb", &online).unwrap();
    assert!(mirror.native(), "veth has native XDP");
    let mut ports = mirror.take_ports(0);
    ports.extend(mirror.take_ports(1));
    assert_eq!(ports.iter().map(|p| p.queue).collect::<Vec<_>>(), [0, 1]);
    assert!(ports.iter().all(|p| p.tx.is_some()) && mirror.take_ports(0).is_empty());

    let frames: Vec<_> = (0..500)
        .map(|i| {
            tcp(
                v4(THERE, 20_000 + i),
                v4(HERE, 80),
                &vec![i as u8; usize::from(i)],
            )
        })
        .collect();
    let before = dataplane::clock::now();
    for frame in &frames {
        wire.send(frame);
        wire.send(&tcp(v4(THERE, 20_000), v4(HERE, 8080), b"to the target"));
    }
    let mut got = receive(&mut ports, frames.len());
    let after = dataplane::clock::now();
    got.sort_by_key(|(bytes, _)| decode_frame(&bytes[..]).unwrap().tcp.sport);
    for (frame, (bytes, meta)) in frames.iter().zip(&got) {
        assert!(
            bytes == frame,
            "expected {} bytes, got {}",
            frame.len(),
            bytes.len()
        );
        assert_eq!(meta.frame_len as usize, frame.len());
        assert!(
            meta.at >= before && meta.at <= after,
            "not the time of the kernel"
        );
    }
    // A real connection to a port that is not mirrored.
    let listener = TcpListener::bind("10.99.0.2:81").unwrap();
    pair.enter_far();
    let client = thread::spawn(|| TcpStream::connect("10.99.0.2:81").unwrap());
    pair.enter_near();
    listener.accept().unwrap();
    client.join().unwrap();

    let counters: Vec<_> = mirror
        .counters()
        .into_iter()
        .filter(|(_, n)| *n > 0)
        .collect();
    assert_eq!(
        counters,
        [(TapCounter::Captured, 500), (TapCounter::ToTarget, 500)]
    );

    drop(ports);
    mirror.detach();
    mirror.detach();
    assert!(
        !pair.near(&["ip", "link", "show", "vb"]).contains("xdp"),
        "still attached"
    );
    assert_eq!(mirror.counters()[0], (TapCounter::Captured, 500));
    // And the next one can come at once.
    drop(mirror);
    drop(self::mirror("vb", &[v4(HERE, 80)]).unwrap());
    assert!(
        !pair.near(&["ip", "link", "show", "vb"]).contains("xdp"),
        "still attached"
    );
}

#[test]
fn without_its_sockets_the_mirror_passes_everything() {
    privileged();
    let pair = Pair::new(1);
    pair.enter_near();
    let mut mirror = mirror("vb", &[v4(HERE, 81)]).unwrap();
    drop(mirror.take_ports(0));
    let listener = TcpListener::bind("10.99.0.2:81").unwrap();
    pair.enter_far();
    let client = thread::spawn(|| TcpStream::connect("10.99.0.2:81").unwrap());
    pair.enter_near();
    listener.accept().unwrap();
    client.join().unwrap();
    let failed = mirror
        .counters()
        .into_iter()
        .find(|(c, _)| *c == TapCounter::RedirectFailed);
    assert!(
        failed.unwrap().1 >= 2,
        "SYN and ACK matched, got {failed:?}"
    );
}

#[test]
fn generic_mode_where_the_driver_has_no_native_one() {
    privileged();
    let pair = Pair::new(1);
    pair.enter_near();
    let mut mirror = mirror("lo", &[v4([127, 0, 0, 1], 80)]).unwrap();
    assert!(!mirror.native(), "loopback has no native XDP");
    let mut ports = mirror.take_ports(0);
    let wire = Wire::new("lo");
    let frame = tcp(v4(THERE, 20_000), v4([127, 0, 0, 1], 80), b"generic");
    wire.send(&frame);
    let got = receive(&mut ports, 1);
    assert_eq!(got[0].0, frame);
    drop(ports);
}

#[test]
fn responses_are_taken_and_trimmed_and_never_reach_the_stack() {
    privileged();
    let pair = Pair::new(1);
    let wire = wire(&pair);
    let mut responses = responses("vb", 8080).unwrap();
    assert!(responses.native());
    let mut ports = responses.take_ports(0);
    let stack = tcp_segments();
    let frames: Vec<_> = (0..100u16)
        .map(|i| {
            tcp_timestamps(
                v4(THERE, 8080),
                v4(HERE, 20_000 + i),
                &vec![7; usize::from(i) * 14],
            )
        })
        .collect();
    for frame in &frames {
        wire.send(frame);
    }
    for (frame, (bytes, meta)) in frames.iter().zip(receive(&mut ports, frames.len())) {
        let headers = HEADERS_V4 + 12;
        assert!(
            bytes == frame[..headers],
            "expected {headers} bytes, got {}",
            bytes.len()
        );
        assert_eq!(meta.frame_len as usize, frame.len());
        let packet = decode_frame(&bytes[..]).unwrap();
        assert_eq!(
            packet.payload_len(meta.frame_len as usize),
            frame.len() - headers
        );
    }
    // Without a socket they are dropped.
    drop(ports);
    for frame in &frames {
        wire.send(frame);
    }
    assert_eq!(tcp_segments(), stack, "a response reached the stack");
    let counters: Vec<_> = responses
        .counters()
        .into_iter()
        .filter(|(_, n)| *n > 0)
        .collect();
    let expected = [
        (InterceptCounter::Captured, 100),
        // The first of each hundred has no payload.
        (InterceptCounter::Trimmed, 198),
        (InterceptCounter::RedirectFailed, 100),
    ];
    assert_eq!(counters, expected);
    // Others pass.
    wire.send(&tcp(v4(THERE, 8081), v4(HERE, 20_000), b"x"));
    assert_eq!(tcp_segments(), stack + 1);
    // And so do all after the end.
    drop(responses);
    wire.send(&frames[0]);
    assert_eq!(tcp_segments(), stack + 2);
}

#[test]
fn a_foreign_xdp_program_is_named_and_left_alone() {
    privileged();
    let pair = Pair::new(1);
    pair.enter_near();
    let index = Interface::by_name("vb").unwrap().index;
    for flags in [XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE] {
        let foreign = Foreign::xdp(index, flags);
        let errors = [
            mirror("vb", &[v4(HERE, 80)]).err().expect("an error"),
            responses("vb", 8080).err().expect("an error"),
        ];
        for error in errors {
            assert!(
                matches!(&error, BpfError::ForeignXdp { id: Some(id), .. } if *id == foreign.id),
                "{error}"
            );
            let line = error.to_string();
            assert!(
                line.contains(&foreign.id.to_string()) && line.contains("vb"),
                "{line}"
            );
            assert!(!line.contains('\n'), "{line}");
        }
        let link = pair.near(&["ip", "link", "show", "vb"]);
        assert!(
            link.contains(&format!("id {}", foreign.id)),
            "replaced: {link}"
        );
    }
}

#[test]
fn an_unknown_interface_is_named() {
    privileged();
    let pair = Pair::new(1);
    pair.enter_near();
    let line = mirror("nope0", &[v4(HERE, 80)])
        .err()
        .expect("an error")
        .to_string();
    assert!(
        line.contains("nope0") && line.contains("vb") && !line.contains('\n'),
        "{line}"
    );
}

#[test]
fn a_queue_in_use_is_named_and_nothing_stays_attached() {
    privileged();
    let pair = Pair::new(1);
    pair.enter_near();
    let options = dataplane::afxdp::OpenOptions {
        rx: true,
        ..dataplane::afxdp::OpenOptions::new("vb", 0)
    };
    let _held = dataplane::afxdp::open(&options).unwrap();
    let error = mirror("vb", &[v4(HERE, 80)]).err().expect("an error");
    assert!(
        matches!(error, BpfError::Socket { queue: 0, .. }),
        "{error}"
    );
    assert!(!error.to_string().contains('\n'), "{error}");
    assert!(
        !pair.near(&["ip", "link", "show", "vb"]).contains("xdp"),
        "still attached"
    );
}

/// How many want the interface promiscuous, as the kernel counts.
fn promiscuity(pair: &Pair) -> u32 {
    let text = pair.near(&["ip", "-d", "link", "show", "vb"]);
    let mut words = text.split_whitespace().skip_while(|w| *w != "promiscuity");
    words.nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_mirror_port_is_promiscuous_as_long_as_it_is_taken() {
    privileged();
    let pair = Pair::new(1);
    pair.enter_near();
    assert_eq!(promiscuity(&pair), 0);
    let mut taken = mirror("vb", &[v4(HERE, 80)]).unwrap();
    assert_eq!(promiscuity(&pair), 1);
    taken.detach();
    assert_eq!(promiscuity(&pair), 0);

    // Only tunnels, which are addressed to this host.
    let decap = common::abi::DecapConfig::with_flags(
        common::abi::decap_flags::TUNNELS | common::abi::decap_flags::ANY_TUNNEL,
    );
    let config = MirrorConfig {
        ifname: "vb",
        workers: 1,
        transfers: &[v4(HERE, 80)],
        targets: &[],
        decap: &decap,
        udp: UdpRules::default(),
        sessions: Sessions::default(),
        filter: None,
        also_tx: false,
        log_packets: false,
    };
    let tunnels = Mirror::attach(&object("tcpcopy-ebpf"), &config).unwrap();
    assert_eq!(promiscuity(&pair), 0);
    drop(tunnels);
}
