//! Capture on a production host: tcx ingress (egress, where that is asked for) into rings.
//!
//! Nothing of the host's networking changes: the program only copies and always passes the packet to
//! the next program or the stack. It is attached as the first of its hook, so that other programs
//! that drop or redirect do not hide packets from it.

use aya::Ebpf;
use aya::maps::{Array, ArrayOfMaps, MapData};
use aya::programs::links::FdLink;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use common::abi::{RING_BLOCK_BYTES, TapCounter, config_flags, udp_slots};
use common::packet::Endpoint;

use super::counters::Counters;
use super::error::{chain, errno, is_permission, kernel_release};
use super::filter::{Chain, Hook, Parts};
use super::log::LogThread;
use super::ring::{self, Ring};
use super::select::{DenyList, Sessions};
use super::wake::WakeRing;
use super::{BpfError, Filter, TapReader, UdpRules, load, online, programs, sleep};
use crate::iface::Interface;

/// Smallest ring: while one block is read the other is filled. Holds six of the largest records, or 4 ms of
/// small packets at 1 Mpps.
const MIN_RING_BYTES: usize = 2 * RING_BLOCK_BYTES as usize;
/// Largest ring, more than any worker keeps up with.
const MAX_RING_BYTES: usize = 512 * 1024 * 1024;
const PROGRAM: &str = "tap";
/// What is attached instead if there is a filter.
const FILTERED: Parts = Parts {
    hook: Hook::Tcx,
    entry: "tap_filtered",
    selected: "tap",
    counter: TapCounter::Filtered.index(),
    // TCX_NEXT (linux/bpf.h).
    pass: -1,
};

/// The program for fragments.
const FRAGMENTS: &str = "tap_fragments";

/// Programs for datagrams.
const UDP_PROGRAMS: [(u32, &str); 2] = [
    (udp_slots::CAPTURE, "tap_udp"),
    (udp_slots::FILTERED, "tap_udp_filtered"),
];

/// Which packets of an interface a tap sees: those that come in by it, those that the host puts out by it, or both.
/// Loopback, where each does both, is always tapped where they come in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Received.
    #[default]
    In,
    /// Sent: at the host's end of a container's veth, what the container receives.
    Out,
    /// Each of them.
    Both,
}

impl Direction {
    const fn hooks(self) -> &'static [TcAttachType] {
        match self {
            Self::In => &[TcAttachType::Ingress],
            Self::Out => &[TcAttachType::Egress],
            Self::Both => &[TcAttachType::Ingress, TcAttachType::Egress],
        }
    }

    /// For packet sockets.
    const fn flags(self) -> u32 {
        match self {
            Self::In => config_flags::NOT_OUT,
            Self::Out => config_flags::NOT_IN,
            Self::Both => 0,
        }
    }

    /// Where that is, for the log.
    const fn hook_name(self) -> &'static str {
        match self {
            Self::In => "ingress",
            Self::Out => "egress",
            Self::Both => "ingress and egress",
        }
    }
}

/// What to capture and where.
#[derive(Clone, Copy, Debug)]
pub struct TapConfig<'a> {
    /// Production's interface.
    pub ifname: &'a str,
    /// Which way its packets go.
    pub direction: Direction,
    /// Number of readers.
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
    /// Memory for all rings together in bytes.
    pub ring_bytes_total: usize,
    /// A log record per captured packet, at debug level. Slow.
    pub log_packets: bool,
}

impl TapConfig<'_> {
    /// The same for this interface: each packet of loopback goes out and comes in.
    #[must_use]
    pub(super) const fn on(self, interface: &Interface) -> Self {
        if interface.is_loopback {
            Self {
                direction: Direction::In,
                ..self
            }
        } else {
            self
        }
    }

    /// The thread that passes on log records, if there are to be some.
    pub(super) fn start_log(&self, ebpf: &mut Ebpf) -> Result<Option<LogThread>, BpfError> {
        self.log_packets.then(|| LogThread::start(ebpf)).transpose()
    }
}

/// The attached program. Dropping it detaches; readers can still empty their rings afterwards.
pub struct Tap {
    // First, so that it goes before everything that the program uses.
    links: Vec<FdLink>,
    readers: Vec<Option<TapReader>>,
    counters: Counters,
    deny: Option<DenyList>,
    filter: Option<Chain>,
    _log: Option<LogThread>,
    // The program and its maps.
    _ebpf: Ebpf,
}

