use super::*;
use common::flow::{Share, owner};
use common::packet::{Addr, Endpoint};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

const IDLE: Nanos = Nanos::from_secs(30);
const TARGET: Endpoint = Endpoint::new(Addr::v4([10, 0, 0, 9]), 5353);
const ONLINE: Endpoint = Endpoint::new(Addr::v4([10, 0, 0, 1]), 53);

/// What was sent: wire endpoint, target, payload.
type Sent = (Endpoint, Endpoint, Vec<u8>);

/// Remembers what was sent; refuses every `refuse`-th.
#[derive(Default)]
struct Wire {
    sent: Vec<Sent>,
    asked: usize,
    refuse: usize,
}

impl UdpOutput for Wire {
    fn send(&mut self, d: &UdpFrame<'_>, _at: Nanos) -> Result<(), UdpDrop> {
        self.asked += 1;
        if self.refuse != 0 && self.asked.is_multiple_of(self.refuse) {
            return Err(UdpDrop::NoFrame);
        }
        self.sent.push((d.src, d.dst, d.payload.to_vec()));
        Ok(())
    }
}

fn config(change: impl FnOnce(&mut EngineConfig)) -> UdpConfig {
    let mut common = EngineConfig::default();
    change(&mut common);
    UdpConfig {
        share: common.share,
        common,
        idle: IDLE,
        max_flows: 1000,
        twins: false,
    }
}

fn client(host: u8, port: u16) -> Endpoint {
    Endpoint::new(Addr::v4([192, 0, 2, host]), port)
}

fn datagram(client: Endpoint, payload: &[u8]) -> ClientDatagram<'_> {
    ClientDatagram {
        client,
        online: ONLINE,
        target: TARGET,
        payload,
        payload_len: payload.len() as u32,
        packet_id: 0,
        gso_size: 0,
        at: Nanos(0),
    }
}

#[test]
fn clients_keep_their_endpoint_and_replicas_get_others() {
    let mut udp = UdpReplay::new(config(|c| c.replicas = 3));
    let mut out = Wire::default();
    for _ in 0..2 {
        udp.captured(Nanos(1), &datagram(client(1, 4000), b"q"), &mut out);
    }
    assert_eq!(out.sent.len(), 6);
    assert_eq!(out.sent[0], (client(1, 4000), TARGET, b"q".to_vec()));
    assert_eq!(out.sent[..3], out.sent[3..], "a flow keeps its endpoints");
    let wires: HashSet<_> = out.sent[..3].iter().map(|s| s.0).collect();
    assert_eq!(wires.len(), 3);
    let t = udp.totals();
    assert_eq!((t.flows, t.captured, t.copies, t.sent), (1, 2, 6, 6));
    assert!(t.balanced());
}

#[test]
fn empty_datagrams_are_datagrams_and_merged_ones_come_apart() {
    let mut udp = UdpReplay::new(config(|_| {}));
    let mut out = Wire::default();
    udp.captured(Nanos(1), &datagram(client(1, 1), b""), &mut out);
    let merged = ClientDatagram {
        gso_size: 4,
        ..datagram(client(1, 1), b"aaaabbbbcc")
    };
    udp.captured(Nanos(1), &merged, &mut out);
    // The last of them was not captured whole.
    let cut = ClientDatagram {
        payload: b"ddddee",
        payload_len: 8,
        gso_size: 4,
        ..datagram(client(1, 1), b"")
    };
    udp.captured(Nanos(1), &cut, &mut out);
    let payloads: Vec<_> = out.sent.iter().map(|s| s.2.as_slice()).collect();
    assert_eq!(payloads, [&b""[..], b"aaaa", b"bbbb", b"cc", b"dddd"]);
    let t = udp.totals();
    assert_eq!(
        (t.captured, t.sent, t.dropped(UdpDrop::CutByCapture)),
        (6, 5, 1)
    );
    assert!(t.balanced());
}

