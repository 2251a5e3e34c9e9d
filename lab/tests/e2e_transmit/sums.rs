//! Checksums are right whoever made those that were captured: partial ones of local peers, complete ones of the
//! sender's stack. The receivers' own counters say so (`Scene::end`).

use super::scene::{Plan, Scene, lab_by_link};
use lab::{Host, traffic::Curl, world::run};

fn with_offload(on: &str) {
    let lab = lab_by_link();
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
    ended.assert_nothing_dropped();
}

#[test]
fn captured_sums_are_partial() {
    with_offload("on");
}

#[test]
fn captured_sums_are_complete() {
    with_offload("off");
}
