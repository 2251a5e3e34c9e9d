//! Capture on a switch-mirror port: XDP into AF_XDP.
//!
//! Matching packets are taken away from the host, so this is not for production hosts, unless only what
//! comes in tunnels that the operator named is taken. Without a socket on a packet's queue, and after the
//! process dies, packets go to the stack.

use aya::maps::{HashMap, MapData};
use common::abi::{
    DecapConfig, StreamKey, StreamState, TapCounter, config_flags, mirror_tail, udp_slots,
};
use common::packet::Endpoint;

use super::filter::{Hook, Parts};
use super::queues::{QueueCapture, QueueSetup, XDP_PASS};
use super::select::{DenyList, Sessions};
use super::{BpfError, Filter, QueuePort, UdpRules, load, programs};
use crate::iface::{Interface, Promiscuous};
use crate::placement::QueueSocket;

/// The program for fragments.
const FRAGMENTS: &str = "mirror_fragments";

/// Programs for datagrams.
const UDP_PROGRAMS: [(u32, &str); 2] = [
    (udp_slots::CAPTURE, "mirror_udp"),
    (udp_slots::FILTERED, "mirror_udp_filtered"),
];

/// The program for datagrams in tunnels.
const UDP_INNER: (u32, &str) = (udp_slots::INNER, "mirror_inner_udp");

/// Programs for frames in tunnels, by their index in the map `TAIL`.
const TUNNEL_PROGRAMS: [(u32, &str); 3] = [
    (mirror_tail::TUNNEL, "mirror_tunnel"),
    (mirror_tail::INNER, "mirror_inner"),
    (mirror_tail::FOUND, "mirror_found"),
];
/// The program that logs.
const LOG_PROGRAM: (u32, &str) = (mirror_tail::LOG, "mirror_log");

/// `STREAMS` as aya takes it.
type Streams = HashMap<MapData, [u8; size_of::<StreamKey>()], [u8; size_of::<StreamState>()]>;

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
    /// The same for UDP.
    pub udp: UdpRules<'a>,
    /// Which tunnels are opened, and whether frames that come in none are taken.
    pub decap: &'a DecapConfig,
    /// Transmit halves wanted on the same sockets.
    pub also_tx: bool,
    /// A log record per matching packet, at debug level. Slow.
    pub log_packets: bool,
}

/// What is attached, and what goes on behind a filter.
const fn programs(decap: &DecapConfig, filtered: bool) -> (&'static str, &'static str) {
    match (decap.plain(), decap.tunnels(), filtered) {
        (true, false, true) => ("mirror_filtered", "mirror"),
        (true, true, true) => ("mirror_filtered", "mirror_selected"),
        (true, _, false) => ("mirror", ""),
        (false, ..) => (TUNNEL_PROGRAMS[0].1, "mirror_selected"),
    }
}

/// The attached program and its sockets.
pub struct Mirror {
    queues: QueueCapture,
    deny: Option<DenyList>,
    streams: Streams,
    promiscuous: Option<Promiscuous>,
}

impl Mirror {
    /// Loads `object`, attaches its program (native, else generic, said in the log) and opens
    /// one AF_XDP socket per receive queue that exists then. The interface is made promiscuous, unless
    /// only tunnels are taken: these are addressed to this host.
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
        if let Some(filter) = config.filter {
            program.flags |= config_flags::BEHIND_FILTER;
            if filter.judges_inner() {
                program.flags |= config_flags::INNER_FILTER;
            }
        }
        program.flags |= config.udp.flag();
        let mut ebpf = load::load_with(
            object,
            program,
            config.decap,
            load::log_size(config.log_packets).as_slice(),
        )?;
        load::put_endpoints(&mut ebpf, "TARGETS", config.targets)?;
        config.sessions.put_maps(&mut ebpf, config.transfers)?;
        load::put_udp(&mut ebpf, &config.udp, Hook::Xdp, &UDP_PROGRAMS)?;
        if config.decap.plain() {
            let (tcp, udp) = (config.transfers, &config.udp);
            load::put_fragments(&mut ebpf, tcp, udp, Hook::Xdp, FRAGMENTS)?;
        }
        if config.decap.tunnels() {
            programs::install(&mut ebpf, Hook::Xdp, "TAIL", &TUNNEL_PROGRAMS)?;
            if config.udp.flag() != 0 {
                programs::install(&mut ebpf, Hook::Xdp, "UDP", &[UDP_INNER])?;
            }
        }
        if config.log_packets {
            programs::install(&mut ebpf, Hook::Xdp, "TAIL", &[LOG_PROGRAM])?;
        }
        let promiscuous = if config.decap.plain() {
            Some(
                Promiscuous::enter(&interface).map_err(|source| BpfError::Promiscuous {
                    ifname: config.ifname.to_owned(),
                    source,
                })?,
            )
        } else {
            None
        };
        let (entry, selected) = programs(config.decap, config.filter.is_some());
        let parts = Parts {
            hook: Hook::Xdp,
            entry,
            selected,
            counter: TapCounter::Filtered.index(),
            pass: XDP_PASS,
        };
        let setup = QueueSetup {
            program: entry,
            interface,
            workers: config.workers,
            also_tx: config.also_tx,
            cookie: program.cookie,
            log_packets: config.log_packets,
            object_name: "tcpcopy-ebpf",
            filter: config.filter.map(|filter| (parts, filter)),
        };
        let mut queues = QueueCapture::start(ebpf, &setup)?;
        let deny = config.sessions.deny_list(|name| queues.take_map(name))?;
        Ok(Self {
            streams: queues.take_map("STREAMS")?,
            queues,
            deny,
            promiscuous,
        })
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

    /// What sequence numbers told of the mirror's senders, sorted.
    pub fn streams(&self) -> Vec<(StreamKey, StreamState)> {
        let mut streams: Vec<_> = self
            .streams
            .iter()
            .filter_map(Result::ok)
            .map(|(key, state)| {
                (
                    bytemuck::pod_read_unaligned(key.as_slice()),
                    bytemuck::pod_read_unaligned(state.as_slice()),
                )
            })
            .collect();
        streams.sort_unstable_by_key(|(key, _)| *key);
        streams
    }

    /// Detaches in the safe order. All ports that were taken must have been dropped before: their
    /// sockets close, then this waits until the driver has given up their memory (zero-copy only),
    /// then the program goes. Counters stay readable; further calls do nothing.
    pub fn detach(&mut self) {
        self.queues.detach();
        self.promiscuous = None;
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.queues.detach();
    }
}
