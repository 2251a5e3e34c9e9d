//! What leaves by AF_XDP and by raw sockets arrives, byte for byte.

use crate::net::{FAR_MAC, FAR_V4, NEAR_MAC, Net, mac, on_thread_in};
use common::packet::{
    Addr, Endpoint, FrameAddresses, MacAddr, SeqNumber, TcpFlags, TcpFrame, TcpOptions,
    build_tcp_frame, decode_frame,
};
use dataplane::Transmit;
use dataplane::afxdp::{self, AfXdpError, AfXdpTx, OpenOptions};
use dataplane::egress;
use dataplane::hops::Hops;
use dataplane::netfilter::RawPath;
use dataplane::raw::RawTx;
use dataplane::wake::Waker;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

const PORT: u16 = 4000;

/// All frames that arrive on an interface of the calling thread's namespace.
struct Sniffer(Socket);

impl Sniffer {
    fn on(ifname: &str) -> Self {
        let all = i32::from(u16::to_be(libc::ETH_P_ALL as u16));
        let socket =
            Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(all))).expect("packet");
        socket.set_recv_buffer_size(64 << 20).expect("buffer");
        bind_packet(&socket, ifname);
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .expect("timeout");
        Self(socket)
    }

    /// TCP frames to [`PORT`], until `wanted` have come or nothing comes for 5 s.
    fn collect(&mut self, wanted: usize) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; 70_000];
        while frames.len() < wanted {
            let Ok(n) = self.0.read(&mut buffer) else {
                break;
            };
            if decode_frame(&buffer[..n]).is_ok_and(|p| p.tcp.dport == PORT) {
                frames.push(buffer[..n].to_vec());
            }
        }
        frames
    }
}

fn bind_packet(socket: &Socket, ifname: &str) {
    let index = dataplane::iface::Interface::by_name(ifname)
        .expect("interface")
        .index;
    let mut storage = socket2::SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of the types that the storage is meant for.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = u16::to_be(libc::ETH_P_ALL as u16);
    address.sll_ifindex = index as i32;
    let length = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: the storage holds a sockaddr_ll of that length.
    let address = unsafe { socket2::SockAddr::new(storage, length) };
    socket.bind(&address).expect("bind to the interface");
}

fn frame(buf: &mut [u8], n: u32, dst: Addr, src: Addr, payload: &[u8]) -> usize {
    build_tcp_frame(
        buf,
        FrameAddresses {
            src: MacAddr(NEAR_MAC),
            dst: MacAddr(FAR_MAC),
        },
        &TcpFrame {
            src: Endpoint::new(src, 1000),
            dst: Endpoint::new(dst, PORT),
            seq: SeqNumber(n),
            ack: SeqNumber(1),
            flags: TcpFlags::ACK,
            window: 1000,
            options: TcpOptions::default(),
            payload,
            ip_id: n as u16 | 1,
        },
    )
    .expect("frame")
}

/// A client's address: not one of the sending host.
const CLIENT: Addr = Addr::v4([10, 99, 0, 200]);

fn payload_of(n: u32) -> Vec<u8> {
    (0..n as usize * 37 % 1400)
        .map(|i| (i as u32 ^ n) as u8)
        .collect()
}

/// Sends frames 0..`count` of varying length, flushing at odd places.
fn send_all(port: &mut dyn Transmit, count: u32, dst: Addr, src: Addr) -> Vec<Vec<u8>> {
    let mut sent = Vec::new();
    for n in 0..count {
        let mut bytes = vec![0; 1600];
        let len = frame(&mut bytes, n, dst, src, &payload_of(n));
        bytes.truncate(len);
        let buffer = loop {
            // The only way on while the device is behind is to flush and try again.
            if port.reserve().is_some() {
                break port.reserve().expect("the same buffer");
            }
            port.flush();
        };
        buffer[..len].copy_from_slice(&bytes);
        port.commit(len);
        sent.push(bytes);
        if n % 7 == 3 {
            port.flush();
        }
    }
    while port.busy() {
        port.flush();
    }
    sent
}

