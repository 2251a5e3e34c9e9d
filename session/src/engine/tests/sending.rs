//! Data towards the target: loss, windows, turns, segment sizes.

use super::*;

#[test]
fn a_whole_session_from_syn_to_fin() {
    let mut r = Rig::new();
    r.client(0, 0, SYN, b"");
    let syn = r.after(0).remove(0);
    assert_eq!(
        (syn.src, syn.flags, syn.seq, syn.window),
        (CLIENT, SYN, ISS, 501)
    );
    assert_eq!(syn.options, r.offered);
    assert_eq!(r.wire.announced, 1);
    r.client(1, 0, ACK, b"");
    r.client(1, 0, PSH_ACK, b"request");
    assert!(
        r.after(0).is_empty(),
        "nothing before the handshake is done"
    );
    r.now += 1;
    r.target(0, 1, SYN_ACK, 0);
    let data = r.after(0);
    assert_eq!(
        Rig::brief(&data),
        [(PSH_ACK, 1, 7)],
        "the data carries the handshake's ACK"
    );
    assert_eq!(data[0].ack, IRS + 1);
    assert_eq!(data[0].payload, b"request");
    r.now += 5;
    r.target(1, 8, PSH_ACK, 100);
    let ack = r.after(0);
    assert_eq!(
        (Rig::brief(&ack), ack[0].ack),
        (vec![(ACK, 8, 0)], IRS + 101)
    );
    r.client(8, 100, FIN_ACK, b"");
    assert_eq!(Rig::brief(&r.after(0)), [(FIN_ACK, 8, 0)]);
    r.target(101, 9, FIN_ACK, 0);
    let last = r.after(0);
    assert_eq!(
        (Rig::brief(&last), last[0].ack),
        (vec![(ACK, 9, 0)], IRS + 102)
    );
    assert_eq!(r.outcome(), Some(Outcome::Completed));
    assert_eq!(r.engine.totals().bytes_delivered, 7);
    assert_eq!(r.wire.retired, 1);
    let metrics: Vec<Metric> = r.wire.samples.iter().map(|(m, _)| *m).collect();
    assert!(metrics.contains(&Metric::Connect) && metrics.contains(&Metric::Response));
    // The target missed our last ACK: its FIN is answered again, an ACK of it is not.
    r.target(101, 9, FIN_ACK, 0);
    assert_eq!(Rig::brief(&r.after(0)), [(ACK, 9, 0)]);
    r.target(102, 9, ACK, 0);
    assert!(r.after(0).is_empty());
    r.settle();
}

#[test]
fn acknowledgements_are_coalesced_per_batch() {
    let mut r = Rig::open();
    for n in 0..10 {
        r.target(1 + n * 1000, 1, ACK, 1000);
    }
    let acks = r.after(0);
    assert_eq!((acks.len(), acks[0].ack), (1, IRS + 10_001));
}

#[test]
fn rfc6298_lost_data_of_a_later_request_is_sent_again_until_acknowledged() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"first");
    r.target(1, 6, PSH_ACK, 10);
    r.client(6, 10, PSH_ACK, b"second");
    r.after(0);
    let again = r.after(199 + 400 + 800);
    assert!(
        again.is_empty() || again.iter().all(|s| s.cause == Cause::Retransmit),
        "{again:?}"
    );
    assert_eq!(
        Rig::brief(&again),
        [(PSH_ACK, 6, 6), (PSH_ACK, 6, 6)],
        "after 200 ms, then 400 ms more"
    );
    r.target(11, 12, ACK, 0);
    assert!(r.after(5_000).is_empty());
    assert_eq!(r.engine.totals().segments_retransmitted, 2);
}

#[test]
fn a_target_that_stops_acknowledging_times_out() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"request");
    r.after(70_000);
    assert_eq!(r.outcome(), Some(Outcome::TimedOut));
    r.settle();
}

#[test]
fn partial_acknowledgements_keep_the_remainder() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"abcdefgh");
    r.after(0);
    r.target(1, 4, ACK, 0);
    let again = r.after(250);
    assert_eq!(Rig::brief(&again), [(PSH_ACK, 4, 5)]);
    assert_eq!(again[0].payload, b"defgh");
    assert_eq!(r.engine.totals().bytes_delivered, 3);
}

#[test]
fn rfc5681_three_duplicate_acks_retransmit_at_once() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, &[1; 4000]);
    assert_eq!(r.after(0).len(), 3);
    for _ in 0..3 {
        r.target(1, 1, ACK, 0);
    }
    assert_eq!(Rig::brief(&r.sent()), [(ACK, 1, 1448)]);
}

#[test]
fn window_respected_update_resumes_and_closed_window_is_probed() {
    let mut r = Rig::new();
    r.offered.window_scale = None;
    let mut r = r.opened();
    r.client(1, 0, PSH_ACK, &[1; 3000]);
    r.after(0);
    r.target_window(1, 3001, ACK, 0, 0);
    r.client(3001, 0, PSH_ACK, &[2; 500]);
    assert!(r.after(100).is_empty(), "nothing into a closed window");
    // RFC 9293 section 3.8.6.1: one byte, again and again, with back-off.
    let probes = r.after(1_000);
    assert!(
        probes.len() >= 2 && probes.iter().all(|s| s.len == 1),
        "{probes:?}"
    );
    // A pure window update lets the rest go; the probed byte was accepted with it.
    r.target_window(1, 3002, ACK, 0, 9000);
    let rest = r.sent();
    assert_eq!(Rig::brief(&rest), [(PSH_ACK, 3002, 499)]);
}

