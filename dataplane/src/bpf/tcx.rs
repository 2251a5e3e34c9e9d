//! What `tap`, `pool` and `records` have in common: a program attached to tcx that copies into rings, and their readers.
//!
//! Detaching has no order to keep, other than with sockets ([`super::queues`]): what is in the rings stays readable.

use aya::Ebpf;
use aya::maps::{Map, MapError};
use aya::programs::links::FdLink;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};

use super::counters::Counters;
use super::error::{chain, errno, is_permission, kernel_release};
use super::filter::{Chain, Hook, Parts};
use super::log::LogThread;
use super::rings::{self, Rings};
use super::{BpfError, Filter, TapReader, load, programs};

/// How to build a [`RingCapture`].
pub(super) struct RingSetup<'a> {
    pub(super) program: &'static str,
    pub(super) ifname: &'a str,
    pub(super) rings: Rings,
    /// The map of the program's counters.
    pub(super) counters: &'static str,
    pub(super) log_packets: bool,
    /// The first filter and its place.
    pub(super) filter: Option<(Parts, &'a Filter)>,
}

/// A program with its rings.
pub(super) struct RingCapture {
    // First, so that they go before everything that the program uses.
    links: Vec<FdLink>,
    readers: Vec<Option<TapReader>>,
    pub(super) counters: Counters,
    filter: Option<Chain>,
    _log: Option<LogThread>,
    ebpf: Ebpf,
    entry: &'static str,
    ifname: String,
}

impl RingCapture {
    /// Loads the program of a loaded object, whose maps are filled, and maps its rings.
    pub(super) fn load(mut ebpf: Ebpf, setup: &RingSetup<'_>) -> Result<Self, BpfError> {
        let readers = rings::readers(&mut ebpf, setup.rings)?;
        let log = setup
            .log_packets
            .then(|| LogThread::start(&mut ebpf))
            .transpose()?;
        let filter = setup
            .filter
            .map(|(parts, filter)| Chain::install(&mut ebpf, parts, filter))
            .transpose()?;
        let entry = setup.filter.map_or(setup.program, |(parts, _)| parts.entry);
        let counters = Counters::take(&mut ebpf, setup.counters)?;
        programs::load_program(&mut ebpf, Hook::Tcx, entry)?;
        Ok(Self {
            links: Vec::new(),
            readers: readers.into_iter().map(Some).collect(),
            counters,
            filter,
            _log: log,
            ebpf,
            entry,
            ifname: setup.ifname.to_owned(),
        })
    }

    /// Takes a map of the loaded program, to change its entries later.
    pub(super) fn take_map<T: TryFrom<Map, Error = MapError>>(
        &mut self,
        name: &'static str,
    ) -> Result<T, BpfError> {
        load::take(&mut self.ebpf, name)
    }

    /// Attaches it, once all is ready.
    pub(super) fn attach(&mut self, hooks: &[TcAttachType]) -> Result<(), BpfError> {
        for hook in hooks {
            let link = attach(&mut self.ebpf, self.entry, &self.ifname, *hook)?;
            self.links.push(link);
        }
        Ok(())
    }

    pub(super) fn take_reader(&mut self, worker: u32) -> Option<TapReader> {
        self.readers.get_mut(worker as usize)?.take()
    }

    pub(super) fn replace_filter(&self, filter: &Filter) -> Result<(), BpfError> {
        Chain::replace_in(self.filter.as_ref(), filter)
    }

    pub(super) fn detach(&mut self) {
        self.links.clear();
    }
}

/// An error if the kernel does not know tcx. Asked before anything is loaded: what an old kernel's verifier says of
/// the program is of no use then.
pub(super) fn find(ifname: &str) -> Result<(), BpfError> {
    // To list what is attached is refused as an unknown attach type (bpf_prog_query, kernel/bpf/syscall.c). Any other
    // error is for attaching to tell.
    match SchedClassifier::query_tcx(ifname, TcAttachType::Ingress) {
        Err(e) if errno(&e) == Some(libc::EINVAL) => Err(BpfError::NoTcx {
            release: kernel_release(),
        }),
        _ => Ok(()),
    }
}

/// Attaches a loaded program as the first of its hook, so that others that drop or redirect do not hide packets from it.
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
    let link = program
        .take_link(id)
        .map_err(|e| BpfError::Object { reason: chain(&e) })?;
    FdLink::try_from(link).map_err(|_| BpfError::NoTcx {
        release: kernel_release(),
    })
}