fn counters(port: &mut dyn Transmit) -> BTreeMap<&'static str, u64> {
    let mut all = BTreeMap::new();
    port.counters(&mut |name, value| {
        all.insert(name, value);
    });
    all
}

fn tx_options(queue: u32) -> OpenOptions {
    OpenOptions {
        frames: 256,
        tx: true,
        ..OpenOptions::new("va", queue)
    }
}

fn open_tx(queue: u32) -> AfXdpTx {
    afxdp::open(&tx_options(queue))
        .expect("AF_XDP")
        .tx
        .expect("a transmit half")
}

#[test]
fn af_xdp_frames_arrive_byte_for_byte_and_in_order() {
    let net = Net::new(1);
    let mut sniffer = on_thread_in(&net.far, || Sniffer::on("vb"));
    let sent = on_thread_in(&net.near, || {
        let mut port = open_tx(0);
        // Several times the number of frames of the UMEM: they must come back.
        let sent = send_all(&mut port, 2000, Addr::v4(FAR_V4), CLIENT);
        let counters = counters(&mut port);
        assert_eq!(counters["tx_frames"], 2000, "{counters:?}");
        assert_eq!(
            (counters["tx_no_frame"], counters["tx_invalid_descs"]),
            (0, 0),
            "{counters:?}"
        );
        sent
    });
    let seen = sniffer.collect(sent.len());
    assert_eq!(seen.len(), sent.len());
    for (n, (seen, sent)) in seen.iter().zip(&sent).enumerate() {
        assert_eq!(seen, sent, "frame {n}");
    }
}

#[test]
fn every_queue_sends() {
    let net = Net::new(3);
    let mut sniffer = on_thread_in(&net.far, || Sniffer::on("vb"));
    on_thread_in(&net.near, || {
        let mut ports: Vec<AfXdpTx> = (0..3).map(open_tx).collect();
        for port in &mut ports {
            send_all(port, 10, Addr::v4(FAR_V4), CLIENT);
        }
    });
    assert_eq!(sniffer.collect(30).len(), 30);
}

#[test]
fn a_busy_queue_is_retried_then_named_and_free_again_after_close() {
    let net = Net::new(1);
    on_thread_in(&net.near, || {
        let held = open_tx(0);
        let Err(error) = afxdp::open(&tx_options(0)) else {
            panic!("the queue was free")
        };
        assert!(
            matches!(error, AfXdpError::Busy { queue: 0, .. }),
            "{error}"
        );
        drop(held);
        let again = open_tx(0);
        // Released by another thread while the retries run.
        let later = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            drop(again);
        });
        open_tx(0);
        later.join().expect("thread");
    });
}

#[test]
fn bad_interfaces_and_queues_are_named() {
    let net = Net::new(1);
    on_thread_in(&net.near, || {
        let open = |options: &OpenOptions| match afxdp::open(options) {
            Ok(_) => panic!("{options:?} was accepted"),
            Err(error) => error,
        };
        let error = open(&OpenOptions {
            ifname: "nosuch0".to_owned(),
            ..tx_options(0)
        });
        assert!(matches!(error, AfXdpError::NoInterface { .. }), "{error}");
        let error = open(&tx_options(7));
        assert!(
            matches!(error, AfXdpError::NoQueue { queue: 7, .. }),
            "{error}"
        );
        for options in [
            OpenOptions {
                frames: 0,
                ..tx_options(0)
            },
            OpenOptions {
                frame_bytes: 1000,
                ..tx_options(0)
            },
            OpenOptions {
                tx: false,
                ..tx_options(0)
            },
        ] {
            assert!(matches!(open(&options), AfXdpError::Options { .. }));
        }
    });
}