#[test]
fn a_window_closed_for_ever_is_bounded() {
    let mut r = Rig::open();
    r.target_window(1, 1, ACK, 0, 0);
    r.client(1, 0, PSH_ACK, b"x");
    let probes = r.after(60_500).len();
    assert!(probes < 20, "{probes}");
    assert_eq!(r.outcome(), Some(Outcome::TimedOut));
    r.settle();
}

#[test]
fn large_captured_packets_are_cut_to_the_targets_mss() {
    let mut r = Rig::new();
    r.client(0, 0, SYN, b"");
    r.client(1, 0, ACK, b"");
    let now = r.at();
    let h = ResponseHeader {
        target: TARGET,
        client: CLIENT,
        seq: IRS,
        ack: ISS + 1,
        flags: SYN_ACK,
        window: 60_000,
        payload_len: 0,
        options: TcpOptions {
            mss: Some(500),
            ..TcpOptions::default()
        },
        sack: SackBlocks::default(),
    };
    r.engine.response(now, &h, &mut r.wire);
    r.after(0);
    r.client(1, 0, FIN_ACK.with(TcpFlags::PSH), &[7; 3000]);
    let sent = r.after(0);
    let lens: Vec<usize> = sent.iter().map(|s| s.len).collect();
    assert_eq!(lens, [500, 500, 448, 500, 500, 448, 104]);
    let pushed: Vec<bool> = sent.iter().map(|s| s.flags.has(TcpFlags::PSH)).collect();
    assert_eq!(pushed, [false, false, false, false, false, false, true]);
    assert!(
        sent.iter()
            .all(|s| s.flags.has(TcpFlags::FIN) == (s.len == 104)),
        "FIN on the last"
    );
}

#[test]
fn server_speaks_first() {
    let mut r = Rig::open();
    r.client(1, 30, ACK, b"");
    r.client(1, 30, PSH_ACK, b"login");
    assert!(r.after(1).is_empty(), "not before the greeting");
    r.target(1, 1, PSH_ACK, 30);
    assert_eq!(Rig::brief(&r.sent()), [(PSH_ACK, 1, 5)], "at once with it");
}

#[test]
fn data_beyond_every_window_is_of_another_connection() {
    let mut r = Rig::open();
    r.target(1 << 28, 1, PSH_ACK, 100);
    assert_eq!(r.engine.totals().response_bytes, 0);
    r.target(1, 1, PSH_ACK, 100);
    assert_eq!(r.engine.totals().response_bytes, 100);
}

#[test]
fn a_target_that_repeats_itself_for_ever_does_not_keep_a_session() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"request");
    r.target(1, 8, PSH_ACK, 100);
    let idle = EngineConfig::default().idle_timeout.0 / 1_000_000_000;
    for _ in 0..idle {
        assert_eq!(r.outcome(), None);
        r.after(1_000);
        r.target(1, 8, PSH_ACK, 100);
    }
    r.after(1_000);
    assert_eq!(r.outcome(), Some(Outcome::TimedOut));
    r.settle();
}

/// Keeps tuple and length of what is sent, to any target.
struct Any(Vec<(Endpoint, Endpoint, usize)>);
impl Output for Any {
    fn transmit(&mut self, s: &Segment<'_>, _: Cause) {
        self.0.push((s.src, s.dst, s.payload.len()));
    }
    fn announce(&mut self, _: Endpoint, _: Endpoint) -> bool {
        true
    }
    fn retire(&mut self, _: Endpoint, _: Endpoint) {}
    fn sample(&mut self, _: Metric, _: Nanos) {}
}

#[test]
fn ipv6_sessions_run_the_same_code() {
    let v6 = |last: u8, port| {
        let mut a = [0; 16];
        a[0] = 0x20;
        a[15] = last;
        Endpoint::new(Addr(a), port)
    };
    let mut engine = Engine::new(EngineConfig::default());
    let mut out = Any(Vec::new());
    let (client, target) = (v6(1, 40_000), v6(9, 80));
    let now = Nanos::from_secs(1);
    for (seq, flags, payload) in [(0, SYN, &b""[..]), (1, PSH_ACK, &[7; 3000][..])] {
        let seg = ClientSegment {
            client,
            online: v6(2, 80),
            target,
            lane: 0,
            seq: ISS + seq,
            ack: PROD,
            flags,
            window: 1,
            options: TcpOptions::default(),
            payload,
            payload_len: payload.len() as u32,
            gso_size: 0,
            at: now,
        };
        engine.captured(now, &seg, &mut out);
    }
    let h = ResponseHeader {
        target,
        client,
        seq: IRS,
        ack: ISS + 1,
        flags: SYN_ACK,
        window: 60_000,
        payload_len: 0,
        options: TcpOptions {
            mss: Some(9000),
            ..TcpOptions::default()
        },
        sack: SackBlocks::default(),
    };
    engine.response(now, &h, &mut out);
    let lens: Vec<usize> = out.0.iter().map(|s| s.2).collect();
    assert_eq!(
        lens,
        [0, 1440, 8, 1440, 8, 104],
        "1500 - 40 - 20, cut at the captured segments"
    );
    assert!(out.0.iter().all(|s| (s.0, s.1) == (client, target)));
}

#[test]
fn target_keep_alive_probes_are_answered() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"x");
    r.target(1, 2, PSH_ACK, 10);
    r.after(0);
    r.target(10, 2, ACK, 0);
    let answer = r.after(0);
    assert_eq!(
        (Rig::brief(&answer), answer[0].ack),
        (vec![(ACK, 2, 0)], IRS + 11)
    );
}
