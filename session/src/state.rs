//! One session and what its methods work with.

use crate::receiver::Receiver;
use crate::sender::Sender;
use crate::stream::{Arena, Stream};
use crate::table::{CaptureKey, Pair};
use crate::turn::Turns;
use crate::{EngineConfig, Outcome, Output, SessionEnd, Totals, Waiting};
use common::flow::{Nanos, Segment};
use common::packet::{SeqNumber, TcpFlags, TcpOptions, Timestamps};

/// What a session method may touch beside its session.
pub(crate) struct Context<'a, O: Output> {
    pub(crate) now: Nanos,
    pub(crate) config: &'a EngineConfig,
    pub(crate) arena: &'a mut Arena,
    pub(crate) totals: &'a mut Totals,
    pub(crate) out: &'a mut O,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// SYN sent, or waiting for a channel to announce its route.
    Opening,
    /// Handshake done.
    Open,
    /// Has its outcome. The entry stays to answer late packets of the target, to keep the tuple, and
    /// to know captured packets that still come.
    Ended(Outcome),
}

/// The client's FIN or RST as far as it matters to us.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CapturedReset {
    /// How far the client had read the answers.
    pub(crate) ack: SeqNumber,
    /// Where it lies in the stream: data before it may be captured later.
    pub(crate) seq: SeqNumber,
    pub(crate) arrived: Nanos,
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts of RFC 9293's state, not one state"
)]
pub(crate) struct Session {
    pub(crate) phase: Phase,
    /// Key of the capture side.
    pub(crate) capture: CaptureKey,
    /// Key of the wire side: client as the target sees it, and target.
    pub(crate) wire: Pair,
    pub(crate) stream: Stream,
    pub(crate) sender: Sender,
    pub(crate) receiver: Receiver,
    /// From the first captured packet behind the SYN on.
    pub(crate) turns: Option<Turns>,
    /// Sequence number of the captured SYN, or in front of the first data of an adopted session.
    pub(crate) captured_iss: SeqNumber,
    /// Initial sequence number towards the target: the same, until the connection is opened again.
    pub(crate) iss: SeqNumber,
    /// What the captured SYN offered.
    pub(crate) offered: TcpOptions,
    /// Began without a captured SYN: options and window are our own.
    pub(crate) adopted: bool,
    /// The client's last window field, unscaled.
    pub(crate) client_window: u16,
    /// Chunk of the queue that is sent next.
    pub(crate) cursor: usize,
    /// Capture and engine time of the SYN.
    pub(crate) syn_at: Nanos,
    pub(crate) begun_at: Nanos,
    /// When this connection to the target was begun.
    pub(crate) opened_at: Nanos,
    /// When this connection's SYN was first sent.
    pub(crate) syn_sent_at: Option<Nanos>,
    /// When the first connection's was: the zero of the replayed schedule.
    pub(crate) schedule_at: Option<Nanos>,
    pub(crate) established_at: Nanos,
    /// The target reset the connection when nothing was under way.
    pub(crate) peer_reset: bool,
    /// The target answered the SYN; the emulated client completes the handshake then.
    pub(crate) handshake_at: Option<Nanos>,
    /// The target closed, the client has another request: open a new connection for it.
    pub(crate) wants_reopen: bool,
    /// Round trip between production and the client: captured SYN to captured third packet.
    pub(crate) client_rtt: Option<Nanos>,
    /// Both sides agreed to timestamps.
    pub(crate) timestamps: bool,
    /// Our FIN is sent.
    pub(crate) fin_sent: bool,
    /// The client was cut off; so will be the target, after everything before it is delivered.
    pub(crate) reset: Option<CapturedReset>,
    /// Last byte of the current request was first sent then, no answer byte seen yet.
    pub(crate) request_sent_at: Option<Nanos>,
    /// The next turn is held back until then, unless the target says something before.
    pub(crate) gate_until: Option<Nanos>,
    /// Last packet of either side.
    pub(crate) active_at: Nanos,
    /// What the timer is set to: it only ever has to be moved forward.
    pub(crate) timer_at: Nanos,
    /// The captured client is done: FIN, RST or nothing for the idle timeout.
    pub(crate) client_done: bool,
    /// An acknowledgement is owed to the target and listed for the end of the batch.
    pub(crate) ack_due: bool,
    /// Distinct payload bytes captured, and acknowledged by the target.
    pub(crate) captured: u64,
    pub(crate) delivered: u64,
}

impl Session {
    /// Timestamp clock: the client's own value at its SYN, then milliseconds, which is what Linux
    /// clients do (RFC 7323 section 5.4: 1 ms to 1 s per tick).
    pub(crate) fn ts_val(&self, now: Nanos) -> u32 {
        let base = self.offered.timestamps.map_or(0, |t| t.val);
        base.wrapping_add((now.since(self.opened_at).0 / 1_000_000) as u32)
    }

    /// Options of every segment but the SYN.
    pub(crate) fn options(&self, now: Nanos) -> TcpOptions {
        TcpOptions {
            timestamps: self.timestamps.then(|| Timestamps {
                val: self.ts_val(now),
                ecr: self.receiver.ts_recent,
            }),
            ..TcpOptions::default()
        }
    }

