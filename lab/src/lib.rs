//! The lab: a small network on one machine in which a replay is shown and tested.
//!
//! ```text
//!                      ┌──────────────── switch: bridge br0 ────────────────┐
//!                      │   client   production   target   assistant   capture   mirror
//!                      └─────┬──────────┬──────────┬──────────┬──────────┬────────┬──┘
//!                            │          │          │          │          │        │ copy of all that
//!                          eth0       eth0       eth0       eth0       eth0      mir0  production's port
//!                            │          │          │          │          └───┬────┘    carries, both ways
//!    namespace            client    production   target   assistant       capture
//!    address, 10.77.0.     .10         .20        .30        .40            .50
//!                      10.77.2.1/32
//!
//!    routes   client      10.77.0.0/24 with source 10.77.2.1: every tool is a client from outside
//!             production  10.77.2.0/24 on the link: answers go straight to the client
//!             target      10.77.2.0/24, 10.77.1.0/24 via the assistant: answers to replayed clients
//!                         go there and nowhere else, the one thing an operator must set up
//!    sysctl   rp_filter strict (1) everywhere, ip_forward 0, IPv6 off (no stray neighbour discovery)
//! ```
//!
//! * [`world`]: namespaces, links, process guards; what is up is taken down on drop, panic, SIGINT and SIGTERM,
//!   and by the next run after SIGKILL.
//! * [`traffic`]: the HTTP server and load generator, and the comparison of what two servers saw.
//! * [`replay`]: a whole replay run (programs, load, comparison, report), shared by `cargo xtask demo` and the tests.
//! * [`faults`]: a cable that loses, doubles, reorders and delays packets, as told.
//! * [`nginx`], [`redis`], [`dns`], [`testing`]: what the end-to-end tests add.
//! * [`tool`]: how the traffic parts run as processes inside a namespace.
//!
//! Checksums stay as veth has them: packets of a local sender carry partial ones, on production's
//! interface as on the mirror. That is what a virtual machine's tap sees too.
#![forbid(unsafe_code)]

pub mod dns;
pub mod error;
pub mod faults;
pub mod nginx;
mod random;
pub mod redis;
pub mod replay;
pub mod testing;
pub mod tool;
pub mod traffic;
pub mod world;

pub use error::LabError;
pub use world::{Cable, Host, Lab, LabOptions, Process};
