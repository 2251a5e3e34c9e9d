//! Everything that crosses a boundary, and nothing else.
//!
//! ```text
//!            kernel                      user space                         peer program
//!  tcpcopy-ebpf, intercept-ebpf ──abi──▶ dataplane ──flow──▶ session ──flow──▶ dataplane
//!            └────────── packet (one decoder, both sides) ──────────┘
//!                                        channel ◀──────────── wire ──────────▶ channel
//! ```
//!
//! * [`packet`]: one decoder for kernel and user space, header views, sequence numbers, checksums.
//! * [`abi`]: memory layouts shared with BPF programs: map keys and values, ring records, counters.
//! * [`flow`]: the owner hash and the three types that flow between stages.
//! * [`wire`]: messages between tcpcopy and intercept.
//!
//! No allocation, no I/O, no panics on any input, no `unsafe`.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod abi;
pub mod flow;
pub mod packet;
pub mod wire;