#[test]
fn an_interface_that_goes_down_costs_frames_not_the_worker() {
    let net = Net::new(1);
    on_thread_in(&net.near, || {
        let mut port = open_tx(0);
        net.near("ip", &["link", "set", "va", "down"]);
        let mut bytes = vec![0; 1600];
        let len = frame(&mut bytes, 1, Addr::v4(FAR_V4), CLIENT, b"x");
        for _ in 0..1000 {
            if let Some(buffer) = port.reserve() {
                buffer[..len].copy_from_slice(&bytes[..len]);
                port.commit(len);
            }
        }
        port.flush();
        assert!(
            !port.busy(),
            "nothing to be busy with while the link is down"
        );
        let counters = counters(&mut port);
        assert!(counters["tx_error_enetdown"] > 0, "{counters:?}");
        assert_eq!(
            counters["tx_frames"] + counters["tx_no_frame"],
            1000,
            "{counters:?}"
        );
    });
}

#[test]
fn raw_packets_of_both_families_arrive_with_foreign_sources() {
    let net = Net::new(1);
    let v6 = |text: &str| Addr::from(text.parse::<std::net::IpAddr>().expect("address"));
    let mut sniffer = on_thread_in(&net.far, || Sniffer::on("vb"));
    let (client6, far6) = (v6("fd99::200"), v6("fd99::2"));
    let sent = on_thread_in(&net.near, || {
        // The stack queues only so many packets for a neighbour that it must ask for first.
        let hops = Hops::start(&[Addr::v4(FAR_V4), far6]).expect("hops");
        assert_eq!(hops.load().iter().count(), 2);
        let mut port = RawTx::open(&RawPath::default()).expect("raw");
        let mut sent = send_all(&mut port, 300, Addr::v4(FAR_V4), CLIENT);
        sent.extend(send_all(&mut port, 300, far6, client6));
        let counters = counters(&mut port);
        assert_eq!(counters["tx_raw_frames"], 600, "{counters:?}");
        sent
    });
    let seen = sniffer.collect(sent.len());
    assert_eq!(seen.len(), sent.len());
    for (n, (seen, sent)) in seen.iter().zip(&sent).enumerate() {
        // The kernel writes the Ethernet header; all behind it is ours.
        assert_eq!(seen[14..], sent[14..], "frame {n}");
    }
}

#[test]
fn a_server_on_this_host_answers_what_comes_by_the_raw_path() {
    let net = Net::new(1);
    // The client's network is behind the far end, as with a route to intercept.
    let far = mac(FAR_MAC);
    net.near(
        "ip",
        &[
            "neigh",
            "replace",
            "10.99.0.200",
            "lladdr",
            &far,
            "dev",
            "va",
        ],
    );
    let mut sniffer = on_thread_in(&net.far, || Sniffer::on("vb"));
    on_thread_in(&net.near, || {
        let server = Endpoint::new(Addr::v4([10, 99, 0, 1]), PORT);
        let _listening = std::net::TcpListener::bind(server.to_socket()).expect("listen");
        let mut port = RawTx::open(&RawPath::default()).expect("raw");
        let syn = TcpFrame {
            src: Endpoint::new(CLIENT, PORT),
            dst: server,
            seq: SeqNumber(7),
            ack: SeqNumber(0),
            flags: TcpFlags::SYN,
            window: 1000,
            options: TcpOptions::default(),
            payload: &[],
            ip_id: 1,
        };
        let len = build_tcp_frame(
            port.reserve().expect("buffer"),
            FrameAddresses::default(),
            &syn,
        );
        port.commit(len.expect("frame"));
        port.flush();
        assert_eq!(counters(&mut port)["tx_raw_frames"], 1);
    });
    let answers = sniffer.collect(1);
    let answer = decode_frame(answers.first().expect("an answer").as_slice()).expect("TCP");
    assert_eq!(answer.tcp.flags.0, TcpFlags::SYN.0 | TcpFlags::ACK.0);
    assert_eq!((answer.tcp.ack, answer.ip.dst), (SeqNumber(8), CLIENT));
}

