//! Attaching an XDP program: native, else generic, never in place of another.

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
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
    let ifname = &interface.name;
    let object = |reason: String| BpfError::Object { reason };
    programs::load_program(ebpf, Hook::Xdp, name)?;
    let program: &mut Xdp = programs::find(ebpf, name)?;

    let native = program.attach_to_if_index(interface.index, XdpMode::Driver);
    let (id, native) = match native {
        Ok(id) => (id, true),
        Err(error) => {
            check_fatal(&error, name, interface)?;
            tracing::info!(
                interface = ifname,
                reason = chain(&error),
                "the driver takes no native XDP program: using generic mode, which is slower"
            );
            let generic = program.attach_to_if_index(interface.index, XdpMode::Skb);
            match generic {
                Ok(id) => (id, false),
                Err(error) => {
                    check_fatal(&error, name, interface)?;
                    return Err(BpfError::Attach {
                        program: name.into(),
                        ifname: ifname.clone(),
                        error: chain(&error),
                    });
                }
            }
        }
    };
    let link = program.take_link(id).map_err(|e| object(chain(&e)))?;
    // Old kernels attach without a link, which would outlive us; dropping it here detaches.
    let link = FdLink::try_from(link).map_err(|_| BpfError::NoXdpLink {
        release: kernel_release(),
    })?;
    tracing::info!(
        interface = ifname,
        program = name,
        mode = if native { "native" } else { "generic" },
        "XDP program attached"
    );
    Ok(Attached { link, native })
}

/// The errors that the other mode would not change.
fn check_fatal(error: &ProgramError, name: &str, interface: &Interface) -> Result<(), BpfError> {
    let ifname = interface.name.clone();
    if is_permission(error) {
        return Err(BpfError::Permission {
            action: format!("attach program {name} to {ifname}"),
        });
    }
    // EBUSY: same mode; EEXIST: the other mode (net/core/dev.c, dev_xdp_attach).
    if matches!(errno(error), Some(libc::EBUSY | libc::EEXIST)) {
        return Err(BpfError::ForeignXdp {
            ifname,
            id: program_id(interface.index),
        });
    }
    Ok(())
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
