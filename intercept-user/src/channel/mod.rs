//! The channel to tcpcopy, server side: the C wire format (`common::wire::compat`), or ours (`native`) with those
//! who offer it.
//!
//! ```text
//!             accept, hello, ADD, DEL                  commands (SPSC ring per worker)
//!  tcpcopy ──────────────────────────▶ control thread ──────────────────────────────▶ worker 0..n
//!     ▲                                                                                │ route owner
//!     │            whole frames, nonblocking                records (SPSC ring per     ▼
//!     └──────────────────────────────── worker c ◀───────── ordered pair) ─────── worker r
//!                                       connection owner: queue, frames, write(2)
//! ```
//! **Who owns what.** Reading is rare and belongs to one control thread. Writing is the packet path: each
//! connection has one owner among the workers (its number modulo the workers), which alone queues, frames
//! and writes, so a frame is never torn and needs no lock. The owner of a *route* (hash of the client)
//! is another worker in general: it puts records for a connection that it does not own into the ring
//! to the one that does. Why not one writer thread for all: with one worker (the default) a response would
//! pay a thread switch for nothing, and with many the writer would be the ceiling. Why not a queue per
//! worker and connection: two writers on one TCP stream need a lock for whole frames.
//!
//! **Nobody delays others.** Every socket is nonblocking. The control thread reads a bounded piece of
//! each readable connection in turn and keeps what is incomplete with its connection. A connection's
//! queue is bounded; when a peer does not read, its oldest records go, counted: to tcpcopy that is a lost
//! packet, which TCP repairs.

mod command;
mod control;
mod listener;
mod output;
mod reader;
mod rings;
mod strangers;
mod throttle;

pub use command::{Command, ConnectionId};
pub use control::{Announced, Control, ControlOptions, ControlTotals, TargetSink};
pub use listener::{ListenError, listen};
pub use output::{Flushed, Output, OutputTotals, QUEUE_RECORDS};
pub use reader::{Event, Format, Reader, Refused};
pub use rings::{CommandReceiver, CommandSender, Links, Routed, command_rings, link_mesh};
pub use throttle::Throttle;

use common::flow::Nanos;
use common::wire::native::HEADER_RECORD_BYTES;

/// Kinds of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A response's header.
    Header,
    /// The confirmation of a route (`common::wire::native::HeaderRecord::confirmed`).
    Confirmed,
}

/// An encoded response on its way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// What the record is.
    pub kind: Kind,
    /// When the kernel saw it.
    pub at: Nanos,
    /// As it goes on the wire to a native peer; made into a C record for the others when it is framed.
    pub record: [u8; HEADER_RECORD_BYTES],
}
