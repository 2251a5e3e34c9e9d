//! UDP through whole workers, over memory: captured frames in, frames to the target out.

#[path = "support/pieces.rs"]
mod pieces;

use arc_swap::ArcSwap;
use common::flow::{CaptureMeta, Nanos, Shard, flow_hash, owner};
use common::packet::{Addr, Endpoint, FrameAddresses, UdpFrame, build_udp_frame, decode_udp_frame};
use dataplane::bpf::Filter;
use dataplane::hops::Missing;
use dataplane::memory::{MemoryCapture, MemoryTransmit};
use dataplane::wake::Waker;
use dataplane::{Capture, Transmit, clock, handover};
use session::{EngineConfig, UdpConfig};
use std::collections::{HashMap, HashSet};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tcpcopy_user::channel::Channel;
use tcpcopy_user::cli::parse_both;
use tcpcopy_user::report::{Report, Setting};
use tcpcopy_user::transfers::TransferTable;
use tcpcopy_user::worker::{
    Control, Egress, FragmentRules, Hop, LiveStats, NextHops, NoSupply, UdpParts, Worker,
    WorkerParts,
};

const PATIENCE: Duration = Duration::from_mins(1);
const DEVICE: u32 = 7;
const LIST: &str = "10.77.0.20:80-10.77.0.30:8080,udp:10.77.0.20:53-10.77.0.30:5353,\
                    udp:[2001:db8::20]:53-[2001:db8::30]:5353,\
                    udp:5353-10.77.0.30:5353";

struct OneHop(bool);

impl NextHops for OneHop {
    fn changed(&mut self) -> bool {
        !std::mem::replace(&mut self.0, true)
    }

    fn hop(&self, _: Addr) -> Result<Hop, Missing> {
        Ok(Hop {
            mtu: 1500,
            ifindex: DEVICE,
            macs: FrameAddresses::default(),
            local: false,
        })
    }
}

fn at(text: &str) -> Endpoint {
    text.parse::<std::net::SocketAddr>().unwrap().into()
}

fn frame(src: Endpoint, dst: Endpoint, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; payload.len() + 100];
    let datagram = UdpFrame {
        src,
        dst,
        payload,
        ip_id: 1,
    };
    let len = build_udp_frame(&mut bytes, FrameAddresses::default(), &datagram).unwrap();
    bytes.truncate(len);
    bytes
}

/// Runs `workers` workers over the frames, all of which arrive at the first one; returns the report and
/// what each worker sent.
fn replay(workers: usize, replicas: u16, frames: &[Vec<u8>]) -> (Report, Vec<Vec<Vec<u8>>>) {
    replay_by(workers, replicas, frames, &FragmentRules::default())
}

/// The same by other rules for fragments.
fn replay_by(
    workers: usize,
    replicas: u16,
    frames: &[Vec<u8>],
    fragments: &FragmentRules,
) -> (Report, Vec<Vec<Vec<u8>>>) {
    let intercept = TcpListener::bind("127.0.0.1:0").unwrap();
    let peers = [intercept.local_addr().unwrap().into()];
    let both = parse_both([LIST]).unwrap();
    let mut targets: Vec<Endpoint> = both.tcp.iter().chain(&both.udp).map(|t| t.target).collect();
    targets.sort_unstable();
    let transfers = Arc::new(TransferTable::new(&both.tcp));
    let udp = Arc::new(TransferTable::new(&both.udp));
    let control = Arc::new(Control::new(workers));
    let ports: Vec<_> = (0..workers).map(|_| MemoryTransmit::new(2048)).collect();
    let sources: Vec<_> = (0..workers)
        .map(|_| MemoryCapture::new().unwrap())
        .collect();
    let handovers = handover::mesh(workers, 1 << 20).unwrap();
    let mut threads = Vec::new();
    let mut wakers = Vec::new();
    for (id, handover) in handovers.into_iter().enumerate() {
        let waker = Waker::new().unwrap();
        wakers.push(waker.handle());
        let engine = EngineConfig {
            worker: id as u32,
            workers: workers as u32,
            replicas,
            ..EngineConfig::default()
        };
        let port = Box::new(ports[id].clone()) as Box<dyn Transmit>;
        let parts = WorkerParts {
            decap: common::abi::DecapConfig::NONE,
            id: id as u32,
            workers: workers as u32,
            sources: vec![Box::new(sources[id].clone()) as Box<dyn Capture>],
            pool: Vec::new(),
            handover,
            transfers: Arc::clone(&transfers),
            udp: Some(UdpParts {
                transfers: Arc::clone(&udp),
                config: UdpConfig {
                    share: common::flow::Share::ALL,
                    common: engine.clone(),
                    idle: Nanos::from_secs(60),
                    max_flows: 10_000,
                    twins: false,
                },
            }),
            engine,
            egress: Egress::new(
                &targets,
                vec![(DEVICE, port)],
                None,
                Box::new(OneHop(false)),
                Box::new(NoSupply),
            ),
            channel: Channel::connect(&peers, 1, false, clock::now()).unwrap(),
            waker,
            fragments: fragments.clone(),
            control: Arc::clone(&control),
            live: Arc::new(LiveStats::default()),
        };
        threads.push(std::thread::spawn(move || {
            Worker::new(parts).run(clock::now)
        }));
    }
    for frame in frames {
        sources[0].push(
            frame,
            CaptureMeta {
                at: clock::now(),
                ..CaptureMeta::default()
            },
        );
    }
    let start = Instant::now();
    while sources[0].waiting() > 0 {
        assert!(start.elapsed() < PATIENCE, "frames are not taken");
        std::thread::sleep(Duration::from_millis(1));
    }
    let now = clock::now();
    control.stop(now, now + Nanos::from_secs(60));
    wakers.iter().for_each(dataplane::wake::WakerHandle::wake);
    let reports: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    let setting = Setting {
        capture: "tap",
        iface: "memory".to_owned(),
        workers,
        duration: Nanos(1),
        clock_resolution: Nanos(1),
    };
    let sent = ports.iter().map(MemoryTransmit::take_sent).collect();
    (Report::new(setting, &reports, &[]), sent)
}

