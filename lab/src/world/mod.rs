//! Namespaces, links and processes.
//!
//! ```text
//!  Lab ──owns──▶ Namespace × 6 (names in /run/netns)     Process ──owns──▶ child, its output files
//!   │                                                       ▲
//!   └── registered in cleanup: SIGINT/SIGTERM take it down  └── killed by process id on drop
//! ```

mod bpf_objects;
mod cleanup;
mod command;
mod counters;
mod host;
mod ipv6;
mod lab;
mod links;
mod namespace;
mod process;

pub use bpf_objects::BpfObjects;
pub use command::{last_lines, run, run_with_input};
pub use counters::{InterfaceCounters, StackCounters};
pub use host::{CLIENT_SOURCE, Cable, HOSTS, Host};
pub use ipv6::{CLIENT_SOURCE6, address6, enable_ipv6};
pub use lab::{Lab, LabOptions, STANDING_NAME};
pub use namespace::Namespace;
pub use process::Process;
