//! Attaching to tcx.

use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};

use super::error::{chain, errno, is_permission, kernel_release};
use super::{BpfError, programs};

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
pub(super) fn attach(
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
