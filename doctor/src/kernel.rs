//! What the kernel refuses when programs are loaded and attached.

use crate::Finding;
use dataplane::bpf::BpfError;

/// The cause behind an error, with what helps.
pub fn judge(error: &BpfError) -> Finding {
    let (cause, fix) = match error {
        BpfError::Permission { .. } => ("missing_privilege", "with them start again"),
        BpfError::Interface(_) => ("unknown_interface", "name one of them with --iface"),
        BpfError::ForeignXdp { .. } => (
            "xdp_in_use",
            "or, for intercept-user, take responses with --capture tcx",
        ),
        BpfError::NoTcx { .. } | BpfError::NoXdpLink { .. } => (
            "kernel_too_old",
            "boot a newer kernel, or capture with --capture packet",
        ),
        BpfError::Verifier { .. } => (
            "kernel_refuses_program",
            "try another kernel, and report it with the log of --log-level debug",
        ),
        BpfError::Filter(_) => ("filter_refused", "write the filter otherwise"),
        BpfError::Socket { .. } => (
            "af_xdp_refused",
            "end the program that holds the queue (`ss --xdp -a`), or look whether the kernel was built with AF_XDP",
        ),
        BpfError::PacketSocket { .. } | BpfError::Promiscuous { .. } => (
            "interface_refuses",
            "look at the interface with `ip -d link`, and at the kernel's log",
        ),
        _ => ("kernel_refuses_program", "see the log of --log-level debug"),
    };
    Finding::new(cause, error.to_string(), fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_causes() {
        let release = || "5.4.0".to_owned();
        for (error, cause) in [
            (
                BpfError::ForeignXdp {
                    ifname: "eth0".into(),
                    id: Some(7),
                },
                "xdp_in_use",
            ),
            (BpfError::NoTcx { release: release() }, "kernel_too_old"),
            (BpfError::NoXdpLink { release: release() }, "kernel_too_old"),
            (
                BpfError::Permission {
                    action: "load".into(),
                },
                "missing_privilege",
            ),
            (
                BpfError::Object {
                    reason: "cut".into(),
                },
                "kernel_refuses_program",
            ),
        ] {
            assert_eq!(judge(&error).cause, cause);
        }
    }
}
