//! Drivers of the engine for arbitrary bytes, shared by the fuzz targets (`fuzz/`), the replay of their
//! corpora (`replay_corpus.rs`) and the property tests.
//!
//! ```text
//!  bytes ──Reader──▶ settings, operations ──▶ World: engine + clock ──▶ Watch: Output that checks
//!                                               │ beside it an engine without header prediction
//!                                               │ after every operation: books, memory, amplification
//!                                               └ at the end: everything is given back, no timer left
//! ```
//! A violated rule is a panic. The content of a captured byte is a function of its stream and its
//! sequence number, so whatever is sent can be compared without a copy.

pub mod books;
pub mod content;
pub mod interleavings;
pub mod lockstep;
pub mod packets;
pub mod peers;
pub mod reader;
pub mod responses;
pub mod setting;
pub mod watch;
pub mod world;

pub use interleavings::interleavings;
pub use packets::packets_in;
pub use responses::responses_in;
