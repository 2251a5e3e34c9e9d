//! What can go wrong between an object file and an attached program: one clear line each.

use std::error::Error;
use std::io;

use aya::EbpfError;
use aya::programs::ProgramError;

/// What the verifier's log ends with, behind the reason (kernel/bpf/verifier.c, print_verification_stats).
const STATISTICS: [&str; 3] = ["verification time ", "stack depth ", "processed "];

/// Why a program does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BpfError {
    /// The kernel answered EPERM or EACCES.
    #[error(
        "no permission to {action}: run as root, or with CAP_BPF, CAP_NET_ADMIN, CAP_NET_RAW and \
         CAP_PERFMON"
    )]
    Permission {
        /// What was tried.
        action: String,
    },
    /// The interface cannot be used.
    #[error(transparent)]
    Interface(#[from] crate::iface::IfaceError),
    /// Somebody else's XDP program is on the interface.
    #[error(
        "interface {ifname} already has an XDP program ({}), which is never replaced: detach it, \
         for example with `ip link set dev {ifname} xdp off`, or choose another interface",
        id.map_or_else(|| "id unknown".to_owned(), |id| format!("id {id}"))
    )]
    ForeignXdp {
        /// Interface.
        ifname: String,
        /// The kernel's id of the program, as `bpftool prog show` lists it.
        id: Option<u32>,
    },
    /// No tcx links.
    #[error(
        "kernel {release} has no tcx, which a tap, a pool, and intercept by tcx or on a target need: expected 6.6 or newer"
    )]
    NoTcx {
        /// Running kernel.
        release: String,
    },
    /// No XDP links, so a killed process would leave its program attached.
    #[error("kernel {release} cannot attach XDP by a link: expected 5.9 or newer")]
    NoXdpLink {
        /// Running kernel.
        release: String,
    },
    /// The verifier said no.
    #[error(
        "kernel {release} refused program {program} ({error}): {last}; the whole verifier log is \
         written at debug level"
    )]
    Verifier {
        /// Program.
        program: String,
        /// Running kernel.
        release: String,
        /// From the syscall.
        error: io::Error,
        /// Last line of the log that says something.
        last: String,
    },
    /// The filter cannot run in the kernel.
    #[error(transparent)]
    Filter(#[from] super::FilterError),
    /// Nothing to replace.
    #[error("capture was started without a filter, so there is none to replace: start with one")]
    NoFilter,
    /// Attaching failed for a reason that has no variant of its own.
    #[error("cannot attach program {program} to interface {ifname}: {error}")]
    Attach {
        /// Program.
        program: String,
        /// Interface.
        ifname: String,
        /// Cause.
        error: String,
    },
    /// The object is not what this program was built for.
    #[error("BPF object is not usable: {reason}; rebuild with `cargo xtask build-ebpf`")]
    Object {
        /// Cause.
        reason: String,
    },
    /// A map could not be created, filled or mapped.
    #[error("BPF map {map}: cannot {action}: {error}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// What was tried.
        action: &'static str,
        /// Cause.
        error: String,
    },
    /// More rules than the map holds.
    #[error("{got} endpoints for map {map}, expected at most {max}")]
    TooManyEndpoints {
        /// Name of the map.
        map: &'static str,
        /// Endpoints given.
        got: usize,
        /// Capacity.
        max: u32,
    },
    /// The AF_XDP socket of a queue could not be opened.
    #[error("interface {ifname}, receive queue {queue}: {source}")]
    Socket {
        /// Interface.
        ifname: String,
        /// Queue.
        queue: u32,
        /// Cause.
        source: crate::afxdp::AfXdpError,
    },
    /// The packet socket of a worker could not be opened, or given its program.
    #[error("interface {ifname}: cannot {action}: {source}")]
    PacketSocket {
        /// Interface.
        ifname: String,
        /// What was tried.
        action: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// What asks for an IPv6 address does not reach this host without.
    #[error("cannot join the IPv6 groups of the pool's addresses on interface {ifname}: {source}")]
    Groups {
        /// Interface.
        ifname: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The interface did not take promiscuous mode.
    #[error("cannot make interface {ifname} promiscuous: {source}")]
    Promiscuous {
        /// Interface.
        ifname: String,
        /// The kernel's reason.
        source: std::io::Error,
    },
}

impl BpfError {
    /// From loading the object.
    pub(super) fn from_object(error: &EbpfError) -> Self {
        if is_permission(error) {
            return Self::Permission {
                action: "load BPF maps".into(),
            };
        }
        Self::Object {
            reason: chain(error),
        }
    }

    /// From loading one program.
    pub(super) fn from_program(program: &str, error: ProgramError) -> Self {
        match error {
            ProgramError::LoadError { io_error, .. } if is_permission_io(&io_error) => {
                Self::Permission {
                    action: format!("load BPF program {program}"),
                }
            }
            ProgramError::LoadError {
                io_error,
                verifier_log,
            } => Self::refused(program, io_error, &verifier_log.to_string()),
            other => Self::Object {
                reason: format!("program {program}: {}", chain(&other)),
            },
        }
    }

    /// From the verifier and its log.
    pub(super) fn refused(program: &str, error: io::Error, log: &str) -> Self {
        tracing::debug!(program, "verifier log:\n{log}");
        // The log ends with statistics; the reason is the line in front of them.
        let last = log
            .lines()
            .rev()
            .map(str::trim)
            .find(|l| !l.is_empty() && !STATISTICS.iter().any(|s| l.starts_with(s)))
            .unwrap_or("no verifier log");
        Self::Verifier {
            program: program.into(),
            release: kernel_release(),
            error,
            last: last.into(),
        }
    }
}

/// The whole chain of an error in one line, without repetitions.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(e) = next {
        let text = e.to_string();
        if !line.contains(&text) {
            line = format!("{line}: {text}");
        }
        next = e.source();
    }
    line
}

/// The errno in the chain of an error, if there is one.
pub(super) fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(code) = e
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
        {
            return Some(code);
        }
        next = e.source();
    }
    None
}

pub(super) fn is_permission(error: &(dyn Error + 'static)) -> bool {
    matches!(errno(error), Some(libc::EPERM | libc::EACCES))
}

/// EACCES alone is the verifier's no; without the capability the kernel says EPERM.
fn is_permission_io(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPERM)
}

/// Of the running kernel, as uname(2) says.
pub(super) fn kernel_release() -> String {
    rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_refusal_is_the_line_before_the_statistics() {
        let log = "R1 invalid mem access 'scalar'\nverification time 12 usec\nstack depth 376+0+0\n\
                   processed 5 insns (limit 1000000) max_states_per_insn 0\n\n";
        let error = BpfError::refused("tap", io::Error::from_raw_os_error(libc::EACCES), log);
        assert!(
            error
                .to_string()
                .contains("R1 invalid mem access 'scalar'; the whole"),
            "{error}"
        );
    }
}
