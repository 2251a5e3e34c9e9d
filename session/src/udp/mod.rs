//! UDP: captured datagrams go to the target as they come, from a wire endpoint of their client's flow.
//!
//! ```text
//!  ClientDatagram ─▶ mirrored twice? (twins.rs) ─▶ selected? ─▶ whole? ─▶ flow (client, online) ─▶ one copy per replica ─▶ UdpOutput
//!                                            │ new: a wire endpoint for each replica          │
//!                                            ▼                                                ▼
//!                                   flows.rs: table, order of idleness              ledger.rs: sent, or why not
//! ```
//! Sans-IO like the TCP engine. There is nothing to wait for: no handshake, no turns, no answers needed.
//! A flow exists so that a client keeps its wire endpoint, and gives it back when it has been idle.

mod flows;
mod ledger;
#[cfg(test)]
mod tests;
mod twins;

pub use ledger::{UdpDrop, UdpTotals};

use crate::EngineConfig;
use crate::pool::AddressPool;
use crate::table::Pair;
use crate::wire_tuple::{TupleAllocator, Wire};
use common::flow::{ClientDatagram, Nanos, Share, flow_hash};
use common::packet::UdpFrame;
use flows::Flows;
use twins::Twins;

/// A ramp adds one percent per second, as for sessions.
const RAMP_STEP: Nanos = Nanos::from_secs(1);

/// Memory that a flow takes: its place in the table, the index, and for each replica a wire endpoint and
/// its entry among those in use; hash tables are at worst three quarters empty. Asserted by a test.
pub const fn udp_flow_bytes(replicas: u16) -> usize {
    384 + 192 * replicas as usize
}

/// Settings of one worker's UDP replay.
#[derive(Clone, Debug)]
pub struct UdpConfig {
    /// Share of the clients that is replayed.
    pub share: Share,
    /// What UDP has in common with sessions: worker, pool, replicas, port shift, share, ramp.
    pub common: EngineConfig,
    /// A flow without a captured datagram for this long gives its wire endpoints back.
    pub idle: Nanos,
    /// Most flows at a time; new ones beyond are shed.
    pub max_flows: usize,
    /// A packet may be captured twice, and counts once then: it comes from a mirror.
    pub twins: bool,
}

/// Where datagrams go.
pub trait UdpOutput {
    /// Sends a datagram that was captured `at`; else says why it is lost.
    fn send(&mut self, datagram: &UdpFrame<'_>, at: Nanos) -> Result<(), UdpDrop>;
}

/// The UDP flows of one worker. See the module.
pub struct UdpReplay {
    config: UdpConfig,
    flows: Flows,
    tuples: TupleAllocator,
    /// If there may be such.
    twins: Option<Twins>,
    totals: UdpTotals,
    started_at: Option<Nanos>,
    /// Wire endpoints of the flow that is being opened.
    chosen: Vec<Wire>,
    ip_id: u16,
}

impl UdpReplay {
    /// Without flows.
    pub fn new(mut config: UdpConfig) -> Self {
        config.common.replicas = config.common.replicas.max(1);
        let replicas = config.common.replicas;
        Self {
            flows: Flows::new(usize::from(replicas)),
            chosen: Vec::with_capacity(usize::from(replicas)),
            twins: config.twins.then(Twins::new),
            config,
            tuples: TupleAllocator::default(),
            totals: UdpTotals::default(),
            started_at: None,
            ip_id: 0,
        }
    }

    /// A captured datagram, or several that the kernel had merged.
    pub fn captured<O: UdpOutput>(&mut self, now: Nanos, d: &ClientDatagram<'_>, out: &mut O) {
        if self.twins.as_mut().is_some_and(|twins| twins.again(d)) {
            self.totals.duplicates += 1;
            return;
        }
        let whole = d.payload_len as usize;
        let piece = match usize::from(d.gso_size) {
            0 => whole,
            size => size.min(whole),
        };
        if piece == 0 {
            // A datagram may be empty.
            self.one(now, d, Some(&[]), out);
            return;
        }
        for start in (0..whole).step_by(piece) {
            let bytes = d.payload.get(start..(start + piece).min(whole));
            self.one(now, d, bytes, out);
        }
    }

    /// Gives back what has been idle. Once per loop.
    pub fn advance(&mut self, now: Nanos) {
        let Self {
            config,
            flows,
            tuples,
            totals,
            ..
        } = self;
        while let Some(id) = flows.idle(now, config.idle) {
            flows.remove(id, &config.common, |pair| tuples.freed(pair));
            totals.flows_expired += 1;
        }
    }

