//! With `tap`, production receives every packet, whatever becomes of the reader.
//!
//! One run measures what the untapped stack sustains, then the same load and a flood at half that rate run twice:
//! untapped, and tapped with a stopped reader whose rings fill and drop.

use std::{thread, time::Duration};

use lab::{
    Host, Lab, LabOptions, Process,
    replay::{Capture, Copy, ExitReport, Intercept, PRODUCTION_PORT, Programs, stop},
    testing::{programs, require_root},
    traffic::{Flood, FloodReport, LoadOptions, LoadReport},
    world::{CLIENT_SOURCE, StackCounters},
};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_mins(1);
/// The least that a flood takes.
const FLOOD_TIME: Duration = Duration::from_secs(6);
/// And the least that it sends: the rings of a stopped reader, 64 MiB, hold half a million of these packets.
const FLOOD_PACKETS: u64 = 650_000;
const MEASURE_TIME: Duration = Duration::from_secs(2);
/// A load that fits into the flood.
const REQUESTS: u64 = 2000;
const RATE: u64 = 500;

/// What production and the client's stack went through.
#[derive(Debug)]
struct Passage {
    load: LoadReport,
    flood: FloodReport,
    /// IP packets of the client's own TCP; the flood comes from a raw socket and is not among them. A GSO packet is
    /// one here and where it arrives.
    sent: u64,
    /// IP packets that production's stack took in, both kinds. What a full backlog drops never gets here.
    received: u64,
    /// Segments that either side sent again because they were lost: a busy machine delays acknowledgements, and
    /// then TCP probes (RFC 8985, 7) and is told by the receiver that it had the segment (D-SACK, RFC 2883).
    retransmitted: u64,
}

impl Passage {
    /// Packets that were sent to production and did not reach its stack.
    fn lost(&self) -> i64 {
        (self.flood.sent + self.sent) as i64 - self.received as i64
    }
}

#[test]
fn production_gets_every_packet_while_the_reader_stands_still() {
    require_root();
    let programs = programs(env!("CARGO_BIN_EXE_lab-tool"));
    let lab = Lab::up(&LabOptions::default()).unwrap();
    let mut server = Process::start(
        "server",
        &mut programs.tool.server(
            &lab,
            Host::Production,
            PRODUCTION_PORT,
            &lab.file("production.log"),
        ),
        lab.folder(),
    )
    .unwrap();
    server.wait_for_line("ready", LIMIT).unwrap();

    let before = StackCounters::of(&lab.host(Host::Production)).unwrap();
    let full = flood(MEASURE_TIME, None)
        .run(&lab.host(Host::Client))
        .unwrap();
    let after = StackCounters::of(&lab.host(Host::Production)).unwrap();
    let sustained = after.since(&before, "TcpInSegs") as f64 / full.seconds;
    let half = (sustained / 2.0) as u64;
    eprintln!("sustained {sustained:.0} packets/s untapped, flood at {half}");
    assert!(half > 1000, "{full:?}");

    let untapped = passage(&lab, &programs, half, 31);

    let _intercept = Intercept::default().start(&lab, &programs).unwrap();
    let report = lab.file("report.json");
    let mut tcpcopy = Copy::new(Capture::Tap)
        .start(&lab, &programs, &report)
        .unwrap();
    tcpcopy.signal(Signal::STOP).unwrap();
    let tapped = passage(&lab, &programs, half, 32);
    tcpcopy.signal(Signal::CONT).unwrap();
    stop(&mut tcpcopy).unwrap();
    let report = ExitReport::read(&report).unwrap();

    eprintln!(
        "untapped {untapped:?}\ntapped {tapped:?}\nreport {}",
        report.json["packets"]
    );
    assert_eq!(untapped.load.errors, 0, "{untapped:?}");
    assert_eq!(tapped.load.errors, 0, "{tapped:?}");
    assert_eq!(
        untapped.lost(),
        0,
        "half of what the stack sustains arrives completely"
    );
    assert_eq!(
        tapped.lost(),
        0,
        "and so it does behind a tap that nobody reads"
    );
    assert!(
        tapped.retransmitted <= untapped.retransmitted,
        "production and client sent again {} segments tapped, {} untapped",
        tapped.retransmitted,
        untapped.retransmitted
    );
    assert!(
        report.dropped() > 0,
        "the rings were full: {}",
        report.json["packets"]
    );
}

fn flood(duration: Duration, rate: Option<u64>) -> Flood {
    Flood {
        from: CLIENT_SOURCE,
        to: (Host::Production.address(), PRODUCTION_PORT),
        duration,
        rate,
    }
}

fn passage(lab: &Lab, programs: &Programs, rate: u64, seed: u64) -> Passage {
    // Intercept, too, sends to production, where tcpcopy is: what the channel is set up with.
    let hosts = [Host::Production, Host::Client, Host::Assistant];
    let counters = || hosts.map(|host| StackCounters::of(&lab.host(host)).unwrap());
    let before = counters();
    let options = LoadOptions {
        server: (Host::Production.address(), PRODUCTION_PORT),
        requests: REQUESTS,
        connections: 20,
        rate: RATE,
        seed,
    };
    let (flood, load) = thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let time = FLOOD_TIME.max(Duration::from_secs(FLOOD_PACKETS / rate));
            flood(time, Some(rate))
                .run(&lab.host(Host::Client))
                .unwrap()
        });
        let mut load =
            Process::start("load", &mut programs.tool.load(lab, &options), lab.folder()).unwrap();
        load.wait_success(LIMIT).unwrap();
        (
            flood.join().unwrap(),
            LoadReport::from_json(&load.stdout().parse().unwrap()).unwrap(),
        )
    });
    let after = counters();
    let both = |name| {
        (0..2)
            .map(|host| after[host].since(&before[host], name))
            .sum::<u64>()
    };
    Passage {
        load,
        flood,
        sent: (1..hosts.len())
            .map(|host| after[host].since(&before[host], "IpOutRequests"))
            .sum(),
        received: after[0].since(&before[0], "IpInReceives"),
        retransmitted: both("TcpRetransSegs").saturating_sub(both("TcpExtTCPDSACKRecv")),
    }
}
