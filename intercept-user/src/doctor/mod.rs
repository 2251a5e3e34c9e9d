//! `intercept-user doctor`: finds out and says in one sentence why no responses come to tcpcopy.
//!
//! ```text
//!  host ─▶ channel's port ─▶ kernel (attached once, and taken off) ─▶ forwarding ─▶ arrivals
//!  with --at-target, on the target:                                   host ─▶ target
//!
//!  vigil: in a run, when tcpcopy has announced targets and nothing is taken from them: arrivals, on a thread of its own
//! ```

mod arrivals;
mod target;
mod vigil;

pub use target::Clients;
pub use vigil::{Announcements, Vigil};

use crate::channel::{ListenError, listen};
use crate::cli::Args;
use crate::startup::{Taking, check_filter, forwarding_settings};
use dataplane::bpf::responses::{ResponsesConfig, Sources};
use dataplane::bpf::{self, Filter};
use dataplane::cores::CoreList;
use dataplane::iface::Interface;
use doctor::host::{self, HostFacts};
use doctor::look::look;
use doctor::{Diagnosis, Finding, kernel};
use operator::privileges::check_privileges;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// Further looks at a port that is taken, and the time between them.
const PORT_LOOKS: u32 = 4;
const PORT_PAUSE: Duration = Duration::from_millis(50);

/// How the names of an intercept's programs begin, with and without a filter.
const PROGRAMS: [&str; 2] = ["responses", "records"];

/// What `doctor` is asked for.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Of both programs.
    #[command(flatten)]
    pub common: doctor::Options,

    /// This host is the target: follow what arrives from these clients, the addresses of -c of tcpcopy
    #[arg(long, value_name = "LIST")]
    pub at_target: Option<Clients>,
}

/// Looks at every hop. `object` is the BPF object.
pub fn diagnose(args: &Args, options: &Options, object: &[u8]) -> Diagnosis {
    let mut found = Diagnosis::default();
    let window = options.common.window;
    let Some(interface) = at_host(args, &mut found) else {
        return found;
    };
    if let Some(clients) = &options.at_target {
        at_target(clients, window, &mut found);
        return found;
    }
    let programs = bpf::ingress_programs(&interface);
    if !programs.is_empty() {
        found.note(format!(
            "programs on {}: {}",
            interface.name,
            programs.join(", ")
        ));
    }
    let is_ours = |name: &String| PROGRAMS.iter().any(|ours| name.starts_with(ours));
    let running = programs.iter().any(is_ours);
    at_channel(args, running, &mut found);
    at_kernel(args, &interface, object, running, &mut found);
    let forwarding = forwarding_settings(Path::new("/proc"), &args.iface);
    found.add(judge_forwarding(&args.iface, &forwarding));
    at_arrivals(args, &interface, running, window, &mut found);
    found
}

fn at_host(args: &Args, found: &mut Diagnosis) -> Option<Interface> {
    let mut facts = HostFacts::default();
    facts.see_clock();
    facts.forbidden = check_privileges().err().map(|e| e.to_string());
    let cores = args.cores.as_ref().map(CoreList::check_available);
    facts.cores = cores.and_then(Result::err).map(|e| e.to_string());
    let interface = Interface::by_name(&args.iface);
    facts.see(&interface);
    let findings = host::judge(&facts);
    let fatal = host::is_fatal(&findings);
    found.add(findings);
    let interface = interface.ok().filter(|_| !fatal)?;
    found.note(format!(
        "interface {}: {}, {} receive queues",
        interface.name,
        if interface.up { "up" } else { "down" },
        interface.rx_queues
    ));
    Some(interface)
}

/// Can tcpcopy connect: is the port free, or held by an intercept, and does the filter leave it alone.
fn at_channel(args: &Args, running: bool, found: &mut Diagnosis) {
    let error = port_taken(SocketAddr::new(args.bind, args.port));
    found.note(format!(
        "port {} on {}: {}",
        args.port,
        args.bind,
        match (&error, running) {
            (None, _) => "free",
            (Some(_), true) => "in use, an intercept runs here",
            (Some(_), false) => "not free",
        }
    ));
    found.add(error.and_then(|error| judge_listening(&error, running)));
}

/// Why the port cannot be had. Another look at the same time holds it for a moment, an intercept holds it for long.
fn port_taken(at: SocketAddr) -> Option<ListenError> {
    let mut error = listen(at).err()?;
    for _ in 0..PORT_LOOKS {
        std::thread::sleep(PORT_PAUSE);
        error = listen(at).err()?;
    }
    Some(error)
}

fn judge_listening(error: &ListenError, running: bool) -> Option<Finding> {
    let (cause, fix) = match error {
        ListenError::Busy { .. } if running => return None,
        ListenError::Busy { .. } => ("port_in_use", "then start again"),
        ListenError::NotLocal { .. } => ("address_not_local", "correct -b"),
        ListenError::Denied { .. } => ("missing_privilege", "or change -p"),
        ListenError::Other { .. } => ("port_in_use", "change -b or -p"),
    };
    Some(Finding::new(cause, error.to_string(), fix))
}

