//! Interfaces that are no Ethernet card, and frames that are larger than the target's.

use super::scene::{Scene, ip, sysctl};
use lab::{
    Host, Lab, LabOptions,
    nginx::Nginx,
    replay::{Capture, Copy, PRODUCTION_PORT, TARGET_PORT},
    testing::require_root,
    world::run,
};
use std::net::Ipv4Addr;

/// Clients of these cases have no addresses that the target could answer.
const POOL: [&str; 2] = ["-c", "10.77.1.100-10.77.1.109"];
/// Where the backend or the container's server listens.
const BACKEND_PORT: u16 = 9000;
const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 77, 8, 20);
const WEB: (Ipv4Addr, u16) = (Host::Production.address(), PRODUCTION_PORT);

fn target() -> String {
    format!("{}:{TARGET_PORT}", Host::Target.address())
}

#[test]
fn a_proxy_and_its_backend_on_one_host() {
    require_root();
    let lab = Lab::up(&LabOptions::default()).unwrap();
    let mut copy = Copy::new(Capture::Tap);
    copy.interface = "lo".to_owned();
    copy.transfer = format!("127.0.0.1:{BACKEND_PORT}-{}", target());
    copy.more.extend(POOL.map(str::to_owned));
    // Packets of lo have partial checksums, no Ethernet address and up to 64 KiB.
    let backend = (Ipv4Addr::LOCALHOST, BACKEND_PORT);
    let scene = Scene::set(lab, &copy, Host::Production, backend);
    let forward = format!("location /lab/ {{ proxy_pass http://127.0.0.1:{BACKEND_PORT}; }}");
    let listen = format!("{}:{}", WEB.0, WEB.1);
    let _proxy =
        Nginx::start_named(&scene.lab, "proxy", Host::Production, &listen, &forward).unwrap();
    scene.load(WEB);
    let report = scene.finish();
    assert_eq!(report.number("packets/retransmitted"), 0);
}

/// A lab in which the capture host is a container of production: its `ctr0` is the other end of `veth0`.
fn with_container() -> Lab {
    let lab = Lab::up(&LabOptions::default()).unwrap();
    let container = lab.host(Host::Capture).name().to_owned();
    ip(
        &lab,
        Host::Production,
        &format!(
            "link add veth0 type veth peer name ctr0 netns {container}\n\
             addr add 10.77.8.1/24 dev veth0\nlink set veth0 up"
        ),
    );
    ip(
        &lab,
        Host::Capture,
        &format!(
            "addr add {CONTAINER}/24 dev ctr0\nlink set ctr0 up\n\
             route add 10.77.2.0/24 via 10.77.8.1\n"
        ),
    );
    sysctl(&lab, Host::Production, &["net.ipv4.ip_forward=1"]);
    let production = Host::Production.address();
    ip(
        &lab,
        Host::Client,
        &format!("route add 10.77.8.0/24 via {production} src 10.77.2.1"),
    );
    lab
}

fn container(capture: Capture, host: Host, interface: &str, direction: &str) {
    require_root();
    let lab = with_container();
    let mut copy = Copy::new(capture);
    copy.host = host;
    interface.clone_into(&mut copy.interface);
    copy.transfer = format!("{BACKEND_PORT}-{}", target());
    copy.more
        .extend(["--direction", direction].map(str::to_owned));
    let server = (CONTAINER, BACKEND_PORT);
    let scene = Scene::set(lab, &copy, Host::Capture, server);
    scene.load(server);
    scene.finish();
}

#[test]
fn inside_a_container() {
    container(Capture::Tap, Host::Capture, "ctr0", "in");
}

#[test]
fn at_the_hosts_end_of_a_containers_veth() {
    container(Capture::Tap, Host::Production, "veth0", "out");
}

#[test]
fn at_the_hosts_end_by_packet_sockets() {
    container(Capture::Packet, Host::Production, "veth0", "out");
}

#[test]
fn both_ways_are_each_packet_once() {
    container(Capture::Tap, Host::Production, "veth0", "both");
}

/// Frames of 9000 bytes in production, as they are on the wire: nothing is merged or left to the card.
fn jumbo(capture: Capture) {
    require_root();
    let lab = Lab::up(&LabOptions::default()).unwrap();
    for port in ["client", "production", "mirror"] {
        let mut command = lab.switch().command("ip");
        run(command.args(["link", "set", port, "mtu", "9000"])).unwrap();
    }
    for (host, interface) in [
        (Host::Client, "eth0"),
        (Host::Production, "eth0"),
        (Host::Capture, "mir0"),
    ] {
        ip(&lab, host, &format!("link set {interface} mtu 9000"));
        run(lab.command(host, "ethtool").args([
            "-K", interface, "tx", "off", "tso", "off", "gso", "off", "gro", "off",
        ]))
        .unwrap();
    }
    let scene = Scene::set(lab, &Copy::new(capture), Host::Production, WEB);
    scene.load(WEB);
    let report = scene.finish();
    // A request of 20 KB is three packets here and fourteen there.
    let (captured, sent) = (
        report.number("bytes/captured") / report.number("packets/captured"),
        report.number("packets/transmitted"),
    );
    assert!(
        captured > 0 && sent > report.number("packets/captured") / 2,
        "{captured} {sent}"
    );
}

#[test]
fn jumbo_frames_by_tap() {
    jumbo(Capture::Tap);
}

#[test]
fn jumbo_frames_by_mirror() {
    jumbo(Capture::Mirror);
}
