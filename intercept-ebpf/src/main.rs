//! The black hole: responses of targets leave the host's receive path here, one of the programs loaded at a time.
//!
//! ```text
//!  responses  XDP         ─ a response? ─▶ headers to the AF_XDP socket of the queue
//!  records    tcx ingress ─ a response? ─▶ headers to the ring of the worker, the packet is dropped
//!  on_target  tcx egress of the target itself ─ of an announced session? ─▶ the same, seen as sent
//! ```
//! A response is a packet whose source is in `RESPONSES`. It must never reach the stack: it could be forwarded to a real
//! client. The payload is cut off in the kernel since only headers are needed (IP lengths stay as they were). UDP answers of
//! targets are needed by nobody: they are dropped here.
//!
//! With `-F` the operator's filter stands in the place of `RESPONSES`: `responses_filtered` or `records_filtered` asks it
//! first, and it goes on to `responses` or `records`.
#![no_std]
#![no_main]

mod egress;
mod maps;
mod matching;
mod records;
mod responses;

/// No helper in use demands a GPL-compatible license.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
