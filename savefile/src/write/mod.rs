//! pcapng files of one Ethernet interface, numbered when they rotate.
//!
//! ```text
//!  frame ─▶ block ─▶ chunk (256 KiB, or what came within a second) ─▶ zstd frame? ─▶ file ─▶ the next file
//! ```
//! Each zstd frame stands for itself: of a file whose writer died all but the last chunk can be read.

mod blocks;
mod file;
mod names;

pub use file::{Rotation, Statistics, Writer};