#[test]
fn what_cannot_be_sent_is_counted_and_opens_no_flow() {
    let mut udp = UdpReplay::new(config(|c| c.mtu = 600));
    let mut out = Wire::default();
    // Whoever sends it cuts it.
    udp.captured(Nanos(1), &datagram(client(1, 1), &[7; 573]), &mut out);
    let v6 = Endpoint::new(Addr([0x20; 16]), 9);
    udp.captured(Nanos(1), &datagram(v6, b"x"), &mut out);
    let t = udp.totals();
    assert_eq!((t.sent, t.flows), (1, 1));
    assert_eq!(t.dropped(UdpDrop::OtherFamily), 1);
    assert!(t.balanced());
}

#[test]
fn a_share_of_the_clients_and_a_ramp() {
    let count = |c: UdpConfig, now: Nanos| {
        let mut udp = UdpReplay::new(c);
        let mut out = Wire::default();
        udp.captured(Nanos(0), &datagram(client(0, 1), b""), &mut out);
        let before = out.sent.len();
        for port in 1000..2000 {
            udp.captured(now, &datagram(client(1, port), b""), &mut out);
        }
        assert!(udp.totals().balanced());
        out.sent.len() - before
    };
    let some = |c: &mut EngineConfig| c.share = Share::percent(30);
    let third = count(config(some), Nanos(0));
    assert!((250..350).contains(&third), "{third}");
    let ramp = |c: &mut EngineConfig| c.ramp = true;
    assert!(count(config(ramp), Nanos(0)) < 30);
    let half = count(config(ramp), Nanos::from_secs(49));
    assert!((440..560).contains(&half), "{half}");
    assert_eq!(count(config(ramp), Nanos::from_secs(99)), 1000);
}

#[test]
fn ports_of_a_pool_run_out_and_come_back_after_the_idle_time() {
    let mut udp = UdpReplay::new(UdpConfig {
        max_flows: 100_000,
        ..config(|c| c.pool = Some("10.1.0.1".parse().unwrap()))
    });
    let mut out = Wire::default();
    for n in 0..70_000u32 {
        let from = client((n >> 16) as u8, n as u16);
        udp.captured(Nanos(1), &datagram(from, b"q"), &mut out);
    }
    let wires: HashSet<_> = out.sent.iter().map(|s| s.0).collect();
    assert_eq!(wires.len(), out.sent.len(), "no two flows share a wire");
    assert!(wires.iter().all(|w| w.addr == Addr::v4([10, 1, 0, 1])));
    let t = udp.totals();
    // 1024 to 65535, and the lower ones that clients had themselves.
    assert_eq!(t.sent, 65_536);
    assert_eq!(t.dropped(UdpDrop::NoWirePort), 70_000 - 65_536);
    assert!(t.balanced());

    udp.advance(Nanos(1) + Nanos(IDLE.0 - 1));
    assert_eq!(udp.totals().flows_open, 65_536, "not yet");
    udp.advance(Nanos(1) + IDLE);
    assert_eq!(udp.totals().flows_open, 0);
    udp.captured(Nanos(2) + IDLE, &datagram(client(9, 9), b"q"), &mut out);
    assert_eq!(udp.totals().sent, 65_537);
    assert!(udp.totals().balanced());
}

#[test]
fn a_replica_that_finds_no_port_takes_none_from_others() {
    let mut udp = UdpReplay::new(UdpConfig {
        max_flows: 100_000,
        ..config(|c| {
            c.pool = Some("10.1.0.1".parse().unwrap());
            c.replicas = 3;
        })
    });
    let mut out = Wire::default();
    for n in 1024..30_000u16 {
        udp.captured(Nanos(1), &datagram(client(1, n), b"q"), &mut out);
    }
    let t = udp.totals();
    assert_eq!(t.flows, 64_512 / 3);
    assert_eq!(t.sent, 64_512);
    assert!(t.balanced());
    udp.advance(Nanos(1) + IDLE);
    assert_eq!(udp.totals().flows_open, 0);
    assert!(!udp.flows.holds(&Pair {
        client: out.sent[0].0,
        server: TARGET
    }));
}

