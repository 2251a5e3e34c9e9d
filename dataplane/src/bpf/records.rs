//! The black hole by tcx: at ingress for interfaces whose XDP is taken, or that AF_XDP cannot bind to; at egress on the
//! target itself.
//!
//! Matching packets are dropped, at egress as if they had been sent, once their headers are in a ring. A killed process
//! takes the program with it.

use aya::programs::TcAttachType;
use common::abi::InterceptCounter;

use super::counters::COUNTERS;
use super::filter::{Hook, Parts};
use super::responses::{ResponsesConfig, RuleWriter, Sources};
use super::rings::Rings;
use super::routes::{ROUTES, RouteWriter};
use super::tcx::{self, RingCapture, RingSetup};
use super::{BpfError, Filter, TapReader, load};
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
    rings: RingCapture,
    rules: Option<RuleWriter>,
    routes: Option<RouteWriter>,
}

impl ResponseRecords {
    /// Loads `object` and attaches its program `records`, or `on_target`, to the interface, with `ring_bytes_total` bytes
    /// for all rings together.
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
        let (name, hook) = match config.sources {
            Sources::OwnOfRoutes { routes } => {
                sizes.push((ROUTES, routes));
                (ON_TARGET, TcAttachType::Egress)
            }
            Sources::Filtered(_) | Sources::Learned => (PROGRAM, TcAttachType::Ingress),
        };
        let setup = RingSetup {
            program: name,
            ifname: &interface.name,
            rings,
            counters: COUNTERS,
            log_packets: config.log_packets,
            filter: filter.map(|filter| (FILTERED, filter)),
        };
        let ebpf = load::load(object, program, &sizes)?;
        let mut capture = RingCapture::load(ebpf, &setup)?;
        let (mut rules, mut routes) = (None, None);
        if name == ON_TARGET {
            routes = Some(RouteWriter::new(capture.take_map(ROUTES)?));
        } else {
            let (taken, own) = (capture.take_map("RESPONSES")?, capture.take_map("LOCAL")?);
            rules = Some(RuleWriter::new(taken, own)?);
        }
        capture.attach(&[hook])?;
        tracing::info!(
            interface = interface.name,
            workers = config.workers,
            rings = rings.number(),
            ring_bytes = rings.bytes(),
            "responses are taken by tcx {}, first of its hook",
            if name == ON_TARGET {
                "egress"
            } else {
                "ingress"
            }
        );
        Ok(Self {
            rings: capture,
            rules,
            routes,
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
        self.rings.take_reader(worker)
    }

    /// Replaces the filter, with [`super::responses::Sources::Filtered`]; on an error the old one stays in force.
    pub fn replace_filter(&self, filter: &Filter) -> Result<(), BpfError> {
        self.rings.replace_filter(filter)
    }

    /// The program's counters, summed over CPUs.
    pub fn counters(&self) -> Vec<(InterceptCounter, u64)> {
        InterceptCounter::ALL
            .iter()
            .map(|c| (*c, self.rings.counters.get(c.index())))
            .collect()
    }

    /// Detaches; counters stay readable, further calls do nothing.
    pub fn detach(&mut self) {
        self.rings.detach();
    }
}
