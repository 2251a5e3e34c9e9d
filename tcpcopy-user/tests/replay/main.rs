//! Workers from end to end without root and without a kernel: captured frames in memory, a target that
//! answers the frames they send, and an intercept on 127.0.0.1 that speaks the C programs' format.
//!
//! | test | what it proves |
//! |---|---|
//! | every_request_byte_once | requests arrive once, in order, whole; the books balance |
//! | losses_are_repaired | the same with every seventh frame to the target lost |
//! | two_workers_share_one_source | frames reach their owner by hand-over |
//! | packets_in_fragments_arrive_whole | they meet on one worker, out of order, and go on to their owner |
//! | a_restarted_intercept_costs_no_session | routes are announced again |
//! | the_end_cuts_off_what_is_open | drain, reset, outcome, books; later packets do not count |

mod client;
#[path = "../support/pieces.rs"]
mod pieces;
mod world;

use client::{Client, late, production, session};
use common::flow::{CaptureMeta, Nanos};
use common::packet::{Addr, Endpoint, FrameAddresses, MacAddr};
use dataplane::hops::Missing;
use dataplane::memory::{MemoryCapture, MemoryTransmit};
use dataplane::wake::{Waker, WakerHandle};
use dataplane::{Capture, Transmit, clock, handover};
use session::{EngineConfig, Outcome};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tcpcopy_user::channel::Channel;
use tcpcopy_user::cli::parse_transfers;
use tcpcopy_user::report::{Report, Setting};
use tcpcopy_user::transfers::TransferTable;
use tcpcopy_user::worker::{
    Control, Egress, FragmentRules, Hop, LiveFigures, LiveStats, NextHops, NoSupply, Worker,
    WorkerParts, WorkerReport,
};
use world::World;

/// Long enough for a loaded machine; waiting ends as soon as what is waited for is there.
const PATIENCE: Duration = Duration::from_mins(1);
const DEVICE: u32 = 7;

struct OneHop(bool);

impl NextHops for OneHop {
    fn changed(&mut self) -> bool {
        !std::mem::replace(&mut self.0, true)
    }

    fn hop(&self, _: Addr) -> Result<Hop, Missing> {
        let macs = FrameAddresses {
            src: MacAddr([2; 6]),
            dst: MacAddr([4; 6]),
        };
        Ok(Hop {
            ifindex: DEVICE,
            macs,
            local: false,
            mtu: 1500,
        })
    }
}

struct Replay {
    world: World,
    sources: Vec<MemoryCapture>,
    control: Arc<Control>,
    live: Vec<Arc<LiveStats>>,
    wakers: Vec<WakerHandle>,
    threads: Vec<JoinHandle<WorkerReport>>,
}

impl Replay {
    fn start(workers: usize) -> Self {
        let sources: Vec<_> = (0..workers)
            .map(|_| MemoryCapture::new().unwrap())
            .collect();
        let ports: Vec<_> = (0..workers).map(|_| MemoryTransmit::new(2048)).collect();
        let world = World::new(ports.clone());
        let transfers = Arc::new(TransferTable::new(
            &parse_transfers(["10.77.0.20:80-10.77.0.30:8080"]).unwrap(),
        ));
        let control = Arc::new(Control::new(workers));
        let mut replay = Self {
            world,
            sources: sources.clone(),
            control: Arc::clone(&control),
            live: Vec::new(),
            wakers: Vec::new(),
            threads: Vec::new(),
        };
        let handovers = handover::mesh(workers, 1 << 20).unwrap();
        for (id, ((source, port), handover)) in
            sources.into_iter().zip(ports).zip(handovers).enumerate()
        {
            let waker = Waker::new().unwrap();
            let live = Arc::new(LiveStats::default());
            replay.wakers.push(waker.handle());
            replay.live.push(Arc::clone(&live));
            let egress = Egress::new(
                transfers.targets(),
                vec![(DEVICE, Box::new(port) as Box<dyn Transmit>)],
                None,
                Box::new(OneHop(false)),
                Box::new(NoSupply),
            );
            let peers = [replay.world.intercept()];
            let parts = WorkerParts {
                decap: common::abi::DecapConfig::NONE,
                id: id as u32,
                workers: workers as u32,
                sources: vec![Box::new(source) as Box<dyn Capture>],
                pool: Vec::new(),
                handover,
                transfers: Arc::clone(&transfers),
                engine: EngineConfig {
                    worker: id as u32,
                    workers: workers as u32,
                    ..EngineConfig::default()
                },
                udp: None,
                fragments: FragmentRules::default(),
                egress,
                channel: Channel::connect(&peers, 2, false, clock::now()).unwrap(),
                waker,
                control: Arc::clone(&control),
                live,
            };
            replay.threads.push(std::thread::spawn(move || {
                Worker::new(parts).run(clock::now)
            }));
        }
        replay
    }

