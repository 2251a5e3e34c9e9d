//! AF_PACKET sockets with a ring: copies of what an interface receives, on any kernel since 4.6.
//!
//! ```text
//!  kernel ── filter of the socket: 0 ──▶ nothing
//!               └─ whole ─▶ block of the ring ── full, or some ms old ──▶ PacketReader ─▶ Captured
//! ```
//! * [`socket`]: the socket, its options, the group that several of them share packets in.
//! * [`block`]: what is in a block; checks whatever it says.
//! * [`reader`]: a worker's side.
//!
//! Formats and rules: include/uapi/linux/if_packet.h, net/packet/af_packet.c.

mod block;
mod reader;
mod socket;

pub use reader::PacketReader;
pub(crate) use socket::{PacketSocket, RingSize, bind, filter, instruction, join, set, unbound};
