//! tcpcopy-user: captures what clients send to production and replays it towards a target.
//!
//! ```text
//!  cli ─▶ checks ─▶ run ──┬─ worker × n ── intake ─▶ session::Engine ─▶ sender ─▶ dataplane ports
//!                         │       └─────── channel ◀─▶ intercept
//!                         └─ supervisor: signals, statistics, detach ─▶ report
//! ```
//!
//! * [`cli`]: command line to validated settings.
//! * [`checks`]: what is refused on this host.
//! * [`selection`]: which sessions are replayed, where the kernel has not chosen them.
//! * [`reassembly`]: IP fragments put together.
//! * [`transfers`]: the transfer list as a table.
//! * [`worker`]: the packet loop; knows captures and ports only by their traits.
//! * [`offline`]: capture files instead of a capture; [`record`]: a capture into files.
//! * [`channel`]: connections to intercept, C wire format.
//! * [`run`]: start, supervision, shutdown.
//! * [`doctor`]: which hop fails, on demand and when nothing is answered.
//! * [`report`]: the exit report, text and JSON.
#![forbid(unsafe_code)]

pub mod channel;
pub mod checks;
pub mod cli;
pub mod doctor;
pub mod offline;
pub mod reassembly;
pub mod record;
pub mod report;
pub mod run;
pub mod selection;
pub mod transfers;
pub mod worker;
