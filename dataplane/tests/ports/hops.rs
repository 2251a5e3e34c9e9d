//! Next hops and interfaces in namespaces.

use crate::net::{FAR_MAC, FAR_V4, NEAR_MAC, NEAR_V4, Net, mac, on_thread_in};
use common::packet::{Addr, MacAddr};
use dataplane::hops::{HopError, HopTable, Hops};
use dataplane::iface::Interface;
use std::time::{Duration, Instant};

const FAR_V6: &str = "fd99::2";

fn v6(text: &str) -> Addr {
    Addr::from(text.parse::<std::net::IpAddr>().expect("address"))
}

/// Waits for the table to satisfy `done`; the deadline is only for failure.
fn eventually(hops: &Hops, what: &str, done: impl Fn(&HopTable) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done(&hops.load()) {
        assert!(
            Instant::now() < deadline,
            "never seen: {what}; table {:?}",
            **hops.load()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn on_link_targets_of_both_families_get_their_macs() {
    let net = Net::new(1);
    on_thread_in(&net.near, || {
        let (a, b) = (Addr::v4(FAR_V4), v6(FAR_V6));
        let hops = Hops::start(&[a, b]).expect("hops");
        let table = hops.load();
        for target in [a, b] {
            let hop = table.get(target).expect("hop");
            assert_eq!(
                (hop.macs.src, hop.macs.dst),
                (MacAddr(NEAR_MAC), MacAddr(FAR_MAC))
            );
            assert_eq!(
                (hop.ifname.as_str(), hop.mtu, hop.local),
                ("va", 1500, false)
            );
            assert_eq!(hop.via, target);
        }
    });
}

#[test]
fn a_target_behind_a_gateway_gets_the_gateways_mac_and_the_routes_mtu() {
    let net = Net::new(1);
    net.near(
        "ip",
        &[
            "route",
            "add",
            "10.55.0.0/16",
            "via",
            "10.99.0.2",
            "mtu",
            "1400",
        ],
    );
    net.near(
        "ip",
        &[
            "route",
            "add",
            "10.56.0.0/16",
            "via",
            "inet6",
            FAR_V6,
            "dev",
            "va",
        ],
    );
    on_thread_in(&net.near, || {
        let (a, b) = (Addr::v4([10, 55, 1, 2]), Addr::v4([10, 56, 1, 2]));
        let hops = Hops::start(&[a, b]).expect("hops");
        let table = hops.load();
        let hop = table.get(a).expect("hop");
        assert_eq!(
            (hop.macs.dst, hop.mtu, hop.via),
            (MacAddr(FAR_MAC), 1400, Addr::v4(FAR_V4))
        );
        let hop = table.get(b).expect("hop over an IPv6 gateway");
        assert_eq!((hop.macs.dst, hop.via), (MacAddr(FAR_MAC), v6(FAR_V6)));
    });
}

#[test]
fn own_addresses_are_local() {
    let net = Net::new(1);
    on_thread_in(&net.near, || {
        let targets = [Addr::v4(NEAR_V4), v6("fd99::1"), Addr::v4([127, 0, 0, 1])];
        let hops = Hops::start(&targets).expect("hops");
        assert!(
            targets
                .iter()
                .all(|&t| hops.load().get(t).is_some_and(|hop| hop.local))
        );
    });
}

#[test]
fn a_changed_mac_is_followed() {
    let net = Net::new(1);
    on_thread_in(&net.near, || {
        let target = Addr::v4(FAR_V4);
        let hops = Hops::start(&[target]).expect("hops");
        let new = [2, 0, 0, 0, 0x99, 0x77];
        net.far("ip", &["link", "set", "vb", "address", &mac(new)]);
        // What a host does that takes an address over: it tells the others (gratuitous ARP). Traffic
        // from it has the same effect.
        net.far("ip", &["neigh", "flush", "all"]);
        on_thread_in(&net.far, || {
            let socket = std::net::UdpSocket::bind("10.99.0.2:0").expect("bind");
            socket.send_to(&[], "10.99.0.1:9").expect("send");
        });
        eventually(&hops, "the peer's new address", |table| {
            table
                .get(target)
                .is_some_and(|hop| hop.macs.dst == MacAddr(new))
        });
        let own = [2, 0, 0, 0, 0x99, 0x78];
        net.near("ip", &["link", "set", "va", "address", &mac(own)]);
        eventually(&hops, "the own new address", |table| {
            table
                .get(target)
                .is_some_and(|hop| hop.macs.src == MacAddr(own))
        });
    });
}

#[test]
fn a_neighbour_that_changed_its_mac_in_silence_is_found_again() {
    let net = Net::new(1);
    // The kernel's patience with a neighbour, shortened from 30 s and 5 s.
    for (name, value) in [
        ("base_reachable_time_ms", "500"),
        ("delay_first_probe_time", "1"),
    ] {
        net.near(
            "sysctl",
            &["-qw", &format!("net.ipv4.neigh.va.{name}={value}")],
        );
    }
    on_thread_in(&net.near, || {
        let target = Addr::v4(FAR_V4);
        let hops = Hops::start(&[target]).expect("hops");
        net.far("ip", &["link", "set", "vb", "arp", "off"]);
        let new = [2, 0, 0, 0, 0x99, 0x79];
        net.far("ip", &["link", "set", "vb", "address", &mac(new)]);
        net.far("ip", &["link", "set", "vb", "arp", "on"]);
        eventually(&hops, "the new address, by asking", |table| {
            table
                .get(target)
                .is_some_and(|hop| hop.macs.dst == MacAddr(new))
        });
    });
}

#[test]
fn routes_and_links_are_followed() {
    let net = Net::new(1);
    on_thread_in(&net.near, || {
        let target = Addr::v4([10, 55, 1, 2]);
        net.near("ip", &["route", "add", "10.55.0.0/16", "via", "10.99.0.2"]);
        let hops = Hops::start(&[target]).expect("hops");
        net.near("ip", &["route", "del", "10.55.0.0/16"]);
        eventually(&hops, "the route's end", |table| {
            table.get(target).is_none()
        });
        net.near("ip", &["route", "add", "10.55.0.0/16", "via", "10.99.0.2"]);
        eventually(&hops, "the route's return", |table| {
            table.get(target).is_some()
        });
        net.near("ip", &["link", "set", "va", "down"]);
        eventually(&hops, "the link's end", |table| table.get(target).is_none());
        net.near("ip", &["link", "set", "va", "up"]);
        net.near(
            "ip",
            &["route", "replace", "10.55.0.0/16", "via", "10.99.0.2"],
        );
        eventually(&hops, "the link's return", |table| {
            table.get(target).is_some()
        });
        net.near("ip", &["link", "set", "va", "mtu", "1300"]);
        eventually(&hops, "the link's MTU", |table| {
            table.get(target).is_some_and(|hop| hop.mtu == 1300)
        });
    });
}

#[test]
fn targets_that_cannot_be_reached_are_named() {
    let net = Net::new(1);
    on_thread_in(&net.near, || {
        let start = |target| match Hops::start(&[target]) {
            Ok(_) => panic!("{target} was resolved"),
            Err(error) => error,
        };
        let error = start(Addr::v4([10, 200, 0, 1]));
        assert!(matches!(error, HopError::Unreachable { .. }), "{error}");
        assert!(
            error
                .to_string()
                .starts_with("no route to target 10.200.0.1: "),
            "{error}"
        );
        let error = start(Addr::v4([10, 99, 0, 66]));
        assert_eq!(
            error.to_string(),
            "no link-layer address of 10.99.0.66 on va for target 10.99.0.66: asked by ARP for 3 s \
             without an answer; check that it is up and on that link"
        );
        net.near("ip", &["route", "add", "blackhole", "10.57.0.0/16"]);
        assert!(matches!(
            start(Addr::v4([10, 57, 0, 1])),
            HopError::Unreachable { .. }
        ));
    });
}

#[test]
fn interfaces_say_what_mirror_must_know() {
    let net = Net::new(3);
    on_thread_in(&net.near, || {
        let va = Interface::by_name("va").expect("va");
        assert_eq!((va.mac, va.mtu, va.up), (MacAddr(NEAR_MAC), 1500, true));
        assert_eq!((va.rx_queues, va.tx_queues), (3, 3));
        assert_eq!(va.kind.as_deref(), Some("veth"));
        assert!(va.peer_in_other_netns && va.is_ethernet && !va.is_loopback);
        assert!(
            va.addresses.contains(&(Addr::v4(NEAR_V4), 24)),
            "{:?}",
            va.addresses
        );
        assert!(
            va.addresses.contains(&(v6("fd99::1"), 64)),
            "{:?}",
            va.addresses
        );
        assert_eq!((va.master, va.has_upper), (None, false));

        // A pair within the namespace, one end a port of a bridge, the other under a macvlan.
        net.near(
            "ip",
            &["link", "add", "pa", "type", "veth", "peer", "name", "pb"],
        );
        net.near("ip", &["link", "add", "br0", "type", "bridge"]);
        net.near("ip", &["link", "set", "pa", "master", "br0"]);
        net.near(
            "ip",
            &["link", "add", "mv", "link", "pb", "type", "macvlan"],
        );
        let pa = Interface::by_name("pa").expect("pa");
        let br = Interface::by_name("br0").expect("br0");
        assert_eq!((pa.master, pa.has_upper), (Some(br.index), true));
        assert!(!pa.peer_in_other_netns && !pa.up);
        let pb = Interface::by_name("pb").expect("pb");
        assert_eq!((pb.master, pb.has_upper), (None, true));
        assert!(!br.has_upper);
        net.near("ip", &["tuntap", "add", "tn", "mode", "tun"]);
        assert!(!Interface::by_name("tn").expect("tn").is_ethernet);

        let local = Interface::local_addresses().expect("addresses");
        assert!(
            local.contains(&Addr::v4(NEAR_V4)) && local.contains(&v6("fd99::1")),
            "{local:?}"
        );
        assert!(!local.contains(&Addr::v4(FAR_V4)));
    });
}
