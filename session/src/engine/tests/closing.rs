//! Ends: FIN and RST of both sides, re-opened connections, idle time, shutdown.

use super::*;

#[test]
fn half_close_is_reproduced() {
    let mut r = Rig::open();
    r.client(1, 0, FIN_ACK, b"last");
    assert_eq!(Rig::brief(&r.after(0)), [(FIN_ACK, 1, 4)]);
    r.target(1, 6, ACK, 0);
    r.target(1, 6, PSH_ACK, 50_000);
    assert_eq!(r.after(0)[0].flags, ACK);
    assert_eq!(r.outcome(), None);
    r.target(50_001, 6, FIN_ACK, 0);
    assert_eq!(Rig::brief(&r.after(0)), [(ACK, 6, 0)]);
    assert_eq!(r.outcome(), Some(Outcome::Completed));
    r.settle();
}

#[test]
fn a_fin_waits_for_the_answer_that_the_client_had_read() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"request");
    r.after(0);
    r.client(8, 100, FIN_ACK, b"");
    r.target(1, 8, ACK, 0);
    assert!(r.after(3).is_empty());
    r.target(1, 8, PSH_ACK, 100);
    assert_eq!(Rig::brief(&r.after(0)), [(FIN_ACK, 8, 0)]);
}

#[test]
fn a_fin_does_not_overtake_a_request_that_the_target_has_not_read() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"first");
    r.after(0);
    r.client(6, 1000, PSH_ACK, b"second");
    r.client(12, 1300, FIN_ACK, b"");
    // The target is kept from its processor in the middle of its first answer.
    r.target(1, 6, PSH_ACK, 600);
    assert_eq!(Rig::brief(&r.after(3)), [(ACK, 6, 0), (PSH_ACK, 6, 6)]);
    r.target(601, 12, PSH_ACK, 400);
    assert_eq!(Rig::brief(&r.after(500)), [(ACK, 12, 0)]);
    r.target(1001, 12, PSH_ACK, 300);
    assert_eq!(Rig::brief(&r.after(0)), [(FIN_ACK, 12, 0)]);
    r.target(1301, 13, FIN_ACK, 0);
    r.after(0);
    assert_eq!(r.outcome(), Some(Outcome::Completed));
    r.settle();
}

#[test]
fn a_client_that_is_cut_off_cuts_the_target_off_after_the_data() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"request");
    r.client(8, 0, RST.with(ACK), b"");
    r.after(0);
    assert_eq!(r.outcome(), None, "the request is not acknowledged yet");
    r.target(1, 8, ACK, 0);
    assert_eq!(Rig::brief(&r.after(0)), [(RST.with(ACK), 8, 0)]);
    assert_eq!(r.outcome(), Some(Outcome::ResetByClient));
    assert_eq!(r.engine.totals().bytes_delivered, 7);
    r.settle();
}

#[test]
fn a_reset_that_overtook_data_in_the_capture_waits_for_it() {
    let mut r = Rig::open();
    r.client(8, 0, RST.with(ACK), b"");
    assert!(
        r.after(1).is_empty(),
        "seven bytes before it are not there yet"
    );
    r.client(1, 0, PSH_ACK, b"request");
    assert_eq!(Rig::brief(&r.after(0)), [(PSH_ACK, 1, 7)]);
    r.target(1, 8, ACK, 0);
    assert_eq!(Rig::brief(&r.after(0)), [(RST.with(ACK), 8, 0)]);
    assert_eq!(r.outcome(), Some(Outcome::ResetByClient));
    r.settle();
    // If it never comes, it is a gap like any other.
    let mut r = Rig::open();
    r.client(8, 0, RST.with(ACK), b"");
    r.after(9_990);
    assert_eq!(r.outcome(), None);
    r.after(20);
    assert_eq!(r.outcome(), Some(Outcome::CaptureGap));
    r.settle();
}

#[test]
fn a_reset_far_from_the_stream_is_ignored() {
    let mut r = Rig::open();
    r.client(1 << 30, 0, RST, b"");
    r.target(1 << 30, 1, RST, 0);
    r.after(10);
    assert_eq!(r.outcome(), None);
}

#[test]
fn reset_by_the_target_in_the_middle_and_after_its_close() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"request");
    r.target(1, 1, RST, 0);
    assert_eq!(r.outcome(), Some(Outcome::ResetByTarget));
    assert_eq!(r.engine.totals().undelivered(Outcome::ResetByTarget), 7);
    r.settle();
    let mut r = Rig::open();
    r.target(1, 1, FIN_ACK, 0);
    r.after(0);
    r.client(1, 0, PSH_ACK, b"request");
    r.target(2, 1, RST, 0);
    assert_eq!(r.outcome(), Some(Outcome::ClosedByTarget));
    r.settle();
}