    fn figures(&self) -> LiveFigures {
        self.live
            .iter()
            .map(|l| l.read())
            .fold(LiveFigures::default(), LiveFigures::plus)
    }

    /// Runs the world until `done` holds.
    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(
                start.elapsed() < PATIENCE,
                "not reached: {what}, at {:?}",
                self.figures()
            );
            self.world.step();
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Ends the run and lets the world go on meanwhile.
    fn end(mut self, drain: Nanos) -> (World, Vec<WorkerReport>) {
        let now = clock::now();
        self.control.stop(now, now + drain);
        self.wakers.iter().for_each(WakerHandle::wake);
        self.until("workers end", |r| {
            r.threads.iter().all(JoinHandle::is_finished)
        });
        self.world.step();
        let reports = self
            .threads
            .into_iter()
            .map(|t| t.join().unwrap())
            .collect();
        (self.world, reports)
    }
}

fn summary(reports: &[WorkerReport]) -> Report {
    let setting = Setting {
        capture: "tap",
        iface: "memory".to_owned(),
        workers: reports.len(),
        duration: Nanos(1),
        clock_resolution: Nanos(1),
    };
    Report::new(setting, reports, &[])
}

/// Every client's bytes were read once, in order, by the connection that stands for it.
fn assert_delivered(world: &World, clients: &[Client]) {
    for client in clients {
        let connection = world.connections.get(&client.endpoint).expect("connection");
        assert!(
            connection.read == client.sent,
            "bytes of {} differ",
            client.endpoint
        );
        assert!(
            connection.closed && !connection.reset,
            "{}",
            client.endpoint
        );
    }
    assert_eq!(world.connections.len(), clients.len());
}

fn assert_completed(report: &Report, sessions: u64, bytes: usize) {
    let t = &report.totals;
    assert!(t.balanced(), "{t:?}");
    assert_eq!(
        (t.sessions, t.outcome(Outcome::Completed)),
        (sessions, sessions),
        "{t:?}"
    );
    assert_eq!(
        (t.bytes_captured, t.bytes_delivered),
        (bytes as u64, bytes as u64),
        "{t:?}"
    );
    assert_eq!(report.dropped().into_iter().collect::<Vec<_>>(), []);
}

fn completed(n: u64) -> impl Fn(&Replay) -> bool {
    move |r| r.figures().completed >= n
}

#[test]
fn every_request_byte_once() {
    let mut replay = Replay::start(1);
    let clients: Vec<_> = (0..50)
        .map(|n| session(&replay.sources[0], 40_000 + n, 3, 20 + 97 * n as usize))
        .collect();
    replay.until("sessions", completed(50));
    let (world, reports) = replay.end(Nanos::from_secs(60));
    assert_delivered(&world, &clients);
    let report = summary(&reports);
    assert_completed(&report, 50, clients.iter().map(|c| c.sent.len()).sum());
    assert_eq!(report.intake.frames, report.totals.segments_captured);
    assert_eq!(report.sent.sent, report.totals.segments_sent);
    let connects = report.latencies.get(tcpcopy_user::worker::Latency::Connect);
    assert_eq!(connects.len(), 50);
    assert!(
        report
            .latencies
            .get(tcpcopy_user::worker::Latency::Processing)
            .len()
            >= 150
    );
}

#[test]
fn losses_are_repaired() {
    let mut replay = Replay::start(1);
    replay.world.lose_every = 7;
    let clients: Vec<_> = (0..20)
        .map(|n| session(&replay.sources[0], 41_000 + n, 2, 3000))
        .collect();
    replay.until("sessions", completed(20));
    let (world, reports) = replay.end(Nanos::from_secs(60));
    assert!(world.lost > 0);
    assert_delivered(&world, &clients);
    let report = summary(&reports);
    assert_completed(&report, 20, clients.iter().map(|c| c.sent.len()).sum());
    assert!(report.totals.segments_retransmitted > 0);
}

#[test]
fn two_workers_share_one_source() {
    let mut replay = Replay::start(2);
    let clients: Vec<_> = (0..60)
        .map(|n| session(&replay.sources[0], 42_000 + n, 2, 1500))
        .collect();
    replay.until("sessions", completed(60));
    let (world, reports) = replay.end(Nanos::from_secs(60));
    assert_delivered(&world, &clients);
    assert_completed(
        &summary(&reports),
        60,
        clients.iter().map(|c| c.sent.len()).sum(),
    );
    let owned: Vec<u64> = reports.iter().map(|r| r.totals.sessions).collect();
    assert!(owned.iter().all(|n| *n > 10), "{owned:?}");
    assert_eq!(reports[1].intake.frames, 0);
    assert_eq!(
        reports[1].intake.handed_over,
        reports[1].totals.segments_captured
    );
}

