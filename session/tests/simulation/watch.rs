//! Watches a run: every packet that the engine sends, every answer it gives, after every step.
//!
//! ```text
//!   captured packets ──▶ Given  what the engine can know of each script
//!   segments sent    ──▶ Conn   what one connection to the target has sent     ──▶ Violation
//!   totals, memory   ──▶ books after the step against those before
//! ```
//! A connection is found in its script by the initial sequence number, which the engine takes over from
//! the client; so that what is checked here owes nothing to the engine's own tables.

mod books;
mod conn;
mod ends;
mod given;
mod rules;

pub use rules::{Rule, Violation};

use crate::client::{Packet, Script};
use crate::sabotage::Sabotage;
use crate::setting::{Class, Setting};
use common::flow::{Cause, Nanos, ResponseHeader, Segment, Share, flow_hash, owner};
use common::packet::{Endpoint, SeqNumber, TcpFlags};
use conn::Conn;
use given::Given;
use session::{SessionEnd, Totals};
use std::collections::HashMap;

/// Violations that are kept: the first tell the story.
const KEPT: usize = 20;

pub struct Watch {
    pub setting: Setting,
    pub scripts: Vec<Script>,
    given: Vec<Given>,
    /// Script and offset of a connection that begins with this sequence number.
    beginnings: HashMap<SeqNumber, (usize, usize)>,
    pub conns: HashMap<Endpoint, Conn>,
    /// Script and offset of every connection that a wire endpoint had.
    pub begun: HashMap<Endpoint, Vec<(usize, usize)>>,
    /// When a tuple was given back that was not its client's own.
    rested: HashMap<Endpoint, Nanos>,
    /// Answers given on the newest connection of each wire endpoint, and whether they came in one go.
    pub answers: HashMap<Endpoint, (usize, bool)>,
    pub announced: HashMap<Endpoint, u32>,
    pub ends: Vec<(Option<usize>, SessionEnd)>,
    /// Connections that sent something, or a script that was captured, in this step.
    touched: Vec<Endpoint>,
    pub books: Totals,
    /// Requests before their answers in this step; excused if the engine counts turns as given up.
    overtaking: Vec<(Endpoint, String)>,
    pub violations: Vec<Violation>,
}

impl Watch {
    pub fn new(setting: &Setting, scripts: &[Script]) -> Self {
        let mut beginnings = HashMap::new();
        for (i, s) in scripts.iter().enumerate() {
            beginnings.extend(s.beginnings().map(|(seq, at)| (seq, (i, at))));
        }
        Self {
            setting: setting.clone(),
            given: scripts.iter().map(Given::new).collect(),
            scripts: scripts.to_vec(),
            beginnings,
            conns: HashMap::new(),
            begun: HashMap::new(),
            rested: HashMap::new(),
            answers: HashMap::new(),
            announced: HashMap::new(),
            ends: Vec::new(),
            touched: Vec::new(),
            books: Totals::default(),
            overtaking: Vec::new(),
            violations: Vec::new(),
        }
    }

    pub fn sabotaged(&self, by: Sabotage) -> bool {
        self.setting.sabotage == Some(by)
    }

    pub fn report(&mut self, rule: Rule, text: String) {
        if std::env::var_os("SIMULATION_SEED").is_some() {
            println!("!! {rule:?}: {text}");
        }
        if self.violations.len() < KEPT {
            self.violations.push(Violation { rule, text });
        }
    }

    /// Headers that the engine got were what their senders wrote.
    pub fn honest(&self) -> bool {
        self.setting.class != Class::Hostile
    }

