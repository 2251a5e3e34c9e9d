//! The engine step by step: what goes in, what must come out, and with which outcome it ends.

use super::*;
use crate::{Metric, Rtt};
use common::flow::{Cause, Segment};
use common::packet::{Addr, Endpoint, SeqNumber, TcpFlags, TcpOptions, Timestamps};

const CLIENT: Endpoint = Endpoint::new(Addr::v4([192, 0, 2, 7]), 40_000);
const ONLINE: Endpoint = Endpoint::new(Addr::v4([10, 0, 0, 2]), 80);
const TARGET: Endpoint = Endpoint::new(Addr::v4([10, 0, 0, 9]), 8080);
/// Near the wrap-around, so that every test crosses it.
const ISS: SeqNumber = SeqNumber(u32::MAX - 20);
/// Production's side of the captured connection, and the target's own.
const PROD: SeqNumber = SeqNumber(5_000);
const IRS: SeqNumber = SeqNumber(u32::MAX - 300);

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const RST: TcpFlags = TcpFlags::RST;
const PSH_ACK: TcpFlags = TcpFlags::PSH.with(TcpFlags::ACK);
const FIN_ACK: TcpFlags = TcpFlags::FIN.with(TcpFlags::ACK);
const SYN_ACK: TcpFlags = TcpFlags::SYN.with(TcpFlags::ACK);

#[derive(Clone, Debug, PartialEq)]
struct Sent {
    src: Endpoint,
    flags: TcpFlags,
    seq: SeqNumber,
    ack: SeqNumber,
    len: usize,
    window: u16,
    options: TcpOptions,
    payload: Vec<u8>,
    cause: Cause,
}

#[derive(Default)]
struct Wire {
    sent: Vec<Sent>,
    announced: usize,
    retired: usize,
    samples: Vec<(Metric, Nanos)>,
    no_channel: bool,
}

impl Output for Wire {
    fn transmit(&mut self, s: &Segment<'_>) {
        assert_eq!(s.dst, TARGET);
        self.sent.push(Sent {
            src: s.src,
            flags: s.flags,
            seq: s.seq,
            ack: s.ack,
            len: s.payload.len(),
            window: s.window,
            options: s.options,
            payload: s.payload.to_vec(),
            cause: s.cause,
        });
    }
    fn announce(&mut self, _: Endpoint, target: Endpoint) -> bool {
        assert_eq!(target, TARGET);
        self.announced += 1;
        !self.no_channel
    }
    fn retire(&mut self, _: Endpoint, _: Endpoint) {
        self.retired += 1;
    }
    fn sample(&mut self, metric: Metric, value: Nanos) {
        self.samples.push((metric, value));
    }
}

/// An engine, its surroundings and a clock in milliseconds.
struct Rig {
    engine: Engine,
    wire: Wire,
    now: u64,
    offered: TcpOptions,
}

impl Rig {
    fn new() -> Self {
        Self::with(EngineConfig::default())
    }

