//! Targets on the same host and what its netfilter does to the raw-socket path.

use super::scene::{Ended, Plan, Scene, TARGET, ip, lab, link, nft, sysctl};
use lab::{
    Host, Lab,
    replay::{PRODUCTION_PORT, TARGET_PORT},
    traffic::Curl,
};
use std::{thread, time::Duration};

/// The server is on production itself: clients of a pool, whose answers are routed to the assistant.
fn same_host() -> (Lab, Plan) {
    let lab = lab();
    ip(
        &lab,
        Host::Production,
        "route add 10.77.1.0/24 via 10.77.0.40",
    );
    let mut plan = Plan {
        server: Host::Production,
        ..Plan::default()
    };
    pooled(&mut plan, TARGET);
    (lab, plan)
}

fn pooled(plan: &mut Plan, target: &str) {
    let own = Host::Production.address();
    plan.copy.transfer = format!("{own}:{PRODUCTION_PORT}-{target}:{TARGET_PORT}");
    plan.copy
        .more
        .extend(["-c", "10.77.1.0/24"].map(str::to_owned));
    plan.directives = ["set $lab_client pooled;"; 2];
}

fn all_by_raw_sockets(ended: &Ended) {
    let raw = ended.tx("tx_raw_frames");
    assert!(
        raw > 500 && ended.tx("tx_frames") == 0,
        "{}",
        ended.report.json["counters"]
    );
    assert_eq!(ended.lines(&["host's own stack"]), 1, "{}", ended.log);
}

#[test]
fn the_target_is_on_the_same_host() {
    let (lab, plan) = same_host();
    let mut scene = Scene::set(lab, &plan);
    scene.load();
    let ended = scene.finish();
    ended.assert_nothing_dropped();
    all_by_raw_sockets(&ended);
}

#[test]
fn the_target_is_in_a_container_on_the_same_host() {
    let lab = lab();
    let container = Host::Target;
    link(&lab, Host::Production, "eth7", 7);
    // A container's only way out leads through its host.
    ip(
        &lab,
        container,
        "link set eth0 down\nroute add default via 10.77.7.1",
    );
    ip(
        &lab,
        Host::Production,
        "route add 10.77.1.0/24 via 10.77.0.40",
    );
    sysctl(&lab, Host::Production, &["net.ipv4.ip_forward=1"]);
    let mut plan = Plan::default();
    pooled(&mut plan, "10.77.7.30");
    let mut scene = Scene::set(lab, &plan);
    scene.load();
    let ended = scene.finish();
    ended.assert_nothing_dropped();
    assert_eq!(
        ended.lines(&["sending by AF_XDP", "eth7"]),
        1,
        "{}",
        ended.log
    );
}

#[test]
fn a_rule_drops_what_raw_sockets_send() {
    let (lab, plan) = same_host();
    let mut scene = Scene::set(lab, &plan);
    scene.load();
    scene.pass(60);
    nft(
        &scene.lab,
        Host::Production,
        &format!(
            "table ip wall {{ chain out {{ type filter hook output priority 0; \
             ip daddr {TARGET} tcp dport {TARGET_PORT} drop; }}; }}"
        ),
    );
    scene.wait_for_log(&["are not sent", "firewall"]);
    thread::sleep(Duration::from_secs(2));
    nft(&scene.lab, Host::Production, "delete table ip wall");
    let ended = scene.finish();
    assert!(
        ended.dropped("tx_error_eperm") > 0,
        "{}",
        ended.report.json["packets"]
    );
    assert_eq!(
        ended.lines(&["are not sent", "firewall"]),
        1,
        "{}",
        ended.log
    );
}

#[test]
fn nat_rewrites_what_raw_sockets_send() {
    let (lab, mut plan) = same_host();
    plan.copy.more.extend(["-t", "3s"].map(str::to_owned));
    nft(
        &lab,
        Host::Production,
        &format!(
            "table ip mask {{ chain post {{ type nat hook postrouting priority 100; \
             ip daddr {TARGET} ip saddr 10.77.1.0/24 snat to 10.77.0.20; }}; }}"
        ),
    );
    let mut scene = Scene::set(lab, &plan);
    scene.curl(&Curl::short("rewritten", 20).paced(10));
    scene.wait_for_log(&["NAT of this host rewrites", "to 10.77.6.30:8080"]);
    scene.load_done();
    nft(&scene.lab, Host::Production, "delete table ip mask");
    scene.curl(&Curl::short("plain", 30).paced(10));
    scene.wait_for_log(&["NAT of this host no longer rewrites"]);
    scene.load_done();
    let ended = scene.end();
    assert!(
        ended.tx("tx_nat_connections_rewritten") > 0,
        "{}",
        ended.report.json["counters"]
    );
    assert_eq!(
        ended.lines(&["NAT of this host rewrites"]),
        1,
        "{}",
        ended.log
    );
}