    /// The engine is about to get this packet; `len` bytes of its payload were captured.
    pub fn captured(&mut self, now: Nanos, script: usize, p: &Packet, len: usize) {
        let forget =
            self.sabotaged(Sabotage::ForgetCapture) && !p.payload.is_empty() && script == 3
                || self.sabotaged(Sabotage::ForgetFin)
                    && p.flags.has(TcpFlags::FIN.with(TcpFlags::RST));
        let client = self.scripts[script].client;
        if p.flags.has(TcpFlags::SYN) && self.given[script].seen && !self.given[script].syn {
            // It comes late: the session that its data has joined with gives way.
            self.given[script].superseded = true;
            self.given[script].late_syn = true;
        }
        if !forget {
            self.given[script].take(now, p, len, self.scripts[script].iss);
        }
        if p.flags.has(TcpFlags::SYN) {
            for (g, s) in self.given.iter_mut().zip(&self.scripts) {
                // A new connection on the tuple ends the one before.
                g.superseded |= s.client == client && s.iss != self.scripts[script].iss && g.seen;
            }
        }
    }

    /// The engine is about to get this response.
    pub fn response(&mut self, now: Nanos, h: &ResponseHeader) {
        let (half, honest) = (self.sabotaged(Sabotage::HalfWindow), self.honest());
        if let Some(conn) = self.conns.get_mut(&h.client) {
            if !honest {
                // What brings something new cannot be told.
                conn.active_at = now;
                conn.target_fin |= h.flags.has(TcpFlags::FIN);
            }
            conn.response(now, h, half);
        }
    }

    /// The engine sends this.
    pub fn sent(&mut self, now: Nanos, s: &Segment<'_>, cause: Cause) {
        self.touched.push(s.src);
        self.size(s);
        if s.flags.has(TcpFlags::SYN) {
            self.begun(now, s, cause);
            return;
        }
        let honest = self.setting.class != Class::Hostile;
        let Some(conn) = self.conns.get_mut(&s.src) else {
            if self.setting.capture.corrupt > 0 {
                return;
            }
            return self.report(Rule::Tuple, format!("{}: sent without a SYN", s.src));
        };
        let i = conn.script;
        let (script, given) = (&self.scripts[i], &self.given[i]);
        let mut found = Vec::new();
        conn.sent(s, script, given, &mut found);
        if !s.payload.is_empty() && honest && turns_are_kept(&self.setting) {
            let (answered, at_once) = self.answers.get(&s.src).copied().unwrap_or((0, true));
            let request = script.request_at(conn.sent_end);
            let need = script.needs.get(request).map_or(0, |n| {
                if self.setting.timely() {
                    n.full
                } else {
                    n.sure
                }
            });
            if answered < need && at_once && conn.whole {
                let text = format!("request {request} sent after {answered} of {need} answers");
                self.overtaking.push((s.src, format!("{}: {text}", s.src)));
            }
        }
        for (rule, text) in found {
            // Flipped bits in captured headers move bytes to other places.
            if self.honest() || self.setting.capture.corrupt == 0 && rule != Rule::Window {
                self.report(rule, format!("{}: {text}", s.src));
            }
        }
    }

    /// The network is made to swallow it.
    pub fn swallowed(&self, s: &Segment<'_>) -> bool {
        let conn = self.conns.get(&s.src);
        self.sabotaged(Sabotage::Blackhole)
            && !s.payload.is_empty()
            && conn.is_some_and(|c| c.script == 2)
    }

    fn size(&mut self, s: &Segment<'_>) {
        let mut area = [0; 40];
        let headers = if s.src.addr.is_v4() { 40 } else { 60 };
        let options = s.options.emit(&mut area);
        let len = headers + options + s.payload.len();
        let mtu = usize::from(self.setting.engine.mtu);
        let taken = self.setting.target.mtu;
        let small = if self.sabotaged(Sabotage::LargePackets) {
            mtu / 2
        } else {
            mtu
        };
        let damaged = self.setting.responses.corrupt + self.setting.responses.truncate > 0;
        // What a target said of its MSS may have been lost or flipped on the way.
        if len > small.min(if damaged { usize::MAX } else { taken }) {
            let text = format!("{}: packet of {len} bytes, mtu {mtu} and {taken}", s.src);
            self.report(Rule::Size, text);
        }
    }

