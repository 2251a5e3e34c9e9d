//! What arrives on a queue comes out of its AF_XDP socket.

use crate::net::{FAR_MAC, NEAR_MAC, Net, on_thread_in};
use crate::xdp::{META, Redirect};
use common::flow::Nanos;
use dataplane::afxdp::{self, AfXdpRx, AfXdpTx, OpenOptions};
use dataplane::iface::Interface;
use dataplane::poll::PollSet;
use dataplane::{BATCH, Capture, Transmit, clock};
use std::collections::BTreeMap;
use std::os::fd::AsRawFd;

/// An ethertype of nobody (IEEE 802 local experimental): no other traffic on the link has it.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

fn test_frame(n: u32, len: usize) -> Vec<u8> {
    let mut frame = [
        &FAR_MAC[..],
        &NEAR_MAC[..],
        &ETHERTYPE[..],
        &n.to_be_bytes()[..],
    ]
    .concat();
    frame.extend((frame.len()..len).map(|i| i as u8));
    frame
}

fn number_of(bytes: &[u8]) -> Option<u32> {
    (bytes.get(12..14)? == ETHERTYPE)
        .then(|| u32::from_be_bytes(bytes[14..18].try_into().expect("4")))
}

fn open(
    ifname: &str,
    rx: bool,
    tx: bool,
    cookie: Option<u32>,
) -> (Option<AfXdpRx>, Option<AfXdpTx>) {
    let options = OpenOptions {
        frames: 1024,
        rx,
        tx,
        meta_cookie: cookie,
        ..OpenOptions::new(ifname, 0)
    };
    let socket = afxdp::open(&options).expect("AF_XDP");
    assert!(!socket.zero_copy, "veth has no zero-copy");
    (socket.rx, socket.tx)
}

/// Sends frames from the near end.
fn send(net: &Net, frames: &[Vec<u8>]) {
    on_thread_in(&net.near, || {
        let mut tx = open("va", false, true, None).1.expect("transmit half");
        for frame in frames {
            let buffer = loop {
                if tx.reserve().is_some() {
                    break tx.reserve().expect("the same buffer");
                }
                tx.flush();
            };
            buffer[..frame.len()].copy_from_slice(frame);
            tx.commit(frame.len());
        }
        while tx.busy() {
            tx.flush();
        }
    });
}

/// Receives until nothing has come for half a second; `act` gets number, bytes, time and length.
fn receive(rx: &mut AfXdpRx, mut act: impl FnMut(u32, &[u8], Nanos, u32)) -> usize {
    let mut total = 0;
    let mut set = PollSet::new();
    loop {
        let n = rx.recv(&mut |batch| {
            assert!(batch.len() <= BATCH);
            for captured in batch {
                if let Some(n) = number_of(captured.bytes) {
                    total += 1;
                    act(n, captured.bytes, captured.meta.at, captured.meta.frame_len);
                }
            }
        });
        if n == 0 && rx.arm() {
            set.clear();
            for fd in rx.fds() {
                set.add(fd, false);
            }
            if !set.wait(Nanos::from_millis(500)) {
                return total;
            }
        }
    }
}

fn counters(port: &mut AfXdpRx) -> BTreeMap<&'static str, u64> {
    let mut all = BTreeMap::new();
    port.counters(&mut |name, value| {
        all.insert(name, value);
    });
    all
}

#[test]
fn frames_arrive_byte_for_byte_with_metadata() {
    let net = Net::new(1);
    let frames: Vec<_> = (0..5000)
        .map(|n| test_frame(n, 60 + n as usize * 31 % 1455))
        .collect();
    on_thread_in(&net.far, || {
        let redirect = Redirect::attach(Interface::by_name("vb").expect("vb").index, 1);
        let (rx, tx) = open("vb", true, true, Some(META.cookie));
        let (mut rx, mut tx) = (rx.expect("rx"), tx.expect("tx"));
        redirect.set(0, rx.as_raw_fd());
        let mut next = 0u32;
        // In rounds smaller than the ring, and several times around it.
        for round in frames.chunks(500) {
            send(&net, round);
            let n = receive(&mut rx, |n, bytes, at, frame_len| {
                assert_eq!(n, next, "order");
                assert_eq!(bytes, frames[n as usize], "frame {n}");
                assert_eq!((at, frame_len), (Nanos(META.captured_ns), META.frame_len));
                next += 1;
            });
            assert_eq!(n, round.len());
        }
        let counters = counters(&mut rx);
        assert_eq!(
            (counters["rx_dropped"], counters["rx_fill_ring_empty"]),
            (0, 0),
            "{counters:?}"
        );
        assert_eq!(counters["rx_invalid_descs"], 0, "{counters:?}");

        // The other half of the same socket sends.
        let len = 64;
        tx.reserve().expect("buffer")[..len].copy_from_slice(&test_frame(1, len));
        tx.commit(len);
        tx.flush();
        assert!(!tx.busy());
        // Sockets go before the program.
        drop((rx, tx));
        drop(redirect);
    });
}

