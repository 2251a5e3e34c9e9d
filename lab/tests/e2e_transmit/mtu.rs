//! Packets that the way does not take.

use super::scene::{Plan, Scene, TARGET, ip, lab, lab_by_link, link, nft, router};
use lab::{Host, traffic::Curl};

/// Five full segments in each request.
const BODY_BYTES: usize = 7000;

fn post(scene: &mut Scene) {
    scene.curl(&Curl::kept("kept", 100).paced(25).posting_bytes(BODY_BYTES));
    scene.curl(
        &Curl::short("short", 100)
            .paced(25)
            .posting_bytes(BODY_BYTES),
    );
}

/// A router whose link to the target takes 1300 bytes, and says so or not.
fn narrow_router(silent: bool) -> Scene {
    let lab = lab();
    router(&lab, Host::Capture);
    link(&lab, Host::Capture, "eth9", 9);
    ip(
        &lab,
        Host::Capture,
        &format!("route add {TARGET} via 10.77.9.30\nlink set eth9 mtu 1300"),
    );
    if silent {
        nft(
            &lab,
            Host::Capture,
            "table ip wall { chain out { type filter hook output priority 0; ip protocol icmp drop; }; }",
        );
    }
    ip(
        &lab,
        Host::Production,
        &format!("route add {TARGET} via 10.77.0.50"),
    );
    Scene::set(lab, &Plan::default())
}

#[test]
fn a_router_says_that_packets_are_too_large() {
    let mut scene = narrow_router(false);
    post(&mut scene);
    scene.wait_for_log(&["next hop", "mtu=1300"]);
    let ended = scene.finish();
    assert!(
        ended.tx("segments_cut") > 100,
        "{}",
        ended.report.json["counters"]
    );
    ended.assert_nothing_dropped();
}

#[test]
fn a_router_drops_large_packets_in_silence() {
    let mut scene = narrow_router(true);
    scene.curl(&Curl::short("short", 20).paced(10).posting_bytes(BODY_BYTES));
    let ended = scene.finish();
    assert!(ended.report.number("packets/retransmitted") > 0);
}

#[test]
fn the_interfaces_mtu_is_lowered() {
    let lab = lab_by_link();
    let mut scene = Scene::set(lab, &Plan::default());
    post(&mut scene);
    scene.pass(40);
    ip(&scene.lab, Host::Production, "link set eth7 mtu 1200");
    ip(&scene.lab, Host::Target, "link set eth7 mtu 1200");
    scene.pass(40);
    ip(&scene.lab, Host::Production, "link set eth7 mtu 1500");
    ip(&scene.lab, Host::Target, "link set eth7 mtu 1500");
    let ended = scene.finish();
    assert!(
        ended.tx("segments_cut") > 50,
        "{}",
        ended.report.json["counters"]
    );
}

#[test]
fn the_largest_packet_by_hand() {
    let lab = lab_by_link();
    // The target's interface takes nothing larger: a packet beyond -M would be lost.
    ip(&lab, Host::Target, "link set eth7 mtu 900");
    let mut plan = Plan::default();
    plan.copy.more.extend(["-M", "900"].map(str::to_owned));
    let mut scene = Scene::set(lab, &plan);
    post(&mut scene);
    let ended = scene.finish();
    assert_eq!(ended.report.number("packets/retransmitted"), 0);
    ended.assert_nothing_dropped();
}
