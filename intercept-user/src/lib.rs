//! intercept: takes the responses of a server under test out of the network before the host's stack sees
//! them, and returns their headers to the tcpcopy that owns the session.
//!
//! ```text
//!              kernel                          this process
//!  target ─▶ XDP: match, trim ─▶ AF_XDP ─▶ worker: route ─▶ frames ─▶ tcpcopy
//!            (dataplane::bpf)               ▲  worker/, routes/         │
//!                                           └──── control thread ◀──────┘ hello, ADD
//!                                                 channel/
//! ```
//! * [`cli`]: command line and filter; [`startup`]: what is checked first; [`run`]: the whole run.
//! * [`channel`]: the C wire format, connections, who owns what. [`routes`]: routes and early responses.
//! * [`mapping`]: addresses behind NAT. [`worker`]: the packet loop. [`service`]: threads. [`report`]: the exit report.
//! * [`doctor`]: which hop fails, on demand and when nothing comes.
#![forbid(unsafe_code)]

pub mod channel;
pub mod cli;
pub mod doctor;
pub mod mapping;
pub mod report;
pub mod routes;
pub mod run;
pub mod service;
pub mod startup;
pub mod worker;
