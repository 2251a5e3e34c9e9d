//! The engine's surroundings: checks every segment that is sent, every route and every outcome.

use super::content::{Captured, STREAMS, TARGETS, stream_of};
use common::flow::{Cause, Nanos, ResponseHeader, Segment};
use common::packet::{Endpoint, SeqNumber, TcpFlags};
use session::{Metric, Outcome, Output, SessionEnd};
use std::collections::{HashMap, HashSet};

/// One connection to a target, as a packet capture would show it.
pub struct Connection {
    pub src: Endpoint,
    pub dst: Endpoint,
    pub iss: SeqNumber,
    /// Behind the last sequence number sent.
    pub nxt: SeqNumber,
    /// The FIN is sent.
    pub fin: bool,
    /// Its route is announced.
    pub live: bool,
    /// The shift offered in the SYN.
    offered_shift: Option<u8>,
    /// Right edge of the target's window, as far as it ever was; from the SYN-ACK on.
    pub edge: Option<SeqNumber>,
    shift: u8,
    /// Newest acknowledgement sent.
    ack: Option<SeqNumber>,
    /// Where responses ended: all that may be acknowledged.
    ends: HashSet<u32>,
    /// Streams that all payload so far can be of.
    origins: [bool; STREAMS],
    /// What the target has said, for drivers that play one: bytes, and responses of any kind.
    pub spoken: u32,
    pub responses: u32,
    /// The SYN offered them.
    pub timestamps: bool,
}

/// What one input made the engine send.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    pub control: usize,
    pub fresh: usize,
    pub again: usize,
}

#[derive(Default)]
pub struct Watch {
    pub captured: Captured,
    pub connections: Vec<Connection>,
    by_tuple: HashMap<(Endpoint, Endpoint), usize>,
    /// Routes announced and not retired.
    pub routes: HashSet<(Endpoint, Endpoint)>,
    /// No channel takes an announcement.
    pub refuses: bool,
    pub sent: Sent,
    pub ended: [u64; Outcome::ALL.len()],
    mtu: u16,
    trace: bool,
}

impl Watch {
    /// Segments must fit packets of `mtu` bytes; `trace` tells each.
    pub fn new(mtu: u16, trace: bool) -> Self {
        Self {
            mtu,
            trace,
            ..Self::default()
        }
    }

    /// A response is about to be given to the engine.
    pub fn responded(&mut self, h: &ResponseHeader) {
        let Some(n) = self.by_tuple.get(&(h.client, h.target)) else {
            return;
        };
        let c = &mut self.connections[*n];
        c.responses += 1;
        let end = h.seq + h.payload_len;
        c.ends.insert(end.0);
        if h.flags.has(TcpFlags::FIN) {
            c.ends.insert((end + 1).0);
        }
        if h.flags.has(TcpFlags::SYN) {
            // Data in the SYN-ACK comes again.
            c.ends.insert((h.seq + 1).0);
        }
        let of_this = !h.ack.after(c.nxt) && h.ack.after(c.iss);
        if !h.flags.has(TcpFlags::ACK) || !of_this {
            return;
        }
        match c.edge {
            None if h.flags.has(TcpFlags::SYN) && h.ack == c.iss + 1 => {
                c.shift = match (c.offered_shift, h.options.window_scale) {
                    (Some(_), Some(shift)) => shift,
                    _ => 0,
                };
                c.edge = Some(h.ack + u32::from(h.window));
            }
            None => {}
            Some(edge) => c.edge = Some(edge.max(h.ack + (u32::from(h.window) << c.shift))),
        }
    }

    fn syn(&mut self, s: &Segment<'_>, cause: Cause) {
        assert_eq!(s.flags, TcpFlags::SYN, "{s:?}");
        assert!(s.payload.is_empty(), "data in a SYN: {s:?}");
        assert!(
            self.routes.contains(&(s.src, s.dst)),
            "SYN without a route: {s:?}"
        );
        let known = self.by_tuple.get(&(s.src, s.dst)).copied();
        if cause == Cause::Retransmit {
            let c = &self.connections[known.expect("a SYN is sent again on its own tuple")];
            assert_eq!(c.iss, s.seq, "SYN sent again with another number");
            return;
        }
        assert!(
            known.is_none_or(|n| !self.connections[n].live),
            "two connections on one tuple: {s:?}"
        );
        self.by_tuple.insert((s.src, s.dst), self.connections.len());
        self.connections.push(Connection {
            src: s.src,
            dst: s.dst,
            iss: s.seq,
            nxt: s.seq + 1,
            fin: false,
            live: true,
            offered_shift: s.options.window_scale,
            edge: None,
            shift: 0,
            ack: None,
            ends: HashSet::new(),
            origins: [true; STREAMS],
            spoken: 0,
            responses: 0,
            timestamps: s.options.timestamps.is_some(),
        });
    }
}

