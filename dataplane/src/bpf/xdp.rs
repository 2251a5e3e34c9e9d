//! Attaching an XDP program: native, else generic, never in place of another.

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};

use super::error::{chain, errno, is_permission, kernel_release};
use super::filter::Hook;
use super::{BpfError, programs};
use crate::iface::Interface;
use crate::netlink::Netlink;

/// An attached XDP program.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) link: FdLink,
    /// Run by the driver; else by the stack on finished skbs, three to six times slower.
    pub(super) native: bool,
}

/// Loads and attaches `name`.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    name: &str,
    interface: &Interface,
) -> Result<Attached, BpfError> {
    programs::load_program(ebpf, Hook::Xdp, name)?;
    match attach_as(ebpf, name, interface, XdpMode::Driver) {
        Err(BpfError::Attach { error, .. }) => {
            tracing::info!(
                interface = interface.name,
                reason = error,
                "the driver takes no native XDP program: using generic mode, which is slower"
            );
            attach_as(ebpf, name, interface, XdpMode::Skb)
        }
        answer => answer,
    }
}

/// Attaches `name` in generic mode, in place of `native`.
pub(super) fn attach_generic(
    ebpf: &mut Ebpf,
    name: &str,
    interface: &Interface,
    native: Attached,
) -> Result<Attached, BpfError> {
    drop(native);
    attach_as(ebpf, name, interface, XdpMode::Skb)
}

fn attach_as(
    ebpf: &mut Ebpf,
    name: &str,
    interface: &Interface,
    mode: XdpMode,
) -> Result<Attached, BpfError> {
    let ifname = &interface.name;
    let program: &mut Xdp = programs::find(ebpf, name)?;
    let id = program
        .attach_to_if_index(interface.index, mode)
        .map_err(|error| refusal(&error, name, interface))?;
    let link = program
        .take_link(id)
        .map_err(|e| BpfError::Object { reason: chain(&e) })?;
    // Old kernels attach without a link, which would outlive us; dropping it here detaches.
    let link = FdLink::try_from(link).map_err(|_| BpfError::NoXdpLink {
        release: kernel_release(),
    })?;
    let native = mode == XdpMode::Driver;
    tracing::info!(
        interface = ifname,
        program = name,
        mode = if native { "native" } else { "generic" },
        "XDP program attached"
    );
    Ok(Attached { link, native })
}

/// [`BpfError::Attach`] if another mode may do.
fn refusal(error: &ProgramError, name: &str, interface: &Interface) -> BpfError {
    let ifname = interface.name.clone();
    if is_permission(error) {
        return BpfError::Permission {
            action: format!("attach program {name} to {ifname}"),
        };
    }
    // EBUSY: same mode; EEXIST: the other mode (net/core/dev.c, dev_xdp_attach).
    if matches!(errno(error), Some(libc::EBUSY | libc::EEXIST)) {
        return BpfError::ForeignXdp {
            ifname,
            id: program_id(interface.index),
        };
    }
    BpfError::Attach {
        program: name.into(),
        ifname,
        error: chain(error),
    }
}

/// Names of the programs that see what arrives on an interface, XDP and tcx; none that the kernel does not tell.
pub fn ingress_programs(interface: &Interface) -> Vec<String> {
    let id = program_id(interface.index).filter(|id| *id > 0);
    let xdp = id.and_then(|id| {
        let mut loaded = aya::programs::loaded_programs().flatten();
        loaded.find(|program| program.id() == id)
    });
    let tcx = SchedClassifier::query_tcx(interface.name.as_str(), TcAttachType::Ingress);
    let tcx = tcx.map(|(_, programs)| programs).unwrap_or_default();
    let all = xdp.into_iter().chain(tcx);
    all.filter_map(|program| program.name_as_str().map(str::to_owned))
        .collect()
}

/// Id of the XDP program on an interface, from rtnetlink. `None` if there is none or on any error: it
/// only completes a message.
fn program_id(ifindex: u32) -> Option<u32> {
    let mut request = LinkMessage::default();
    request.header.index = ifindex;
    let answers = Netlink::open()
        .ok()?
        .ask(RouteNetlinkMessage::GetLink(request), 0)
        .ok()?;
    let link = answers.iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) if link.header.index == ifindex => Some(link),
        _ => None,
    })?;
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Xdp(xdp) => xdp.iter().find_map(|x| match x {
                LinkXdp::ProgId(id)
                | LinkXdp::DrvProgId(id)
                | LinkXdp::SkbProgId(id)
                | LinkXdp::HwProgId(id) => Some(*id),
                _ => None,
            }),
            _ => None,
        })
}
