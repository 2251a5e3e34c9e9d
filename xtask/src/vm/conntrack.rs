//! What netfilter of a guest does to what raw sockets send there. A kernel of its own, since only the first network
//! namespace has a limit of connections that can be set.
//!
//! ```text
//!   production's mirror ─▶ guest: tcpcopy ── raw sockets ── OUTPUT, conntrack, NAT ── lo ─▶ target
//!                          lab: assistant ◀── answers to the pool ────────────────────────────┘
//! ```

use lab::{
    Host,
    replay::{Intercept, PRODUCTION_PORT, TARGET_PORT, stop},
};

use super::{
    cases::with_log,
    scene::{Place, Scene},
};
use crate::Result;

/// Clients of the target, which answers them by the assistant; the mirrored ones' answers are production's.
const POOL: &str = "10.77.1.0/24";
/// A source that nobody has.
const NOBODY: &str = "10.77.0.99";
/// Requests of each part.
const REQUESTS: u64 = 60;
/// More than there are.
const ROOMY: u32 = 65_536;

/// A NAT rule, then a full table, then neither: both are named and counted, and the last part is replayed.
pub fn raw_sockets(scene: &mut Scene) -> Result<()> {
    let pair = &scene.pairs[0];
    let (mirrored, switched, address) = (pair.mirrored.name, pair.switched.name, pair.address);
    scene.connect(switched, address)?;
    scene.mirror_to(mirrored)?;
    let assistant_at = Host::Assistant.address();
    scene
        .guest
        .run(&format!("ip route replace {POOL} via {assistant_at}"))?;
    let _servers = scene.servers(Place::Lab, Place::Guest(address))?;
    let mut assistant = Intercept::default().start(&scene.lab, scene.programs)?;
    scene.guest.start(
        "raw",
        &format!(
            "tcpcopy-user --iface {mirrored} --capture mirror --cores 0,1 -x {PRODUCTION_PORT}-{address}:{TARGET_PORT} \
             -s {assistant_at} -c {POOL} -t 3s --report /tmp/raw.json"
        ),
    )?;
    scene.guest.wait_for_link(mirrored)?;
    let parts = parts(scene, address);
    scene.guest.run(&format!(
        "echo {ROOMY} > /proc/sys/net/netfilter/nf_conntrack_max; nft flush ruleset"
    ))?;
    let log = scene.guest.stop("raw", "INT")?;
    stop(&mut assistant)?;
    scene.guest.stop(Host::Target.name(), "KILL")?;
    parts
        .and_then(|()| counted(scene))
        .map_err(|error| with_log(&error.to_string(), &log).into())
}

fn parts(scene: &mut Scene, address: &str) -> Result<()> {
    // Only rules that ask it make a kernel track connections.
    scene.guest.run(&format!(
        "nft 'table ip replay {{ chain track {{ type filter hook output priority 0; ct state invalid counter; }}; \
         chain mask {{ type nat hook postrouting priority 100; ip daddr {address} ip saddr {POOL} snat to {NOBODY}; }}; }}'"
    ))?;
    scene.load(Place::Lab, REQUESTS)?;
    scene
        .guest
        .wait_for_log("raw", "NAT of this host rewrites what raw sockets send")?;
    scene.guest.run("nft flush chain ip replay mask")?;
    // The channel's connections are in the table already.
    scene
        .guest
        .run("echo 1 > /proc/sys/net/netfilter/nf_conntrack_max")?;
    scene.load(Place::Lab, REQUESTS)?;
    scene
        .guest
        .wait_for_log("raw", "the conntrack table is full")?;
    scene.guest.run(&format!(
        "echo {ROOMY} > /proc/sys/net/netfilter/nf_conntrack_max"
    ))?;
    scene.load(Place::Lab, REQUESTS)?;
    // Of the part before also those that were sent again may come.
    scene
        .guest
        .run(&format!(
            "for i in $(seq 50); do [ $(wc -l < /tmp/target.access) -ge {REQUESTS} ] && break; sleep 0.1; done
             wc -l < /tmp/target.access; [ $(wc -l < /tmp/target.access) -ge {REQUESTS} ]"
        ))
        .map(drop)
}

/// All that was not sent is in the report.
fn counted(scene: &mut Scene) -> Result<()> {
    let report: serde_json::Value = serde_json::from_str(&scene.guest.run("cat /tmp/raw.json")?)?;
    let tx = &report["counters"]["tx"];
    let refused = report["packets"]["dropped"]["tx_error_eperm"].as_u64();
    // Statistics are the host's: others' packets may be among them.
    let by_conntrack = tx["tx_conntrack_drops"].as_u64();
    let rewritten = tx["tx_nat_connections_rewritten"].as_u64();
    if refused > Some(0) && by_conntrack >= refused && rewritten > Some(0) {
        return Ok(());
    }
    Err(format!(
        "expected packets that conntrack dropped, the same as refused ones, and rewritten connections, got: {tx}, \
         dropped {}",
        report["packets"]["dropped"]
    )
    .into())
}
