//! How responses are taken: by XDP into AF_XDP, or by tcx into rings.
//!
//! ```text
//!  auto ─▶ XDP ─ in use by another program, or no AF_XDP socket ─▶ tcx, said in the log
//!  xdp, tcx ─▶ that or an error
//!  on the target itself ─▶ tcx at egress
//! ```

use crate::cli::CaptureKind;
use crate::routes::{KernelMap, KernelRoutes};
use common::abi::InterceptCounter;
use dataplane::Capture;
use dataplane::bpf::responses::{ResponsesConfig, RuleWriter, Sources};
use dataplane::bpf::{BpfError, Filter, ResponseRecords, Responses};
use dataplane::placement::QueueSocket;

/// Memory of the rings, of all workers together: half a second of responses without payload at a million a second, and
/// what keeps up with them stays in 2 MiB of each ring.
const RING_BYTES_TOTAL: usize = 64 << 20;

/// The attached program.
pub enum Taking {
    /// `responses`.
    Xdp(Box<Responses>),
    /// `records`.
    Tcx(Box<ResponseRecords>),
}

impl Taking {
    /// Attaches one. `workers` are as many as there is use for by XDP, one for each queue at most.
    pub fn attach(
        object: &[u8],
        config: &ResponsesConfig<'_>,
        kind: CaptureKind,
    ) -> Result<Self, BpfError> {
        let tcx = || {
            let records = ResponseRecords::attach(object, config, RING_BYTES_TOTAL)?;
            Ok(Self::Tcx(Box::new(records)))
        };
        if kind == CaptureKind::Tcx || matches!(config.sources, Sources::OwnOfRoutes { .. }) {
            return tcx();
        }
        match Responses::attach(object, config) {
            Ok(responses) => Ok(Self::Xdp(Box::new(responses))),
            Err(error @ (BpfError::ForeignXdp { .. } | BpfError::Socket { .. }))
                if kind == CaptureKind::Auto =>
            {
                let taking = match tcx() {
                    Ok(taking) => taking,
                    // An old kernel: what has to be mended is the other.
                    Err(BpfError::NoTcx { .. }) => return Err(error),
                    Err(other) => return Err(other),
                };
                tracing::warn!(
                    interface = config.ifname,
                    %error,
                    "XDP cannot be used here, taking responses by tcx instead, which costs more for each"
                );
                Ok(taking)
            }
            Err(error) => Err(error),
        }
    }

    /// For the report.
    pub fn mode(&self) -> &'static str {
        match self {
            Self::Xdp(responses) if responses.native() => "native",
            Self::Xdp(_) => "generic",
            Self::Tcx(_) => "tcx",
        }
    }

    /// How each receive queue is served; none by tcx, which takes responses of every queue.
    pub fn sockets(&self) -> &[QueueSocket] {
        match self {
            Self::Xdp(responses) => responses.sockets(),
            Self::Tcx(_) => &[],
        }
    }

    /// What a worker receives from, once.
    pub fn take_captures(&mut self, worker: u32) -> Vec<Box<dyn Capture>> {
        match self {
            Self::Xdp(responses) => {
                let ports = responses.take_ports(worker).into_iter();
                ports
                    .map(|port| Box::new(port.rx) as Box<dyn Capture>)
                    .collect()
            }
            Self::Tcx(records) => {
                let reader = records.take_reader(worker).into_iter();
                reader
                    .map(|reader| Box::new(reader) as Box<dyn Capture>)
                    .collect()
            }
        }
    }

    /// The means to add sources, once.
    pub fn take_rules(&mut self) -> Option<RuleWriter> {
        match self {
            Self::Xdp(responses) => responses.take_rules(),
            Self::Tcx(records) => records.take_rules(),
        }
    }

    /// On the target itself: for each of the workers, what must know its routes too. Once; else none.
    pub fn take_kernel_routes(
        &mut self,
        workers: usize,
    ) -> Result<Vec<Box<dyn KernelRoutes>>, BpfError> {
        let Self::Tcx(records) = self else {
            return Ok(Vec::new());
        };
        let Some(routes) = records.take_routes() else {
            return Ok(Vec::new());
        };
        (0..workers)
            .map(|_| Ok(Box::new(KernelMap::new(routes.try_clone()?)) as Box<dyn KernelRoutes>))
            .collect()
    }

    /// Replaces the filter; on an error the old one stays in force.
    pub fn replace_filter(&self, filter: &Filter) -> Result<(), BpfError> {
        match self {
            Self::Xdp(responses) => responses.replace_filter(filter),
            Self::Tcx(records) => records.replace_filter(filter),
        }
    }

    /// The program's counters, summed over CPUs.
    pub fn counters(&self) -> Vec<(InterceptCounter, u64)> {
        match self {
            Self::Xdp(responses) => responses.counters(),
            Self::Tcx(records) => records.counters(),
        }
    }

    /// Detaches; what was taken by [`Taking::take_captures`] must be gone. Counters stay readable.
    pub fn detach(&mut self) {
        match self {
            Self::Xdp(responses) => responses.detach(),
            Self::Tcx(records) => records.detach(),
        }
    }
}
