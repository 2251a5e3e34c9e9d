//! `tcpcopy-user doctor`: finds out and says in one sentence which hop fails and what to do.
//!
//! ```text
//!  host ─▶ settings ─▶ channel ─▶ way ─▶ capture ─▶ probe          each: collect facts, judge them
//!    └ no privilege, no interface: the end         └ a client's address for the probe
//!
//!  vigil: in a run, when nothing is captured or answered for a while: capture and probe on a thread of their own
//! ```
//! Nothing here is on a packet's way: a run's workers never come here.

mod capture;
mod channel;
mod probe;
mod settings;
mod vigil;
mod way;

pub use vigil::{Suspicion, Vigil};

use crate::channel::Channel;
use crate::checks;
use crate::cli::{CaptureKind, Config, Pool};
use crate::run::Attached;
use capture::Collector;
use channel::Reach;
use common::packet::{Addr, Endpoint};
use dataplane::bpf::Filter;
use dataplane::clock;
use dataplane::cores::CoreList;
use dataplane::iface::Interface;
use doctor::host::{self, HostFacts};
use doctor::look::look;
use doctor::{Diagnosis, Finding, kernel};
use std::ops::ControlFlow;
use std::time::Duration;

/// Targets that are probed: each takes up to three seconds.
const MAX_PROBES: usize = 8;

/// Looks at every hop of a run with these settings, at captured packets for `window`. `object` is the BPF object.
pub fn diagnose(config: &Config, object: &[u8], window: Duration) -> Diagnosis {
    let mut found = Diagnosis::default();
    let ControlFlow::Continue(iface) = at_host(config, &mut found) else {
        return found;
    };
    let reaches = at_channel(config, &mut found);
    let ways = at_way(config, &mut found);
    // Nothing arrives on an interface that is down, which was found.
    let iface = iface.filter(|iface| iface.up && iface.carrier);
    let client = iface.and_then(|iface| at_capture(config, object, &iface, window, &mut found));
    at_probe(config, &reaches, &ways, client, &mut found);
    found
}

/// The interface, none with files; or there is no use to go on.
fn at_host(config: &Config, found: &mut Diagnosis) -> ControlFlow<(), Option<Interface>> {
    let mut facts = HostFacts::default();
    facts.see_clock();
    let cores = config.cores.as_ref().map(CoreList::check_available);
    facts.cores = cores.and_then(Result::err).map(|e| e.to_string());
    let iface = if config.offline.is_some() {
        let may = checks::check_transmit_privileges();
        facts.forbidden = may.err().map(|e| e.to_string());
        None
    } else {
        let may = checks::check_privileges();
        facts.forbidden = may.err().map(|e| e.to_string());
        let iface = Interface::by_name(&config.iface);
        facts.see(&iface);
        iface.ok()
    };
    let findings = host::judge(&facts);
    let fatal = host::is_fatal(&findings);
    found.add(findings);
    if let Some(i) = &iface {
        found.note(format!(
            "interface {}: {}, {} receive queues, MTU {}",
            i.name,
            if i.up { "up" } else { "down" },
            i.rx_queues,
            i.mtu
        ));
    }
    let refused = refusals(config, iface.as_ref());
    if !fatal {
        found.add(refused.iter().map(settings::judge));
    }
    if fatal || !refused.is_empty() {
        return ControlFlow::Break(());
    }
    ControlFlow::Continue(iface)
}

/// What a run would refuse.
fn refusals(config: &Config, iface: Option<&Interface>) -> Vec<checks::CheckError> {
    let addresses = iface.iter().flat_map(|iface| &iface.addresses);
    let own: Vec<Addr> = addresses.map(|(addr, _)| *addr).collect();
    let mut all = vec![
        checks::check_targets(&config.transfers, &config.iface, &own),
        checks::check_udp_targets(
            &config.transfers,
            &config.udp_transfers,
            &config.iface,
            &own,
        ),
    ];
    if let Some(pool) = &config.clients {
        all.push(checks::check_clients(&config.transfers, pool));
        all.push(checks::check_clients(&config.udp_transfers, pool));
    }
    if let Some(Pool::Addresses { addresses, .. }) = &config.pool {
        let transfers = [&config.transfers[..], &config.udp_transfers];
        let local = Interface::local_addresses().unwrap_or_default();
        let fits = checks::check_pool_addresses(&transfers, addresses, &local);
        all.push(fits.map_err(checks::CheckError::from));
    }
    if let Some(iface) = iface
        && config.capture == CaptureKind::Mirror
        && !config.force
    {
        all.push(checks::check_mirror(iface, &config.decap));
    }
    all.into_iter().filter_map(Result::err).collect()
}

fn at_channel(config: &Config, found: &mut Diagnosis) -> Vec<Reach> {
    let six = config.transfers.iter().find(|t| !t.target.addr.is_v4());
    let six = six.map(|t| t.target);
    let mut reaches = Vec::new();
    for &intercept in &config.intercepts {
        let reach = channel::reach(intercept, config.key.as_ref());
        found.note(format!("intercept {intercept}: {}", said(&reach)));
        found.add(channel::judge(intercept, &reach, six));
        reaches.push(reach);
    }
    reaches
}

