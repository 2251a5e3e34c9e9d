//! Mirrors as switches and clouds send them: in the kernel's VXLAN to an interface that the host itself uses, and in
//! every other tunnel, with duplicates, packets out of order, and sequence numbers that are missing.

#[path = "e2e_fabric/wrapper.rs"]
mod wrapper;

use std::{
    cell::RefCell,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread::JoinHandle,
    time::Duration,
};

use lab::{
    Host, Lab,
    replay::{Capture, RunOptions, RunResult, run_prepared},
    testing::{programs, require_root},
    world::{StackCounters, run},
};
use wrapper::{Sent, Wrapper};

/// The switch's address, from which it sends its mirror.
const SWITCH: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// VNI of the mirror; that of the overlay is another.
const MIRROR_VNI: u32 = 100;
const OVERLAY_VNI: u32 = 200;
/// Room for a tunnel around full frames.
const MTU: u32 = 1700;
/// Of the overlay, on production and on the capture host.
const OVERLAY: [&str; 2] = ["10.99.0.20", "10.99.0.50"];
const OVERLAY_PORT: u16 = 9000;
/// Round trips over the overlay, and the pause between two: as long as the load.
const ROUND_TRIPS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(8);
/// A round trip that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(5);

fn options(seed: u64) -> RunOptions {
    let mut options = RunOptions::new(Capture::Mirror);
    options.requests = 3000;
    options.seed = seed;
    options.copy.more.clear();
    options
}

/// Every session was replayed, and every packet that the target got has a right checksum.
fn assert_whole(result: &RunResult, checksums: u64) {
    assert_eq!(result.faults(), Vec::<String>::new());
    let report = &result.report;
    assert_eq!(report.imbalance(), Vec::<String>::new());
    let outcomes = report.outcomes();
    assert_eq!(report.number("sessions/total"), 1550, "{outcomes:?}");
    assert_eq!(checksums, 0, "packets with wrong checksums at the target");
}

fn words(host: &Lab, on: Host, line: &str) {
    let (program, rest) = line.split_once(' ').unwrap();
    run(host.command(on, program).args(rest.split(' '))).unwrap();
}

fn on_switch(lab: &Lab, line: &str) {
    let (program, rest) = line.split_once(' ').unwrap();
    run(lab.switch().command(program).args(rest.split(' '))).unwrap();
}

/// A VXLAN device on the switch is the mirror's destination; another VXLAN of the capture host lives on.
fn vxlan_to_a_host_in_use(lab: &Lab) {
    for port in ["production", "capture", "br0"] {
        on_switch(lab, &format!("ip link set {port} mtu {MTU}"));
    }
    on_switch(lab, &format!("ip addr add {SWITCH}/24 dev br0"));
    let host = Host::Capture.address();
    on_switch(
        lab,
        &format!(
            "ip link add span type vxlan id {MIRROR_VNI} dstport 4789 local {SWITCH} remote {host} dev br0 noudpcsum"
        ),
    );
    on_switch(lab, "ip link set span up");
    on_switch(lab, "ethtool -K span tso off gso off");
    on_switch(lab, "tc qdisc add dev production clsact");
    for direction in ["ingress", "egress"] {
        on_switch(
            lab,
            &format!(
                "tc filter add dev production {direction} protocol all u32 match u32 0 0 action mirred egress mirror dev span"
            ),
        );
    }
    let ends = [Host::Production, Host::Capture];
    for (at, here) in ends.into_iter().enumerate() {
        let there = ends[1 - at].address();
        words(lab, here, &format!("ip link set eth0 mtu {MTU}"));
        words(
            lab,
            here,
            &format!(
                "ip link add ovl type vxlan id {OVERLAY_VNI} dstport 4789 local {} remote {there} dev eth0",
                here.address()
            ),
        );
        words(
            lab,
            here,
            &format!("ip addr add {}/24 dev ovl", OVERLAY[at]),
        );
        words(lab, here, "ip link set ovl up");
    }
}

/// Round trips between production and the capture host, while the mirror is replayed.
fn talk_over_the_overlay(lab: &Lab) -> JoinHandle<()> {
    let at = (OVERLAY[1], OVERLAY_PORT);
    let listener = lab.host(Host::Capture).enter(|| TcpListener::bind(at));
    let listener = listener.unwrap().unwrap();
    std::thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let mut byte = [0];
        while peer.read(&mut byte).is_ok_and(|n| n == 1) {
            peer.write_all(&byte).unwrap();
        }
    });
    let production = lab.host(Host::Production);
    let asking = production.enter(|| TcpStream::connect(at));
    let mut asking = asking.unwrap().unwrap();
    asking.set_read_timeout(Some(LIMIT)).unwrap();
    std::thread::spawn(move || {
        for n in 0..ROUND_TRIPS {
            let (said, mut heard) = ([n as u8], [0]);
            asking.write_all(&said).unwrap();
            asking.read_exact(&mut heard).unwrap();
            assert_eq!(heard, said);
            std::thread::sleep(PAUSE);
        }
    })
}