#[test]
fn raw_failures_are_counted_by_name_and_survived() {
    let net = Net::new(1);
    net.near("ip", &["link", "set", "va", "mtu", "600"]);
    on_thread_in(&net.near, || {
        let mut port = RawTx::open(&RawPath::default()).expect("raw");
        let dst = Addr::v4(FAR_V4);
        let mut send = |dst: Addr, src: Addr, len: usize| {
            let buffer = port.reserve().expect("buffer");
            let len = frame(buffer, 1, dst, src, &vec![7; len]);
            port.commit(len);
        };
        send(dst, CLIENT, 10);
        send(dst, CLIENT, 900);
        send(Addr::v4([203, 0, 113, 9]), CLIENT, 10);
        send(dst, CLIENT, 20);
        // Not IP at all.
        port.reserve().expect("buffer")[..60].fill(0xff);
        port.commit(60);
        port.flush();
        let counters = counters(&mut port);
        assert_eq!(counters["tx_raw_frames"], 2, "{counters:?}");
        assert_eq!(counters["tx_error_emsgsize"], 1, "{counters:?}");
        assert_eq!(counters["tx_error_enetunreach"], 1, "{counters:?}");
        assert_eq!(counters["tx_not_ip"], 1, "{counters:?}");
        assert!(!port.busy());
    });
}

#[test]
fn workers_without_a_queue_send_by_those_with_one() {
    let net = Net::new(2);
    let mut sniffer = on_thread_in(&net.far, || Sniffer::on("vb"));
    let sent: usize = on_thread_in(&net.near, || {
        let wakers: Vec<Waker> = (0..3).map(|_| Waker::new().expect("waker")).collect();
        let handles: Vec<_> = wakers.iter().map(Waker::handle).collect();
        let mut ports = egress::open_all("va", 3, &handles, Vec::new(), true, &RawPath::default())
            .expect("egress");
        let mut sent = 0;
        for port in &mut ports {
            sent += send_all(port.as_mut(), 20, Addr::v4(FAR_V4), CLIENT).len();
        }
        assert_eq!(counters(ports[2].as_mut())["tx_handed_over"], 20);
        let owner = 2 % 2;
        assert!(!wakers[owner].prepare_sleep(), "the owner was woken");
        while ports[owner].busy() {
            ports[owner].flush();
        }
        sent
    });
    assert_eq!(sniffer.collect(sent).len(), sent);
}

#[test]
fn a_held_queue_and_loopback_fall_back_to_raw_sockets() {
    let net = Net::new(1);
    on_thread_in(&net.near, || {
        let waker = Waker::new().expect("waker");
        let handles = [waker.handle()];
        let held = open_tx(0);
        let mut ports = egress::open_all("va", 1, &handles, Vec::new(), true, &RawPath::default())
            .expect("egress");
        assert!(counters(ports[0].as_mut()).contains_key("tx_raw_frames"));
        drop(held);
        let mut ports = egress::open_all("lo", 1, &handles, Vec::new(), true, &RawPath::default())
            .expect("egress");
        assert!(counters(ports[0].as_mut()).contains_key("tx_raw_frames"));
        let mut ports = egress::open_all(
            "va",
            1,
            &handles,
            vec![Some(open_tx(0))],
            true,
            &RawPath::default(),
        )
        .expect("egress");
        assert!(
            counters(ports[0].as_mut()).contains_key("tx_frames"),
            "its own socket is used"
        );
        assert!(
            egress::open_all(
                "nosuch0",
                1,
                &handles,
                Vec::new(),
                true,
                &RawPath::default()
            )
            .is_err()
        );
        assert!(
            egress::open_all("va", 2, &handles, Vec::new(), true, &RawPath::default()).is_err()
        );
    });
}
