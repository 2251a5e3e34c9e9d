//! Handshakes: what is sent to open, what comes back, what the emulated client takes.

use super::*;

#[test]
fn rfc6298_a_lost_syn_is_sent_again_with_back_off_until_unanswered() {
    let mut r = Rig::new();
    r.client(0, 0, SYN, b"");
    r.client(0, 0, SYN, b""); // the client's own retransmission changes nothing
    r.client(1, 0, PSH_ACK, b"request");
    let sent = r.after(9_999);
    assert_eq!(
        sent.iter().filter(|s| s.flags == SYN).count(),
        4,
        "at 0, 1, 3 and 7 s"
    );
    assert_eq!(r.wire.announced, 4);
    assert_eq!(Rig::brief(&r.after(1)), [(RST, 1, 0)]);
    assert_eq!(r.outcome(), Some(Outcome::Unanswered));
    assert_eq!(r.engine.totals().undelivered(Outcome::Unanswered), 7);
    r.settle();
}

#[test]
fn a_route_that_cannot_be_announced_delays_the_syn() {
    let mut r = Rig::new();
    r.wire.no_channel = true;
    r.client(0, 0, SYN, b"");
    assert!(r.after(500).is_empty());
    r.wire.no_channel = false;
    assert_eq!(Rig::brief(&r.after(200)), [(SYN, 0, 0)]);
    assert_eq!(r.engine.totals().announce_failed, 3);
    assert_eq!(r.engine.totals().segments_retransmitted, 0);
}

#[test]
fn a_syn_waits_until_its_route_is_ready() {
    let mut r = Rig::new();
    r.wire.awaits = true;
    r.client(0, 0, SYN, b"");
    r.client(1, 0, PSH_ACK, b"request");
    assert!(r.after(500).is_empty());
    let now = r.at();
    // Of others, and of a session that is none of ours.
    let stranger = Endpoint::new(CLIENT.addr, CLIENT.port + 1);
    r.engine.route_ready(now, stranger, TARGET, &mut r.wire);
    assert!(r.after(0).is_empty());
    for _ in 0..2 {
        // Said twice, sent once.
        let now = r.at();
        r.engine.route_ready(now, CLIENT, TARGET, &mut r.wire);
    }
    assert_eq!(Rig::brief(&r.after(0)), [(SYN, 0, 0)]);
    // It is repeated a second after it was sent, not after it was due.
    assert!(r.after(999).is_empty());
    assert_eq!(Rig::brief(&r.after(1)), [(SYN, 0, 0)]);
    assert_eq!(r.engine.totals().segments_retransmitted, 1);
    r.target(0, 1, SYN_ACK, 0);
    let now = r.at();
    r.engine.route_ready(now, CLIENT, TARGET, &mut r.wire);
    let sent = r.after(0);
    assert!(sent.iter().all(|s| !s.flags.has(SYN)), "{sent:?}");
}

#[test]
fn a_syn_whose_route_is_never_confirmed_goes_after_a_second() {
    let mut r = Rig::new();
    r.wire.awaits = true;
    r.client(0, 0, SYN, b"");
    assert!(r.after(999).is_empty());
    assert_eq!(Rig::brief(&r.after(1)), [(SYN, 0, 0)]);
    assert_eq!((r.wire.announced, r.wire.retired), (2, 0));
    assert_eq!(r.engine.totals().segments_retransmitted, 0);
}

#[test]
fn refused_by_the_target() {
    let mut r = Rig::new();
    r.client(0, 0, SYN, b"");
    r.target(0, 5, RST.with(ACK), 0); // of something else
    assert_eq!(r.outcome(), None);
    r.target(0, 1, RST.with(ACK), 0);
    assert_eq!(r.outcome(), Some(Outcome::Refused));
    // The client goes on talking to production: booked, not a new session.
    r.client(1, 0, PSH_ACK, b"request");
    r.client(1, 0, PSH_ACK, b"request");
    assert_eq!(r.engine.totals().undelivered(Outcome::Refused), 7);
    assert_eq!(r.engine.totals().sessions, 1);
    r.settle();
}

#[test]
fn an_old_connection_on_the_tuple_is_reset_and_the_syn_repeated() {
    let mut r = Rig::new();
    r.client(0, 0, SYN, b"");
    r.after(0);
    r.target(700, 99, ACK, 0);
    assert_eq!(Rig::brief(&r.after(0)), [(RST, 99, 0)]);
    assert_eq!(Rig::brief(&r.after(1000)), [(SYN, 0, 0)]);
}