#[test]
fn flows_beyond_the_most_are_shed_whole_and_memory_keeps_its_bound() {
    for replicas in [1u16, 2, 5] {
        let mut udp = UdpReplay::new(config(|c| c.replicas = replicas));
        let mut out = Wire::default();
        for round in 0..20u64 {
            let now = Nanos(1 + round * (IDLE.0 + 1));
            udp.advance(now);
            for port in 0..1500 {
                udp.captured(
                    now,
                    &datagram(client(round as u8, 2000 + port), b""),
                    &mut out,
                );
            }
            assert_eq!(udp.totals().flows_open, 1000);
        }
        let t = udp.totals();
        assert_eq!(
            t.dropped(UdpDrop::TableFull),
            20 * 500 * u64::from(replicas)
        );
        assert!(t.balanced());
        let bytes = udp.flows.allocated_bytes();
        assert!(
            bytes <= 1000 * udp_flow_bytes(replicas),
            "{bytes} for {replicas}"
        );
    }
}

/// One step of the property test.
#[derive(Clone, Debug)]
enum Step {
    Datagram {
        host: u8,
        port: u16,
        online: u8,
        len: usize,
    },
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let datagram = (0u8..4, 5000u16..5030, 0u8..2, 0usize..40);
    prop::collection::vec(
        prop_oneof![
            8 => datagram.prop_map(|(host, port, online, len)| Step::Datagram { host, port, online, len }),
            1 => (0u64..40_000).prop_map(Step::Wait),
        ],
        1..300,
    )
}

proptest! {
    /// A plain model: which flows live, with which wires.
    #[test]
    fn every_datagram_goes_out_once_per_replica_on_wires_that_nobody_shares(
        steps in steps(),
        workers in 1u32..4,
        replicas in 1u16..4,
        pool in any::<bool>(),
        port_shift in 0u8..3,
        max_flows in 1usize..60,
        refuse in prop_oneof![Just(0usize), 2usize..9],
    ) {
        let c = UdpConfig { max_flows, ..config(|c| {
            c.workers = workers;
            c.replicas = replicas;
            c.port_shift = port_shift;
            c.pool = pool.then(|| "10.1.0.0/30".parse().unwrap());
        }) };
        let mut udp = UdpReplay::new(c);
        let mut out = Wire { refuse, ..Wire::default() };
        // (client, online) to last use and wires.
        let mut live: HashMap<(Endpoint, Endpoint), (Nanos, Vec<Endpoint>)> = HashMap::new();
        let mut now = Nanos(5);
        let mut captured = 0u64;
        for (at, step) in steps.iter().enumerate() {
            let (client, online, len) = match *step {
                Step::Wait(ms) => {
                    now += Nanos::from_millis(ms);
                    udp.advance(now);
                    live.retain(|_, (last, _)| now.since(*last) < IDLE);
                    prop_assert_eq!(udp.totals().flows_open as usize, live.len());
                    continue;
                }
                Step::Datagram { host, port, online, len } => {
                    (client(host, port), Endpoint::new(ONLINE.addr, 53 + u16::from(online)), len)
                }
            };
            // The worker gets what it owns.
            if owner(flow_hash(client), workers) != 0 {
                continue;
            }
            captured += 1;
            let payload: Vec<u8> = (0..len).map(|i| (i + at) as u8).collect();
            let d = ClientDatagram { online, ..datagram(client, &payload) };
            let (sent, before) = (out.sent.len(), udp.totals());
            let asked = out.asked;
            udp.captured(now, &d, &mut out);
            let after = udp.totals();
            prop_assert!(after.balanced());
            let new = &out.sent[sent..];
            prop_assert_eq!(after.sent - before.sent, new.len() as u64);
            prop_assert!(new.iter().all(|s| s.1 == TARGET && s.2 == payload));
            if out.asked == asked {
                prop_assert!(!live.contains_key(&(client, online)), "a live flow is never shed");
                prop_assert!(live.len() == max_flows, "shed although there is room");
                continue;
            }
            prop_assert_eq!(out.asked - asked, usize::from(replicas));
            let id = udp.flows.find(&Pair { client, server: online }).unwrap();
            let wires: Vec<_> = udp.flows.wires(id).iter().map(|w| w.endpoint(&udp.config.common, client)).collect();
            for s in new {
                prop_assert!(wires.contains(&s.0));
            }
            for w in &wires {
                prop_assert_eq!(owner(flow_hash(*w), workers), 0);
            }
            if let Some((_, known)) = live.get(&(client, online)) {
                prop_assert_eq!(known, &wires, "a live flow keeps its wires");
            }
            live.insert((client, online), (now, wires));
            prop_assert!(live.len() <= max_flows);
            let all: Vec<_> = live.values().flat_map(|(_, w)| w).collect();
            let distinct: HashSet<_> = all.iter().collect();
            prop_assert_eq!(all.len(), distinct.len());
        }
        prop_assert_eq!(udp.totals().captured, captured);
        udp.advance(now + IDLE);
        prop_assert_eq!(udp.totals().flows_open, 0);
        prop_assert!(udp.totals().balanced());
    }
}

