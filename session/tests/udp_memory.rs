//! Datagrams of live flows allocate nothing, counted by the allocator.

use common::flow::{ClientDatagram, Nanos};
use common::packet::{Addr, Endpoint, UdpFrame};
use session::{EngineConfig, UdpConfig, UdpDrop, UdpOutput, UdpReplay};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

struct Count(u64);

impl UdpOutput for Count {
    fn send(&mut self, _: &UdpFrame<'_>, _: Nanos) -> Result<(), UdpDrop> {
        self.0 += 1;
        Ok(())
    }
}

#[test]
fn datagrams_of_live_flows_allocate_nothing() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let mut udp = UdpReplay::new(UdpConfig {
        share: common::flow::Share::ALL,
        common: EngineConfig {
            replicas: 2,
            pool: Some("10.1.0.0/24".parse().expect("a pool")),
            ..EngineConfig::default()
        },
        idle: Nanos::from_secs(60),
        max_flows: 20_000,
        twins: true,
    });
    let mut out = Count(0);
    let mut round = |udp: &mut UdpReplay, second: u64| {
        let before = dhat::HeapStats::get().total_blocks;
        let now = Nanos::from_secs(second);
        for n in 0..10_000u16 {
            let datagram = ClientDatagram {
                client: Endpoint::new(Addr::v4([192, 0, 2, (n % 200) as u8]), 1024 + n),
                online: Endpoint::new(Addr::v4([10, 0, 0, 1]), 53),
                target: Endpoint::new(Addr::v4([10, 0, 0, 9]), 53),
                payload: b"query",
                payload_len: 5,
                packet_id: second as u16,
                gso_size: 0,
                at: now,
            };
            udp.captured(now, &datagram, &mut out);
        }
        udp.advance(now);
        dhat::HeapStats::get().total_blocks - before
    };
    assert!(round(&mut udp, 1) > 0, "the tables grow");
    let counted: u64 = (2..12).map(|second| round(&mut udp, second)).sum();
    assert_eq!(counted, 0);
    assert_eq!(udp.totals().flows, 10_000);
    assert_eq!(out.0, 2 * 11 * 10_000);
    assert!(udp.totals().balanced());
}
