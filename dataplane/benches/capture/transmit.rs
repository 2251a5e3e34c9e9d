//! Sending by AF_XDP: the product's port, and the smallest loop; and both with receiving in front
//! ("l2fwd").
//!
//! The far end drops what comes in its driver. What a slot costs is on one core: the loop, the kernel's
//! transmit path, and that receive path.

use std::time::Instant;

use dataplane::afxdp::{self, AfXdpTx, OpenOptions};
use dataplane::bpf::QueuePort;
use dataplane::idle::{self, Idle, Rest};
use dataplane::iface::Interface;
use dataplane::{BATCH, Capture, Transmit, clock, cores};

use crate::bare_xsk::{BareXsk, swap_macs};
use crate::cpu::thread_ns;
use crate::lane::Lane;
use crate::mirror;
use crate::programs::{Program, XDP_DROP};
use crate::reader::Reader;
use crate::slots::{ONLINE_PORT, Plan, Printer, Slot, cores as slot_cores};
use crate::source::{Load, Source};

/// Frames of a socket that only sends, as the product opens them (`dataplane::egress`).
const TX_FRAMES: u32 = 2048;

/// Who sends a batch.
trait Sender: Send {
    fn batch(&mut self);
    /// Frames handed to the kernel so far.
    fn sent(&self) -> u64;
    fn busy(&mut self) -> bool;
}

struct Product {
    tx: AfXdpTx,
    frame: Vec<u8>,
    sent: u64,
}

impl Sender for Product {
    fn batch(&mut self) {
        for _ in 0..BATCH {
            if let Some(buffer) = self.tx.reserve() {
                buffer[..self.frame.len()].copy_from_slice(&self.frame);
                self.tx.commit(self.frame.len());
                self.sent += 1;
            }
        }
        self.tx.flush();
    }

    fn sent(&self) -> u64 {
        self.sent
    }

    fn busy(&mut self) -> bool {
        self.tx.flush();
        self.tx.busy()
    }
}

struct Bare {
    socket: BareXsk,
    bytes: usize,
}

impl Sender for Bare {
    fn batch(&mut self) {
        self.socket.send_batch(self.bytes);
    }

    fn sent(&self) -> u64 {
        self.socket.sent()
    }

    fn busy(&mut self) -> bool {
        self.socket.finish();
        self.socket.busy(TX_FRAMES as usize)
    }
}

/// Measures sending.
pub fn run(plan: &Plan) {
    let lanes = [Lane::new(), Lane::new()];
    let _drops = lanes.each_ref().map(|lane| {
        lane.near(|| {
            let vb = Interface::by_name("vb").expect("vb");
            Program::xdp(XDP_DROP).attach(vb.index)
        })
    });
    let frame = plan.frame(ONLINE_PORT);
    let mut bare = lanes[0].far(|| Bare {
        socket: BareXsk::open("va", TX_FRAMES).filled(&frame),
        bytes: frame.len(),
    });
    let options = OpenOptions {
        frames: TX_FRAMES,
        tx: true,
        ..OpenOptions::new("va", 0)
    };
    let mut product = lanes[1].far(|| Product {
        tx: afxdp::open(&options).expect("AF_XDP").tx.expect("TX"),
        frame: frame.clone(),
        sent: 0,
    });
    plan.run("transmit", |round: &mut Printer<'_>| {
        send(round, "bare", &lanes[0], &mut bare);
        send(round, "transmit", &lanes[1], &mut product);
    });
}

fn send(round: &Printer<'_>, way: &str, lane: &Lane, sender: &mut dyn Sender) {
    let (arrived, sent) = (lane.arrived(), sender.sent());
    let (elapsed, kernel_ns) = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            cores::pin(slot_cores().0).expect("pin the sender");
            let (start, cpu, softirqs) = (Instant::now(), thread_ns(), round.ksoftirqd.ns());
            while start.elapsed() < round.plan.slot {
                for _ in 0..16 {
                    sender.batch();
                }
            }
            while sender.busy() {}
            (
                start.elapsed(),
                thread_ns() - cpu + round.ksoftirqd.ns() - softirqs,
            )
        });
        thread.join().expect("sender")
    });
    // The far end's softirq may still be at it.
    std::thread::sleep(std::time::Duration::from_millis(2));
    let arrived = lane.arrived() - arrived;
    round.slot(
        way,
        "full",
        &Slot {
            sent: sender.sent() - sent,
            arrived,
            taken: arrived,
            bytes: arrived * round.plan.bytes as u64,
            elapsed,
            kernel_ns,
            reader_ns: 0,
        },
    );
}

/// The product's two halves of a socket as a loop that sends back what it gets.
struct Forwarder {
    port: QueuePort,
    idle: Idle,
}

impl Reader for Forwarder {
    fn take(&mut self) -> (u64, u64) {
        let (rx, Some(tx)) = (&mut self.port.rx, &mut self.port.tx) else {
            return (0, 0);
        };
        let mut bytes = 0;
        let packets = rx.recv(&mut |batch| {
            for captured in batch {
                bytes += captured.bytes.len() as u64;
                let Some(buffer) = tx.reserve() else { continue };
                let to = &mut buffer[..captured.bytes.len()];
                to.copy_from_slice(captured.bytes);
                swap_macs(to);
                tx.commit(captured.bytes.len());
            }
        });
        tx.flush();
        (packets as u64, bytes)
    }

    fn rest(&mut self, worked: bool) {
        let rest = self
            .idle
            .after(usize::from(worked), true, clock::now(), || None);
        if let Rest::Nap(length) = rest {
            idle::nap(length);
        }
    }
}

/// Measures receiving and sending back. Cost is that of the forwarding core.
pub fn run_forward(plan: &Plan) {
    let lanes = [Lane::new(), Lane::new()];
    let sources = lanes.each_ref().map(Source::new);
    let _drops = lanes.each_ref().map(|lane| {
        lane.far(|| {
            let va = Interface::by_name("va").expect("va");
            Program::xdp(XDP_DROP).attach(va.index)
        })
    });
    let (mut bare, _link) = mirror::bare(&lanes[0], true);
    let mut mirror = mirror::attach(&lanes[1], true);
    let mut forwarder = Forwarder {
        port: mirror.take_ports(0).pop().expect("a port"),
        idle: Idle::default(),
    };
    let frame = plan.frame(ONLINE_PORT);
    plan.run("forward", |round: &mut Printer<'_>| {
        let slot = |way: &str, lane: usize, reader: &mut dyn Reader| {
            let returned = lanes[lane].returned();
            let mut slot = round.send(
                &lanes[lane],
                &sources[lane],
                Some(reader),
                &frame,
                Load::Full,
            );
            slot.taken = lanes[lane].returned() - returned;
            round.slot(way, "full", &slot);
        };
        slot("bare", 0, &mut bare);
        slot("forward", 1, &mut forwarder);
    });
    drop(forwarder);
    mirror.detach();
}