#[test]
fn every_datagram_arrives_once_per_replica_by_its_owner() {
    for (workers, replicas) in [(1, 1), (2, 1), (3, 3)] {
        let mut frames = Vec::new();
        for n in 0..500u16 {
            let v4 = Endpoint::new(Addr::v4([192, 0, 2, (n % 7) as u8]), 20_000 + n / 2);
            frames.push(frame(
                v4,
                at("10.77.0.20:53"),
                format!("four {n}").as_bytes(),
            ));
            let v6 = at(&format!("[2001:db8:1::{:x}]:{}", n % 5, 30_000 + n / 3));
            frames.push(frame(
                v6,
                at("[2001:db8::20]:53"),
                format!("six {n}").as_bytes(),
            ));
        }
        let (report, sent) = replay(workers, replicas, &frames);
        let mut count: HashMap<Vec<u8>, HashSet<Endpoint>> = HashMap::new();
        let mut total = 0;
        for (worker, frames) in sent.iter().enumerate() {
            for bytes in frames {
                let p = decode_udp_frame(&bytes[..]).unwrap();
                let payload = bytes[p.udp.payload..].to_vec();
                let wire = Endpoint::new(p.ip.src, p.udp.sport);
                assert_eq!(owner(flow_hash(wire), workers as u32), worker as u32);
                let family: &[u8] = if p.ip.src.is_v4() { b"four" } else { b"six" };
                assert!(payload.starts_with(family));
                let target = if p.ip.src.is_v4() {
                    at("10.77.0.30:5353")
                } else {
                    at("[2001:db8::30]:5353")
                };
                assert_eq!(Endpoint::new(p.ip.dst, p.udp.dport), target);
                assert!(count.entry(payload).or_default().insert(wire), "twice");
                total += 1;
            }
        }
        assert_eq!(count.len(), 1000);
        assert_eq!(total, 1000 * usize::from(replicas));
        let udp = report.udp.clone().unwrap();
        assert!(udp.balanced(), "{udp:?}");
        assert_eq!((udp.captured, udp.sent), (1000, total as u64));
        assert!(report.dropped().is_empty(), "{:?}", report.dropped());
        let processing = tcpcopy_user::worker::Latency::Processing;
        assert_eq!(report.latencies.get(processing).len(), total as u64);
    }
}

#[test]
fn what_is_not_replayed_is_counted_by_its_cause() {
    let client = at("192.0.2.1:4000");
    let mut frames = vec![
        frame(client, at("10.77.0.20:53"), b"query"),
        frame(client, at("10.77.0.20:53"), &[7; 1473]),
        // Our own, seen again; not in the list; no UDP packet at all.
        frame(client, at("10.77.0.30:5353"), b"ours"),
        frame(client, at("10.77.0.20:54"), b"other"),
    ];
    let mut bad = frames[0].clone();
    bad[38..40].copy_from_slice(&3u16.to_be_bytes());
    frames.push(bad);
    let (report, sent) = replay(1, 1, &frames);
    // One larger than the way's MTU, in two fragments.
    let sizes: Vec<usize> = sent[0].iter().map(|f| f.len() - 14).collect();
    assert_eq!(sizes, [33, 1500, 21]);
    let udp = report.udp.clone().unwrap();
    assert_eq!((udp.captured, udp.sent), (2, 2));
    assert!(udp.balanced());
    assert_eq!((report.intake.to_target, report.intake.no_transfer), (1, 1));
    assert_eq!(report.dropped().get("intake_bad_udp"), Some(&1));
}

