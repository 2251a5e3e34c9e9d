//! Captured clients: scripts of what a tap on the production host would see.
//!
//! A request is its length (u32), the length of the answer it wants (u32), then bytes. Production
//! answers after a service time; the client acknowledges that, thinks, and sends the next. Which kinds
//! of clients there are: `behaviour.rs`.

mod behaviour;
mod builder;

pub use behaviour::must_arrive;

use crate::rng::Rng;
use crate::setting::{Clients, Setting};
use common::flow::{Nanos, flow_hash, owner};
use common::packet::{Addr, Endpoint, SeqNumber, TcpFlags, TcpOptions};
use std::collections::HashSet;

pub const REQUEST_HEADER_BYTES: usize = 8;
/// Longer than any packet of the capture is late, so that connections on one tuple do not mix.
const REUSE_PAUSE_MS: u64 = 250;

/// One packet of a script.
#[derive(Clone, Debug)]
pub struct Packet {
    pub at: Nanos,
    pub seq: SeqNumber,
    pub ack: SeqNumber,
    pub flags: TcpFlags,
    pub window: u16,
    pub options: TcpOptions,
    pub payload: Vec<u8>,
    pub gso_size: u16,
}

/// What a client does between its handshake and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// One request after the other.
    Requests,
    /// Several requests before it reads their answers.
    Pipelined,
    /// More than any window takes.
    Upload,
    /// Talks and listens at the same time.
    Duplex,
    /// A SYN and no more, or a RST.
    Scan,
}

/// How a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// FIN after the last answer.
    Close,
    /// FIN with the last request, then reading to the end.
    HalfClose,
    /// RST after the last answer.
    Reset,
    /// Not another word.
    Vanish,
}

/// How many answers a client had read when it began a request.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// All of them: greeting included.
    pub full: usize,
    /// Those that the engine can tell for sure when pipelined answers come with pauses in between.
    pub sure: usize,
}

/// A whole captured connection.
#[derive(Clone, Debug)]
pub struct Script {
    pub client: Endpoint,
    pub manner: Manner,
    pub leave: Leave,
    /// All request bytes in order.
    pub stream: Vec<u8>,
    /// Offset of each request in `stream`, and what it depends on.
    pub starts: Vec<usize>,
    pub needs: Vec<Need>,
    pub iss: SeqNumber,
    /// Captured from the SYN on.
    pub from_syn: bool,
    pub packets: Vec<Packet>,
}

impl Script {
    fn ends_at(&self) -> Nanos {
        self.packets.iter().map(|p| p.at).max().unwrap_or_default()
    }

    /// The request that the byte in front of `end` belongs to.
    pub fn request_at(&self, end: usize) -> usize {
        self.starts.partition_point(|at| *at < end).max(1) - 1
    }

    /// Initial sequence numbers of connections that may carry it, with the offset where each begins.
    pub fn beginnings(&self) -> impl Iterator<Item = (SeqNumber, usize)> + '_ {
        let later = self.starts.iter().filter(|at| **at > 0);
        std::iter::once(0)
            .chain(later.copied())
            .map(|at| (self.iss + at as u32, at))
    }
}

/// All clients of a run, in no order of time.
pub fn scripts(rng: &mut Rng, setting: &Setting) -> Vec<Script> {
    let mut all: Vec<Script> = Vec::new();
    // A connection is known by the sequence number it begins with, so that must be of one script only.
    let mut taken = HashSet::new();
    while all.len() < setting.sessions as usize {
        let index = all.len() as u32;
        let before = all
            .last()
            .filter(|_| setting.clients == Clients::Mixed && rng.chance(120));
        let (client, begins, after) = match before {
            Some(old) => {
                let pause = REUSE_PAUSE_MS + rng.pick(0..2) * rng.pick(0..80_000);
                let begins = old.ends_at() + Nanos::from_millis(pause);
                // Further on than anybody buffers (RFC 6528: the number grows with time).
                let iss = old.iss + rng.pick(1 << 25..1 << 30) as u32;
                (old.client, begins, Some(iss))
            }
            None => (
                endpoint(setting, index),
                Nanos::from_millis(1_000 + rng.pick(0..3_000)),
                None,
            ),
        };
        // What comes on a tuple without its SYN looks like more of the connection before.
        let cut = before.is_none() && setting.clients == Clients::Mixed && index % 12 == 5;
        let script = behaviour::script(rng, setting, client, begins, after, cut);
        if script.beginnings().any(|(seq, _)| taken.contains(&seq)) {
            continue;
        }
        taken.extend(script.beginnings().map(|(seq, _)| seq));
        all.push(script);
    }
    all
}

/// A client that this engine's worker owns.
fn endpoint(setting: &Setting, index: u32) -> Endpoint {
    let host = 1 + (index % 200) as u8;
    let addr = if setting.v6 {
        Addr([0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, host])
    } else {
        Addr::v4([192, 0, 2, host])
    };
    (20_000 + index as u16 * 16..=u16::MAX)
        .map(|port| Endpoint::new(addr, port))
        .find(|e| owner(flow_hash(*e), setting.engine.workers) == setting.engine.worker)
        .expect("a port of this worker")
}
