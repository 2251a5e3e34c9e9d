//! One connection to the target, as its packets tell.

use super::given::Given;
use super::rules::Rule;
use crate::client::Script;
use common::flow::{Nanos, ResponseHeader, Segment};
use common::packet::{SeqNumber, TcpFlags};

/// Further than any window.
const FAR_BYTES: u32 = 1 << 26;

#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts of a connection"
)]
pub struct Conn {
    pub script: usize,
    /// Offset in the script's stream where it begins.
    pub base: usize,
    /// Offset behind the last byte sent.
    pub sent_end: usize,
    /// Began with the client's own SYN.
    pub whole: bool,
    /// Offset up to which it is known that everything was captured.
    checked: usize,
    origin: SeqNumber,
    offers_scaling: bool,
    shift: u8,
    /// Offset of the target's window's right edge.
    edge: i64,
    pub answered_syn: bool,
    pub target_fin: bool,
    pub target_rst: bool,
    /// Highest sequence and acknowledgement number of the target, since its SYN.
    reached: (SeqNumber, SeqNumber),
    /// Last response that brought something, or its beginning.
    pub active_at: Nanos,
    pub ended_at: Option<Nanos>,
    /// The engine gave up on its turns, and counted that.
    pub released: bool,
}

impl Conn {
    pub fn new(now: Nanos, script: usize, base: usize, whole: bool, syn: &Segment<'_>) -> Self {
        Self {
            script,
            base,
            whole,
            sent_end: base,
            checked: base,
            origin: syn.seq + 1 - base as u32,
            offers_scaling: syn.options.window_scale.is_some(),
            shift: 0,
            edge: 0,
            answered_syn: false,
            reached: (SeqNumber(0), SeqNumber(0)),
            target_fin: false,
            target_rst: false,
            active_at: now,
            ended_at: None,
            released: false,
        }
    }

    pub fn response(&mut self, now: Nanos, h: &ResponseHeader, half: bool) {
        self.target_rst |= h.flags.has(TcpFlags::RST);
        if !h.flags.has(TcpFlags::ACK) || h.flags.has(TcpFlags::RST) {
            return;
        }
        let first = self.origin + self.base as u32;
        if h.flags.has(TcpFlags::SYN) && !self.answered_syn && h.ack == first {
            self.answered_syn = true;
            self.reached = (h.seq, h.ack - 1);
            if self.offers_scaling {
                self.shift = h.options.window_scale.unwrap_or(0);
            }
        }
        let end = h.seq + h.payload_len;
        let (seq, ack) = self.reached;
        if end.since(seq).unsigned_abs() > FAR_BYTES || h.ack.since(ack).unsigned_abs() > FAR_BYTES
        {
            // Late, of an earlier connection on this tuple.
            return;
        }
        let closes = h.flags.has(TcpFlags::FIN) && !self.target_fin;
        let brings = h.payload_len > 0 && end.after(seq);
        if brings || h.ack.after(ack) || closes {
            self.active_at = now;
        }
        // A bare acknowledgement brings no bytes, whatever lies in front of it.
        let seq = if brings { end } else { seq };
        self.reached = (seq, ack.max(h.ack));
        self.target_fin |= closes;
        let shift = if h.flags.has(TcpFlags::SYN) {
            0
        } else {
            self.shift
        };
        let window = (i64::from(h.window) << shift) / if half { 2 } else { 1 };
        self.edge = self.edge.max(i64::from(h.ack.since(self.origin)) + window);
    }

    /// Checks a segment behind the SYN.
    pub fn sent(
        &mut self,
        s: &Segment<'_>,
        script: &Script,
        given: &Given,
        found: &mut Vec<(Rule, String)>,
    ) {
        let at = s.seq.since(self.origin);
        let len = s.payload.len();
        if s.flags.has(TcpFlags::FIN) {
            let whole = at >= 0 && at as usize + len == script.stream.len();
            let end = usize::try_from(at).unwrap_or(0) + len;
            let known = given.fin && whole || given.went_on_behind(end);
            if !(known || self.target_fin || self.target_rst) {
                found.push((Rule::Cause, format!("FIN at {at} that nobody sent")));
            }
        }
        if len == 0 {
            return;
        }
        if self.ended_at.is_some() {
            found.push((Rule::Cause, format!("data at {at} after its end")));
        }
        let (from, to) = (at.max(0) as usize, at.max(0) as usize + len);
        if at < self.base as i32 || script.stream.get(from..to) != Some(s.payload) {
            found.push((
                Rule::Bytes,
                format!("{len} bytes at {at} are not what was captured"),
            ));
            return;
        }
        if from > self.sent_end {
            let text = format!("sent at {from}, before only up to {}", self.sent_end);
            found.push((Rule::Hole, text));
        }
        if to > self.checked {
            if given.has(self.checked, to) {
                self.checked = to;
            } else {
                found.push((
                    Rule::Gap,
                    format!("sent up to {to}, behind a gap in the capture"),
                ));
            }
        }
        if to as i64 > self.edge + 1 {
            let text = format!("sent up to {to}, window up to {}", self.edge);
            found.push((Rule::Window, text));
        }
        self.sent_end = self.sent_end.max(to);
    }
}