/// The rules for a segment that is no SYN.
fn segment(c: &mut Connection, captured: &Captured, mtu: u16, s: &Segment<'_>, cause: Cause) {
    assert!(
        s.options.mss.is_none() && s.options.window_scale.is_none() && !s.options.sack_permitted,
        "SYN options: {s:?}"
    );
    assert!(
        s.options.timestamps.is_none() || c.timestamps,
        "timestamps that were not offered: {s:?}"
    );
    if s.flags.has(TcpFlags::ACK) {
        assert!(c.edge.is_some(), "ACK before the SYN-ACK: {s:?}");
        assert!(
            c.ack.is_none_or(|before| !s.ack.before(before)),
            "acknowledgement moved back from {:?}: {s:?}",
            c.ack
        );
        assert!(
            c.ends.contains(&s.ack.0),
            "acknowledges what was not said: {s:?}"
        );
        c.ack = Some(s.ack);
    } else {
        assert_eq!(s.flags, TcpFlags::RST, "neither ACK nor RST: {s:?}");
        return;
    }
    let data_end = s.seq + s.payload.len() as u32;
    let end = data_end + u32::from(s.flags.has(TcpFlags::FIN));
    assert!(s.seq.after(c.iss), "before the stream: {s:?}");
    match cause {
        Cause::Captured { .. } => assert_eq!(s.seq, c.nxt, "new data with a hole: {s:?}"),
        Cause::Retransmit => assert!(
            !end.after(c.nxt) && s.seq.before(end),
            "sent again what never was sent: {s:?}"
        ),
        Cause::Own => assert_eq!(s.seq, c.nxt, "own segment out of place: {s:?}"),
    }
    c.nxt = c.nxt.max(end);
    c.fin |= s.flags.has(TcpFlags::FIN);
    if s.payload.is_empty() {
        return;
    }
    let headers = if s.dst.addr.is_v4() { 40 } else { 60 };
    let most = usize::from(mtu.saturating_sub(headers)).max(64);
    assert!(
        s.payload.len() <= most,
        "{} bytes, {most} allowed",
        s.payload.len()
    );
    let edge = c.edge.unwrap_or(c.iss);
    assert!(
        !data_end.after(edge) || s.payload.len() == 1,
        "beyond the window's edge {edge:?}: {s:?}"
    );
    for (stream, possible) in c.origins.iter_mut().enumerate() {
        *possible = *possible && captured.has(stream, s.seq, s.payload);
    }
    assert!(
        c.origins.contains(&true),
        "payload is of no captured stream: {s:?}"
    );
}

impl Output for Watch {
    fn transmit(&mut self, s: &Segment<'_>, cause: Cause) {
        if self.trace {
            eprintln!("  {s:?}");
        }
        assert!(TARGETS.contains(&s.dst), "no target: {s:?}");
        assert_eq!(s.src.addr.is_v4(), s.dst.addr.is_v4(), "{s:?}");
        match cause {
            Cause::Retransmit => self.sent.again += 1,
            Cause::Captured { .. } if !s.flags.has(TcpFlags::SYN) => self.sent.fresh += 1,
            _ => self.sent.control += 1,
        }
        if s.flags.has(TcpFlags::SYN) {
            self.syn(s, cause);
            return;
        }
        let n = self.by_tuple.get(&(s.src, s.dst));
        let n = *n.unwrap_or_else(|| panic!("on a tuple that was never opened: {s:?}"));
        segment(&mut self.connections[n], &self.captured, self.mtu, s, cause);
    }

    fn announce(&mut self, client: Endpoint, target: Endpoint) -> bool {
        assert!(TARGETS.contains(&target), "no target: {target}");
        self.routes.insert((client, target));
        !self.refuses
    }

    fn retire(&mut self, client: Endpoint, target: Endpoint) {
        self.routes.remove(&(client, target));
        if let Some(n) = self.by_tuple.get(&(client, target)) {
            self.connections[*n].live = false;
        }
    }

    fn ended(&mut self, end: &SessionEnd) {
        assert!(stream_of(end.client, end.online).is_some(), "{end:?}");
        assert!(TARGETS.contains(&end.target), "{end:?}");
        assert!(end.delivered <= end.captured, "{end:?}");
        assert!(
            end.outcome != Outcome::Completed || end.delivered == end.captured,
            "completed with bytes left: {end:?}"
        );
        if self.trace {
            eprintln!("  {end:?}");
        }
        self.ended[end.outcome as usize] += 1;
    }

    fn sample(&mut self, _: Metric, _: Nanos) {}
}