#[test]
fn a_packet_that_a_mirror_sends_twice_counts_once() {
    let mut udp = UdpReplay::new(UdpConfig {
        twins: true,
        ..config(|_| {})
    });
    let mut out = Wire::default();
    let mut sent = |packet_id, at_us: u64, payload: &[u8], port| {
        let before = out.sent.len();
        let d = ClientDatagram {
            packet_id,
            at: Nanos::from_micros(1_000_000 + at_us),
            ..datagram(client(1, port), payload)
        };
        udp.captured(Nanos(1), &d, &mut out);
        out.sent.len() - before
    };
    // Once, however often it comes, in either order of capture, until the window is over.
    assert_eq!(
        [0, 20, 9_000, 10_000].map(|at| sent(7, at, b"q", 1)),
        [1, 0, 0, 0]
    );
    assert_eq!(sent(7, 10_001, b"q", 1), 1);
    assert_eq!([500, 480].map(|at| sent(9, at, b"q", 1)), [1, 0]);
    // Another packet: by identification, by its bytes, by its client.
    assert_eq!(sent(8, 0, b"q", 1), 1);
    assert_eq!(sent(7, 0, b"r", 1), 1);
    assert_eq!(sent(7, 0, b"q", 2), 1);
    assert_eq!(sent(7, 0, b"", 1), 1);
    // Without identification: one twin each, and a shorter time.
    assert_eq!([0, 10, 20, 30].map(|at| sent(0, at, b"q", 1)), [1, 0, 1, 0]);
    assert_eq!([5_000, 6_001].map(|at| sent(0, at, b"q", 1)), [1, 1]);
    let t = udp.totals();
    assert_eq!(t.duplicates, 6);
    assert_eq!(t.captured, t.sent);
    assert!(t.balanced());
}

proptest! {
    /// Each packet comes once or twice, the second time within the window, among many others.
    #[test]
    fn twins_are_found_among_many(
        packets in prop::collection::vec((1u16..2000, 0u8..4, 0u64..3, any::<bool>()), 1..300),
    ) {
        let mut udp = UdpReplay::new(UdpConfig { twins: true, ..config(|_| {}) });
        let mut out = Wire::default();
        let mut known = HashSet::new();
        let (mut at, mut twins) = (Nanos::from_secs(1), 0);
        for (packet_id, host, later_us, twice) in packets {
            // A client does not use an identification twice so soon.
            if !known.insert((packet_id, host)) {
                continue;
            }
            for _ in 0..=u8::from(twice) {
                let d = ClientDatagram { packet_id, at, ..datagram(client(host, 4000), b"the same") };
                udp.captured(at, &d, &mut out);
                at += Nanos::from_micros(later_us);
            }
            twins += u64::from(twice);
        }
        prop_assert_eq!(udp.totals().duplicates, twins);
        prop_assert_eq!(out.sent.len(), known.len());
    }
}
