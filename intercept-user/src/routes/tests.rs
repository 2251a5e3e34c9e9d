use super::*;
use crate::channel::{ConnectionId, Kind, Response};
use common::flow::Nanos;
use common::packet::{Addr, Endpoint, TcpFlags};
use std::collections::{HashMap, HashSet};

const IDLE: Nanos = Nanos::from_secs(600);
const START: Nanos = Nanos::from_secs(1_000_000);

fn key(n: u32) -> RouteKey {
    let [_, a, b, c] = n.to_be_bytes();
    RouteKey {
        client: Endpoint::new(Addr::v4([10, a, b, c]), 40_000),
        target: Endpoint::new(Addr::v4([192, 0, 2, 1]), 80),
    }
}

fn connection(index: u32) -> ConnectionId {
    ConnectionId {
        index,
        generation: 1,
    }
}

fn at(secs: u64) -> Nanos {
    START + Nanos::from_secs(secs)
}

/// Lets time pass in steps of a second, as a worker's loops would.
fn pass(table: &mut RouteTable, from: u64, to: u64, is_open: impl Fn(ConnectionId) -> bool + Copy) {
    for secs in from..=to {
        while table.advance(at(secs), is_open) {}
    }
}

#[test]
fn the_full_tuple_is_the_key() {
    let mut table = RouteTable::new(START, 10, IDLE);
    let base = key(1);
    table.add(START, base, connection(0));
    for other in [
        RouteKey {
            client: Endpoint::new(base.client.addr, 40_001),
            ..base
        },
        RouteKey {
            target: Endpoint::new(base.target.addr, 81),
            ..base
        },
        RouteKey {
            target: Endpoint::new(Addr::v4([192, 0, 2, 2]), 80),
            ..base
        },
        RouteKey {
            client: base.target,
            target: base.client,
        },
        key(2),
    ] {
        assert_eq!(table.hit(START, &other, TcpFlags::ACK), None, "{other:?}");
    }
    // These two have the same 32-bit sum, the key of the C program (reference 3.2).
    let (a, b) = (
        Endpoint::new(Addr::v4([10, 1, 2, 9]), 40_000),
        Endpoint::new(Addr::v4([10, 0, 2, 8]), 40_001),
    );
    table.add(START, RouteKey { client: a, ..base }, connection(1));
    table.add(START, RouteKey { client: b, ..base }, connection(2));
    let mut hit = |client| table.hit(START, &RouteKey { client, ..base }, TcpFlags::ACK);
    assert_eq!((hit(a), hit(b)), (Some(connection(1)), Some(connection(2))));
}

#[test]
fn the_newest_add_wins() {
    let mut table = RouteTable::new(START, 10, IDLE);
    table.add(START, key(1), connection(0));
    table.add(START, key(1), connection(1));
    assert_eq!(
        table.hit(START, &key(1), TcpFlags::ACK),
        Some(connection(1))
    );
    assert_eq!(table.len(), 1);
    assert_eq!((table.totals().added, table.totals().replaced), (1, 1));
}

#[test]
fn routes_expire_after_idle_time_and_hits_extend_it() {
    let mut table = RouteTable::new(START, 10, IDLE);
    table.add(START, key(1), connection(0));
    table.add(START, key(2), connection(0));
    pass(&mut table, 0, 500, |_| true);
    assert!(table.hit(at(500), &key(1), TcpFlags::ACK).is_some());
    pass(&mut table, 501, 620, |_| true);
    assert_eq!(table.hit(at(620), &key(2), TcpFlags::ACK), None);
    assert_eq!(table.len(), 1);
    // Never before its time, and within a hundredth of the idle time after it.
    pass(&mut table, 621, 1099, |_| true);
    assert_eq!(table.len(), 1);
    pass(&mut table, 1100, 1113, |_| true);
    assert!(table.is_empty());
    assert_eq!(table.totals().expired, 2);
    assert_eq!(table.next_deadline(at(1113)), None);
}

#[test]
fn a_route_with_fin_or_rst_expires_soon_unless_announced_again() {
    for flags in [TcpFlags::FIN.with(TcpFlags::ACK), TcpFlags::RST] {
        let mut table = RouteTable::new(START, 10, IDLE);
        table.add(START, key(1), connection(0));
        table.add(START, key(2), connection(0));
        table.hit(at(1), &key(1), flags);
        table.hit(at(1), &key(2), flags);
        // The last acknowledgement comes after the FIN; the route is there for it.
        pass(&mut table, 1, 30, |_| true);
        assert!(table.hit(at(30), &key(1), TcpFlags::ACK).is_some());
        table.add(at(30), key(2), connection(0));
        pass(&mut table, 31, 30 + 60 + 7, |_| true);
        assert_eq!(table.len(), 1);
        assert!(table.hit(at(97), &key(2), TcpFlags::ACK).is_some());
    }
}

