//! Tapping a host: nothing, AF_PACKET, the tap.
//!
//! Every packet goes on to the stack in all three. What a way costs is what it adds to `none` of the same
//! round, in the receive path and in its reader. The product's reader looks every 50 us to 1 ms, AF_PACKET's is
//! woken 1 ms after a packet came; `tap-1ms` is the tap with a reader that looks as rarely.

use common::abi::TapCounter;
use common::packet::{Addr, Endpoint};
use dataplane::bpf::{Direction, Tap, TapConfig};

use crate::ebpf_support::programs::object;
use crate::lane::Lane;
use crate::packet_ring::{BLOCK_TIMEOUT, PacketRing};
use crate::reader::{Product, Reader};
use crate::slots::{ONLINE, ONLINE_PORT, OTHER_PORT, Plan, Printer};
use crate::source::{Load, Source};

/// Memory of rings, the product's default (tcpcopy-user, `run::capture`).
pub const RING_BYTES: usize = 64 << 20;

/// Attaches the product's tap to `vb`.
pub fn attach(lane: &Lane, port: u16, addr: [u8; 4]) -> Tap {
    let transfers = [Endpoint::new(Addr::v4(addr), port)];
    lane.near(|| {
        let config = TapConfig {
            ifname: "vb",
            direction: Direction::In,
            workers: 1,
            transfers: &transfers,
            targets: &[],
            sessions: dataplane::bpf::Sessions::default(),
            udp: dataplane::bpf::UdpRules::default(),
            filter: None,
            ring_bytes_total: RING_BYTES,
            log_packets: false,
        };
        Tap::attach(&object("tcpcopy-ebpf"), &config).expect("attach the tap")
    })
}

/// Packets that the tap could not put anywhere.
pub fn lost(tap: &Tap) -> u64 {
    let full = |c: TapCounter| matches!(c, TapCounter::RingFull | TapCounter::LoadFailed);
    tap.counters()
        .into_iter()
        .filter(|(counter, _)| full(*counter))
        .map(|(_, n)| n)
        .sum()
}

/// Measures.
pub fn run(plan: &Plan) {
    let lanes = [Lane::new(), Lane::new(), Lane::new()];
    let sources = lanes.each_ref().map(Source::new);
    let mut ring = lanes[1].near(|| PacketRing::open("vb", ONLINE, ONLINE_PORT, RING_BYTES));
    let mut tap = attach(&lanes[2], ONLINE_PORT, ONLINE);
    let mut reader = Product::new(tap.take_reader(0).expect("reader"));
    let (hit, miss) = (plan.frame(ONLINE_PORT), plan.frame(OTHER_PORT));

    plan.run("tap", |round: &mut Printer<'_>| {
        for load in Load::ALL {
            let slot = |way: &str, lane: usize, reader: Option<&mut dyn Reader>, frame| {
                let slot = round.send(&lanes[lane], &sources[lane], reader, frame, load);
                round.slot(way, load.name(), &slot);
                slot
            };
            slot("none", 0, None, &hit);
            let packet = slot("packet", 1, Some(&mut ring), &hit);
            for (way, pause) in [("tap", None), ("tap-1ms", Some(BLOCK_TIMEOUT))] {
                let before = lost(&tap);
                reader.pause(pause);
                let tapped = slot(way, 2, Some(&mut reader), &hit);
                let lost = lost(&tap) - before;
                // What is not read was dropped by the kernel, which counted it.
                assert_eq!(tapped.arrived, tapped.taken + lost, "packets of the tap");
            }
            reader.pause(None);
            let kept = packet.taken + ring.dropped();
            assert_eq!(packet.arrived, kept, "packets of AF_PACKET");
            slot("none-miss", 0, None, &miss);
            let packet = slot("packet-miss", 1, Some(&mut ring), &miss);
            let tapped = slot("tap-miss", 2, Some(&mut reader), &miss);
            assert_eq!(
                (packet.taken, tapped.taken),
                (0, 0),
                "packets that do not match"
            );
        }
    });
}
