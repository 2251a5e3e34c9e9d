//! Everything between the kernel's packet interfaces and the workers; the one user-space crate with
//! `unsafe`.

pub mod bpf;
pub mod port;

pub use port::{BATCH, Capture, CounterSink, Transmit};