#[test]
fn where_the_kernel_knows_routes_those_of_lost_connections_linger_and_removals_are_told() {
    let mut table = RouteTable::new(START, 3, IDLE).lingering();
    for n in 1..=3 {
        table.add(at(10 * u64::from(n)), key(n), connection(n));
    }
    // Full: the first goes for the next.
    table.add(at(40), key(4), connection(4));
    assert_eq!(table.removed().collect::<Vec<_>>(), [key(1)]);
    // 2 and 3 lose their connection; 3 is announced again on another.
    let open = |id| id == connection(4) || id == connection(5);
    table.connection_closed();
    pass(&mut table, 41, 70, open);
    table.forget_closed(at(70), &key(2));
    assert_eq!(table.len(), 3);
    table.add(at(70), key(3), connection(5));
    pass(&mut table, 71, 110, open);
    assert_eq!(table.removed().collect::<Vec<_>>(), [key(2)]);
    pass(&mut table, 111, 680, open);
    let mut removed: Vec<_> = table.removed().map(|k| k.client).collect();
    removed.sort();
    assert_eq!(removed, [key(3).client, key(4).client]);
    let totals = table.totals();
    assert_eq!((totals.expired, totals.closed, totals.evicted), (3, 0, 1));
}

#[test]
fn only_its_connection_can_give_a_route_back() {
    let mut table = RouteTable::new(START, 10, IDLE);
    table.add(START, key(1), connection(0));
    table.retire(START, &key(1), connection(1));
    pass(&mut table, 0, 100, |_| true);
    assert_eq!(table.len(), 1);
    table.retire(at(100), &key(1), connection(0));
    pass(&mut table, 101, 170, |_| true);
    assert!(table.is_empty());
}

#[test]
fn routes_go_with_their_connection_in_bounded_steps() {
    let mut table = RouteTable::new(START, 10_000, IDLE);
    for n in 0..10_000 {
        table.add(START, key(n), connection(n % 2));
    }
    table.connection_closed();
    assert_eq!(table.next_deadline(START), Some(START));
    let mut steps = 0;
    loop {
        let before = table.len();
        let more = table.advance(START, |id| id.index != 0);
        assert!(before - table.len() <= 64, "bounded");
        steps += 1;
        if !more {
            break;
        }
    }
    assert!(steps > 100);
    assert_eq!(table.len(), 5_000);
    assert_eq!(table.totals().closed, 5_000);
    assert_eq!(table.hit(START, &key(0), TcpFlags::ACK), None);
    assert_eq!(
        table.hit(START, &key(1), TcpFlags::ACK),
        Some(connection(1))
    );
}

#[test]
fn a_full_table_forgets_what_expires_first() {
    let mut table = RouteTable::new(START, 3, IDLE);
    for n in 0..3 {
        table.add(at(u64::from(n) * 20), key(n), connection(0));
    }
    table.add(at(60), key(9), connection(0));
    assert_eq!(table.len(), 3);
    assert_eq!(table.hit(at(60), &key(0), TcpFlags::ACK), None);
    assert!(table.hit(at(60), &key(9), TcpFlags::ACK).is_some());
    // A route that exists needs no room.
    table.add(at(61), key(9), connection(1));
    assert_eq!(table.totals().evicted, 1);
}

/// Small deterministic generator (splitmix64, public domain).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

#[test]
fn random_operations_agree_with_a_plain_map() {
    for seed in 0..20 {
        let mut random = Random(seed);
        let mut table = RouteTable::new(START, 1000, IDLE);
        let mut model: HashMap<u32, (ConnectionId, Nanos)> = HashMap::new();
        let mut closed: HashSet<ConnectionId> = HashSet::new();
        let mut now = START;
        for _ in 0..5_000 {
            let n = random.below(300) as u32;
            match random.below(20) {
                0..=7 => {
                    let id = connection(random.below(1000) as u32);
                    if !closed.contains(&id) {
                        table.add(now, key(n), id);
                        model.insert(n, (id, now + IDLE));
                    }
                }
                8..=17 => {
                    let got = table.hit(now, &key(n), TcpFlags::ACK);
                    if let Some((id, deadline)) = model.get_mut(&n) {
                        assert_eq!(got, Some(*id), "seed {seed}");
                        *deadline = now + IDLE;
                    } else {
                        assert_eq!(got, None, "seed {seed}");
                    }
                }
                18 => {
                    let id = connection(random.below(1000) as u32);
                    closed.insert(id);
                    table.connection_closed();
                    model.retain(|_, (c, _)| *c != id);
                }
                _ => now += Nanos::from_secs(random.below(120)),
            }
            while table.advance(now, |id| !closed.contains(&id)) {}
            // The wheel may be a tick late, so the model lets a route go when the table has.
            model.retain(|n, (_, deadline)| {
                let late = now.since(*deadline);
                let there = table.contains(&key(*n));
                assert!(
                    !there || late <= Nanos(IDLE.0 / 100 * 2),
                    "seed {seed}: still there"
                );
                assert!(there || *deadline <= now, "seed {seed}: gone too early");
                there
            });
            assert_eq!(table.len(), model.len(), "seed {seed}");
        }
    }
}