impl Tap {
    /// Loads `object` and attaches its program `tap` to the interface.
    pub fn attach(object: &[u8], config: &TapConfig<'_>) -> Result<Self, BpfError> {
        let interface = Interface::by_name(config.ifname)?;
        find_tcx(&interface.name)?;
        let config = &config.on(&interface);
        let workers = config.workers.max(1);
        let (cpus, online) = (online::possible(), online::online());
        let rings = Rings::of(config, cpus, online.len());
        let mut ebpf = prepare(object, config, rings)?;
        load::put_udp(&mut ebpf, &config.udp, Hook::Tcx, &UDP_PROGRAMS)?;
        let (tcp, udp) = (config.transfers, &config.udp);
        load::put_fragments(&mut ebpf, tcp, udp, Hook::Tcx, FRAGMENTS)?;

        let readers = readers(&mut ebpf, workers, cpus, &online, rings.blocks)?;
        let log = config.start_log(&mut ebpf)?;
        let filter = config
            .filter
            .map(|filter| Chain::install(&mut ebpf, FILTERED, filter))
            .transpose()?;
        let counters = Counters::take(&mut ebpf)?;
        let entry = config.filter.map_or(PROGRAM, |_| FILTERED.entry);
        programs::load_program(&mut ebpf, Hook::Tcx, entry)?;
        let deny = config
            .sessions
            .deny_list(|name| load::take(&mut ebpf, name))?;
        let mut links = Vec::new();
        for hook in config.direction.hooks() {
            links.push(attach(&mut ebpf, entry, &interface.name, *hook)?);
        }
        tracing::info!(
            interface = interface.name,
            workers,
            rings = rings.number,
            ring_bytes = rings.blocks * RING_BLOCK_BYTES as usize,
            hook = config.direction.hook_name(),
            "tap attached to tcx, first of its hook"
        );
        Ok(Self {
            links,
            readers: readers.into_iter().map(Some).collect(),
            counters,
            deny,
            filter,
            _log: log,
            _ebpf: ebpf,
        })
    }

    /// The reader of a worker, once; `None` afterwards and for a worker that does not exist.
    pub fn take_reader(&mut self, worker: u32) -> Option<TapReader> {
        self.readers.get_mut(worker as usize)?.take()
    }

    /// The program's counters, summed over CPUs.
    pub fn counters(&self) -> Vec<(TapCounter, u64)> {
        TapCounter::ALL
            .iter()
            .map(|c| (*c, self.counters.get(c.index())))
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

    /// Stops capturing, keeps the counters readable. Done once, further calls do nothing.
    pub fn detach(&mut self) {
        self.links.clear();
    }
}

/// An error if the kernel does not know tcx. Asked before anything is loaded: what an old kernel's verifier says of
/// the program is of no use then.
fn find_tcx(ifname: &str) -> Result<(), BpfError> {
    // To list what is attached is refused as an unknown attach type (bpf_prog_query, kernel/bpf/syscall.c). Any other
    // error is for attaching to tell.
    match SchedClassifier::query_tcx(ifname, TcAttachType::Ingress) {
        Err(e) if errno(&e) == Some(libc::EINVAL) => Err(BpfError::NoTcx {
            release: kernel_release(),
        }),
        _ => Ok(()),
    }
}

/// Sizes of the maps that are the rings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rings {
    cpus: u32,
    number: usize,
    /// Of each.
    blocks: usize,
}

impl Rings {
    /// For a program that uses none.
    pub(super) const NONE: Self = Self {
        cpus: 1,
        number: 1,
        blocks: 1,
    };

    /// One for each of the `online` CPUs and worker.
    fn of(config: &TapConfig<'_>, cpus: u32, online: usize) -> Self {
        let number = online * config.workers.max(1) as usize;
        Self {
            cpus,
            number,
            blocks: ring_bytes(config.ring_bytes_total, number) / RING_BLOCK_BYTES as usize,
        }
    }
}

/// Loads the object with what it is told whatever its hook: the rules.
pub(super) fn prepare(
    object: &[u8],
    config: &TapConfig<'_>,
    rings: Rings,
) -> Result<Ebpf, BpfError> {
    let workers = config.workers.max(1);
    let blocks = (rings.number * rings.blocks) as u32;
    let mut sizes = vec![
        ("CPU_RINGS", rings.cpus),
        ("HEADS", rings.number as u32),
        ("BLOCKS", blocks),
        ("NEXT", blocks),
        ("SLEEP", workers),
        ("WAKE", workers),
    ];
    sizes.extend(load::log_size(config.log_packets));
    let mut program = load::config(
        workers,
        rings.cpus,
        config.log_packets,
        config.transfers,
        config.targets,
    );
    program = config.sessions.put_into(program);
    if config.filter.is_some() {
        program.flags |= config_flags::BEHIND_FILTER;
    }
    program.flags |= config.udp.flag() | config.direction.flags();
    program.ring_blocks = rings.blocks as u32;
    let mut ebpf = load::load(object, program, &sizes)?;
    load::put_endpoints(&mut ebpf, "TARGETS", config.targets)?;
    config.sessions.put_maps(&mut ebpf, config.transfers)?;
    Ok(ebpf)
}

