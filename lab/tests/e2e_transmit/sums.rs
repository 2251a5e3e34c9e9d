//! Checksums are right whoever made those that were captured: partial ones of local peers, complete ones of the
//! sender's stack. The receivers' own counters say so (`Scene::end`).

use super::scene::{Plan, Scene, TARGET, ip, lab, link};
use lab::{Host, traffic::Curl, world::run};

fn with_offload(on: &str) {
    let lab = lab();
    link(&lab, Host::Production, "eth7", 7);
    ip(
        &lab,
        Host::Production,
        &format!("route add {TARGET} via 10.77.7.30"),
    );
    for (host, interface) in [
        (Host::Client, "eth0"),
        (Host::Production, "eth0"),
        (Host::Production, "eth7"),
        (Host::Target, "eth0"),
        (Host::Target, "eth7"),
        (Host::Assistant, "eth0"),
    ] {
        run(lab
            .command(host, "ethtool")
            .args(["-K", interface, "tx", on]))
        .unwrap();
    }
    let mut scene = Scene::set(lab, &Plan::default());
    scene.load();
    scene.curl(&Curl::short("large", 100).paced(25).posting_bytes(7000));
    let ended = scene.finish();
    assert_eq!(
        ended.report.dropped(),
        0,
        "{}",
        ended.report.json["packets"]
    );
}

#[test]
fn captured_sums_are_partial() {
    with_offload("on");
}

#[test]
fn captured_sums_are_complete() {
    with_offload("off");
}
