//! One TCP connection at full speed to a host that is tapped, or not.
//!
//! Packets are up to 64 KiB long here: the sender leaves segmenting to its device (TSO), the receiver
//! merges (GRO), and the tap comes after both.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dataplane::cores;
use serde_json::{Value, json};

use crate::lane::Lane;
use crate::packet_ring::PacketRing;
use crate::reader::{Product, Reader, drain};
use crate::slots::{self, Plan, Printer, cores as slot_cores};
use crate::tap::{self, RING_BYTES};

const SERVER: [u8; 4] = [10, 99, 0, 2];
const PORT: u16 = 8080;
/// Until the congestion window is open.
const WARM_UP: Duration = Duration::from_millis(50);
/// A slot here, in slots of elsewhere: TCP is less even than a packet source.
const SLOTS: u32 = 3;
/// As elsewhere, and what softirqs use while the receiver waits and its core idles: that is in no thread's
/// time, so it looks like somebody else's.
pub const FOREIGN_MAX: f64 = slots::FOREIGN_MAX + 0.10;
const CHUNK_BYTES: usize = 256 * 1024;

/// Measures.
pub fn run(plan: &Plan) {
    let lanes = [Lane::new(), Lane::new(), Lane::new()];
    let mut ring = lanes[1].near(|| PacketRing::open("vb", SERVER, PORT, RING_BYTES));
    let mut tap = tap::attach(&lanes[2], PORT, SERVER);
    let mut reader = Product::new(tap.take_reader(0).expect("reader"));
    plan.run("bulk", |round: &mut Printer<'_>| {
        let length = plan.slot * SLOTS;
        round.line(slot("none", &lanes[0], length, None));
        let mut packet = slot("packet", &lanes[1], length, Some(&mut ring));
        packet["lost"] = ring.dropped().into();
        round.line(packet);
        let before = tap::lost(&tap);
        let mut tapped = slot("tap", &lanes[2], length, Some(&mut reader));
        tapped["lost"] = (tap::lost(&tap) - before).into();
        round.line(tapped);
    });
}

/// One connection; bytes that the application received in `length`, and what a reader got meanwhile.
fn slot(way: &str, lane: &Lane, length: Duration, reader: Option<&mut dyn Reader>) -> Value {
    let (send_core, receive_core) = slot_cores();
    let listener = lane.near(|| TcpListener::bind((std::net::Ipv4Addr::from(SERVER), PORT)));
    let listener = listener.expect("listen");
    let client = lane.far(|| TcpStream::connect((std::net::Ipv4Addr::from(SERVER), PORT)));
    let mut client = client.expect("connect");
    let (mut server, _) = listener.accept().expect("accept");
    let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            cores::pin(send_core).expect("pin the sender");
            let chunk = vec![7; CHUNK_BYTES];
            while !stop.load(Ordering::Relaxed) {
                client.write_all(&chunk).expect("send");
            }
            client.shutdown(std::net::Shutdown::Both).expect("shutdown");
        });
        scope.spawn(|| {
            cores::pin(receive_core).expect("pin the receiver");
            let mut chunk = vec![0; CHUNK_BYTES];
            // Ends with the connection, orderly or not.
            while let Ok(n @ 1..) = server.read(&mut chunk) {
                received.fetch_add(n as u64, Ordering::Relaxed);
            }
        });
        let taking = reader.map(|reader| scope.spawn(|| drain(reader, receive_core, &stop)));
        std::thread::sleep(WARM_UP);
        let (start, before) = (Instant::now(), received.load(Ordering::Relaxed));
        std::thread::sleep(length);
        let bytes = received.load(Ordering::Relaxed) - before;
        let elapsed = start.elapsed();
        stop.store(true, Ordering::Relaxed);
        sender.join().expect("sender");
        let taken = taking
            .map(|t| t.join().expect("reader"))
            .unwrap_or_default();
        json!({
            "way": way,
            "received_bytes": bytes,
            "elapsed_ns": elapsed.as_nanos() as u64,
            "taken": taken.packets,
            "taken_bytes": taken.bytes,
            "reader_ns": taken.cpu_ns,
            "lost": 0,
        })
    })
}
