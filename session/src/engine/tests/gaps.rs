//! Bytes that were never captured: what is lost with them, and what is not.

use super::*;

/// Outcomes and bytes: sessions, of these with a capture gap, bytes delivered and lost with the gap.
fn figures(r: &Rig) -> (u64, u64, u64, u64) {
    let t = r.engine.totals();
    (
        t.sessions,
        t.outcome(Outcome::CaptureGap),
        t.bytes_delivered,
        t.undelivered(Outcome::CaptureGap),
    )
}

#[test]
fn what_the_client_asked_behind_a_gap_is_asked_on_a_new_connection() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"first");
    r.target(1, 6, PSH_ACK, 100);
    // The second request is not captured, nor the first part of the third.
    r.client(20, 200, PSH_ACK, b"rest");
    r.client(24, 300, PSH_ACK, b"fourth");
    r.client(30, 400, FIN_ACK, b"");
    r.after(9_999);
    assert_eq!(r.engine.totals().outcome(Outcome::CaptureGap), 0);
    let sent = Rig::brief(&r.after(2));
    assert_eq!(sent, [(RST.with(ACK), 6, 0), (SYN, 23, 0)]);
    r.target(0, 24, SYN_ACK, 0);
    assert_eq!(Rig::brief(&r.after(0)), [(PSH_ACK, 24, 6)]);
    r.target(1, 30, PSH_ACK, 100);
    r.target(101, 30, ACK, 0);
    assert_eq!(Rig::brief(&r.after(0)), [(FIN_ACK, 30, 0)]);
    r.target(101, 31, FIN_ACK, 0);
    assert_eq!(figures(&r), (2, 1, 11, 4));
    assert_eq!(r.engine.totals().outcome(Outcome::Completed), 1);
    r.settle();
}

#[test]
fn a_request_behind_a_gap_is_known_by_what_the_client_read_before_it() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"first");
    r.target(1, 6, PSH_ACK, 100);
    // The second request is not captured, but that the client has read its answer.
    r.client(20, 200, ACK, b"");
    r.client(20, 200, PSH_ACK, b"third");
    r.after(10_001);
    r.target(0, 20, SYN_ACK, 0);
    assert!(Rig::brief(&r.after(0)).ends_with(&[(PSH_ACK, 20, 5)]));
    r.target(1, 25, PSH_ACK, 100);
    assert_eq!(figures(&r), (2, 1, 10, 0));
}

#[test]
fn without_adoption_a_gap_ends_it() {
    let mut r = Rig::with(EngineConfig {
        adopt: false,
        ..EngineConfig::default()
    })
    .opened();
    r.client(20, 200, PSH_ACK, b"rest");
    r.client(24, 300, PSH_ACK, b"fourth");
    r.after(10_001);
    assert_eq!(figures(&r), (1, 1, 0, 10));
    r.settle();
}

#[test]
fn a_gap_behind_the_gap_is_one_of_the_next_session() {
    let mut r = Rig::open();
    r.client(10, 0, PSH_ACK, b"ab");
    r.client(12, 100, PSH_ACK, b"cd");
    r.client(20, 100, PSH_ACK, b"ef");
    r.client(22, 200, PSH_ACK, b"gh");
    r.after(10_001);
    r.target(0, 12, SYN_ACK, 0);
    r.target(1, 14, PSH_ACK, 10);
    assert_eq!(figures(&r), (2, 1, 2, 2));
    // It is as old as the first: no other ten seconds.
    r.after(2);
    r.target(0, 22, SYN_ACK, 0);
    r.target(1, 24, PSH_ACK, 10);
    assert_eq!(figures(&r), (3, 2, 4, 4));
    r.settle();
}

#[test]
fn a_gap_waits_for_what_lies_before_it_and_for_its_answer() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"first");
    r.client(20, 200, ACK, b"");
    r.client(20, 200, PSH_ACK, b"third");
    // Acknowledged late, not answered: five seconds more, as for any turn.
    r.after(12_000);
    assert_eq!(figures(&r), (1, 0, 0, 0));
    r.target(1, 6, ACK, 0);
    r.after(4_999);
    assert_eq!(figures(&r), (1, 0, 5, 0));
    r.after(2);
    assert_eq!(figures(&r), (2, 1, 5, 0));
}

#[test]
fn a_close_that_was_not_captured_is_known_by_the_clients_last_word() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"request");
    r.target(1, 8, PSH_ACK, 100);
    // Production's answer, its close, and the client's acknowledgement of it behind its own FIN.
    r.client(9, 101, ACK, b"");
    assert!(r.after(9_999).iter().all(|s| !s.flags.has(TcpFlags::FIN)));
    assert_eq!(Rig::brief(&r.after(2)), [(FIN_ACK, 8, 0)]);
    r.target(101, 9, FIN_ACK, 0);
    assert_eq!(r.outcome(), Some(Outcome::Completed));
    assert_eq!(r.engine.totals().fins_inferred, 1);
    r.settle();
}

#[test]
fn bytes_that_only_an_acknowledgement_tells_of_are_a_gap() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"request");
    r.target(1, 8, PSH_ACK, 100);
    // A keep-alive probe tells of nothing.
    r.client(7, 100, ACK, b"");
    r.after(11_000);
    assert_eq!(r.outcome(), None);
    r.client(50, 200, ACK, b"");
    r.after(9_999);
    assert_eq!(r.outcome(), None);
    r.after(2);
    assert_eq!(r.outcome(), Some(Outcome::CaptureGap));
    assert_eq!(figures(&r), (1, 1, 7, 0));
    r.settle();
}

#[test]
fn an_acknowledgement_that_overtook_its_data_in_the_capture_is_no_gap() {
    let mut r = Rig::open();
    r.client(8, 0, ACK, b"");
    r.client(1, 0, PSH_ACK, b"request");
    assert_eq!(Rig::brief(&r.after(0)), [(PSH_ACK, 1, 7)]);
    r.target(1, 8, PSH_ACK, 100);
    r.after(60_000);
    assert_eq!(r.outcome(), None);
    r.client(8, 100, FIN_ACK, b"");
    r.target(101, 9, FIN_ACK, 0);
    assert_eq!(r.outcome(), Some(Outcome::Completed));
    r.settle();
}
