//! Capture on a switch-mirror port: XDP into AF_XDP.
//!
//! Matching packets are taken away from the host, so this is not for production hosts. Without a socket
//! on a packet's queue, and after the process dies, packets go to the stack.

use common::abi::{TapCounter, config_flags};
use common::packet::Endpoint;

use super::filter::{Hook, Parts};
use super::queues::{QueueCapture, QueueSetup, XDP_PASS};
use super::select::{DenyList, Sessions};
use super::{BpfError, Filter, QueuePort, load};
use crate::iface::Interface;
use crate::placement::QueueSocket;

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
    /// Which sessions are captured.
    pub sessions: Sessions<'a>,
    /// What matching packets must pass in addition.
    pub filter: Option<&'a Filter>,
    /// Transmit halves wanted on the same sockets.
    pub also_tx: bool,
    /// A log record per matching packet, at debug level. Slow.
    pub log_packets: bool,
}

/// What is attached instead if there is a filter.
const FILTERED: Parts = Parts {
    hook: Hook::Xdp,
    entry: "mirror_filtered",
    selected: "mirror",
    counter: TapCounter::Filtered.index(),
    pass: XDP_PASS,
};

/// The attached program and its sockets.
pub struct Mirror {
    queues: QueueCapture,
    deny: Option<DenyList>,
}

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
        program = config.sessions.put_into(program);
        if config.filter.is_some() {
            program.flags |= config_flags::BEHIND_FILTER;
        }
        let mut ebpf = load::load(
            object,
            program,
            load::log_size(config.log_packets).as_slice(),
        )?;
        load::put_endpoints(&mut ebpf, "TARGETS", config.targets)?;
        config.sessions.put_maps(&mut ebpf, config.transfers)?;
        let setup = QueueSetup {
            program: "mirror",
            interface,
            workers: config.workers,
            also_tx: config.also_tx,
            cookie: program.cookie,
            log_packets: config.log_packets,
            object_name: "tcpcopy-ebpf",
            filter: config.filter.map(|filter| (FILTERED, filter)),
        };
        let mut queues = QueueCapture::start(ebpf, &setup)?;
        let deny = config.sessions.deny_list(|name| queues.take_map(name))?;
        Ok(Self { queues, deny })
    }

    /// The list of denied clients, if there is one.
    pub fn deny_list(&mut self) -> Option<&mut DenyList> {
        self.deny.as_mut()
    }

    /// How each receive queue is served, by queue; taken ports included.
    pub fn sockets(&self) -> &[QueueSocket] {
        self.queues.sockets()
    }

    /// The sockets of a worker's queues, once.
    pub fn take_ports(&mut self, worker: u32) -> Vec<QueuePort> {
        self.queues.take_ports(worker)
    }

    /// True if the driver runs the program, false in generic mode.
    pub fn native(&self) -> bool {
        self.queues.native()
    }

    /// The program's counters, summed over CPUs.
    pub fn counters(&self) -> Vec<(TapCounter, u64)> {
        TapCounter::ALL
            .iter()
            .map(|c| (*c, self.queues.counters.get(c.index())))
            .collect()
    }

    /// Replaces the filter of a mirror that was attached with one; on an error the old one stays in force.
    pub fn replace_filter(&self, filter: &Filter) -> Result<(), BpfError> {
        self.queues.replace_filter(filter)
    }

    /// Detaches in the safe order. All ports that were taken must have been dropped before: their
    /// sockets close, then this waits until the driver has given up their memory (zero-copy only),
    /// then the program goes. Counters stay readable; further calls do nothing.
    pub fn detach(&mut self) {
        self.queues.detach();
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.queues.detach();
    }
}
