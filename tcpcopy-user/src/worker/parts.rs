//! What goes into a worker and what comes out of it.

use super::datagrams::UdpParts;
use super::fragments::FragmentRules;
use super::{Control, Egress, IntakeCounters, Latencies, LiveStats, SendCounters};
use crate::channel::Channel;
use crate::transfers::TransferTable;
use common::abi::DecapConfig;
use dataplane::Capture;
use dataplane::handover::Handover;
use dataplane::wake::Waker;
use session::{EngineConfig, Totals, UdpTotals};
use std::sync::Arc;

/// What a worker is made of.
pub struct WorkerParts {
    /// Its number, and how many there are.
    pub id: u32,
    /// See `id`.
    pub workers: u32,
    /// Its captures.
    pub sources: Vec<Box<dyn Capture>>,
    /// Where the target's responses come by, if they do not come by the channel.
    pub pool: Vec<Box<dyn Capture>>,
    /// Its ends of the rings between workers.
    pub handover: Handover,
    /// The transfer list.
    pub transfers: Arc<TransferTable>,
    /// Which tunnels are opened.
    pub decap: DecapConfig,
    /// Settings of its engine.
    pub engine: EngineConfig,
    /// UDP, if any is replayed.
    pub udp: Option<UdpParts>,
    /// What packets that come in fragments must meet.
    pub fragments: FragmentRules,
    /// Its ports.
    pub egress: Egress,
    /// Its connections to intercept.
    pub channel: Channel,
    /// Wakes it from sleep.
    pub waker: Waker,
    /// Orders.
    pub control: Arc<Control>,
    /// Where it shows its figures.
    pub live: Arc<LiveStats>,
}

/// One counter of a port or a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Kind of thing that counts: `capture`, `handover`, `tx`, `channel`, `kernel`, `fragments`, `pool`.
    pub group: &'static str,
    /// Name within the kind.
    pub name: &'static str,
    /// Value.
    pub value: u64,
}

/// What a worker leaves behind.
#[derive(Clone, Debug)]
pub struct WorkerReport {
    /// Books of its engine.
    pub totals: Totals,
    /// Books of its UDP replay.
    pub udp: Option<UdpTotals>,
    /// What it measured.
    pub latencies: Latencies,
    /// Segments by what became of them behind the engine.
    pub sent: SendCounters,
    /// Frames by what became of them before the engine.
    pub intake: IntakeCounters,
    /// Counters of ports and connections.
    pub counters: Vec<Counter>,
}
