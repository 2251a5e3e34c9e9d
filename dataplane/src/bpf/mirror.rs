//! Capture on a switch-mirror port: XDP into AF_XDP.
//!
//! Matching packets are taken away from the host, so this is not for production hosts, unless only what
//! comes in tunnels that the operator named is taken. Without a socket on a packet's queue, and after the
//! process dies, packets go to the stack.

use aya::Ebpf;
use aya::maps::{HashMap, MapData, ProgramArray};
use aya::programs::Xdp;
use common::abi::{DecapConfig, StreamKey, StreamState, TapCounter, mirror_tail};
use common::packet::Endpoint;

use super::error::chain;
use super::queues::{QueueCapture, QueueSetup};
use super::{BpfError, QueuePort, load};
use crate::iface::{Interface, Promiscuous};

/// Programs for frames in tunnels, by their index in the map `TAIL`.
const TUNNEL_PROGRAMS: [(u32, &str); 2] = [
    (mirror_tail::TUNNEL, "mirror_tunnel"),
    (mirror_tail::INNER, "mirror_inner"),
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
    /// Which tunnels are opened, and whether frames that come in none are taken.
    pub decap: &'a DecapConfig,
    /// Transmit halves wanted on the same sockets.
    pub also_tx: bool,
    /// A log record per matching packet, at debug level. Slow.
    pub log_packets: bool,
}

/// The attached program and its sockets.
pub struct Mirror {
    queues: QueueCapture,
    streams: Streams,
    promiscuous: Option<Promiscuous>,
}

impl Mirror {
    /// Loads `object`, attaches its program `mirror` (native, else generic, said in the log) and opens
    /// one AF_XDP socket per receive queue that exists then. The interface is made promiscuous, unless
    /// only tunnels are taken: these are addressed to this host.
    pub fn attach(object: &[u8], config: &MirrorConfig<'_>) -> Result<Self, BpfError> {
        let interface = Interface::by_name(config.ifname)?;
        let program = load::config(
            config.workers,
            1,
            config.log_packets,
            config.transfers,
            config.targets,
        );
        let mut ebpf = load::load_with(
            object,
            program,
            config.decap,
            load::log_size(config.log_packets).as_slice(),
        )?;
        load::put_endpoints(&mut ebpf, "TRANSFERS", config.transfers)?;
        load::put_endpoints(&mut ebpf, "TARGETS", config.targets)?;
        if config.decap.tunnels() {
            load_tails(&mut ebpf, &TUNNEL_PROGRAMS)?;
        }
        if config.log_packets {
            load_tails(&mut ebpf, &[LOG_PROGRAM])?;
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
        let setup = QueueSetup {
            program: if config.decap.plain() {
                "mirror"
            } else {
                TUNNEL_PROGRAMS[0].1
            },
            interface,
            workers: config.workers,
            also_tx: config.also_tx,
            cookie: program.cookie,
            log_packets: config.log_packets,
            object_name: "tcpcopy-ebpf",
        };
        let mut queues = QueueCapture::start(ebpf, &setup)?;
        Ok(Self {
            streams: queues.take_map("STREAMS")?,
            queues,
            promiscuous,
        })
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

/// Loads programs behind tail calls and puts them where `mirror` finds them. The object keeps the map,
/// without which the kernel would empty it.
fn load_tails(ebpf: &mut Ebpf, programs: &[(u32, &str)]) -> Result<(), BpfError> {
    for (index, name) in programs {
        let object = |reason: String| BpfError::Object { reason };
        let program: &mut Xdp = ebpf
            .program_mut(name)
            .ok_or_else(|| object(format!("it has no program {name}")))?
            .try_into()
            .map_err(|e| object(format!("program {name}: {}", chain(&e))))?;
        let failed = |e| BpfError::from_program(name, e);
        program.load().map_err(failed)?;
        let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?));
        let fd = fd.map_err(failed)?;
        let mut map: ProgramArray<_> = load::borrow(ebpf, "TAIL")?;
        map.set(*index, &fd, 0).map_err(|e| BpfError::Map {
            map: "TAIL",
            action: "insert a program",
            error: chain(&e),
        })?;
    }
    Ok(())
}
