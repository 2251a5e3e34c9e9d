//! Everything between the kernel's packet interfaces and the workers; the one user-space crate with
//! `unsafe`.
//!
//! ```text
//!              tap ring buffers   bpf::tap ──┐                       ┌── afxdp::AfXdpTx ──▶ queue
//!  kernel ──▶  AF_XDP queues   afxdp::AfXdpRx ├─ Capture ▶ worker ▶ Transmit ├── raw::RawTx ──▶ stack
//!              other workers      handover ──┘                       └── egress (choice, hand-over)
//!                                                 ▲
//!                     hops (next hop and MAC) ────┘   iface, cores, clock, wake: facts and helpers
//! ```
//!
//! * [`port`]: the two traits that workers know; [`memory`] implements them for tests without root.
//! * `afpacket`: packet sockets with rings, the tap's way on old kernels.
//! * [`afxdp`]: AF_XDP sockets; frames are move-only tokens there.
//! * [`handover`]: bounded byte rings between workers.
//! * [`feed`]: frames from another thread of this process, each when it is due; [`tee`]: a copy of what
//!   is captured, for a thread that records it.
//! * [`idle`], [`wake`]: what a worker does when nothing is to be done.
//! * [`raw`]: raw sockets, for targets that frames cannot reach; [`egress`]: which path a worker gets;
//!   [`supply`]: paths on devices that come into use later; [`netfilter`]: what becomes of raw packets.
//! * [`watch`]: what passes any interface, for a look of some seconds.
//! * [`iface`], [`hops`]: interfaces, routes and neighbours, by netlink.
//! * [`probe`]: whether addresses of a link are in use.
//! * [`bpf`]: programs: load, attach, ring buffer reader.

mod afpacket;
pub mod afxdp;
pub mod bpf;
pub mod clock;
pub mod cores;
pub mod egress;
mod errnos;
pub mod feed;
pub mod handover;
pub mod hops;
pub mod idle;
pub mod iface;
pub mod memory;
mod mmap;
pub mod netfilter;
mod netlink;
pub mod placement;
pub mod poll;
pub mod port;
pub mod probe;
pub mod raw;
pub mod supply;
pub mod tee;
pub mod wake;
pub mod watch;

pub use port::{BATCH, Capture, CounterSink, Transmit};
