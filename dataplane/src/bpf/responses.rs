//! The black hole for targets' responses: XDP, trimmed to headers, into AF_XDP.
//!
//! Matching packets never reach the host's stack while the program is attached: without a socket on
//! their queue they are dropped. When the process dies the program goes with it.

use common::abi::InterceptCounter;
use common::packet::Endpoint;

use super::queues::{QueueCapture, QueueSetup};
use super::{BpfError, QueuePort, load};
use crate::iface::Interface;

/// What to take and where.
#[derive(Clone, Copy, Debug)]
pub struct ResponsesConfig<'a> {
    /// Interface that targets route client addresses to.
    pub ifname: &'a str,
    /// Queue `q` belongs to worker `q % workers`.
    pub workers: u32,
    /// Sources whose packets are taken; `Addr::ANY` for any address.
    pub rules: &'a [Endpoint],
    /// A log record per matching packet, at debug level. Slow.
    pub log_packets: bool,
}

/// The attached program and its sockets.
pub struct Responses(QueueCapture);

impl Responses {
    /// Loads `object`, attaches its program `responses` (native, else generic, said in the log) and opens
    /// one AF_XDP socket per receive queue that exists then.
    pub fn attach(object: &[u8], config: &ResponsesConfig<'_>) -> Result<Self, BpfError> {
        let interface = Interface::by_name(config.ifname)?;
        let program = load::config(config.workers, 1, config.log_packets, config.rules, &[]);
        let mut ebpf = load::load(
            object,
            program,
            load::log_size(config.log_packets).as_slice(),
        )?;
        load::put_endpoints(&mut ebpf, "RESPONSES", &with_addresses(config.rules))?;
        let setup = QueueSetup {
            program: "responses",
            interface,
            workers: config.workers,
            also_tx: false,
            cookie: program.cookie,
            log_packets: config.log_packets,
            object_name: "intercept-ebpf",
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
    pub fn counters(&self) -> Vec<(InterceptCounter, u64)> {
        InterceptCounter::ALL
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

impl Drop for Responses {
    fn drop(&mut self) {
        self.0.detach();
    }
}

/// The rules, and for fragments, which carry no port, their addresses with port 0.
fn with_addresses(rules: &[Endpoint]) -> Vec<Endpoint> {
    let mut all = rules.to_vec();
    all.extend(rules.iter().map(|rule| Endpoint::new(rule.addr, 0)));
    all
}