#[test]
fn a_reset_in_place_of_the_answer_completes_nothing() {
    for (answer, outcome) in [(0, Outcome::ResetByTarget), (20, Outcome::Completed)] {
        let mut r = Rig::open();
        r.client(1, 0, PSH_ACK, b"request");
        r.client(8, 100, FIN_ACK, b"");
        r.target(1, 8, PSH_ACK, answer);
        r.target(1 + answer, 8, RST.with(ACK), 0);
        assert_eq!(r.outcome(), Some(outcome), "{answer} bytes of 100");
        assert_eq!(r.engine.totals().bytes_delivered, 7);
        r.settle();
    }
}

#[test]
fn a_new_connection_on_the_same_ports_leaves_the_old_its_data() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"request");
    r.after(0);
    r.now += 5;
    r.client(1_000_000, 0, SYN, b"");
    r.client(1_000_000, 0, SYN, b"");
    let syn = r.after(0);
    assert_eq!(Rig::brief(&syn), [(SYN, 1_000_000, 0)]);
    assert_ne!(syn[0].src, CLIENT, "the old one still has the tuple");
    r.target(1, 8, PSH_ACK, 20);
    assert_eq!(Rig::brief(&r.after(0)), [(RST.with(ACK), 8, 0)]);
    assert_eq!(r.engine.totals().outcome(Outcome::ResetByClient), 1);
    assert_eq!(r.engine.totals().bytes_delivered, 7);
    assert_eq!(r.engine.open_sessions(), 1);
}

#[test]
fn a_target_that_closes_after_each_answer_gets_a_new_connection_per_request() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"first");
    r.target(1, 6, PSH_ACK, 10);
    r.target(11, 6, FIN_ACK, 0);
    r.after(0);
    r.client(6, 10, PSH_ACK, b"second");
    let sent = r.after(0);
    assert_eq!(Rig::brief(&sent), [(FIN_ACK, 6, 0), (SYN, 5, 0)]);
    let again = sent[1].src;
    assert_ne!(again, CLIENT, "the old tuple is in the target's TIME-WAIT");
    assert_eq!((r.wire.announced, r.wire.retired), (2, 1));
    let from_again = |seq: u32, ack: u32, flags: TcpFlags, len: u32| ResponseHeader {
        target: TARGET,
        client: again,
        seq: SeqNumber(seq),
        ack: ISS + ack,
        flags,
        window: 60_000,
        payload_len: len,
        options: TcpOptions::default(),
        sack: SackBlocks::default(),
    };
    r.header(&from_again(100, 6, SYN_ACK, 0));
    let data = r.after(0);
    assert_eq!(
        (Rig::brief(&data), data[0].src),
        (vec![(PSH_ACK, 6, 6)], again)
    );
    r.header(&from_again(101, 12, PSH_ACK, 10));
    r.client(12, 20, FIN_ACK, b"");
    r.header(&from_again(111, 13, FIN_ACK, 0));
    r.after(0);
    assert_eq!(r.outcome(), Some(Outcome::Completed));
    let t = r.engine.totals();
    assert_eq!((t.reopened, t.bytes_delivered), (1, 11));
    r.settle();
}

#[test]
fn a_request_that_the_target_cut_in_the_middle_is_not_continued_elsewhere() {
    let mut r = Rig::open();
    r.client(1, 0, ACK, b"half of ");
    r.target(1, 9, FIN_ACK, 0);
    r.after(0);
    r.client(9, 0, PSH_ACK, b"a request");
    assert_eq!(
        Rig::brief(&r.after(0)),
        [(PSH_ACK, 9, 9)],
        "perhaps it still reads"
    );
    r.target(2, 9, RST, 0);
    assert_eq!(r.outcome(), Some(Outcome::ClosedByTarget));
    r.settle();
}

#[test]
fn a_target_that_resets_idle_connections_gets_the_next_request_on_a_new_one() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"first");
    r.target(1, 6, PSH_ACK, 10);
    r.after(0);
    r.target(11, 6, RST, 0);
    assert_eq!(r.outcome(), None);
    r.client(6, 10, PSH_ACK, b"second");
    assert_eq!(Rig::brief(&r.after(0)), [(SYN, 5, 0)]);
    // With nothing left to say it ends as what it was.
    let mut r = Rig::open();
    r.target(1, 1, RST, 0);
    r.client(1, 0, FIN_ACK, b"");
    assert!(r.after(0).is_empty());
    assert_eq!(r.outcome(), Some(Outcome::ResetByTarget));
    r.settle();
}