#[test]
fn without_metadata_the_time_is_that_of_the_batch() {
    let net = Net::new(1);
    on_thread_in(&net.far, || {
        let redirect = Redirect::attach(Interface::by_name("vb").expect("vb").index, 1);
        let mut rx = open("vb", true, false, None).0.expect("rx");
        redirect.set(0, rx.as_raw_fd());
        let before = clock::now();
        send(&net, &[test_frame(1, 100)]);
        let n = receive(&mut rx, |_, bytes, at, frame_len| {
            assert_eq!((bytes.len(), frame_len), (100, 100));
            assert!(at >= before && at <= clock::now());
        });
        assert_eq!(n, 1);
        drop(rx);
        drop(redirect);
    });
}

#[test]
fn what_the_kernel_drops_for_want_of_frames_is_counted_and_the_port_recovers() {
    let net = Net::new(1);
    on_thread_in(&net.far, || {
        let redirect = Redirect::attach(Interface::by_name("vb").expect("vb").index, 1);
        let mut rx = open("vb", true, false, None).0.expect("rx");
        redirect.set(0, rx.as_raw_fd());
        let frames: Vec<_> = (0..3000).map(|n| test_frame(n, 80)).collect();
        send(&net, &frames);
        let received = receive(&mut rx, |_, _, _, _| ());
        let first = counters(&mut rx);
        assert!(received <= 1024, "no more than frames: {received}");
        assert!(first["rx_fill_ring_empty"] > 0, "{first:?}");
        // Each packet is received or counted (other packets on the link may be counted too).
        let lost = first["rx_dropped"] + first["rx_fill_ring_empty"] + first["rx_ring_full"];
        assert!(
            received as u64 + lost >= 3000,
            "{received} received, {first:?}"
        );
        send(&net, &frames[..500]);
        assert_eq!(
            receive(&mut rx, |_, _, _, _| ()),
            500,
            "all frames were given back"
        );
        drop(rx);
        drop(redirect);
    });
}

#[test]
fn packets_larger_than_a_frame_arrive_whole() {
    let net = Net::new(1);
    net.near("ip", &["link", "set", "va", "mtu", "3000"]);
    net.far("ip", &["link", "set", "vb", "mtu", "3000"]);
    on_thread_in(&net.far, || {
        let redirect = Redirect::attach(Interface::by_name("vb").expect("vb").index, 1);
        let mut rx = open("vb", true, false, None).0.expect("rx");
        redirect.set(0, rx.as_raw_fd());
        on_thread_in(&net.near, || {
            // Frames of 4 KiB on the sending side hold what frames of 2 KiB on the other cannot.
            let options = OpenOptions {
                frames: 64,
                frame_bytes: 4096,
                tx: true,
                ..OpenOptions::new("va", 0)
            };
            let mut tx = afxdp::open(&options).expect("AF_XDP").tx.expect("tx");
            for len in [1700, 2900, 1790] {
                let buffer = tx.reserve().expect("buffer");
                buffer[..len].copy_from_slice(&test_frame(1, len));
                tx.commit(len);
            }
            tx.flush();
        });
        let mut lengths = Vec::new();
        receive(&mut rx, |_, bytes, _, _| {
            assert_eq!(bytes, test_frame(1, bytes.len()));
            lengths.push(bytes.len());
        });
        assert_eq!(lengths, [1700, 2900, 1790]);
        let counters = counters(&mut rx);
        assert_eq!((counters["rx_joined"], counters["rx_dropped"]), (1, 0));
        drop(rx);
        drop(redirect);
    });
}
