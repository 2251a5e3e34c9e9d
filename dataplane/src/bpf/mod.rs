//! Our BPF programs: load, attach, take what they capture.
//!
//! ```text
//!   object (&[u8]) ── load ──▶ programs and maps
//!                                │
//!        Tap ── tcx link ────────┤ rings by [cpu][worker] ──▶ TapReader   (one per worker)
//!        PacketTap ── sockets ───┤ a ring by worker ────────▶ PacketReader
//!        Mirror ── XDP link ─────┤ XSKS by queue ───────────▶ QueuePort   (queue % workers)
//!        Responses ── XDP link ──┤
//!        ResponseRecords ── tcx ─┤ rings, as Tap
//!        Pool ── tcx ────────────┘ the same
//! ```
//! Links are never pinned: a killed process detaches by itself, and production traffic goes on. What a
//! value here owns it undoes when dropped; for XDP the sockets must be gone first, see
//! [`mirror::Mirror::detach`].

mod counters;
mod error;
pub mod filter;
mod load;
pub mod log;
mod online;
mod programs;
mod queues;
mod reader;
mod ring;
mod rings;
mod routes;
mod select;
mod sleep;
mod tcx;
mod wake;
mod xdp;

pub mod mirror;
pub mod packet;
pub mod pool;
pub mod records;
pub mod responses;
pub mod tap;

pub use crate::afpacket::PacketReader;
pub use error::BpfError;
pub use filter::{Filter, FilterError};
pub use load::UdpRules;
pub use mirror::{Mirror, MirrorConfig};
pub use packet::PacketTap;
pub use pool::{Pool, PoolSettings};
pub use queues::QueuePort;
pub use reader::TapReader;
pub use records::ResponseRecords;
pub use responses::{Responses, ResponsesConfig};
pub use routes::RouteWriter;
pub use select::{DenyList, Sessions};
pub use tap::{Direction, Tap, TapConfig};
pub use xdp::ingress_programs;
