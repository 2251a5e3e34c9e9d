//! The host itself: privileges, the interface, cores, the clock.

use crate::Finding;
use dataplane::iface::{IfaceError, Interface};
use std::path::Path;

/// Clock sources that are read without a device access (arch/x86/kernel/tsc.c, drivers/clocksource), by beginning of
/// their name. The others cost a microsecond and more a reading, and workers read the clock once per loop.
const FAST_CLOCKS: [&str; 7] = [
    "tsc",
    "kvm-clock",
    "hyperv_clocksource",
    "xen",
    "arch_sys_counter",
    "vmware",
    "timebase",
];
const CLOCK_FILE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// What is known of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Why this process may not do what is needed.
    pub forbidden: Option<String>,
    /// Why there is no such interface.
    pub unknown: Option<String>,
    /// Why the cores that were asked for cannot be used.
    pub cores: Option<String>,
    /// The interface: its name, and whether it is up, has a carrier, and carries Ethernet frames.
    pub iface: Option<(String, Link)>,
    /// Name of the kernel's clock source.
    pub clock: Option<String>,
}

/// State of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Administratively.
    pub up: bool,
    /// A cable with somebody at its other end.
    pub carrier: bool,
    /// Frames on it have Ethernet headers.
    pub ethernet: bool,
}

impl HostFacts {
    /// Notes what the kernel says of an interface.
    pub fn see(&mut self, interface: &Result<Interface, IfaceError>) {
        match interface {
            Ok(i) => {
                let link = Link {
                    up: i.up,
                    carrier: i.carrier,
                    ethernet: i.is_ethernet,
                };
                self.iface = Some((i.name.clone(), link));
            }
            Err(error) => self.unknown = Some(error.to_string()),
        }
    }

    /// Notes the clock source; none where the kernel does not tell.
    pub fn see_clock(&mut self) {
        let text = std::fs::read_to_string(Path::new(CLOCK_FILE)).ok();
        self.clock = text.map(|text| text.trim().to_owned());
    }
}

/// True if there is no use in looking further.
pub fn is_fatal(findings: &[Finding]) -> bool {
    const FATAL: [&str; 3] = ["missing_privilege", "unknown_interface", "no_ethernet"];
    findings.iter().any(|f| FATAL.contains(&f.cause))
}

/// Judges them.
pub fn judge(facts: &HostFacts) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(why) = &facts.forbidden {
        found.push(Finding::new(
            "missing_privilege",
            why.clone(),
            "with them start again",
        ));
    }
    if let Some(why) = &facts.unknown {
        found.push(Finding::new(
            "unknown_interface",
            why.clone(),
            "name one of them with --iface",
        ));
    }
    if let Some(why) = &facts.cores {
        found.push(Finding::new("core_missing", why.clone(), "change --cores"));
    }
    if let Some((name, link)) = &facts.iface {
        if !link.ethernet {
            found.push(Finding::new(
                "no_ethernet",
                format!(
                    "{name} carries IP packets without Ethernet headers, expected Ethernet frames"
                ),
                "name the interface below it with --iface",
            ));
        } else if !link.up {
            found.push(Finding::new(
                "interface_down",
                format!("{name} is down, expected up: nothing arrives on it"),
                format!("`ip link set {name} up`"),
            ));
        } else if !link.carrier {
            found.push(Finding::new(
                "no_carrier",
                format!("{name} is up and has no carrier: its cable, or what is at the other end, is not there"),
                "plug it in, or set the other end up",
            ));
        }
    }
    if let Some(clock) = &facts.clock
        && !FAST_CLOCKS.iter().any(|fast| clock.starts_with(fast))
    {
        found.push(Finding::new(
            "clock_slow",
            format!("the kernel's clock source is {clock}, which asks a device for each reading; expected tsc or a paravirtual clock"),
            format!("look why the kernel gave it up (`dmesg | grep -i clocksource`) and write a faster one to {CLOCK_FILE}"),
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Link = Link {
        up: true,
        carrier: true,
        ethernet: true,
    };

    fn causes(facts: &HostFacts) -> Vec<&'static str> {
        judge(facts).iter().map(|f| f.cause).collect()
    }

    #[test]
    fn each_state_has_its_cause() {
        let on = |link| HostFacts {
            iface: Some(("eth0".to_owned(), link)),
            clock: Some("kvm-clock".to_owned()),
            ..HostFacts::default()
        };
        assert!(causes(&on(FINE)).is_empty());
        let cases = [
            (
                Link {
                    up: false,
                    carrier: false,
                    ..FINE
                },
                "interface_down",
            ),
            (
                Link {
                    carrier: false,
                    ..FINE
                },
                "no_carrier",
            ),
            (
                Link {
                    ethernet: false,
                    ..FINE
                },
                "no_ethernet",
            ),
        ];
        for (link, cause) in cases {
            assert_eq!(causes(&on(link)), [cause]);
        }
        for clock in ["acpi_pm", "hpet", "jiffies"] {
            let facts = HostFacts {
                clock: Some(clock.to_owned()),
                ..HostFacts::default()
            };
            assert_eq!(causes(&facts), ["clock_slow"]);
        }
        let facts = HostFacts {
            forbidden: Some("missing CAP_BPF".to_owned()),
            unknown: Some("got interface 'x'".to_owned()),
            cores: Some("got core 99".to_owned()),
            ..HostFacts::default()
        };
        let found = judge(&facts);
        assert!(is_fatal(&found));
        assert_eq!(
            causes(&facts),
            ["missing_privilege", "unknown_interface", "core_missing"]
        );
    }
}