#[test]
fn options_to_the_target_are_ours() {
    // SACK blocks of production and anything unknown stay behind; timestamps only if both agreed.
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"x");
    assert_eq!(r.after(0)[0].options, TcpOptions::default());
    let mut r = Rig::new();
    r.client(0, 0, SYN, b"");
    r.client(1, 0, ACK, b"");
    r.now += 7;
    let h = ResponseHeader {
        target: TARGET,
        client: CLIENT,
        seq: IRS,
        ack: ISS + 1,
        flags: SYN_ACK,
        window: 60_000,
        payload_len: 0,
        options: TcpOptions {
            timestamps: Some(Timestamps { val: 777, ecr: 90 }),
            ..r.offered
        },
        sack: SackBlocks::default(),
    };
    r.header(&h);
    let ack = r.after(0).pop().unwrap();
    assert_eq!(
        ack.options.timestamps,
        Some(Timestamps { val: 97, ecr: 777 })
    );
    assert_eq!(ack.window, 501, "scaling agreed: the client's own field");
}

#[test]
fn window_fields_are_translated_when_the_target_does_not_scale() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"x");
    assert_eq!(r.after(0)[0].window, (501u32 << 7) as u16);
}

#[test]
fn the_clients_round_trip_is_imitated() {
    let mut r = Rig::new();
    r.client(0, 0, SYN, b"");
    r.after(1);
    r.target(0, 1, SYN_ACK, 0);
    assert!(
        r.after(29).is_empty(),
        "the client has not answered production yet"
    );
    r.client(1, 0, ACK, b""); // 30 ms after its SYN
    r.client(1, 0, PSH_ACK, b"request");
    assert_eq!(Rig::brief(&r.after(0)), []);
    assert_eq!(
        Rig::brief(&r.after(1)),
        [(PSH_ACK, 1, 7)],
        "30 ms after the target's SYN-ACK"
    );
    r.target(1, 8, PSH_ACK, 100);
    assert!(r.after(29).is_empty());
    let ack = r.after(1);
    assert_eq!(
        (Rig::brief(&ack), ack[0].ack),
        (vec![(ACK, 8, 0)], IRS + 101)
    );
    // A request that depends on the answer acknowledges it.
    r.client(8, 100, PSH_ACK, b"second");
    r.target(101, 14, PSH_ACK, 50);
    r.client(14, 150, PSH_ACK, b"third");
    assert_eq!(r.after(0).pop().unwrap().ack, IRS + 151);
}

#[test]
fn a_third_packet_that_was_not_captured_does_not_make_thinking_a_round_trip() {
    let mut r = Rig::new();
    r.client(0, 0, SYN, b"");
    r.target(0, 1, SYN_ACK, 0);
    // The client completed its handshake unseen, and asks after twenty seconds.
    r.after(20_000);
    r.client(1, 0, PSH_ACK, b"request");
    r.target(1, 8, PSH_ACK, 100);
    let sent = r.after(0);
    assert_eq!(Rig::brief(&sent), [(PSH_ACK, 1, 7), (ACK, 8, 0)]);
    assert_eq!(sent[1].ack, IRS + 101, "not twenty seconds later");
}

#[test]
fn a_fixed_round_trip_and_none() {
    for (rtt, wait) in [(Rtt::Fixed(Nanos::from_millis(50)), 50), (Rtt::None, 0)] {
        let mut r = Rig::with(EngineConfig {
            rtt,
            ..EngineConfig::default()
        });
        r.client(0, 0, SYN, b"");
        r.after(5);
        r.target(0, 1, SYN_ACK, 0);
        if wait > 0 {
            assert!(Rig::brief(&r.after(wait - 1)).is_empty());
        }
        assert_eq!(Rig::brief(&r.after(1)), [(ACK, 1, 0)]);
    }
}

#[test]
fn a_lost_ack_of_the_handshake_is_repaired() {
    let mut r = Rig::open();
    r.target(0, 1, SYN_ACK, 0);
    assert_eq!(Rig::brief(&r.after(0)), [(ACK, 1, 0)]);
}

#[test]
fn syn_acks_of_servers_are_not_clients() {
    let mut r = Rig::new();
    r.client(0, 0, SYN_ACK, b"");
    assert!(r.after(1).is_empty());
    assert_eq!(r.engine.totals().sessions, 0);
}