    /// The books, with the flows that are open.
    pub fn totals(&self) -> UdpTotals {
        UdpTotals {
            flows_open: self.flows.len() as u64,
            ..self.totals.clone()
        }
    }

    /// One datagram; its bytes are missing if the capture was cut.
    fn one<O: UdpOutput>(
        &mut self,
        now: Nanos,
        d: &ClientDatagram<'_>,
        payload: Option<&[u8]>,
        out: &mut O,
    ) {
        let copies = u64::from(self.config.common.replicas);
        self.totals.captured += 1;
        self.totals.copies += copies;
        match self.ready(now, d, payload) {
            Ok((id, payload)) => self.send(id, d, payload, out),
            Err(why) => self.totals.lose(why, copies),
        }
    }

    /// The flow that the datagram belongs to, if it can be sent.
    fn ready<'a>(
        &mut self,
        now: Nanos,
        d: &ClientDatagram<'_>,
        payload: Option<&'a [u8]>,
    ) -> Result<(u32, &'a [u8]), UdpDrop> {
        if !self.selected(now, d) {
            return Err(UdpDrop::NotSelected);
        }
        let pool = self.config.common.pool.as_ref();
        let wire_is_v4 = pool.map_or_else(|| d.client.addr.is_v4(), AddressPool::is_v4);
        if wire_is_v4 != d.target.addr.is_v4() {
            return Err(UdpDrop::OtherFamily);
        }
        let payload = payload.ok_or(UdpDrop::CutByCapture)?;
        let key = Pair {
            client: d.client,
            server: d.online,
        };
        let id = match self.flows.find(&key) {
            Some(id) => id,
            None => self.open(key, d)?,
        };
        self.flows.touch(id, now);
        Ok((id, payload))
    }

    fn send<O: UdpOutput>(&mut self, id: u32, d: &ClientDatagram<'_>, payload: &[u8], out: &mut O) {
        let Self {
            config,
            flows,
            totals,
            ip_id,
            ..
        } = self;
        let target = flows.target(id).unwrap_or(d.target);
        for wire in flows.wires(id) {
            *ip_id = ip_id.wrapping_add(1);
            let frame = UdpFrame {
                src: wire.endpoint(&config.common, d.client),
                dst: target,
                payload,
                ip_id: *ip_id,
            };
            match out.send(&frame, d.at) {
                Ok(()) => {
                    totals.sent += 1;
                    totals.bytes_sent += payload.len() as u64;
                }
                Err(why) => totals.lose(why, 1),
            }
        }
    }

    /// The client is among those that are replayed now: the same choice as for sessions. With a ramp a
    /// client joins when the ramp reaches it; a datagram depends on none before it.
    fn selected(&mut self, now: Nanos, d: &ClientDatagram<'_>) -> bool {
        let started_at = *self.started_at.get_or_insert(now);
        let wanted = self.config.share;
        let share = if self.config.common.ramp {
            let steps = now.since(started_at).0 / RAMP_STEP.0;
            wanted.min(Share::percent(steps.min(100) as u32 + 1))
        } else {
            wanted
        };
        share.is_all() || share.takes(flow_hash(d.client))
    }

    /// A new flow with a wire endpoint for each replica, or none at all.
    fn open(&mut self, key: Pair, d: &ClientDatagram<'_>) -> Result<u32, UdpDrop> {
        if self.flows.len() >= self.config.max_flows {
            return Err(UdpDrop::TableFull);
        }
        let Self {
            config,
            flows,
            tuples,
            chosen,
            ..
        } = self;
        let config = &config.common;
        chosen.clear();
        for replica in 0..config.replicas {
            let used = |pair: &Pair| flows.holds(pair);
            let wire = tuples.choose(config, used, key.client, d.target, replica);
            let Some(wire) = wire else {
                for wire in chosen.drain(..) {
                    let pair = flows.give_back(wire.endpoint(config, key.client), d.target);
                    tuples.freed(&pair);
                }
                return Err(UdpDrop::NoWirePort);
            };
            flows.hold(wire.endpoint(config, key.client), d.target);
            chosen.push(wire);
        }
        self.totals.flows += 1;
        Ok(self.flows.insert(key, d.target, &self.chosen))
    }
}