/// Bytes per ring: an equal share of the cap, as a power of two.
fn ring_bytes(total: usize, rings: usize) -> usize {
    let share = (total / rings.max(1)).clamp(1, MAX_RING_BYTES);
    // The largest power of two that is not above the share.
    let size = 1 << share.ilog2();
    if size < MIN_RING_BYTES {
        tracing::warn!(
            cap_bytes = total,
            rings,
            needed_bytes = rings * MIN_RING_BYTES,
            "ring memory exceeds its cap: each ring has at least 512 KiB; fewer workers need fewer rings"
        );
    }
    size.max(MIN_RING_BYTES)
}

/// Maps the rings and tells the program which are whose: a set of its own for each CPU that runs.
/// Others, should they come up later, share those sets (rings take several producers, one at a time).
fn readers(
    ebpf: &mut Ebpf,
    workers: u32,
    cpus: u32,
    online: &[u32],
    blocks: usize,
) -> Result<Vec<TapReader>, BpfError> {
    let mut sets: Array<_, u32> = load::borrow(ebpf, "CPU_RINGS")?;
    for cpu in 0..cpus {
        let running = online.iter().position(|c| *c == cpu);
        let set = running.unwrap_or(cpu as usize % online.len().max(1)) as u32;
        sets.set(cpu, set * workers, 0).map_err(|e| BpfError::Map {
            map: "CPU_RINGS",
            action: "name the rings of a CPU",
            error: chain(&e),
        })?;
    }
    let maps = ring::Maps {
        heads: load::data(ebpf, "HEADS")?,
        next: load::data(ebpf, "NEXT")?,
        blocks: load::data(ebpf, "BLOCKS")?,
    };
    let rings = online.len() * workers as usize;
    let mut by_worker: Vec<Vec<Ring>> = (0..workers).map(|_| Vec::new()).collect();
    for (index, ring) in ring::map(&maps, rings, blocks)?.into_iter().enumerate() {
        if let Some(rings) = by_worker.get_mut(index % workers as usize) {
            rings.push(ring);
        }
    }
    let flags = sleep::flags(load::data(ebpf, "SLEEP")?, workers)?;
    // Borrowed, not taken: the instructions name the array by descriptor until the program is loaded.
    let mut array: ArrayOfMaps<&mut MapData, MapData> = load::borrow(ebpf, "WAKE")?;
    let mut readers = Vec::new();
    for ((worker, rings), flag) in (0..workers).zip(by_worker).zip(flags) {
        let wake = WakeRing::create()?;
        array
            .set(worker, wake.map(), 0)
            .map_err(|e| BpfError::Map {
                map: "WAKE",
                action: "insert a ring buffer",
                error: chain(&e),
            })?;
        readers.push(TapReader::new(rings, flag, wake));
    }
    Ok(readers)
}

fn object(reason: String) -> BpfError {
    BpfError::Object { reason }
}

fn attach(
    ebpf: &mut Ebpf,
    name: &str,
    ifname: &str,
    hook: TcAttachType,
) -> Result<FdLink, BpfError> {
    let program: &mut SchedClassifier = programs::find(ebpf, name)?;
    let attached =
        program.attach_with_options(ifname, hook, TcAttachOptions::TcxOrder(LinkOrder::first()));
    let id = attached.map_err(|e| {
        if is_permission(&e) {
            BpfError::Permission {
                action: format!("attach program {name} to {ifname}"),
            }
        } else if errno(&e) == Some(libc::EINVAL) {
            // The attach type is unknown to kernels before 6.6; nothing else here can be invalid.
            BpfError::NoTcx {
                release: kernel_release(),
            }
        } else {
            BpfError::Attach {
                program: name.into(),
                ifname: ifname.into(),
                error: chain(&e),
            }
        }
    })?;
    let link = program.take_link(id).map_err(|e| object(chain(&e)))?;
    FdLink::try_from(link).map_err(|_| BpfError::NoTcx {
        release: kernel_release(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_memory_is_shared_out_in_powers_of_two() {
        const MIB: usize = 1 << 20;
        assert_eq!(ring_bytes(64 * MIB, 1), 64 * MIB);
        assert_eq!(ring_bytes(64 * MIB, 2), 32 * MIB);
        assert_eq!(ring_bytes(64 * MIB, 3), 16 * MIB);
        assert_eq!(ring_bytes(64 * MIB, 256), MIN_RING_BYTES);
        assert_eq!(ring_bytes(0, 0), MIN_RING_BYTES);
        assert_eq!(ring_bytes(usize::MAX, 1), MAX_RING_BYTES);
    }
}
