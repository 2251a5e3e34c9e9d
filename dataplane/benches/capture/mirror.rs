//! Receiving by AF_XDP: the mirror's program and port, and a program that redirects everything to a loop
//! that drops it.

use common::packet::{Addr, Endpoint};
use dataplane::afxdp::FRAMES;
use dataplane::bpf::{Mirror, MirrorConfig};
use dataplane::iface::Interface;

use crate::bare_xsk::BareXsk;
use crate::ebpf_support::programs::object;
use crate::lane::Lane;
use crate::programs::{Program, SocketMap};
use crate::reader::{Product, Reader};
use crate::slots::{ONLINE, ONLINE_PORT, Plan, Printer};
use crate::source::{Load, Source};

/// Attaches the product's mirror to `vb`.
pub fn attach(lane: &Lane, also_tx: bool) -> Mirror {
    let transfers = [Endpoint::new(Addr::v4(ONLINE), ONLINE_PORT)];
    lane.near(|| {
        let config = MirrorConfig {
            ifname: "vb",
            workers: 1,
            transfers: &transfers,
            targets: &[],
            sessions: dataplane::bpf::Sessions::default(),
            udp: dataplane::bpf::UdpRules::default(),
            filter: None,
            decap: &common::abi::DecapConfig::NONE,
            also_tx,
            log_packets: false,
        };
        let mirror = Mirror::attach(&object("tcpcopy-ebpf"), &config).expect("attach the mirror");
        assert!(mirror.native(), "the mirror runs in the driver");
        mirror
    })
}

/// A bare socket on `vb` with its program; the link must live as long as it is used.
pub fn bare(lane: &Lane, forward: bool) -> (BareXsk, std::os::fd::OwnedFd) {
    lane.near(|| {
        let socket = BareXsk::open("vb", FRAMES).receive(forward);
        let vb = Interface::by_name("vb").expect("vb");
        let link = Program::to_sockets(&SocketMap::new(socket.fd())).attach(vb.index);
        (socket, link)
    })
}

/// Measures.
pub fn run(plan: &Plan) {
    let lanes = [Lane::new(), Lane::new()];
    let sources = lanes.each_ref().map(Source::new);
    let (mut bare, _link) = bare(&lanes[0], false);
    let mut mirror = attach(&lanes[1], false);
    let port = mirror.take_ports(0).pop().expect("a port");
    let mut reader = Product::new(port.rx);
    let frame = plan.frame(ONLINE_PORT);

    plan.run("mirror", |round: &mut Printer<'_>| {
        for load in Load::ALL {
            let slot = |way: &str, lane: usize, reader: &mut dyn Reader| {
                let slot = round.send(&lanes[lane], &sources[lane], Some(reader), &frame, load);
                round.slot(way, load.name(), &slot);
            };
            slot("bare", 0, &mut bare);
            slot("mirror", 1, &mut reader);
        }
    });
    // Sockets before the program.
    drop(reader);
    mirror.detach();
}
