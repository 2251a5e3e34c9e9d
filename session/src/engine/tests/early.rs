//! Packets that come before the SYN of their connection.

use super::*;
use common::flow::Share;

const BYTES: &[u8] = b"request";

/// What was sent of data, once each, in order of its sequence numbers.
fn data(sent: &[Sent]) -> Vec<(u32, Vec<u8>)> {
    let data = sent.iter().filter(|s| s.len > 0);
    let mut data: Vec<_> = data
        .map(|s| (s.seq.since(ISS) as u32, s.payload.clone()))
        .collect();
    data.sort();
    data.dedup();
    data
}

#[test]
fn whatever_comes_before_its_syn_is_replayed_as_if_it_came_behind_it() {
    // A short connection: all orders of its five packets.
    type Packet = (u32, u32, TcpFlags, &'static [u8]);
    let packets: [Packet; 5] = [
        (0, 0, SYN, b""),
        (1, 0, ACK, b""),
        (1, 0, PSH_ACK, BYTES),
        (8, 90, ACK, b""),
        (8, 90, FIN_ACK, b""),
    ];
    for order in permutations(packets.len()) {
        let mut r = Rig::new();
        for at in &order {
            let (seq, read, flags, payload) = packets[*at];
            r.client(seq, read, flags, payload);
            r.now += 1;
        }
        let sent = r.after(0);
        assert_eq!(Rig::brief(&sent)[0], (SYN, 0, 0), "{order:?}");
        assert_eq!(sent[0].options.timestamps.map(|t| t.val), Some(90));
        r.target(0, 1, SYN_ACK, 0);
        assert_eq!(data(&r.after(1_100)), [(1, BYTES.to_vec())], "{order:?}");
        r.target(1, 8, PSH_ACK, 90);
        r.after(100);
        r.target(91, 9, FIN_ACK, 0);
        r.after(0);
        assert_eq!(r.outcome(), Some(Outcome::Completed), "{order:?}");
        let t = r.engine.totals();
        assert_eq!((t.sessions, t.adopted, t.bytes_delivered), (1, 0, 7));
        let in_front = order.iter().position(|at| *at == 0);
        assert_eq!(Some(t.segments_early as usize), in_front);
        r.settle();
    }
}

/// All orders of the first `n` numbers.
fn permutations(n: usize) -> Vec<Vec<usize>> {
    let Some(last) = n.checked_sub(1) else {
        return vec![vec![]];
    };
    let shorter = permutations(last);
    let insert = |order: Vec<usize>| {
        (0..=last).map(move |at| {
            let mut order = order.clone();
            order.insert(at, last);
            order
        })
    };
    shorter.into_iter().flat_map(insert).collect()
}

#[test]
fn without_a_syn_in_time_they_are_treated_in_their_order() {
    let mut r = Rig::new();
    r.client(1, 0, ACK, b"");
    r.client(1, 0, PSH_ACK, BYTES);
    assert!(r.after(SYN_WAIT_MS - 1).is_empty());
    assert!(r.engine.awaits_syn());
    assert_eq!(Rig::brief(&r.after(1)), [(SYN, 0, 0)], "adopted");
    assert!(!r.engine.awaits_syn());
    // Too late: it has been replayed already.
    r.client(0, 0, SYN, b"");
    assert!(r.after(10).is_empty());
    let t = r.engine.totals();
    assert_eq!((t.sessions, t.adopted, t.segments_duplicate), (1, 1, 1));
    r.settle();
}

#[test]
fn a_syn_behind_acknowledgements_alone_has_lost_nothing() {
    let mut r = Rig::with(EngineConfig {
        syn_wait: Nanos(0),
        ..EngineConfig::default()
    });
    r.client(8, 90, ACK, b"");
    r.client(0, 0, SYN, b"");
    r.client(1, 0, PSH_ACK, BYTES);
    assert_eq!(Rig::brief(&r.after(0)), [(SYN, 0, 0)]);
    r.target(0, 1, SYN_ACK, 0);
    assert_eq!(data(&r.after(0)), [(1, BYTES.to_vec())]);
}

#[test]
fn the_next_connection_of_a_tuple_may_come_before_its_syn_too() {
    let mut r = Rig::open();
    r.client(1, 0, FIN_ACK, b"");
    r.after(0);
    r.target(1, 2, FIN_ACK, 0);
    r.after(0);
    assert_eq!(r.outcome(), Some(Outcome::Completed));
    let next = 1 << 26;
    r.client(2, 1, ACK, b""); // the last word of the first
    r.client(next + 1, 0, PSH_ACK, BYTES);
    r.client(next, 0, SYN, b"");
    let syn = r.after(0).remove(0);
    assert_eq!((syn.flags, syn.seq), (SYN, ISS + next));
    let t = r.engine.totals();
    assert_eq!((t.sessions, t.segments_early, t.bytes_captured), (2, 1, 7));
    r.settle();
}

#[test]
fn what_waits_when_the_run_ends_is_booked() {
    let mut r = Rig::new();
    r.client(1, 0, ACK, b"");
    r.client(1, 0, PSH_ACK, BYTES);
    let now = r.at();
    r.engine.shutdown(now, &mut r.wire);
    assert!(!r.engine.awaits_syn());
    let t = r.engine.totals();
    assert_eq!(t.undelivered(Outcome::SkippedNoSyn), 7);
    assert!(t.balanced());
}

#[test]
fn more_than_may_wait_is_treated_at_once_and_in_order() {
    let mut r = Rig::new();
    r.client(1, 0, ACK, b"");
    let bytes = vec![7; 60_000];
    let mut seq = 1;
    while r.engine.awaits_syn() {
        r.client(seq, 0, ACK, &bytes);
        seq += 60_000;
        assert!(seq < 8 << 20, "a bound");
    }
    // All of it, one after another, as of a connection without SYN: joined at its first bytes.
    assert_eq!(Rig::brief(&r.after(0)), [(SYN, 0, 0)]);
    assert_eq!(r.engine.totals().bytes_captured, u64::from(seq - 1));
    r.settle();
}

#[test]
fn during_a_ramp_they_wait_but_do_not_begin_a_session() {
    let mut r = Rig::with(EngineConfig {
        ramp: true,
        share: Share::percent(99),
        ..EngineConfig::default()
    });
    r.client(1, 0, ACK, b"");
    r.now += 90_000;
    r.client(1, 0, ACK, b"");
    r.client(1, 0, PSH_ACK, BYTES);
    assert!(r.after(SYN_WAIT_MS).is_empty());
    assert_eq!(r.engine.totals().sessions, 0);
    r.client(1, 0, PSH_ACK, BYTES);
    r.client(0, 0, SYN, b"");
    assert_eq!(Rig::brief(&r.after(0)), [(SYN, 0, 0)]);
    let t = r.engine.totals();
    assert_eq!((t.sessions, t.adopted, t.bytes_captured), (1, 0, 7));
    r.settle();
}
