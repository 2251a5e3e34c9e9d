//! A million live routes, and what they take: counted by the allocator, so a program of its own.

#[expect(dead_code, reason = "other tests use the rest")]
mod support;

use common::flow::Nanos;
use common::packet::{Addr, Endpoint, TcpFlags};
use common::wire::compat;
use intercept_user::channel::ConnectionId;
use intercept_user::routes::{RouteKey, RouteTable};
use support::{Peer, TARGET, World, response_frame};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const ROUTES: u32 = 1_000_000;
/// What `--max-routes` promises.
const ROUTE_BYTES: usize = 100;
/// Rings, histograms and queues, whatever the number of routes; early responses have 8 MiB of it.
const FIXED_BYTES: usize = 48 << 20;
const IDLE: Nanos = Nanos::from_secs(600);

fn session(n: u32) -> Endpoint {
    let [_, b, c, _] = n.to_be_bytes();
    Endpoint::new(Addr::v4([10, b, c, 1]), 1024 + (n % 256) as u16)
}

fn live_bytes() -> usize {
    dhat::HeapStats::get().curr_bytes
}

/// One test: the allocator counts for the whole process.
#[test]
fn a_million_routes_in_bounded_memory() {
    let _profiler = dhat::Profiler::builder().testing().build();
    the_table_alone();
    the_whole_service();
}

/// Filled, used, expired, filled again with others: what it has reserved is enough for all of it.
fn the_table_alone() {
    let before = live_bytes();
    let start = Nanos::from_secs(1000);
    let mut table = RouteTable::new(start, ROUTES as usize, IDLE);
    let reserved = live_bytes() - before;
    let blocks = dhat::HeapStats::get().total_blocks;
    let key = |n| RouteKey {
        client: session(n),
        target: TARGET,
    };
    let connection = ConnectionId {
        index: 3,
        generation: 1,
    };
    let mut now = start;
    for round in 0..3 {
        let first = round * ROUTES;
        for n in first..first + ROUTES {
            table.add(now, key(n), connection);
        }
        assert_eq!(table.len(), ROUTES as usize);
        // More than there is room for displaces, and grows nothing.
        for n in 0..1000 {
            table.add(now, key(15_000_000 + n), connection);
        }
        assert_eq!(table.len(), ROUTES as usize);
        now += Nanos(IDLE.0 / 2);
        let found = (first..first + ROUTES)
            .step_by(10)
            .filter(|n| table.hit(now, &key(*n), TcpFlags::ACK) == Some(connection));
        let answered = found.count();
        assert!(answered >= ROUTES as usize / 10 - 1000, "{answered}");
        // Those that were answered live on, the others go.
        now += Nanos(IDLE.0 / 2 + IDLE.0 / 50);
        while table.advance(now, |_| true) {}
        assert_eq!(table.len(), answered, "round {round}");
        now += IDLE;
        while table.advance(now, |_| true) {}
        assert!(table.is_empty());
    }
    let allocated = dhat::HeapStats::get().total_blocks - blocks;
    println!(
        "table: {} bytes for each of {ROUTES} routes, {allocated} allocations afterwards",
        reserved / ROUTES as usize
    );
    assert!(reserved <= ROUTES as usize * ROUTE_BYTES, "{reserved}");
    assert_eq!(allocated, 0);
}

/// Announced over four connections, to two workers; one session in 500 is answered.
fn the_whole_service() {
    let before = live_bytes();
    let world = World::new(2);
    let mut peers: Vec<Peer> = (0..4).map(|_| world.tcpcopy()).collect();
    let mut bytes = Vec::new();
    for first in (0..ROUTES).step_by(1000) {
        bytes.clear();
        for n in first..first + 1000 {
            bytes.extend(compat::add(session(n), TARGET).expect("IPv4"));
        }
        peers[(first / 1000 % 4) as usize].send(&bytes);
    }
    // An answer that is earlier than its route waits for it: so these tell when all announcements are through.
    for n in (0..ROUTES).step_by(500) {
        world.push(
            0,
            &response_frame(session(n), TARGET, n, TcpFlags::ACK, b""),
            0,
        );
    }
    for (number, peer) in peers.iter_mut().enumerate() {
        for _ in 0..ROUTES / 500 / 4 {
            let header = peer.next();
            assert_eq!(header.client, session(header.seq.0));
            assert_eq!(header.seq.0 / 1000 % 4, number as u32);
        }
    }
    let used = live_bytes() - before;
    let report = world.stop();
    println!(
        "service: {} MiB with {} live routes, {} answers",
        used >> 20,
        report.routes_live,
        report.records.outputs.sent
    );
    assert!(
        used <= ROUTES as usize * ROUTE_BYTES + FIXED_BYTES,
        "{used}"
    );
    assert_eq!(
        (report.routes_live, report.routes.evicted),
        (u64::from(ROUTES), 0)
    );
    assert_eq!(report.records.outputs.sent, u64::from(ROUTES / 500));
    assert_eq!(report.unaccounted(), (0, 0));
}
