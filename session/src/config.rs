//! Settings and limits of one engine.

use crate::AddressPool;
use common::flow::Nanos;

/// Settings of an engine. One engine serves one worker.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// This worker, 0 to `workers - 1`. Wire tuples are chosen so that their responses hash to it.
    pub worker: u32,
    /// Number of workers.
    pub workers: u32,
    /// Addresses that replace the clients' (`-c`). None: clients keep theirs.
    pub pool: Option<AddressPool>,
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
    /// A hole in the captured stream that is not filled for this long ends the session as capture gap.
    pub gap_timeout: Nanos,
    /// How long the tuple of an ended session is kept: late packets of the target are answered, and
    /// the allocator does not hand it out. Longer than Linux's TIME-WAIT of 60 s would be safe for
    /// every target, but costs a table entry each; the default covers a target's FIN retransmissions
    /// on a local network.
    pub linger: Nanos,
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

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            worker: 0,
            workers: 1,
            pool: None,
            no_turns: false,
            turn_limit: Nanos::from_secs(5),
            connect_timeout: Nanos::from_secs(10),
            response_timeout: Nanos::from_secs(60),
            idle_timeout: Nanos::from_secs(720),
            gap_timeout: Nanos::from_secs(10),
            linger: Nanos::from_secs(3),
            max_sessions: 1 << 20,
            buffer_bytes: 512 << 20,
            session_bytes: 16 << 20,
            mtu: 1500,
        }
    }
}