    /// Sends a segment without payload. Every segment with ACK carries the newest acknowledgement, so
    /// one that is owed is paid by it.
    pub(crate) fn send_control<O: Output>(
        &mut self,
        cx: &mut Context<'_, O>,
        seq: SeqNumber,
        flags: TcpFlags,
        options: TcpOptions,
        cause: common::flow::Cause,
    ) {
        if flags.has(TcpFlags::ACK) {
            self.ack_due = false;
        }
        cx.totals.segments_sent += 1;
        let segment = Segment {
            src: self.wire.client,
            dst: self.wire.server,
            seq,
            ack: self.receiver.visible,
            flags,
            window: self.window_field(flags),
            options,
            payload: &[],
            cause,
        };
        cx.out.transmit(&segment);
    }

    /// True once every captured byte is acknowledged (a FIN need not be).
    pub(crate) fn all_delivered(&self) -> bool {
        self.captured == self.delivered
    }

    /// Gives the session its outcome and its memory back.
    pub(crate) fn end<O: Output>(&mut self, cx: &mut Context<'_, O>, outcome: Outcome) {
        if let Phase::Ended(_) = self.phase {
            return;
        }
        let end = SessionEnd {
            client: self.capture.pair.client,
            online: self.capture.pair.server,
            wire: self.wire.client,
            target: self.wire.server,
            outcome,
            waiting: self.waiting(),
            captured: self.captured,
            delivered: self.delivered,
            lasted: cx.now.since(self.begun_at),
        };
        cx.out.ended(&end);
        self.phase = Phase::Ended(outcome);
        cx.totals
            .end(outcome, self.captured - self.delivered.min(self.captured));
        self.stream.clear(cx.arena);
        self.cursor = 0;
        self.ack_due = false;
        self.sender.rto_at = None;
        self.gate_until = None;
        self.handshake_at = None;
        self.receiver.catch_up();
        self.wants_reopen = false;
        self.reset = None;
        self.active_at = cx.now;
        cx.out.retire(self.wire.client, self.wire.server);
    }

    /// What keeps the session from going on.
    fn waiting(&self) -> Waiting {
        let unsent = self.stream.queue().len() > self.cursor;
        match self.phase {
            Phase::Opening if self.syn_sent_at.is_none() => Waiting::Channel,
            Phase::Opening => Waiting::Handshake,
            Phase::Open if self.gate_until.is_some() => Waiting::Turn,
            Phase::Open if self.sender.in_flight() > 0 => Waiting::Acknowledgement,
            Phase::Open if unsent => Waiting::Window,
            Phase::Open if self.hole_since().is_some() => Waiting::Capture,
            Phase::Open if !self.fin_sent => Waiting::Client,
            Phase::Open if !self.receiver.answered.fin => Waiting::Close,
            Phase::Open | Phase::Ended(_) => Waiting::Nothing,
        }
    }

    /// Ends with a reset towards the target (RFC 9293 section 3.10.5).
    pub(crate) fn abort<O: Output>(&mut self, cx: &mut Context<'_, O>, outcome: Outcome) {
        if let Phase::Ended(_) = self.phase {
            return;
        }
        if self.syn_sent_at.is_some() {
            let flags = if self.phase == Phase::Open {
                TcpFlags::RST.with(TcpFlags::ACK)
            } else {
                TcpFlags::RST
            };
            let options = self.options(cx.now);
            self.send_control(
                cx,
                self.sender.nxt,
                flags,
                options,
                common::flow::Cause::Own,
            );
        }
        self.end(cx, outcome);
    }

    /// Since when captured bytes are missing in front of other ones, or of the client's reset.
    pub(crate) fn hole_since(&self) -> Option<Nanos> {
        let reset = self.reset.filter(|r| self.stream.nxt().before(r.seq));
        self.stream.hole_since().or(reset.map(|r| r.arrived))
    }

    /// When this session wants to be looked at next.
    pub(crate) fn deadline(&self, config: &EngineConfig) -> Nanos {
        if let Phase::Ended(_) = self.phase {
            return if self.client_done {
                self.active_at + config.linger
            } else {
                self.active_at + config.idle_timeout
            };
        }
        let mut due = self.active_at + config.idle_timeout;
        if self.phase == Phase::Opening {
            due = due.min(self.opened_at + config.connect_timeout);
        }
        if let Some(t) = self.sender.rto_at {
            due = due.min(t);
            // Only data can time out: a SYN has its own limit, and a timer that is due but does nothing
            // would fire again each tick.
            if self.phase == Phase::Open && self.sender.in_flight() > 0 {
                due = due.min(self.sender.progress_at + config.response_timeout);
            }
        }
        for t in [
            self.gate_until,
            self.handshake_at,
            self.receiver.arrives_at(),
        ] {
            due = due.min(t.unwrap_or(due));
        }
        if let Some(t) = self.hole_since() {
            due = due.min(t + config.gap_timeout);
        }
        due
    }
}
