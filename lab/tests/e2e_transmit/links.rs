//! Interfaces towards the target: what they are made of, and what becomes of them.

use super::scene::{Plan, Scene, TARGET, ip, lab, lab_by_link, link};
use lab::{Host, Lab};
use std::{thread, time::Duration};

/// Longer than the first retransmissions of every session.
const AWAY: Duration = Duration::from_secs(2);

fn lead(lab: &Lab, device: &str) {
    ip(
        lab,
        Host::Production,
        &format!("route replace {TARGET} via 10.77.7.30 dev {device}"),
    );
}

#[test]
fn the_link_is_set_down_and_up() {
    let lab = lab_by_link();
    let mut scene = Scene::set(lab, &Plan::default());
    scene.load();
    scene.pass(60);
    ip(&scene.lab, Host::Production, "link set eth7 down");
    thread::sleep(AWAY);
    ip(&scene.lab, Host::Production, "link set eth7 up");
    lead(&scene.lab, "eth7");
    let ended = scene.finish();
    // The kernel takes the route away with the link.
    let lost = ended.dropped("tx_no_route") + ended.dropped("tx_link_down");
    assert!(lost > 0, "{}", ended.report.json["packets"]);
    assert_eq!(ended.lines(&["cannot be reached"]), 1, "{}", ended.log);
    assert!(ended.report.number("packets/retransmitted") > 0);
}

#[test]
fn the_cable_is_pulled_and_put_back() {
    let lab = lab_by_link();
    let mut scene = Scene::set(lab, &Plan::default());
    scene.load();
    scene.pass(60);
    ip(&scene.lab, Host::Target, "link set eth7 down");
    thread::sleep(AWAY);
    ip(&scene.lab, Host::Target, "link set eth7 up");
    let ended = scene.finish();
    assert!(
        ended.report.dropped() > 0,
        "{}",
        ended.report.json["packets"]
    );
    assert!(ended.report.number("packets/retransmitted") > 0);
    let said = ended.lines(&["are not sent"]) + ended.lines(&["cannot be reached"]);
    assert!((1..=3).contains(&said), "{}", ended.log);
}

#[test]
fn the_interface_is_deleted_and_made_again() {
    let lab = lab_by_link();
    let mut scene = Scene::set(lab, &Plan::default());
    scene.load();
    scene.pass(60);
    ip(&scene.lab, Host::Production, "link del eth7");
    thread::sleep(AWAY);
    link(&scene.lab, Host::Production, "eth7", 7);
    lead(&scene.lab, "eth7");
    let ended = scene.finish();
    assert!(
        ended.dropped("tx_no_route") > 0,
        "{}",
        ended.report.json["packets"]
    );
    assert_eq!(
        ended.lines(&["sending by AF_XDP", "eth7"]),
        2,
        "{}",
        ended.log
    );
}

/// A device over the link eth7, with the address 10.77.7.1, made by `lines` on production.
fn behind(device: &str, lines: &str) {
    let lab = lab();
    link(&lab, Host::Production, "eth7", 7);
    ip(&lab, Host::Production, "addr flush dev eth7");
    ip(&lab, Host::Production, lines);
    ip(
        &lab,
        Host::Production,
        &format!("addr add 10.77.7.1/24 dev {device}\nlink set {device} up"),
    );
    lead(&lab, device);
    let mut scene = Scene::set(lab, &Plan::default());
    scene.load();
    let ended = scene.finish();
    ended.assert_nothing_dropped();
    // By AF_XDP, or it is said why not.
    let ways = ended.lines(&["sending by AF_XDP", device]) + ended.lines(&["raw socket", device]);
    assert_eq!(ways, 1, "{}", ended.log);
    eprintln!(
        "{device}: AF_XDP {}",
        ended.lines(&["sending by AF_XDP", device])
    );
}

#[test]
fn the_target_is_behind_a_bridge() {
    behind(
        "br7",
        "link add br7 type bridge forward_delay 0\nlink set eth7 master br7",
    );
}

#[test]
fn the_target_is_behind_a_macvlan() {
    behind("mv7", "link add mv7 link eth7 type macvlan mode bridge");
}

#[test]
fn the_target_is_behind_a_tunnel() {
    let lab = lab();
    link(&lab, Host::Production, "eth7", 7);
    for (host, own, other, address) in [
        (Host::Production, "10.77.7.1", "10.77.7.30", "10.77.5.1"),
        (Host::Target, "10.77.7.30", "10.77.7.1", "10.77.5.30"),
    ] {
        ip(
            &lab,
            host,
            &format!(
                "link add vx7 type vxlan id 7 local {own} remote {other} dstport 4789\n\
                 addr add {address}/24 dev vx7\nlink set vx7 up"
            ),
        );
    }
    ip(
        &lab,
        Host::Production,
        &format!("route add {TARGET} via 10.77.5.30"),
    );
    let mut scene = Scene::set(lab, &Plan::default());
    scene.load();
    let ended = scene.finish();
    ended.assert_nothing_dropped();
    assert_eq!(ended.lines(&["next hop", "mtu=1450"]), 1, "{}", ended.log);
}
