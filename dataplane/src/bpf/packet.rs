//! The tap where the kernel has no tcx (before 6.6): packet sockets, whose filter our program is.
//!
//! ```text
//!  frame ─▶ packet_owner (fanout) ─▶ socket of the worker ─▶ packet: match, filter, sessions ─▶ its ring
//! ```
//! Nothing of the host's networking changes here either: the kernel copies, and the packet goes on. Other programs
//! hide no packets, since packet sockets come before them.

use std::io;

use aya::Ebpf;
use common::abi::{TapCounter, udp_slots};

use super::counters::{COUNTERS, Counters};
use super::filter::{Chain, Hook, Parts};
use super::log::LogThread;
use super::rings::Rings;
use super::select::DenyList;
use super::tap::{Direction, TapConfig, prepare};
use super::{BpfError, Filter, load, programs};
use crate::afpacket::{self, PacketReader, PacketSocket, RingSize};
use crate::iface::Interface;

const PROGRAM: &str = "packet";
const OWNER: &str = "packet_owner";
/// What sockets get instead if there is a filter.
const FILTERED: Parts = Parts {
    hook: Hook::Socket,
    entry: "packet_filtered",
    selected: "packet",
    counter: TapCounter::Filtered.index(),
    pass: 0,
};
/// The program for fragments.
const FRAGMENTS: &str = "packet_fragments";
/// Programs for datagrams.
const UDP_PROGRAMS: [(u32, &str); 2] = [
    (udp_slots::CAPTURE, "packet_udp"),
    (udp_slots::FILTERED, "packet_udp_filtered"),
];

/// The sockets and their program. Dropping it ends the capture when the readers are gone too.
pub struct PacketTap {
    // By worker.
    sockets: Vec<PacketSocket>,
    readers: Vec<Option<PacketReader>>,
    counters: Counters,
    deny: Option<DenyList>,
    filter: Option<Chain>,
    _log: Option<LogThread>,
    // The program and its maps.
    _ebpf: Ebpf,
}

impl PacketTap {
    /// Loads `object` and captures what the interface receives; rings together take about as much memory as
    /// the configuration says.
    pub fn attach(object: &[u8], config: &TapConfig<'_>) -> Result<Self, BpfError> {
        let interface = Interface::by_name(config.ifname)?;
        let config = &config.on(&interface);
        let workers = config.workers.max(1) as usize;
        // The rings of tcx stay empty.
        let mut ebpf = prepare(object, config, Rings::NONE)?;
        load::put_udp(&mut ebpf, &config.udp, Hook::Socket, &UDP_PROGRAMS)?;
        let (tcp, udp) = (config.transfers, &config.udp);
        load::put_fragments(&mut ebpf, tcp, udp, Hook::Socket, FRAGMENTS)?;
        let log = config.start_log(&mut ebpf)?;
        let filter = config
            .filter
            .map(|filter| Chain::install(&mut ebpf, FILTERED, filter))
            .transpose()?;
        let counters = Counters::take(&mut ebpf, COUNTERS)?;
        let entry = config.filter.map_or(PROGRAM, |_| FILTERED.entry);
        // Before maps are taken out of the object, which programs name by their descriptors.
        for name in [OWNER, entry] {
            programs::load_program(&mut ebpf, Hook::Socket, name)?;
        }
        let deny = config
            .sessions
            .deny_list(|name| load::take(&mut ebpf, name))?;

        let outgoing = config.direction != Direction::In;
        let size = RingSize::of(config.ring_bytes_total / workers);
        let failed = |action| move |source| failed(config.ifname, action, source);
        let (mut sockets, mut readers) = (Vec::new(), Vec::new());
        for _ in 0..workers {
            let (socket, reader) = PacketSocket::open(&interface, size, outgoing)
                .map_err(failed("open a packet socket with a ring"))?;
            sockets.push(socket);
            readers.push(Some(reader));
        }
        let owner = programs::load_program(&mut ebpf, Hook::Socket, OWNER)?;
        afpacket::join(&sockets, owner, outgoing)
            .map_err(failed("share packets out among the sockets of workers"))?;
        let entry = programs::load_program(&mut ebpf, Hook::Socket, entry)?;
        for socket in &sockets {
            socket
                .select(entry)
                .map_err(failed("attach the capture program to a packet socket"))?;
        }
        tracing::info!(
            interface = interface.name,
            workers,
            ring_bytes = size.bytes(),
            delay_ms = size.timeout_ms,
            "capturing by packet sockets (AF_PACKET)"
        );
        Ok(Self {
            sockets,
            readers,
            counters,
            deny,
            filter,
            _log: log,
            _ebpf: ebpf,
        })
    }

    /// The reader of a worker, once; `None` afterwards and for a worker that does not exist.
    pub fn take_reader(&mut self, worker: u32) -> Option<PacketReader> {
        self.readers.get_mut(worker as usize)?.take()
    }

    /// The program's counters, summed over CPUs. The program does not know what the rings had no room for; the
    /// sockets do, and it counts as `ring_full` as with the other tap.
    pub fn counters(&self) -> Vec<(TapCounter, u64)> {
        // First what was chosen, so that the difference is never negative for long.
        let chosen = self.counters.get(TapCounter::Captured.index());
        let dropped = self.sockets.iter().map(PacketSocket::dropped).sum();
        TapCounter::ALL
            .iter()
            .map(|counter| {
                let value = match counter {
                    TapCounter::Captured => chosen.saturating_sub(dropped),
                    TapCounter::RingFull => dropped,
                    other => self.counters.get(other.index()),
                };
                (*counter, value)
            })
            .collect()
    }

    /// The list of denied clients, if there is one.
    pub fn deny_list(&mut self) -> Option<&mut DenyList> {
        self.deny.as_mut()
    }

    /// Replaces the filter of a tap that was attached with one; on an error the old one stays in force.
    pub fn replace_filter(&self, filter: &Filter) -> Result<(), BpfError> {
        Chain::replace_in(self.filter.as_ref(), filter)
    }

    /// Stops capturing, keeps the counters readable. Further calls do nothing.
    pub fn detach(&mut self) {
        for socket in &self.sockets {
            if let Err(error) = socket.stop() {
                tracing::warn!("a packet socket captures until it is closed: {error}");
            }
        }
    }
}

fn failed(ifname: &str, action: &'static str, source: io::Error) -> BpfError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => BpfError::Permission {
            action: format!("{action} on interface {ifname}"),
        },
        _ => BpfError::PacketSocket {
            ifname: ifname.to_owned(),
            action,
            source,
        },
    }
}