    fn with(config: EngineConfig) -> Self {
        let offered = TcpOptions {
            mss: Some(1460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamps: Some(Timestamps { val: 90, ecr: 0 }),
            ..TcpOptions::default()
        };
        Self {
            engine: Engine::new(config),
            wire: Wire::default(),
            now: 1_000,
            offered,
        }
    }

    fn at(&self) -> Nanos {
        Nanos::from_millis(self.now)
    }

    /// The client's packet: relative sequence number (1 is the first byte), bytes of production's
    /// answers that it has read.
    fn client(&mut self, seq: u32, read: u32, flags: TcpFlags, payload: &[u8]) {
        let seg = ClientSegment {
            client: CLIENT,
            online: ONLINE,
            target: TARGET,
            seq: ISS + seq,
            ack: if flags.has(ACK) {
                PROD + 1 + read
            } else {
                SeqNumber(0)
            },
            flags,
            window: 501,
            options: if flags.has(SYN) {
                self.offered
            } else {
                TcpOptions::default()
            },
            payload,
            payload_len: payload.len() as u32,
            gso_size: 0,
            at: self.at(),
        };
        self.captured(&seg);
    }

    fn captured(&mut self, seg: &ClientSegment<'_>) {
        let now = self.at();
        self.engine.captured(now, seg, &mut self.wire);
    }

    /// The target's packet: relative sequence number, relative acknowledgement.
    fn target(&mut self, seq: u32, ack: u32, flags: TcpFlags, len: u32) {
        self.target_window(seq, ack, flags, len, 60_000);
    }

    fn target_window(&mut self, seq: u32, ack: u32, flags: TcpFlags, len: u32, window: u16) {
        let h = ResponseHeader {
            target: TARGET,
            client: CLIENT,
            seq: IRS + seq,
            ack: ISS + ack,
            flags,
            window,
            payload_len: len,
            options: TcpOptions {
                mss: flags.has(SYN).then_some(1460),
                ..TcpOptions::default()
            },
        };
        self.header(&h);
    }

    fn header(&mut self, h: &ResponseHeader) {
        let now = self.at();
        self.engine.response(now, h, &mut self.wire);
    }

    /// Time passes; what was sent by the end of it, acknowledgements included.
    fn after(&mut self, ms: u64) -> Vec<Sent> {
        let until = self.now + ms;
        loop {
            let now = self.at();
            self.engine.advance(now, &mut self.wire);
            let next = self
                .engine
                .next_deadline()
                .map_or(until, |d| d.0.div_ceil(1_000_000));
            if self.now >= until {
                return self.sent();
            }
            self.now = next.clamp(self.now + 1, until);
        }
    }

    fn sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.wire.sent)
    }

    /// Relative (flags, seq, len) of what was sent.
    fn brief(sent: &[Sent]) -> Vec<(TcpFlags, u32, usize)> {
        sent.iter()
            .map(|s| (s.flags, s.seq.since(ISS) as u32, s.len))
            .collect()
    }

    /// Handshake on both sides; everything sent so far is forgotten.
    fn open() -> Self {
        Self::opened(Self::new())
    }

    fn opened(mut self) -> Self {
        self.client(0, 0, SYN, b"");
        self.client(1, 0, ACK, b"");
        self.target(0, 1, SYN_ACK, 0);
        self.after(0);
        self
    }

    fn outcome(&self) -> Option<Outcome> {
        let t = self.engine.totals();
        assert!(t.sessions <= 1, "{t:?}");
        Outcome::ALL.into_iter().find(|o| t.outcome(*o) > 0)
    }

    /// After everything: balanced books, no memory, no timers.
    fn settle(&mut self) {
        self.after(3_600_000);
        assert_eq!(self.engine.open_sessions(), 0);
        assert_eq!(self.engine.buffered_bytes(), 0);
        assert_eq!(self.engine.next_deadline(), None);
        assert!(
            self.engine.totals().balanced(),
            "{:?}",
            self.engine.totals()
        );
        assert!(self.engine.by_capture.is_empty() && self.engine.by_wire.is_empty());
    }
}

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
fn server_speaks_first() {
    let mut r = Rig::open();
    r.client(1, 30, ACK, b"");
    r.client(1, 30, PSH_ACK, b"login");
    assert!(r.after(1).is_empty(), "not before the greeting");
    r.target(1, 1, PSH_ACK, 30);
    assert_eq!(Rig::brief(&r.sent()), [(PSH_ACK, 1, 5)], "at once with it");
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
    assert_eq!(r.engine.totals().outcome(Outcome::Shed), 1);
    assert_eq!(r.engine.totals().sessions, 1);
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
    assert!(r.after(10).is_empty());
    assert_eq!(r.outcome(), Some(Outcome::SkippedNoSyn));
    assert_eq!(r.engine.totals().undelivered(Outcome::SkippedNoSyn), 6);
    assert!(r.engine.totals().balanced());
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
fn a_session_in_the_middle_is_joined_at_a_request() {
    let mut r = Rig::new();
    r.client(1, 0, PSH_ACK, b"rest of a request");
    r.client(18, 100, ACK, b"");
    assert!(r.after(1).is_empty());
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
    assert!(r.after(10).is_empty());
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
        percent: 30,
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

/// Keeps tuple and length of what is sent, to any target.
struct Any(Vec<(Endpoint, Endpoint, usize)>);
impl Output for Any {
    fn transmit(&mut self, s: &Segment<'_>) {
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

#[test]
fn a_lost_ack_of_the_handshake_is_repaired() {
    let mut r = Rig::open();
    r.target(0, 1, SYN_ACK, 0);
    assert_eq!(Rig::brief(&r.after(0)), [(ACK, 1, 0)]);
}

#[test]
fn shutdown_resets_what_is_open_and_books_it() {
    let mut r = Rig::open();
    r.client(1, 0, PSH_ACK, b"request");
    r.after(0);
    r.engine.stop_accepting();
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
fn syn_acks_of_servers_are_not_clients() {
    let mut r = Rig::new();
    r.client(0, 0, SYN_ACK, b"");
    assert!(r.after(1).is_empty());
    assert_eq!(r.engine.totals().sessions, 0);
}