/// The target's FIN was lost, or still on its way when the next request left.
#[test]
fn a_request_that_meets_no_connection_any_more_goes_out_again_on_a_new_one() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"first");
    r.target(1, 6, PSH_ACK, 10);
    r.client(6, 10, ACK, b"second, ");
    r.client(14, 10, PSH_ACK, b"in two parts");
    r.client(26, 20, FIN_ACK, b"");
    r.after(0);
    r.target(11, 6, RST, 0);
    r.target(11, 6, RST, 0);
    let sent = r.after(0);
    assert_eq!(Rig::brief(&sent), [(SYN, 5, 0)]);
    let again = sent[0].src;
    assert_ne!(again, CLIENT);
    let from_again = |seq: u32, ack: u32, flags: TcpFlags, len: u32| ResponseHeader {
        target: TARGET,
        client: again,
        seq: SeqNumber(seq),
        ack: ISS + ack,
        flags,
        window: 60_000,
        payload_len: len,
        options: TcpOptions::default(),
        sack: SackBlocks::default(),
    };
    r.header(&from_again(100, 6, SYN_ACK, 0));
    assert_eq!(Rig::brief(&r.after(0)), [(ACK, 6, 8), (PSH_ACK, 14, 12)]);
    r.header(&from_again(101, 26, PSH_ACK, 10));
    r.header(&from_again(111, 27, FIN_ACK, 0));
    r.after(0);
    assert_eq!(r.outcome(), Some(Outcome::Completed));
    let t = r.engine.totals();
    assert_eq!((t.reopened, t.bytes_delivered), (1, 25));
    r.settle();
}

#[test]
fn a_request_that_may_have_been_read_is_not_sent_again_elsewhere() {
    // On the new connection, too, the target does not want it: once is enough.
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"first");
    r.target(1, 6, RST, 0);
    assert_eq!(r.outcome(), Some(Outcome::ResetByTarget));
    // The connection lived: the reset acknowledges something.
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"first");
    r.target(1, 6, PSH_ACK, 10);
    r.client(6, 10, PSH_ACK, b"second");
    r.after(0);
    r.target(11, 12, RST.with(ACK), 0);
    assert_eq!(r.outcome(), Some(Outcome::ResetByTarget));
    // Only the client's FIN is left, which says nothing.
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"first");
    r.target(1, 6, PSH_ACK, 10);
    r.client(6, 10, FIN_ACK, b"");
    r.after(0);
    r.target(11, 6, RST, 0);
    assert_eq!(r.outcome(), Some(Outcome::Completed));
    assert!(r.after(0).is_empty());
    // A part was taken.
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"first");
    r.target(1, 6, PSH_ACK, 10);
    r.client(6, 10, PSH_ACK, b"second");
    r.after(0);
    r.target(11, 8, ACK, 0);
    r.target(11, 8, RST, 0);
    assert_eq!(r.outcome(), Some(Outcome::ResetByTarget));
    r.settle();
}

#[test]
fn shutdown_resets_what_is_open_and_books_it() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"request");
    r.after(0);
    let now = r.at();
    r.engine.shutdown(now, &mut r.wire);
    assert_eq!(Rig::brief(&r.sent()), [(RST.with(ACK), 8, 0)]);
    assert_eq!(r.outcome(), Some(Outcome::Shutdown));
    assert_eq!(r.engine.totals().undelivered(Outcome::Shutdown), 7);
    assert!(r.engine.totals().balanced());
    r.engine.shutdown(now, &mut r.wire);
    assert!(r.sent().is_empty());
}

#[test]
fn idle_sessions_end() {
    let mut r = Rig::open();
    r.settle();
    assert_eq!(r.outcome(), Some(Outcome::TimedOut));
}

#[test]
fn bytes_behind_a_completed_connection_are_missing_from_the_capture_of_another() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"abc");
    r.after(0);
    r.target(1, 4, PSH_ACK, 10);
    r.client(4, 10, FIN_ACK, b"");
    r.after(0);
    r.target(11, 5, FIN_ACK, 0);
    r.after(0);
    assert_eq!(r.outcome(), Some(Outcome::Completed));
    r.client(100, 0, PSH_ACK, b"other");
    r.after(SYN_WAIT_MS);
    let t = r.engine.totals();
    assert_eq!((t.bytes_captured, t.bytes_delivered), (8, 3));
    assert_eq!(t.undelivered(Outcome::CaptureGap), 5);
    assert_eq!(t.undelivered(Outcome::Completed), 0);
    assert!(t.balanced());
}
