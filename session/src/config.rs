//! Settings and limits of one engine.

use crate::AddressPool;
use common::flow::{Nanos, Shard, Share};
use std::ops::Range;

/// How long replayed clients take to answer the target: the third packet of the handshake and all
/// acknowledgements come that much later, so that the target holds connections and measures round
/// trips as with real users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rtt {
    /// As the captured client took in its handshake.
    Measured,
    /// At once.
    None,
    /// The same for all.
    Fixed(Nanos),
}

/// Settings of an engine. One engine serves one worker.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// This worker, 0 to `workers - 1`. Wire tuples are chosen so that their responses hash to it.
    pub worker: u32,
    /// Number of workers.
    pub workers: u32,
    /// Addresses that replace the clients' (`-c`). None: clients keep theirs.
    pub pool: Option<AddressPool>,
    /// Copies of every session (`-n`), the original included; at least 1.
    pub replicas: u16,
    /// Clients' ports are moved up by this times 2048 where that port is free (`-f`), so that several
    /// instances with one client population keep apart.
    pub port_shift: u8,
    /// Share of sessions that is replayed (`-r`). The choice depends on the client's address and port
    /// alone. All of them where the kernel makes the choice.
    pub share: Share,
    /// The shard that this instance replays (`--shard`): wire tuples are chosen so that they are of it,
    /// too, and no two instances ever choose the same. Whose sessions come in is decided before.
    pub shard: Shard,
    /// Start at 1 % of the sessions and add 1 % per second (`-g`), up to the share. Decided here, not in
    /// the kernel: whether a packet of a connection from before its turn is let in depends on whether
    /// its SYN was.
    pub ramp: bool,
    /// Sessions whose SYN was not seen join at their next request, with a handshake of our own;
    /// false: they are skipped (`-O`).
    pub adopt: bool,
    /// The client's part in the round trip.
    pub rtt: Rtt,
    /// MSS of handshakes of our own (`-D`).
    pub mss: u16,
    /// Send requests as captured, without waiting for the answers they followed (`-W`).
    pub no_turns: bool,
    /// Longest wait for an answer before a session goes on as captured.
    pub turn_limit: Nanos,
    /// A SYN that is not answered for this long ends the session as unanswered.
    pub connect_timeout: Nanos,
    /// Data that is not acknowledged for this long ends the session as timed out (`-t`).
    pub response_timeout: Nanos,
    /// A session without any packet for this long ends as timed out (`-k`).
    pub idle_timeout: Nanos,
    /// A hole in the captured stream that is not filled for this long ends the session as capture gap,
    /// once what lies before it is delivered and answered.
    pub gap_timeout: Nanos,
    /// How long packets of an unknown connection wait for its SYN, which may come behind them where a
    /// flow's packets come by several queues. Longer than those queues hold; a connection that began before
    /// the capture is treated so much later. Zero: they do not wait.
    pub syn_wait: Nanos,
    /// How long an ended session is kept to answer late packets of the target. The default covers a
    /// target's FIN retransmissions on a local network.
    pub linger: Nanos,
    /// How long a tuple that was chosen for a client (not its own) is not chosen again: the target's
    /// TIME-WAIT, 60 s in Linux, which refuses it.
    pub tuple_reuse: Nanos,
    /// Most sessions open at a time; further ones are shed whole.
    pub max_sessions: usize,
    /// Memory for captured bytes that the target has not acknowledged yet. Above 3/4 new sessions are
    /// shed; a running session that cannot store its bytes ends as shed.
    pub buffer_bytes: usize,
    /// Most bytes that one session may have buffered.
    pub session_bytes: usize,
    /// Largest IP packet sent (`-M`), in bytes.
    pub mtu: u16,
}

impl EngineConfig {
    /// Numbers of the copies of a session towards one of its targets: each target has replicas of its
    /// own, and without several targets there is only lane 0.
    pub(crate) fn copies(&self, lane: u16) -> Range<u16> {
        let first = self.first_copy(lane);
        first..first.saturating_add(self.replicas.max(1))
    }

    /// The first of them.
    #[inline(always)]
    pub(crate) fn first_copy(&self, lane: u16) -> u16 {
        lane.saturating_mul(self.replicas.max(1))
    }

    /// Which replica a copy is, whatever its target.
    pub(crate) fn replica_of(&self, copy: u16) -> u16 {
        copy % self.replicas.max(1)
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            worker: 0,
            workers: 1,
            pool: None,
            replicas: 1,
            port_shift: 0,
            share: Share::ALL,
            shard: Shard::WHOLE,
            ramp: false,
            adopt: true,
            rtt: Rtt::Measured,
            mss: 1460,
            no_turns: false,
            turn_limit: Nanos::from_secs(5),
            connect_timeout: Nanos::from_secs(10),
            response_timeout: Nanos::from_secs(60),
            idle_timeout: Nanos::from_secs(720),
            gap_timeout: Nanos::from_secs(10),
            syn_wait: Nanos::from_millis(100),
            linger: Nanos::from_secs(3),
            tuple_reuse: Nanos::from_secs(61),
            max_sessions: 1 << 20,
            buffer_bytes: 512 << 20,
            session_bytes: 16 << 20,
            mtu: 1500,
        }
    }
}
