//! A faulty cable: a forwarder in user space between two veth ends that loses, doubles, reorders and delays
//! packets, and says what it did.
//!
//! ```text
//!  switch: bridge ── target ══ target-a ◀── lab-tool faults ──▶ target-b ══ eth0   namespace target
//!                                            in: towards the host      out: from the host
//!
//!  frame ──▶ packet::read ──▶ rules, the first that matches and selects ──▶ sent, sent twice, dropped, or held
//!                                                                          until others have passed or a time;
//!                                                                          or sent with IPv6 extension headers
//! ```
//!
//! Only TCP is touched; ARP and the rest always pass. Which packets a rule takes follows from the seed and from the
//! packets' order (`share`), or from their place within their connection (`nth`), never from the clock.
//!
//! [`FaultyCable`] runs it as a process of its own; [`run`] is that process.

mod cable;
mod forwarder;
mod headers;
mod packet;
mod path;
mod report;
mod rule;
pub mod wrap;

pub use cable::FaultyCable;
pub use forwarder::run;
pub use packet::Class;
pub use report::{FaultReport, PathReport};
pub use rule::{Action, Direction, Rule, Select};