    /// A SYN: the first of a connection, or again.
    fn begun(&mut self, now: Nanos, s: &Segment<'_>, cause: Cause) {
        let e = &self.setting.engine;
        if owner(flow_hash(s.src), e.workers) != e.worker {
            self.report(Rule::Worker, format!("{} belongs to another worker", s.src));
        }
        let Some(&(script, base)) = self.beginnings.get(&s.seq) else {
            if self.setting.capture.corrupt == 0 {
                self.report(
                    Rule::Bytes,
                    format!("{}: begins at {} where no request does", s.src, s.seq.0),
                );
            }
            return;
        };
        if cause == Cause::Retransmit {
            return;
        }
        let client = self.scripts[script].client;
        let e = &self.setting.engine;
        let right = match &e.pool {
            Some(pool) => pool.addresses().contains(&s.src.addr),
            None => s.src.addr == client.addr,
        };
        // Whose a flipped sequence number is cannot be told.
        let exact = self.setting.capture.corrupt == 0;
        if !right && exact {
            self.report(Rule::Tuple, format!("{} for {client}", s.src));
        }
        let selected = if self.sabotaged(Sabotage::SelectNone) {
            Share::NONE
        } else {
            self.setting.engine.share
        };
        if !selected.takes(flow_hash(client)) && exact {
            self.report(Rule::Selection, format!("{client} was not selected"));
        }
        let rest = self.setting.engine.tuple_reuse;
        let early = self.rested.get(&s.src).is_some_and(|at| now < *at + rest);
        let live = self.conns.get(&s.src).is_some_and(|c| c.ended_at.is_none());
        let shared = self.sabotaged(Sabotage::ShareTuple) && !self.conns.is_empty();
        if (early && exact) || live || shared {
            self.report(Rule::Tuple, format!("{} taken again, live: {live}", s.src));
        }
        if base == 0
            && !self.given[script].syn
            && exact
            && self.scripts[script].from_syn
            && !self.given[script].began_at(0)
        {
            self.report(
                Rule::Cause,
                format!("{}: begun before its SYN was captured", s.src),
            );
        }
        self.begun.entry(s.src).or_default().push((script, base));
        // The answers of later connections do not count from the script's beginning.
        let whole = base == 0 && self.given[script].syn;
        self.conns
            .insert(s.src, Conn::new(now, script, base, whole, s));
    }

    /// Bytes of keep-alive probes.
    pub fn probe_bytes(&self) -> u64 {
        let packets = self.scripts.iter().flat_map(|s| &s.packets);
        packets.filter(|p| p.payload.len() == 1).count() as u64
    }

    /// A connection whose SYN was lost came on a tuple that another had, or its SYN came late: what of
    /// it was captured twice cannot be told.
    pub fn mixes_connections(&self) -> bool {
        let lost = self
            .given
            .iter()
            .zip(&self.scripts)
            .filter(|(g, _)| g.seen && !g.syn);
        let others = |s: &Script| self.scripts.iter().filter(|o| o.client == s.client).count();
        self.given.iter().any(|g| g.late_syn) || lost.into_iter().any(|(_, s)| others(s) > 1)
    }

    /// Distinct captured bytes of all scripts.
    pub fn given_bytes(&self) -> u64 {
        self.given.iter().map(Given::bytes).sum()
    }
}

/// The setting lets a request be told from the answer it followed: rules (i) and (ii) of turn-taking in
/// the design.
fn turns_are_kept(s: &Setting) -> bool {
    let known_start = s.target.greeting == 0 || s.capture.on_time();
    let complete = s.capture.loss + s.capture.truncate == 0;
    let at_once = s.target.answer_permille == 1000 && s.target.pieces == 1;
    // Other lengths: an answer in pieces is told by the pauses, if only the target makes them; one that
    // is longer than the client's ends, as far as anyone can tell, with a piece that has PSH.
    let paced = s.timely()
        && s.target.pause < Nanos::from_micros(1_000)
        && s.target.answer_permille <= 1000;
    let turns = !s.engine.no_turns || s.sabotage == Some(Sabotage::SendAsCaptured);
    turns
        && known_start
        && complete
        && (at_once || paced)
        && !s.target.mute
        && s.target.crash.is_none()
        && s.target.close_after.is_none()
}
