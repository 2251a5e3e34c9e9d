//! Routes and neighbours.

use super::scene::{Plan, Scene, TARGET, ip, lab, lab_by_link, link, router, sysctl};
use lab::{
    Host, Lab,
    replay::{PRODUCTION_PORT, TARGET_PORT},
    traffic::Curl,
    world::{InterfaceCounters, run},
};
use std::process::Command;

fn received(lab: &Lab, host: Host, interface: &str) -> u64 {
    InterfaceCounters::of(&lab.host(host), interface)
        .unwrap()
        .rx_packets
}

/// The host leads to the target over a link of its own.
fn gateway(lab: &Lab, host: Host, name: &str, net: u8) {
    router(lab, host);
    link(lab, host, name, net);
    ip(lab, host, &format!("route add {TARGET} via 10.77.{net}.30"));
}

#[test]
fn the_route_moves_to_another_gateway_and_to_another_interface() {
    let lab = lab();
    gateway(&lab, Host::Capture, "eth9", 9);
    link(&lab, Host::Production, "eth7", 7);
    // A second gateway: another address and MAC of the same router, each of which answers for itself alone.
    sysctl(&lab, Host::Capture, &["net.ipv4.conf.all.arp_ignore=1"]);
    ip(
        &lab,
        Host::Capture,
        "link add eth1 link eth0 type macvlan mode private\naddr add 10.77.0.51/24 dev eth1\nlink set eth1 up",
    );
    let lead = |lab: &Lab, way: &str| {
        ip(
            lab,
            Host::Production,
            &format!("route replace {TARGET} {way}"),
        );
    };
    lead(&lab, "via 10.77.0.50");
    let mut scene = Scene::set(lab, &Plan::default());
    scene.load();
    for (way, host, interface) in [
        ("via 10.77.0.51", Host::Capture, "eth1"),
        ("via 10.77.7.30 dev eth7", Host::Target, "eth7"),
        ("via 10.77.0.50", Host::Target, "eth9"),
    ] {
        scene.pass(50);
        let before = received(&scene.lab, host, interface);
        lead(&scene.lab, way);
        scene.pass(40);
        let came = received(&scene.lab, host, interface) - before;
        assert!(came > 60, "{came} packets by {interface}");
    }
    let ended = scene.finish();
    assert_eq!(
        ended.lines(&["another interface", "eth7"]),
        1,
        "{}",
        ended.log
    );
    assert_eq!(
        ended.lines(&["sending by AF_XDP", "eth7"]),
        1,
        "{}",
        ended.log
    );
}

#[test]
fn the_gateways_mac_changes() {
    let lab = lab();
    gateway(&lab, Host::Capture, "eth9", 9);
    ip(
        &lab,
        Host::Production,
        &format!("route add {TARGET} via 10.77.0.50"),
    );
    // As routers do that take over an address: the new one is announced (RFC 5227 section 3).
    sysctl(&lab, Host::Capture, &["net.ipv4.conf.eth0.arp_notify=1"]);
    let mut scene = Scene::set(lab, &Plan::default());
    scene.load();
    scene.pass(60);
    ip(
        &scene.lab,
        Host::Capture,
        "link set eth0 address 02:00:00:77:00:51",
    );
    scene.wait_for_log(&["next hop", "02:00:00:77:00:51"]);
    scene.finish();
}

#[test]
fn two_targets_behind_two_interfaces() {
    let lab = lab_by_link();
    let mut plan = Plan {
        directives: ["listen 10.77.0.20:81;", ""],
        ..Plan::default()
    };
    plan.copy.transfer = format!(
        "{PRODUCTION_PORT}-{TARGET}:{TARGET_PORT},81-{}:{TARGET_PORT}",
        Host::Target.address()
    );
    let before = received(&lab, Host::Target, "eth7");
    let mut scene = Scene::set(lab, &plan);
    scene.load();
    scene.curl(&Curl::short("other", 150).to_port(81).paced(25));
    scene.curl(&Curl::kept("other-kept", 150).to_port(81).paced(25));
    let ended = scene.finish();
    let sent = ended.report.number("packets/transmitted");
    let half = received(&ended.lab, Host::Target, "eth7") - before;
    assert!(half > sent / 4 && half < sent * 3 / 4, "{half} of {sent}");
    ended.assert_nothing_dropped();
}

#[test]
fn a_target_that_goes_away_and_comes_back() {
    let lab = lab();
    let target = Host::Target.address();
    ip(
        &lab,
        Host::Production,
        &format!("route add {TARGET} via {target}"),
    );
    let mut scene = Scene::set(lab, &Plan::default());
    let plug = |lab: &Lab, how: &[&str]| {
        let switch = lab.switch();
        run(Command::new("ip")
            .args(["-n", switch.name(), "link", "set", "target"])
            .args(how))
        .unwrap();
    };
    scene.load();
    scene.pass(60);
    // Out of the switch: the link of production stays up, but nobody answers ARP.
    plug(&scene.lab, &["nomaster"]);
    ip(
        &scene.lab,
        Host::Production,
        &format!("neigh del {target} dev eth0"),
    );
    scene.wait_for_log(&["cannot be reached", "does not answer"]);
    scene.pass_at_production(20);
    plug(&scene.lab, &["master", "br0"]);
    let ended = scene.finish();
    assert!(
        ended.dropped("tx_no_neighbour") > 0,
        "{}",
        ended.report.json["packets"]
    );
    assert_eq!(ended.lines(&["does not answer"]), 1, "{}", ended.log);
}

#[test]
fn a_target_that_is_not_there_at_the_start() {
    let lab = lab();
    link(&lab, Host::Production, "eth7", 7);
    ip(&lab, Host::Target, "link set eth7 down");
    ip(
        &lab,
        Host::Production,
        &format!("route add {TARGET} via 10.77.7.30 dev eth7 onlink"),
    );
    let mut plan = Plan::default();
    plan.copy.more.push("-L".to_owned());
    let mut scene = Scene::set(lab, &plan);
    scene.load();
    scene.pass_at_production(30);
    ip(&scene.lab, Host::Target, "link set eth7 up");
    let ended = scene.finish();
    assert!(
        ended.dropped("tx_no_neighbour") > 0,
        "{}",
        ended.report.json["packets"]
    );
    assert_eq!(
        ended.lines(&["sending by AF_XDP", "eth7"]),
        1,
        "{}",
        ended.log
    );
}

#[test]
fn macs_by_hand_are_not_asked_for() {
    let lab = lab_by_link();
    ip(
        &lab,
        Host::Target,
        "link set eth7 address 02:00:00:77:07:30\nlink set eth7 arp off",
    );
    let mut plan = Plan::default();
    plan.copy.more.extend([
        "--target-mac".to_owned(),
        format!("{TARGET}=02:00:00:77:07:30"),
    ]);
    let mut scene = Scene::set(lab, &plan);
    scene.load();
    let ended = scene.finish();
    ended.assert_nothing_dropped();
}
