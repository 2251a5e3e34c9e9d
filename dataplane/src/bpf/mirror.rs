//! Capture on a switch-mirror port: XDP into AF_XDP.
//!
//! Matching packets are taken away from the host, so this is not for production hosts. Without a socket
//! on a packet's queue, and after the process dies, packets go to the stack.

use common::abi::TapCounter;
use common::packet::Endpoint;

use super::queues::{QueueCapture, QueueSetup};
use super::{BpfError, QueuePort, UdpRules, load};
use crate::iface::Interface;

/// What to capture and where.
#[derive(Clone, Copy, Debug)]
pub struct MirrorConfig<'a> {
    /// Interface that receives the mirrored packets.
    pub ifname: &'a str,
    /// Queue `q` belongs to worker `q % workers`.
    pub workers: u32,
    /// Online endpoints; `Addr::ANY` for any address.
    pub transfers: &'a [Endpoint],
    /// Endpoints whose packets are never captured.
    pub targets: &'a [Endpoint],
    /// The same for UDP.
    pub udp: UdpRules<'a>,
    /// Transmit halves wanted on the same sockets.
    pub also_tx: bool,
    /// A log record per matching packet, at debug level. Slow.
    pub log_packets: bool,
}

/// The attached program and its sockets.
pub struct Mirror(QueueCapture);

impl Mirror {
    /// Loads `object`, attaches its program `mirror` (native, else generic, said in the log) and opens
    /// one AF_XDP socket per receive queue that exists then.
    pub fn attach(object: &[u8], config: &MirrorConfig<'_>) -> Result<Self, BpfError> {
        let interface = Interface::by_name(config.ifname)?;
        let mut program = load::config(
            config.workers,
            1,
            config.log_packets,
            config.transfers,
            config.targets,
        );
        program.flags |= config.udp.flag();
        let mut ebpf = load::load(
            object,
            program,
            load::log_size(config.log_packets).as_slice(),
        )?;
        load::put_endpoints(&mut ebpf, "TRANSFERS", config.transfers)?;
        load::put_endpoints(&mut ebpf, "TARGETS", config.targets)?;
        load::put_udp(&mut ebpf, &config.udp)?;
        let setup = QueueSetup {
            program: "mirror",
            interface,
            workers: config.workers,
            also_tx: config.also_tx,
            cookie: program.cookie,
            log_packets: config.log_packets,
            object_name: "tcpcopy-ebpf",
        };
        QueueCapture::start(ebpf, &setup).map(Self)
    }

    /// The sockets of a worker's queues, once.
    pub fn take_ports(&mut self, worker: u32) -> Vec<QueuePort> {
        self.0.take_ports(worker)
    }

    /// True if the driver runs the program, false in generic mode.
    pub fn native(&self) -> bool {
        self.0.native()
    }

    /// The program's counters, summed over CPUs.
    pub fn counters(&self) -> Vec<(TapCounter, u64)> {
        TapCounter::ALL
            .iter()
            .map(|c| (*c, self.0.counters.get(c.index())))
            .collect()
    }

    /// Detaches in the safe order. All ports that were taken must have been dropped before: their
    /// sockets close, then this waits until the driver has given up their memory (zero-copy only),
    /// then the program goes. Counters stay readable; further calls do nothing.
    pub fn detach(&mut self) {
        self.0.detach();
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.0.detach();
    }
}
