//! Which captured connections become sessions, and how the others are booked.

use super::*;
use common::flow::Share;

#[test]
fn bytes_behind_a_gap_are_never_sent_and_end_as_capture_gap() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"abc");
    r.client(10, 0, PSH_ACK, b"later");
    r.target(1, 4, ACK, 0);
    let sent = r.after(9_999);
    assert!(sent.iter().all(|s| s.seq.since(ISS) <= 4), "{sent:?}");
    r.after(10);
    assert_eq!(r.outcome(), Some(Outcome::CaptureGap));
    assert_eq!(r.engine.totals().undelivered(Outcome::CaptureGap), 5);
    r.settle();
}

#[test]
fn a_packet_cut_by_the_capture_leaves_a_gap_not_garbage() {
    let mut r = Rig::open();
    let seg = ClientSegment {
        client: CLIENT,
        online: ONLINE,
        target: TARGET,
        lane: 0,
        seq: ISS + 1,
        ack: PROD + 1,
        flags: FIN_ACK,
        window: 501,
        options: TcpOptions::default(),
        payload: b"abc",
        payload_len: 10,
        gso_size: 0,
        at: r.at(),
    };
    r.captured(&seg);
    assert_eq!(Rig::brief(&r.after(0)), [(ACK, 1, 3)], "no FIN, no PSH");
    r.client(11, 0, FIN_ACK, b"");
    r.target(1, 4, ACK, 0);
    r.after(11_000);
    assert_eq!(r.outcome(), Some(Outcome::CaptureGap));
    r.settle();
}

#[test]
fn what_comes_again_after_the_end_of_a_skipped_connection_is_not_counted_again() {
    let mut r = Rig::with(EngineConfig {
        adopt: false,
        ..EngineConfig::default()
    });
    r.client(1, 0, PSH_ACK, b"abc");
    r.client(4, 0, FIN_ACK, b"def");
    r.client(1, 0, PSH_ACK, b"abc");
    r.client(4, 0, FIN_ACK, b"def");
    r.client(8, 1, ACK, b"");
    r.after(SYN_WAIT_MS);
    let t = r.engine.totals();
    assert_eq!((t.sessions, t.bytes_captured), (1, 6));
    assert!(t.balanced());
}

#[test]
fn a_syn_that_is_shed_again_and_again_is_one_session() {
    let mut r = Rig::with(EngineConfig {
        max_sessions: 0,
        ..EngineConfig::default()
    });
    for _ in 0..3 {
        r.client(0, 0, SYN, b"");
    }
    r.client(1, 0, PSH_ACK, b"abc");
    r.client(0, 0, SYN, b"");
    r.client(1, 0, PSH_ACK, b"abc");
    let t = r.engine.totals();
    assert_eq!((t.outcome(Outcome::Shed), t.sessions), (1, 1));
    assert_eq!(t.bytes_captured, 3);
}

#[test]
fn sessions_without_syn_are_booked_once() {
    let mut r = Rig::with(EngineConfig {
        adopt: false,
        ..EngineConfig::default()
    });
    r.client(1, 0, ACK, b"");
    r.client(1, 0, PSH_ACK, b"abc");
    r.client(1, 0, PSH_ACK, b"abc");
    r.client(4, 0, PSH_ACK, b"def");
    assert!(r.after(SYN_WAIT_MS).is_empty());
    assert_eq!(r.outcome(), Some(Outcome::SkippedNoSyn));
    assert_eq!(r.engine.totals().undelivered(Outcome::SkippedNoSyn), 6);
    assert!(r.engine.totals().balanced());
}

#[test]
fn packets_of_a_shed_connection_do_not_go_to_the_one_before_on_its_tuple() {
    let mut r = Rig::with(EngineConfig {
        max_sessions: 1,
        ..EngineConfig::default()
    })
    .opened();
    r.client(1, 0, PSH_ACK, b"request");
    r.client(1 << 26, 0, SYN, b"");
    for _ in 0..2 {
        r.client((1 << 26) + 1, 0, PSH_ACK, b"abc");
    }
    let t = r.engine.totals();
    assert_eq!(
        (t.outcome(Outcome::Shed), t.undelivered(Outcome::Shed)),
        (1, 3)
    );
    assert_eq!(t.bytes_captured, 10);
    r.target(1, 8, ACK, 0);
    assert_eq!(r.engine.totals().bytes_delivered, 7);
}

