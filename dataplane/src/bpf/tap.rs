//! Capture on a production host: tcx ingress (egress, where that is asked for) into rings.
//!
//! Nothing of the host's networking changes: the program only copies and always passes the packet to
//! the next program or the stack. It is attached as the first of its hook, so that other programs
//! that drop or redirect do not hide packets from it.

use aya::Ebpf;
use aya::programs::TcAttachType;
use common::abi::{TapCounter, config_flags, udp_slots};
use common::packet::Endpoint;

use super::counters::COUNTERS;
use super::filter::{Hook, Parts};
use super::log::LogThread;
use super::rings::Rings;
use super::select::{DenyList, Sessions};
use super::tcx::{self, RingCapture, RingSetup};
use super::{BpfError, Filter, TapReader, UdpRules, load};
use crate::iface::Interface;

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
    rings: RingCapture,
    deny: Option<DenyList>,
}

impl Tap {
    /// Loads `object` and attaches its program `tap` to the interface.
    pub fn attach(object: &[u8], config: &TapConfig<'_>) -> Result<Self, BpfError> {
        let interface = Interface::by_name(config.ifname)?;
        tcx::find(&interface.name)?;
        let config = &config.on(&interface);
        let workers = config.workers.max(1);
        let rings = Rings::of(workers, config.ring_bytes_total);
        let mut ebpf = prepare(object, config, rings)?;
        load::put_udp(&mut ebpf, &config.udp, Hook::Tcx, &UDP_PROGRAMS)?;
        let (tcp, udp) = (config.transfers, &config.udp);
        load::put_fragments(&mut ebpf, tcp, udp, Hook::Tcx, FRAGMENTS)?;
        let setup = RingSetup {
            program: PROGRAM,
            ifname: &interface.name,
            rings,
            counters: COUNTERS,
            log_packets: config.log_packets,
            filter: config.filter.map(|filter| (FILTERED, filter)),
        };
        let mut capture = RingCapture::load(ebpf, &setup)?;
        let deny = config.sessions.deny_list(|name| capture.take_map(name))?;
        capture.attach(config.direction.hooks())?;
        tracing::info!(
            interface = interface.name,
            workers,
            rings = rings.number(),
            ring_bytes = rings.bytes(),
            hook = config.direction.hook_name(),
            "tap attached to tcx, first of its hook"
        );
        Ok(Self {
            rings: capture,
            deny,
        })
    }

    /// The reader of a worker, once; `None` afterwards and for a worker that does not exist.
    pub fn take_reader(&mut self, worker: u32) -> Option<TapReader> {
        self.rings.take_reader(worker)
    }

    /// The program's counters, summed over CPUs.
    pub fn counters(&self) -> Vec<(TapCounter, u64)> {
        TapCounter::ALL
            .iter()
            .map(|c| (*c, self.rings.counters.get(c.index())))
            .collect()
    }

    /// The list of denied clients, if there is one.
    pub fn deny_list(&mut self) -> Option<&mut DenyList> {
        self.deny.as_mut()
    }

    /// Replaces the filter of a tap that was attached with one; on an error the old one stays in force.
    pub fn replace_filter(&self, filter: &Filter) -> Result<(), BpfError> {
        self.rings.replace_filter(filter)
    }

    /// Stops capturing, keeps the counters readable. Done once, further calls do nothing.
    pub fn detach(&mut self) {
        self.rings.detach();
    }
}

/// Loads the object with what it is told whatever its hook: the rules.
pub(super) fn prepare(
    object: &[u8],
    config: &TapConfig<'_>,
    rings: Rings,
) -> Result<Ebpf, BpfError> {
    let workers = config.workers.max(1);
    let mut sizes = rings.sizes().to_vec();
    sizes.extend(load::log_size(config.log_packets));
    let mut program = load::config(
        workers,
        1,
        config.log_packets,
        config.transfers,
        config.targets,
    );
    program = config.sessions.put_into(program);
    if config.filter.is_some() {
        program.flags |= config_flags::BEHIND_FILTER;
    }
    program.flags |= config.udp.flag() | config.direction.flags();
    rings.put_into(&mut program);
    let mut ebpf = load::load(object, program, &sizes)?;
    load::put_endpoints(&mut ebpf, "TARGETS", config.targets)?;
    config.sessions.put_maps(&mut ebpf, config.transfers)?;
    Ok(ebpf)
}
