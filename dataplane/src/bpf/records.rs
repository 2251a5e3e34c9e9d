//! The black hole by tcx: at ingress for interfaces whose XDP is taken, or that AF_XDP cannot bind to; at egress on the
//! target itself.
//!
//! Matching packets are dropped, at egress as if they had been sent, once their headers are in a ring. A killed process
//! takes the program with it.

use aya::Ebpf;
use aya::programs::TcAttachType;
use aya::programs::links::FdLink;
use common::abi::InterceptCounter;

use super::counters::Counters;
use super::filter::{Chain, Hook, Parts};
use super::log::LogThread;
use super::responses::{ResponsesConfig, RuleWriter, Sources};
use super::rings::{self, Rings};
use super::routes::{ROUTES, RouteWriter};
use super::{BpfError, Filter, TapReader, load, programs, tcx};
use crate::iface::Interface;

const PROGRAM: &str = "records";
/// At egress.
const ON_TARGET: &str = "on_target";
/// What is attached instead if there is a filter.
const FILTERED: Parts = Parts {
    hook: Hook::Tcx,
    entry: "records_filtered",
    selected: "records",
    counter: InterceptCounter::Filtered.index(),
    // TCX_NEXT (linux/bpf.h).
    pass: -1,
};

/// The attached program. Dropping it detaches; readers can still empty their rings afterwards.
pub struct ResponseRecords {
    // First, so that it goes before everything that the program uses.
    link: Option<FdLink>,
    readers: Vec<Option<TapReader>>,
    counters: Counters,
    filter: Option<Chain>,
    rules: Option<RuleWriter>,
    routes: Option<RouteWriter>,
    _log: Option<LogThread>,
    // The program and its maps.
    _ebpf: Ebpf,
}

impl ResponseRecords {
    /// Loads `object` and attaches its program `records`, or `on_target`, to the interface, with `ring_bytes_total` bytes for all rings
    /// together.
    pub fn attach(
        object: &[u8],
        config: &ResponsesConfig<'_>,
        ring_bytes_total: usize,
    ) -> Result<Self, BpfError> {
        let interface = Interface::by_name(config.ifname)?;
        tcx::find(&interface.name)?;
        let (mut program, filter) = config.program();
        let rings = Rings::of(config.workers.max(1), ring_bytes_total);
        rings.put_into(&mut program);
        let mut sizes = rings.sizes().to_vec();
        sizes.extend(load::log_size(config.log_packets));
        let at_egress = match config.sources {
            Sources::OwnOfRoutes { routes } => {
                sizes.push((ROUTES, routes));
                true
            }
            Sources::Filtered(_) | Sources::Learned => false,
        };
        let mut ebpf = load::load(object, program, &sizes)?;
        let readers = rings::readers(&mut ebpf, rings)?;
        let log = config
            .log_packets
            .then(|| LogThread::start(&mut ebpf))
            .transpose()?;
        let chain = filter
            .map(|filter| Chain::install(&mut ebpf, FILTERED, filter))
            .transpose()?;
        let counters = Counters::take(&mut ebpf)?;
        let (entry, hook) = match filter {
            _ if at_egress => (ON_TARGET, TcAttachType::Egress),
            Some(_) => (FILTERED.entry, TcAttachType::Ingress),
            None => (PROGRAM, TcAttachType::Ingress),
        };
        programs::load_program(&mut ebpf, Hook::Tcx, entry)?;
        let (mut rules, mut routes) = (None, None);
        if at_egress {
            routes = Some(RouteWriter::new(load::take(&mut ebpf, ROUTES)?));
        } else {
            rules = Some(RuleWriter::new(
                load::take(&mut ebpf, "RESPONSES")?,
                load::take(&mut ebpf, "LOCAL")?,
            )?);
        }
        let link = tcx::attach(&mut ebpf, entry, &interface.name, hook)?;
        tracing::info!(
            interface = interface.name,
            workers = config.workers,
            rings = rings.number(),
            ring_bytes = rings.bytes(),
            "responses are taken by tcx {}, first of its hook",
            if at_egress { "egress" } else { "ingress" }
        );
        Ok(Self {
            link: Some(link),
            readers: readers.into_iter().map(Some).collect(),
            counters,
            filter: chain,
            rules,
            routes,
            _log: log,
            _ebpf: ebpf,
        })
    }

    /// The means to name sessions, once, with [`Sources::OwnOfRoutes`].
    pub fn take_routes(&mut self) -> Option<RouteWriter> {
        self.routes.take()
    }

    /// The means to add sources, once, as [`super::Responses::take_rules`]; not with [`Sources::OwnOfRoutes`].
    pub fn take_rules(&mut self) -> Option<RuleWriter> {
        self.rules.take()
    }

    /// The reader of a worker, once; `None` afterwards and for a worker that does not exist.
    pub fn take_reader(&mut self, worker: u32) -> Option<TapReader> {
        self.readers.get_mut(worker as usize)?.take()
    }

    /// Replaces the filter, with [`super::responses::Sources::Filtered`]; on an error the old one stays in force.
    pub fn replace_filter(&self, filter: &Filter) -> Result<(), BpfError> {
        Chain::replace_in(self.filter.as_ref(), filter)
    }

    /// The program's counters, summed over CPUs.
    pub fn counters(&self) -> Vec<(InterceptCounter, u64)> {
        InterceptCounter::ALL
            .iter()
            .map(|c| (*c, self.counters.get(c.index())))
            .collect()
    }

    /// Detaches; counters stay readable, further calls do nothing.
    pub fn detach(&mut self) {
        self.link = None;
    }
}
