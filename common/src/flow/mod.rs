//! The owner rule and the types that flow between stages.
//!
//! ```text
//!  capture ──Captured──▶ worker ──ClientSegment──▶ session ──Segment──▶ transmit
//!                          ▲                          ▲
//!                          └── owner() says which     └──ResponseHeader── channel
//! ```

mod block;
mod captured;
mod owner;
mod response;
mod segment;
mod select;
mod time;

pub use block::{BadBlock, Block};
pub use captured::{CaptureMeta, Captured, ClientDatagram, ClientSegment};
pub use owner::{flow_hash, fragment_hash, owner, shard};
pub use response::ResponseHeader;
pub use segment::{Cause, Segment};
pub use select::{Shard, Share};
pub use time::Nanos;