fn said(reach: &Reach) -> &'static str {
    match reach {
        Reach::Native => "speaks our own format",
        Reach::Silent => "takes connections, silent as a C intercept",
        Reach::Refused | Reach::TimedOut | Reach::Failed(_) => "not reached",
        Reach::Closed | Reach::Alien(_) | Reach::Key(_) => "reached, but does not speak with us",
    }
}

fn at_way(config: &Config, found: &mut Diagnosis) -> Vec<way::Way> {
    let ways = way::find(config);
    for way in &ways {
        match &way.hop {
            Ok(hop) => found.note(format!(
                "way to {}: by {} via {} ({}), MTU {}",
                way.target, hop.ifname, hop.via, hop.macs.dst, hop.mtu
            )),
            Err(error) => found.add([way::judge(error)]),
        }
    }
    ways
}

/// Captures as a run would, beside looking at all that passes. An address of a client, if one was seen.
fn at_capture(
    config: &Config,
    object: &[u8],
    iface: &Interface,
    window: Duration,
    found: &mut Diagnosis,
) -> Option<Addr> {
    let features = iface.features();
    let mut attached = match Attached::attach(config, object, 1, false) {
        Ok(attached) => attached,
        Err(error) => {
            found.add([kernel::judge(&error)]);
            return None;
        }
    };
    let filter = config.filter.as_ref().map(Filter::expression);
    for o in checks::offloads_in_the_way(config.capture, filter, attached.native(), &features) {
        found.add([Finding::new(
            "receive_offload",
            format!(
                "the receive offload {} of {} is on: {}",
                o.feature, iface.name, o.breaks
            ),
            format!("`ethtool -K {} {} off`", iface.name, o.option),
        )]);
    }
    let mut sources = attached.take_ports(0).sources;
    let mut collector = Collector::new(config, iface.index);
    let mut taken = None;
    let looked = look(
        window,
        |seen| collector.see(seen),
        || {
            for source in &mut sources {
                // As the readers of a run do, so that the rings do not fill.
                source.recv(&mut |batch| {
                    let last = batch.last().map(|frame| frame.bytes);
                    let packet = last.and_then(|bytes| common::packet::decode_frame(bytes).ok());
                    taken = packet.map(|p| p.ip.src).or(taken);
                });
            }
            false
        },
    );
    // Sockets first, then the program.
    drop(sources);
    for counter in attached.counters() {
        collector.count(counter.name, counter.value);
    }
    attached.detach();
    if let Err(error) = looked {
        found.note(format!("packets of this host cannot be looked at: {error}"));
    }
    collector.facts.seconds = window.as_secs().max(1);
    found.note(format!(
        "capture by {} on {}: {} packets captured in {} s, {} arrived",
        config.capture_name(),
        iface.name,
        collector.facts.captured,
        collector.facts.seconds,
        collector.facts.arrived
    ));
    found.add(capture::judge(&collector.facts));
    taken.or(collector.client)
}

fn at_probe(
    config: &Config,
    reaches: &[Reach],
    ways: &[way::Way],
    client: Option<Addr>,
    found: &mut Diagnosis,
) {
    let speaks = |reach: &&Reach| matches!(reach, Reach::Native | Reach::Silent);
    let silent = !reaches.contains(&Reach::Native);
    let intercepts: Vec<Endpoint> = config
        .intercepts
        .iter()
        .zip(reaches)
        .filter(|(_, reach)| speaks(reach))
        .map(|(intercept, _)| *intercept)
        .collect();
    // Those that do not speak have their findings, and lonely means that a lost one is no error.
    let key = config.key.as_ref();
    let Ok(mut channel) = Channel::connect_with(&intercepts, 1, true, key, clock::now()) else {
        return;
    };
    // Only while the pool's program is attached the network knows its addresses.
    let client = config
        .clients
        .as_ref()
        .and_then(|pool| pool.addresses().last().copied())
        .or(client)
        .filter(|_| config.pool.is_none());
    if config.pool.is_some() {
        found.note(
            "answers to addresses of --pool were not probed, frames from this host's own were",
        );
    } else if client.is_none() {
        found.note("no client's address is known (no -c, and none was captured): answers by intercept were not probed");
    }
    let mut targets: Vec<Endpoint> = config.transfers.iter().map(|t| t.target).collect();
    targets.sort_unstable();
    targets.dedup();
    for target in targets.into_iter().take(MAX_PROBES) {
        let Some(way) = ways.iter().find(|way| way.target == target.addr) else {
            continue;
        };
        let Ok(hop) = &way.hop else { continue };
        let by_hand = config.target_macs.iter().find(|(a, _)| *a == target.addr);
        let given = probe::Given {
            target,
            hop,
            client,
            mac: by_hand.map(|(_, mac)| (*mac, way.asked)),
            silent,
        };
        match probe::follow(&given, &mut channel) {
            Ok(facts) => {
                found.note(format!(
                    "target {target}: own connection {:?}, frame from own address {:?}, {}",
                    facts.plain,
                    facts.own,
                    facts.client.as_ref().map_or_else(
                        || "no client probed".to_owned(),
                        |probe| format!(
                            "client {} answered by intercept: {:?}",
                            probe.client, probe.answer
                        )
                    )
                ));
                found.add(probe::judge(&facts));
            }
            Err(why) => found.note(format!("target {target} was not probed: {why}")),
        }
    }
}
