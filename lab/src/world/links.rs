//! Bridge, veth pairs, addresses, routes and the switch's port mirror.

use std::{fmt::Write as _, process::Command};

use super::{
    command::{run, run_with_input},
    host::{CLIENT_SOURCE, Cable, HOSTS, Host},
    lab::LabOptions,
    namespace::Namespace,
};
use crate::LabError;

/// Settings that every namespace has. Strict reverse-path filtering is what Red Hat's and many hosting companies'
/// images set, and it is the harder case: an answer's route must match the interface of the request.
const SYSCTLS: [(&str, &str); 6] = [
    ("ipv4/ip_forward", "0"),
    ("ipv4/conf/all/rp_filter", "1"),
    ("ipv4/conf/default/rp_filter", "1"),
    ("ipv6/conf/all/disable_ipv6", "1"),
    ("ipv6/conf/default/disable_ipv6", "1"),
    ("core/somaxconn", "4096"),
];

/// Name of the mirror port's other end, in the capture namespace.
const MIRROR_INNER: &str = "mir0";

/// Sysctls of a new namespace and its loopback.
pub(super) fn prepare(namespace: &Namespace) -> Result<(), LabError> {
    namespace.sysctl(&SYSCTLS)?;
    ip_batch(namespace, "link set lo up\n")
}

/// Bridge and cables. Everything is created inside the switch's namespace: the machine's own is never touched.
pub(super) fn wire(
    switch: &Namespace,
    host: impl Fn(Host) -> Namespace,
    options: &LabOptions,
) -> Result<(), LabError> {
    // forward_delay 0: a port forwards at once. No multicast snooping: it would make the bridge speak.
    let mut batch = String::from(
        "link add br0 type bridge forward_delay 0 mcast_snooping 0\nlink set br0 up\n",
    );
    let queues = options.queues;
    let many = format!("numrxqueues {queues} numtxqueues {queues}");
    let mut cable = |cable: Cable, namespace: &Namespace, inner: &str, bridged: bool| {
        let port = cable.port();
        let peer = namespace.name();
        if options.spliced.contains(&cable) {
            let [a, b] = cable.splice();
            let _ = writeln!(
                batch,
                "link add {port} {many} type veth peer name {a} {many}"
            );
            let _ = writeln!(
                batch,
                "link add {b} {many} type veth peer name {inner} netns {peer} {many}"
            );
            let _ = writeln!(batch, "link set {a} up\nlink set {b} up");
        } else {
            let _ = writeln!(
                batch,
                "link add {port} {many} type veth peer name {inner} netns {peer} {many}"
            );
        }
        if bridged {
            let _ = writeln!(batch, "link set {port} master br0");
        }
        let _ = writeln!(batch, "link set {port} up");
    };
    for each in HOSTS {
        cable(Cable::Of(each), &host(each), "eth0", true);
    }
    cable(Cable::Mirror, &host(Host::Capture), MIRROR_INNER, false);
    ip_batch(switch, &batch)?;

    for each in HOSTS {
        ip_batch(&host(each), &addressing(each))?;
        if options.spliced.contains(&Cable::Of(each)) {
            // Who forwards a frame in user space sees neither its unfinished checksum nor its segment size.
            run(host(each)
                .command("ethtool")
                .args(["-K", "eth0", "tx", "off", "tso", "off", "gso", "off"]))?;
        }
    }
    mirror(switch, Cable::Mirror.port(), &options.mirrored)
}

fn addressing(host: Host) -> String {
    let mut batch = format!(
        "addr add {}/24 dev eth0\nlink set eth0 up\n",
        host.address()
    );
    match host {
        Host::Client => {
            let _ = writeln!(batch, "addr add {CLIENT_SOURCE}/32 dev eth0");
            let _ = writeln!(
                batch,
                "route replace 10.77.0.0/24 dev eth0 scope link src {CLIENT_SOURCE}"
            );
        }
        Host::Production => batch.push_str("route add 10.77.2.0/24 dev eth0\n"),
        Host::Target => {
            for network in ["10.77.1.0/24", "10.77.2.0/24"] {
                let _ = writeln!(
                    batch,
                    "route add {network} via {}",
                    Host::Assistant.address()
                );
            }
        }
        Host::Assistant => {}
        Host::Capture => batch.push_str("link set mir0 up\n"),
    }
    batch
}

/// Limits what the client gets to `megabits` per second, as the link of real clients does. A client that sends its
/// next request when it has the answer (ab, wrk) is paced by it.
pub(super) fn limit_client(switch: &Namespace, megabits: u32) -> Result<(), LabError> {
    // Bucket: a few GSO packets; queue: 2 s of the rate, so that nothing is dropped.
    let shaper =
        format!("qdisc add dev client root tbf rate {megabits}mbit burst 256kb latency 2s");
    run(switch.command("tc").args(shaper.split(' '))).map(drop)
}

/// Copies both directions of the ports of `mirrored` to the mirror port, as a switch's SPAN session does.
fn mirror(switch: &Namespace, port: &str, mirrored: &[Host]) -> Result<(), LabError> {
    // A switch port carries frames of at most the MTU, while a veth passes whole GSO packets.
    run(switch
        .command("ethtool")
        .args(["-K", port, "tso", "off", "gso", "off"]))?;
    for host in mirrored {
        let name = host.name();
        run(switch
            .command("tc")
            .args(["qdisc", "add", "dev", name, "clsact"]))?;
        for direction in ["ingress", "egress"] {
            let filter = format!(
                "filter add dev {name} {direction} protocol all u32 match u32 0 0 action mirred egress mirror dev {port}"
            );
            run(switch.command("tc").args(filter.split(' ')))?;
        }
    }
    Ok(())
}

fn ip_batch(namespace: &Namespace, batch: &str) -> Result<(), LabError> {
    run_with_input(
        Command::new("ip").args(["-n", namespace.name(), "-batch", "-"]),
        batch,
    )
    .map(drop)
}