#[test]
fn packets_in_fragments_arrive_whole() {
    for workers in [1, 3] {
        let mut replay = Replay::start(workers);
        let mut clients: Vec<_> = (0..30).map(|n| Client::new(46_000 + n)).collect();
        // By any queue, as a mirror's fragments come.
        let sources = replay.sources.clone();
        let source = |n: usize| &sources[n % workers];
        for (n, client) in clients.iter_mut().enumerate() {
            client.piece_bytes = Some(8 * (3 + n));
            client.connect(source(n));
        }
        replay.until("connections", |r| r.figures().open == 30);
        for number in 0..3 {
            for (n, client) in clients.iter_mut().enumerate() {
                client.request(source(n), number, 1500);
            }
            let bytes: usize = clients.iter().map(|c| c.sent.len()).sum();
            replay.until("requests", |r| r.figures().bytes_delivered >= bytes as u64);
        }
        for (n, client) in clients.iter_mut().enumerate() {
            client.close(source(n));
        }
        replay.until("sessions", completed(30));
        let (world, reports) = replay.end(Nanos::from_secs(60));
        assert_delivered(&world, &clients);
        let report = summary(&reports);
        assert_completed(&report, 30, clients.iter().map(|c| c.sent.len()).sum());
        let count = |name| report.counter("fragments", name);
        // All but the short ones: six segments of each client, and the first of one.
        assert_eq!(count("reassembled"), 30 * 6 + 1);
        assert!(count("fragments") > 3 * count("reassembled"));
    }
}

#[test]
fn a_restarted_intercept_costs_no_session() {
    let mut replay = Replay::start(1);
    let source = replay.sources[0].clone();
    let mut clients: Vec<_> = (0..10).map(|n| Client::new(43_000 + n)).collect();
    for client in &mut clients {
        client.connect(&source);
        client.request(&source, 0, 100);
    }
    let first: u64 = clients.iter().map(|c| c.sent.len() as u64).sum();
    replay.until("first requests", |r| r.figures().bytes_delivered >= first);
    replay.world.drop_connections();
    for client in &mut clients {
        client.request(&source, 1, 100);
        client.close(&source);
    }
    replay.until("sessions", completed(10));
    let (world, reports) = replay.end(Nanos::from_secs(60));
    assert_delivered(&world, &clients);
    let report = summary(&reports);
    assert_completed(&report, 10, clients.iter().map(|c| c.sent.len()).sum());
    assert_eq!(report.counter("channel", "losses"), 2);
    assert!(report.counter("channel", "routes_announced_again") >= 10);
}

#[test]
fn the_end_cuts_off_what_is_open() {
    let mut replay = Replay::start(2);
    let source = replay.sources[0].clone();
    let mut clients: Vec<_> = (0..8).map(|n| Client::new(44_000 + n)).collect();
    for client in &mut clients {
        client.connect(&source);
        client.request(&source, 0, 500);
    }
    let bytes: u64 = clients.iter().map(|c| c.sent.len() as u64).sum();
    replay.until("requests", |r| r.figures().bytes_delivered >= bytes);
    // Captured after the end: no part of the run.
    let now = clock::now();
    replay.control.stop(now, now + Nanos::from_millis(300));
    let mut bytes_of_a_late_packet = vec![0u8; 60];
    bytes_of_a_late_packet[12] = 8;
    source.push(
        &bytes_of_a_late_packet,
        CaptureMeta {
            at: late(),
            ..CaptureMeta::default()
        },
    );
    let (world, reports) = replay.end(Nanos::from_secs(60));
    let report = summary(&reports);
    let t = &report.totals;
    assert!(t.balanced(), "{t:?}");
    assert_eq!(t.outcome(Outcome::Shutdown), 8, "{t:?}");
    assert_eq!((t.bytes_captured, t.bytes_delivered), (bytes, bytes));
    assert!(report.intake.after_end <= 1);
    for client in &clients {
        let connection = &world.connections[&client.endpoint];
        assert!(
            connection.reset && connection.read == client.sent,
            "{}",
            client.endpoint
        );
    }
}

#[test]
fn what_is_no_part_of_the_list_is_not_sent_anywhere() {
    let mut replay = Replay::start(1);
    let source = replay.sources[0].clone();
    let client = session(&source, 45_000, 1, 100);
    replay.until("session", completed(1));
    // Garbage of every length, and our own output seen again.
    for len in 0..100 {
        source.push(&vec![0x45; len], CaptureMeta::default());
    }
    let end = Endpoint::new(production().addr, 81);
    assert_ne!(end, production());
    replay.until("frames taken", |r| r.sources[0].waiting() == 0);
    let (world, reports) = replay.end(Nanos::from_secs(60));
    assert_delivered(&world, &[client]);
    let report = summary(&reports);
    assert_eq!(report.totals.sessions, 1);
    assert_eq!(report.intake.undecodable.iter().sum::<u64>(), 100);
}
