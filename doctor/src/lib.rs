//! `doctor`: finds out which hop fails, and says it in one sentence with what is to be done.
//!
//! ```text
//!  collectors (this host, kernel, packets that pass, probes) ──▶ facts ── judge, pure ──▶ Finding ──▶ text, JSON, log
//! ```
//! Each hop has a module with its facts, how they are collected, and a pure judgement of them. Here are the hops that
//! both programs have; what only one has is in its own `doctor` folder.
//!
//! * [`finding`]: what was found, and how it is said;
//! * [`options`]: the command line of a look;
//! * [`host`]: privileges, interface, clock;
//! * [`kernel`]: programs that do not load or attach;
//! * [`look`]: every packet that passes, for some seconds.
#![forbid(unsafe_code)]

pub mod finding;
pub mod host;
pub mod kernel;
pub mod look;
pub mod options;

pub use finding::{Diagnosis, Finding};
pub use options::Options;