/// Would the program attach: tried, unless an intercept runs.
fn at_kernel(
    args: &Args,
    interface: &Interface,
    object: &[u8],
    running: bool,
    found: &mut Diagnosis,
) {
    if let Some(filter) = &args.selection
        && let Err(error) = check_filter(filter, interface, args.port)
    {
        found.add([Finding::new(
            "filter_takes_channel",
            error.to_string(),
            "narrow -F",
        )]);
    }
    if running {
        return;
    }
    let config = ResponsesConfig {
        ifname: &args.iface,
        workers: 1,
        sources: args
            .selection
            .as_ref()
            .map_or(Sources::Learned, Sources::Filtered),
        log_packets: false,
    };
    match Taking::attach(object, &config, args.capture) {
        Ok(mut taking) => {
            found.note(format!("responses can be taken here: {}", taking.mode()));
            // Sockets before the program.
            drop(taking.take_captures(0));
            taking.detach();
        }
        Err(error) => found.add([kernel::judge(&error)]),
    }
}

fn judge_forwarding(ifname: &str, on: &[String]) -> Option<Finding> {
    (!on.is_empty()).then(|| {
        Finding::new(
            "ip_forward",
            format!("IP forwarding is on ({}), expected off: what intercept-user does not take is forwarded to the real clients, who reset the connections", on.join(", ")),
            format!("`sysctl -w {}=0`, or drop the target's packets in the firewall if {ifname} must forward others", on[0]),
        )
    })
}

fn at_arrivals(
    args: &Args,
    interface: &Interface,
    running: bool,
    window: Duration,
    found: &mut Diagnosis,
) {
    let filter = args.selection.as_ref();
    let finding = arrive(
        (&args.iface, interface.index),
        filter,
        running,
        Vec::new(),
        window,
        |line| found.note(line),
    );
    found.add(finding);
}

fn arrive(
    iface: (&str, u32),
    filter: Option<&Filter>,
    running: bool,
    targets: Vec<common::packet::Endpoint>,
    window: Duration,
    mut note: impl FnMut(String),
) -> Option<Finding> {
    let own = Interface::local_addresses().unwrap_or_default();
    let mut collector = arrivals::Collector::new(iface, filter, own, targets);
    if let Err(error) = look(window, |seen| collector.see(seen), || false) {
        note(format!("packets of this host cannot be looked at: {error}"));
        return None;
    }
    let facts = &mut collector.facts;
    facts.running = running;
    facts.seconds = window.as_secs().max(1);
    note(format!(
        "arrivals in {} s, beside what an intercept takes: {} on {}, {} rejected by the filter, {} elsewhere, {} forwarded",
        facts.seconds,
        facts.matching,
        facts.iface,
        facts.rejected,
        facts.elsewhere.values().sum::<u64>(),
        facts.forwarded.values().sum::<u64>()
    ));
    arrivals::judge(facts)
}

fn at_target(clients: &Clients, window: Duration, found: &mut Diagnosis) {
    let mut collector = target::Collector::new(clients);
    if let Err(error) = look(window, |seen| collector.see(seen), || false) {
        found.note(format!("packets of this host cannot be looked at: {error}"));
        return;
    }
    collector.finish(Path::new("/proc"));
    let facts = &mut collector.facts;
    facts.seconds = window.as_secs().max(1);
    let sum = |map: &std::collections::BTreeMap<String, u64>| map.values().sum::<u64>();
    found.note(format!(
        "clients {} in {} s: {} SYNs arrived, {} answered, {} refused; the way to them: {}",
        facts.clients,
        facts.seconds,
        sum(&facts.requests),
        sum(&facts.answers),
        facts.refused,
        match &facts.way {
            Some(Ok((name, via))) => format!("by {name} via {via}"),
            Some(Err(why)) => why.clone(),
            None => "not looked up".to_owned(),
        }
    ));
    found.add(target::judge(facts));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn a_port_that_an_intercept_holds_is_no_fault() {
        let ip: IpAddr = [0, 0, 0, 0].into();
        let busy = ListenError::Busy {
            ip,
            port: 36_524,
            holder: " by nginx (pid 7)".to_owned(),
        };
        let found = judge_listening(&busy, false).expect("found");
        assert!(
            found.cause == "port_in_use" && found.what.contains("nginx"),
            "{found}"
        );
        assert_eq!(judge_listening(&busy, true), None);
        let other = ListenError::NotLocal { ip };
        assert_eq!(
            judge_listening(&other, true).map(|f| f.cause),
            Some("address_not_local")
        );
    }

    #[test]
    fn forwarding_is_named() {
        assert_eq!(judge_forwarding("eth0", &[]), None);
        let on = ["net.ipv4.ip_forward".to_owned()];
        let found = judge_forwarding("eth0", &on).expect("found");
        assert!(
            found.fix.contains("sysctl -w net.ipv4.ip_forward=0"),
            "{found}"
        );
    }
}
