//! Capture files in place of a capture (`--read`).
//!
//! ```text
//!  files ─▶ savefile::Reader ─▶ link header ─▶ Intake: a request of the transfer list?
//!                                                │          rounds: another port for each client
//!                                                ▼          schedule: when is it due?
//!                        owner hash ─▶ ring of that worker (dataplane::feed) ─▶ worker, when it is due
//! ```
//! One thread reads for all workers: a file can be unpacked and parsed only from its beginning, so workers
//! that read their own share would each do the whole of it. It runs ahead as far as the rings reach and
//! then waits: memory is bounded, and nothing is dropped.

mod files;
mod ports;
mod reader;
mod schedule;

pub use files::{FileError, check};
pub use reader::{FileReport, Position, ReadReport, Replayer, Rules};