fn response(n: u64) -> Response {
    let mut record = [0; common::wire::native::HEADER_RECORD_BYTES];
    record[..8].copy_from_slice(&n.to_be_bytes());
    Response {
        kind: Kind::Header,
        at: Nanos(n),
        record,
    }
}

fn take(parked: &mut Parked, key: &RouteKey) -> Vec<u64> {
    let mut got = Vec::new();
    parked.take(key, |r| got.push(r.at.0));
    got
}

#[test]
fn early_responses_come_out_in_order_once() {
    let mut parked = Parked::new(1 << 20);
    for n in 0..10 {
        parked.park(START, key((n % 2) as u32), response(n));
    }
    assert_eq!(take(&mut parked, &key(1)), [1, 3, 5, 7, 9]);
    assert_eq!(take(&mut parked, &key(1)), [] as [u64; 0]);
    assert_eq!(take(&mut parked, &key(0)), [0, 2, 4, 6, 8]);
    assert!(parked.is_empty());
    assert_eq!(parked.totals().delivered, 10);
}

#[test]
fn early_responses_are_let_go_after_30_seconds() {
    let mut parked = Parked::new(1 << 20);
    parked.park(at(0), key(1), response(1));
    parked.park(at(10), key(1), response(2));
    assert_eq!(parked.next_deadline(), Some(at(30)));
    assert!(!parked.advance(at(29)));
    assert_eq!(parked.len(), 2);
    assert!(!parked.advance(at(30)));
    assert_eq!((parked.len(), parked.totals().expired), (1, 1));
    assert_eq!(take(&mut parked, &key(1)), [2]);
    assert!(!parked.advance(at(100)));
    assert_eq!((parked.next_deadline(), parked.totals().expired), (None, 1));
}

#[test]
fn one_unannounced_stream_does_not_displace_others() {
    let mut parked = Parked::new(1 << 20);
    parked.park(START, key(1), response(0));
    for n in 0..100_000 {
        parked.park(START, key(2), response(n));
    }
    assert_eq!(parked.len(), 1 + PARKED_PER_ROUTE as usize);
    assert_eq!(
        take(&mut parked, &key(2)),
        (0..u64::from(PARKED_PER_ROUTE)).collect::<Vec<_>>()
    );
    assert_eq!(take(&mut parked, &key(1)), [0]);
    assert_eq!(
        parked.totals().refused,
        100_000 - u64::from(PARKED_PER_ROUTE)
    );
}

#[test]
fn a_full_ring_displaces_the_oldest() {
    let mut parked = Parked::new(Parked::SLOT_BYTES * 4);
    for n in 0..6 {
        parked.park(START, key(n), response(u64::from(n)));
    }
    assert_eq!((parked.len(), parked.totals().displaced), (4, 2));
    assert!(take(&mut parked, &key(1)).is_empty());
    // An emptied slot in the middle is passed over, not counted.
    assert_eq!(take(&mut parked, &key(3)), [3]);
    for n in 6..10 {
        parked.park(START, key(n), response(u64::from(n)));
    }
    assert_eq!(parked.totals().displaced, 2 + 3);
    for n in 6..10 {
        assert_eq!(take(&mut parked, &key(n)), [u64::from(n)]);
    }
}

#[test]
fn parking_agrees_with_a_plain_map() {
    for seed in 0..20 {
        let mut random = Random(seed);
        let mut parked = Parked::new(Parked::SLOT_BYTES * 100);
        let mut waiting = 0u64;
        let mut delivered = 0;
        for n in 0..20_000 {
            let k = key(random.below(40) as u32);
            if random.below(10) == 0 {
                let got = take(&mut parked, &k);
                assert!(got.is_sorted(), "seed {seed}");
                delivered += got.len() as u64;
            } else {
                parked.park(START, k, response(n));
                waiting += 1;
            }
            let t = parked.totals();
            assert_eq!(t.parked + t.refused, waiting, "seed {seed}");
            assert_eq!(t.delivered, delivered, "seed {seed}");
            assert_eq!(
                t.parked,
                t.delivered + t.displaced + parked.len() as u64,
                "seed {seed}"
            );
        }
    }
}