#[test]
fn whole_sessions_are_shed_over_the_limit() {
    let mut r = Rig::with(EngineConfig {
        max_sessions: 0,
        ..EngineConfig::default()
    });
    r.client(0, 0, SYN, b"");
    r.client(1, 0, PSH_ACK, b"abc");
    assert!(r.after(10).is_empty());
    assert_eq!(r.outcome(), Some(Outcome::Shed));
    assert_eq!(r.engine.totals().undelivered(Outcome::Shed), 3);
}

#[test]
fn a_session_over_its_own_memory_ends_as_shed_and_all_bytes_are_booked() {
    let mut r = Rig::with(EngineConfig {
        session_bytes: 4_000,
        ..EngineConfig::default()
    })
    .opened();
    r.target_window(1, 1, ACK, 0, 0);
    r.client(1, 0, PSH_ACK, &[0; 9_000]);
    assert_eq!(r.outcome(), Some(Outcome::Shed));
    assert_eq!(r.engine.totals().bytes_captured, 9_000);
    assert_eq!(Rig::brief(&r.sent()).pop(), Some((RST.with(ACK), 1, 0)));
    r.client(1, 0, PSH_ACK, &[0; 9_000]);
    assert_eq!(
        r.engine.totals().bytes_captured,
        9_000,
        "the client repeats it"
    );
    r.settle();
}

#[test]
fn a_session_in_the_middle_is_joined_at_a_request() {
    let mut r = Rig::new();
    r.client(1, 0, PSH_ACK, b"rest of a request");
    r.client(18, 100, ACK, b"");
    assert!(r.after(SYN_WAIT_MS).is_empty());
    r.client(18, 100, PSH_ACK, b"whole");
    let syn = r.after(0).remove(0);
    assert_eq!((syn.flags, syn.seq), (SYN, ISS + 17));
    assert_eq!(syn.options.timestamps, None, "the client does not use them");
    assert_eq!(
        (syn.options.mss, syn.options.window_scale),
        (Some(1460), Some(7))
    );
    r.target(0, 18, SYN_ACK, 0);
    assert_eq!(Rig::brief(&r.after(0)), [(PSH_ACK, 18, 5)]);
    r.target(1, 23, PSH_ACK, 10);
    r.client(23, 110, FIN_ACK, b"");
    r.target(11, 24, FIN_ACK, 0);
    assert_eq!(r.outcome(), Some(Outcome::Completed));
    let t = r.engine.totals();
    assert_eq!((t.sessions, t.adopted, t.bytes_delivered), (1, 1, 5));
    assert_eq!(t.undelivered(Outcome::SkippedNoSyn), 17);
    r.settle();
}

#[test]
fn nothing_partial_begins_an_adopted_session() {
    let mut r = Rig::new();
    r.client(1, 0, PSH_ACK, b"abc");
    r.client(4, 0, PSH_ACK, b"def"); // goes on: no boundary
    r.client(10, 50, PSH_ACK, b"ghi"); // a hole in front
    r.client(7, 0, PSH_ACK, b"-"); // comes late: what follows is still the same request
    r.client(13, 50, PSH_ACK, b"jkl");
    assert!(r.after(SYN_WAIT_MS).is_empty());
    r.client(16, 90, PSH_ACK, b"next");
    assert_eq!(Rig::brief(&r.after(0)), [(SYN, 15, 0)]);
}

#[test]
fn a_session_with_a_gap_is_joined_again_at_a_request() {
    let mut r = Rig::open();
    r.client(10, 0, PSH_ACK, b"later");
    r.after(10_001);
    assert_eq!(r.outcome(), Some(Outcome::CaptureGap));
    r.client(15, 100, ACK, b"");
    r.client(15, 100, PSH_ACK, b"request");
    let sent = r.after(0);
    assert_eq!(Rig::brief(&sent)[0], (SYN, 14, 0));
    let t = r.engine.totals();
    assert_eq!(
        (t.sessions, t.adopted, t.outcome(Outcome::CaptureGap)),
        (2, 1, 1)
    );
}

