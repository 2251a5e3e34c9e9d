//! Transmit rate over a veth pair between two namespaces: AF_XDP (copy mode) against raw sockets.
//!
//! Run as root: `cargo run --release -p dataplane --example tx_rate [SECONDS]`. The far end has no
//! socket for the packets; its stack receives and drops them. "arrived" is what the far interface
//! counted, so the difference to "sent" is loss on the way. "cpu_ns" is the CPU time of the sending
//! thread per packet, the far end's receive path included (veth), and holds on a busy machine too.

#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../tests/ports/net.rs"]
mod net;

use common::flow::Nanos;
use common::packet::{
    Addr, Endpoint, FrameAddresses, MacAddr, SeqNumber, TcpFlags, TcpFrame, TcpOptions,
    build_tcp_frame,
};
use dataplane::afxdp::{self, OpenOptions};
use dataplane::hops::Hops;
use dataplane::netfilter::RawPath;
use dataplane::raw::RawTx;
use dataplane::{BATCH, Transmit, clock};
use net::{FAR_MAC, FAR_V4, NEAR_MAC, Net, on_thread_in};

fn main() {
    let seconds = std::env::args()
        .nth(1)
        .and_then(|s| s.parse().ok())
        .unwrap_or(2);
    println!(
        "{:8} {:>6} {:>6} {:>10} {:>10} {:>8} {:>8}",
        "path", "bytes", "batch", "sent", "arrived", "Mpps", "cpu_ns"
    );
    let net = Net::new(1);
    on_thread_in(&net.near, || {
        // The raw path needs the neighbour.
        let _hops = Hops::start(&[Addr::v4(FAR_V4)]).expect("hops");
        for bytes in [60, 1514] {
            for batch in [1, 16, BATCH] {
                let mut xdp = open();
                measure(&net, "AF_XDP", xdp.as_mut(), bytes, batch, seconds);
                drop(xdp);
                let mut raw = RawTx::open(&RawPath::default()).expect("raw");
                measure(&net, "raw", &mut raw, bytes, batch, seconds);
            }
        }
    });
}

fn open() -> Box<dyn Transmit> {
    let options = OpenOptions {
        frames: 2048,
        tx: true,
        force_copy: true,
        ..OpenOptions::new("va", 0)
    };
    Box::new(afxdp::open(&options).expect("AF_XDP").tx.expect("tx"))
}

fn cpu_nanos() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

fn arrived(net: &Net) -> u64 {
    net.far("cat", &["/sys/class/net/vb/statistics/rx_packets"])
        .trim()
        .parse()
        .expect("number")
}

fn measure(
    net: &Net,
    path: &str,
    port: &mut dyn Transmit,
    bytes: usize,
    batch: usize,
    seconds: u64,
) {
    let mut frame = vec![0; bytes];
    let payload = vec![7; bytes - 54];
    let segment = TcpFrame {
        src: Endpoint::new(Addr::v4([10, 99, 0, 200]), 1000),
        dst: Endpoint::new(Addr::v4(FAR_V4), 4000),
        seq: SeqNumber(1),
        ack: SeqNumber(1),
        flags: TcpFlags::ACK,
        window: 1000,
        options: TcpOptions::default(),
        payload: &payload,
        ip_id: 1,
    };
    let macs = FrameAddresses {
        src: MacAddr(NEAR_MAC),
        dst: MacAddr(FAR_MAC),
    };
    build_tcp_frame(&mut frame, macs, &segment).expect("frame");

    let before = arrived(net);
    let start = clock::now();
    let cpu_start = cpu_nanos();
    let (mut sent, mut now) = (0u64, start);
    while now.since(start) < Nanos::from_secs(seconds) {
        for _ in 0..batch {
            if let Some(buffer) = port.reserve() {
                buffer[..bytes].copy_from_slice(&frame);
                port.commit(bytes);
                sent += 1;
            }
        }
        port.flush();
        now = clock::now();
    }
    while port.busy() {
        port.flush();
    }
    let nanos = clock::now().since(start).0;
    let cpu = cpu_nanos() - cpu_start;
    std::thread::sleep(std::time::Duration::from_millis(100));
    println!(
        "{path:8} {bytes:>6} {batch:>6} {sent:>10} {:>10} {:>8.3} {:>8}",
        arrived(net) - before,
        sent as f64 * 1e3 / nanos as f64,
        cpu / sent.max(1)
    );
    port.counters(&mut |name, value| {
        if (name.contains("error") || name.contains("no_frame")) && value > 0 {
            println!("         {name} {value}");
        }
    });
}