#[test]
fn a_mirror_in_vxlan_comes_to_a_host_whose_own_overlay_goes_on() {
    require_root();
    let mut options = options(31);
    options.lab.mirrored.clear();
    options.copy.interface = "eth0".to_owned();
    let decap = format!("vxlan/{MIRROR_VNI}@{SWITCH}");
    options.copy.more.extend(["--decap".to_owned(), decap]);
    let overlay = RefCell::new(None);
    let before = RefCell::new(None);
    let mut prepare = |lab: &Lab| {
        vxlan_to_a_host_in_use(lab);
        *before.borrow_mut() = Some((
            lab.host(Host::Target),
            StackCounters::of(&lab.host(Host::Target))?,
        ));
        *overlay.borrow_mut() = Some(talk_over_the_overlay(lab));
        Ok(())
    };
    let mut checksums = 0;
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let result = run_prepared(&programs, &options, &mut prepare, &mut |text| {
        eprintln!("{text}");
        // The lab is still up, the load is done.
        if text.contains("load done") {
            let before = before.borrow();
            let (target, before) = before.as_ref().unwrap();
            let now = StackCounters::of(target).unwrap();
            checksums = now.since(before, "TcpInCsumErrors");
            // Every one of its packets arrived, or this would not end.
            overlay.borrow_mut().take().unwrap().join().unwrap();
        }
    })
    .unwrap();
    eprintln!("{}", result.table());
    assert_whole(&result, checksums);
    let report = &result.report;
    assert_eq!(report.dropped(), 0, "{}", report.json["packets"]);
    assert!(report.number("counters/tunnels/vxlan") > 3000);
    let kernel = report.numbers("counters/kernel");
    // The overlay's packets were seen, and passed.
    assert!(
        kernel["tunnel_other"] >= u64::from(ROUND_TRIPS) / 2,
        "{kernel:?}"
    );
}

/// All tunnels at once, each packet in the next one, by a wrapper behind the mirror port.
fn wrapped(options: &mut RunOptions, vlan: bool) -> (RunResult, Sent) {
    require_root();
    wrapper::TO.clone_into(&mut options.copy.interface);
    let (wrapping, mut sent) = (RefCell::new(None), Sent::default());
    let (before, mut checksums) = (RefCell::new(None), 0);
    let mut prepare = |lab: &Lab| {
        for line in [
            format!(
                "ip link add {} type veth peer name {}",
                wrapper::FROM,
                wrapper::TO
            ),
            format!("ip link set {} mtu {MTU} up", wrapper::FROM),
            format!("ip link set {} mtu {MTU} up", wrapper::TO),
        ] {
            words(lab, Host::Capture, &line);
        }
        *wrapping.borrow_mut() = Some(Wrapper::start(&lab.host(Host::Capture), vlan));
        let target = lab.host(Host::Target);
        *before.borrow_mut() = Some((StackCounters::of(&target)?, target));
        Ok(())
    };
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let result = run_prepared(&programs, options, &mut prepare, &mut |text| {
        eprintln!("{text}");
        if text.contains("load done") {
            sent = wrapping.borrow_mut().take().unwrap().stop();
            let before = before.borrow();
            let (before, target) = before.as_ref().unwrap();
            let now = StackCounters::of(target).unwrap();
            checksums = now.since(before, "TcpInCsumErrors");
        }
    })
    .unwrap();
    eprintln!("{}\n{sent:?}", result.table());
    assert_whole(&result, checksums);
    (result, sent)
}

#[test]
fn packets_in_every_tunnel_doubled_reordered_and_with_gaps_are_replayed_once() {
    let (result, sent) = wrapped(&mut options(32), true);
    let report = &result.report;
    for kind in ["vxlan", "geneve", "gre", "erspan", "ipip", "gtpu", "mpls"] {
        let n = report.number(&format!("counters/tunnels/{kind}"));
        assert!(n > 100, "{kind}: {n}");
    }
    assert!(sent.doubled > 100 && sent.held > 100, "{sent:?}");
    let duplicates = report.number("counters/engine/segments_duplicate");
    assert!(duplicates > 100, "{duplicates}");
    let streams = report.json["mirror_streams"].as_array().unwrap();
    let lost: u64 = streams.iter().map(|s| s["lost"].as_u64().unwrap()).sum();
    assert_eq!(lost, sent.skipped, "{streams:?}");
    let drops = report.numbers("packets/dropped");
    assert_eq!(drops.get("mirror_lost"), Some(&sent.skipped), "{drops:?}");
    assert_eq!(drops.len(), 1, "{drops:?}");
}

/// The filter judges the packet inside; for the outer one, nothing but the tunnels' ends would be known.
#[test]
fn filters_judge_the_packet_inside_or_the_one_outside() {
    for (filter, outer, sessions) in [
        ("tcp and src net 10.77.2.0/24 and dst port 80", false, 1550),
        (
            "src host 192.0.2.1 or src host 10.77.2.1 or ether proto 0x8847",
            true,
            1550,
        ),
    ] {
        let mut options = options(33);
        let more = &mut options.copy.more;
        more.extend(["-F".to_owned(), filter.to_owned()]);
        more.extend(outer.then(|| "--filter-outer".to_owned()));
        let (result, _) = wrapped(&mut options, false);
        assert_eq!(result.report.number("sessions/total"), sessions);
    }
}