/// Datagrams of both families in fragments, and their payloads.
fn in_fragments(count: u16) -> (Vec<Vec<u8>>, HashSet<Vec<u8>>) {
    let (mut frames, mut payloads) = (Vec::new(), HashSet::new());
    for n in 0..count {
        let payload = format!("{n:04}").repeat(20 + usize::from(n)).into_bytes();
        let (client, server) = if n % 2 == 0 {
            (format!("192.0.2.{}:{}", n % 7, 20_000 + n), "10.77.0.20:53")
        } else {
            (
                format!("[2001:db8:1::{}]:{}", n % 7, 20_000 + n),
                "[2001:db8::20]:53",
            )
        };
        let mut whole = frame(at(&client), at(server), &payload);
        if n % 2 == 0 {
            whole[18..20].copy_from_slice(&n.to_be_bytes());
        }
        let mut pieces = pieces::cut(&whole, 64, u32::from(n));
        let middle = pieces.len() / 2;
        pieces.rotate_left(middle);
        frames.extend(pieces);
        payloads.insert(payload);
    }
    (frames, payloads)
}

fn payloads(sent: &[Vec<Vec<u8>>]) -> HashSet<Vec<u8>> {
    let frames = sent.iter().flatten();
    let payload = |bytes: &Vec<u8>| {
        let packet = decode_udp_frame(&bytes[..]).unwrap();
        bytes[packet.udp.payload..].to_vec()
    };
    let all: Vec<_> = frames.map(payload).collect();
    let set: HashSet<_> = all.iter().cloned().collect();
    assert_eq!(set.len(), all.len(), "twice");
    set
}

#[test]
fn datagrams_in_fragments_arrive_whole() {
    let (frames, wanted) = in_fragments(100);
    for workers in [1, 3] {
        let (report, sent) = replay(workers, 1, &frames);
        assert!(payloads(&sent) == wanted, "{:?}", report.counters);
        assert_eq!(
            report.counter("fragments", "fragments"),
            frames.len() as u64
        );
        assert_eq!(report.counter("fragments", "reassembled"), 100);
        assert!(report.dropped().is_empty(), "{:?}", report.dropped());
    }
}

#[test]
fn what_comes_in_fragments_is_chosen_like_the_rest() {
    let (frames, wanted) = in_fragments(100);
    let shard = |k| FragmentRules {
        shard: Shard::new(k, 2).unwrap(),
        ..FragmentRules::default()
    };
    let shards = [0, 1].map(|k| replay_by(2, 1, &frames, &shard(k)));
    let [a, b] = shards.each_ref().map(|(_, sent)| payloads(sent));
    assert!(a.is_disjoint(&b) && a.len() + b.len() == wanted.len());
    for ((report, _), taken) in shards.iter().zip([&a, &b]) {
        let left = report.counter("fragments", "not_selected");
        assert_eq!(left as usize, wanted.len() - taken.len());
        assert!(taken.len() > 20, "{}", taken.len());
    }

    let filter = Filter::compile("ip6 or udp src port 20000").unwrap();
    let rules = FragmentRules {
        filter: Some(Arc::new(ArcSwap::from_pointee(filter))),
        ..FragmentRules::default()
    };
    let (report, sent) = replay_by(2, 1, &frames, &rules);
    assert_eq!(payloads(&sent).len(), 51);
    assert_eq!(report.counter("fragments", "filtered"), 49);
    assert!(report.dropped().is_empty(), "{:?}", report.dropped());
}

#[test]
fn what_is_not_whole_or_not_ours_is_counted() {
    let client = at("192.0.2.1:4000");
    let other = frame(client, at("10.77.0.20:54"), &[7; 300]);
    let ours = frame(at("192.0.2.2:4000"), at("10.77.0.30:5353"), &[7; 300]);
    let mut frames = pieces::cut(&other, 64, 0);
    frames.extend(pieces::cut(&ours, 64, 0));
    frames.extend(pieces::cut(
        &frame(at("192.0.2.3:1"), at("10.77.0.20:53"), &[7; 300]),
        64,
        0,
    ));
    frames.pop();
    let (report, sent) = replay(2, 1, &frames);
    assert_eq!(sent.iter().flatten().count(), 0);
    assert_eq!(report.counter("fragments", "no_transfer"), 1);
    assert_eq!(report.intake.to_target, 1);
    let dropped: Vec<_> = report.dropped().into_iter().collect();
    assert_eq!(dropped, [("fragments_reassembly_incomplete".to_owned(), 1)]);
}