#[test]
fn replicas_are_sessions_of_their_own() {
    let mut r = Rig::with(EngineConfig {
        replicas: 3,
        ..EngineConfig::default()
    });
    r.client(0, 0, SYN, b"");
    let sources: Vec<Endpoint> = r.after(0).iter().map(|s| s.src).collect();
    assert_eq!((sources.len(), sources[0]), (3, CLIENT));
    let distinct: std::collections::HashSet<_> = sources.iter().collect();
    assert_eq!(distinct.len(), 3);
    r.client(1, 0, PSH_ACK, b"x");
    assert_eq!(r.engine.totals().bytes_captured, 3);
    r.after(20_000);
    assert_eq!(r.engine.totals().outcome(Outcome::Unanswered), 3);
    r.client(2, 0, FIN_ACK, b"");
    r.settle();
}

#[test]
fn a_share_of_sessions_is_chosen_by_the_client_alone() {
    let mut r = Rig::with(EngineConfig {
        share: Share::percent(30),
        ..EngineConfig::default()
    });
    let mut seen = 0;
    for port in 0..2000u16 {
        let before = r.engine.totals().sessions;
        for flags in [SYN, ACK] {
            let seg = ClientSegment {
                client: Endpoint::new(CLIENT.addr, 10_000 + port),
                online: ONLINE,
                target: TARGET,
                lane: 0,
                seq: ISS,
                ack: PROD,
                flags,
                window: 1,
                options: TcpOptions::default(),
                payload: b"",
                payload_len: 0,
                gso_size: 0,
                at: r.at(),
            };
            r.captured(&seg);
        }
        seen += r.engine.totals().sessions - before;
    }
    assert!((540..=660).contains(&seen), "{seen} of 2000");
    assert_eq!(r.engine.totals().not_sampled, 2000 - seen);
}

#[test]
fn a_ramp_adds_a_percent_per_second_and_only_by_syns() {
    let mut r = Rig::with(EngineConfig {
        ramp: true,
        ..EngineConfig::default()
    });
    let open = |r: &mut Rig, first: u16, flags: TcpFlags| {
        for port in first..first + 1000 {
            let seg = ClientSegment {
                client: Endpoint::new(CLIENT.addr, port),
                online: ONLINE,
                target: TARGET,
                lane: 0,
                seq: ISS,
                ack: PROD,
                flags,
                window: 1,
                options: TcpOptions::default(),
                payload: b"x",
                payload_len: 1,
                gso_size: 0,
                at: r.at(),
            };
            r.captured(&seg);
        }
        r.engine.totals().sessions
    };
    let first = open(&mut r, 1_000, SYN);
    assert!((3..25).contains(&first), "about 1 %: {first}");
    r.now += 49_000;
    assert_eq!(
        open(&mut r, 1_000, PSH_ACK),
        first,
        "no session begins in the middle"
    );
    let second = open(&mut r, 3_000, SYN) - first;
    assert!((430..570).contains(&second), "about 50 %: {second}");
    r.now += 60_000;
    assert_eq!(open(&mut r, 5_000, SYN) - second - first, 1000);
}

#[test]
fn a_failed_session_is_joined_again_while_the_ramp_goes_on() {
    let mut r = Rig::with(EngineConfig {
        ramp: true,
        ..EngineConfig::default()
    });
    r.client(1, 0, ACK, b"");
    // 99 % of the clients, this one among them.
    r.now += 98_000;
    let mut r = r.opened();
    r.client(1, 0, PSH_ACK, b"request");
    r.target(1, 1, RST, 0);
    r.client(8, 100, PSH_ACK, b"request");
    r.client(15, 200, ACK, b"");
    r.client(15, 200, PSH_ACK, b"request");
    let t = r.engine.totals();
    assert_eq!((t.adopted, t.bytes_captured), (1, 21), "{t:?}");
    r.client(22, 200, RST, b"");
    r.settle();
}
