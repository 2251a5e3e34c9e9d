//! The session engine: plays every captured client towards the target.
//!
//! Sans-IO: packets and time come in by method calls, segments to send go out through [`Output`]. No
//! sockets, no clock, no threads, no `unsafe`, no panic on any input.
//!
//! ```text
//!  ClientSegment ──▶ captured() ─┐                        ┌─▶ Output::transmit   segments to the target
//!                                ├─▶ Engine ── Session ──┼─▶ Output::announce   routes, before the SYN
//!  ResponseHeader ─▶ response() ─┘       │                └─▶ Output::sample     latencies
//!                      advance() ── timers, coalesced acknowledgements
//!                                        ▼
//!                                     Totals     one outcome per session, bytes that balance
//! ```
//!
//! Reading order: [`Engine`] (engine.rs) finds the session of an input and runs it; `stream/` puts the
//! captured bytes in order and keeps them until the target has them; `handshake.rs`, `pump.rs` and
//! `input.rs` are what a session does; `sender.rs` is the TCP sender of RFC 9293/6298/5681; `turn.rs`
//! holds requests back until the answer they depended on is there; `receiver.rs` answers the target;
//! `ledger.rs` counts. UDP has a way of its own: `udp/`.
#![forbid(unsafe_code)]

mod config;
mod early;
mod engine;
mod gap;
mod handshake;
mod index;
mod input;
mod ledger;
mod output;
mod paths;
mod pool;
mod predict;
mod pump;
mod rare;
mod receiver;
mod reserve;
mod scoreboard;
mod sender;
mod slab;
mod state;
mod strangers;
mod stream;
mod table;
mod targets;
mod time;
mod timer;
mod turn;
mod udp;
mod wire_tuple;

pub use config::{EngineConfig, Rtt};
pub use engine::Engine;
pub use ledger::{Outcome, Totals};
pub use output::{Metric, Output, SessionEnd, Waiting};
pub use pool::{AddressPool, AddressPoolError};
pub use targets::{TargetBooks, TargetTotals};
pub use udp::{UdpConfig, UdpDrop, UdpOutput, UdpReplay, UdpTotals, udp_flow_bytes};
