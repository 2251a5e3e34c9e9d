//! Capture files ("savefiles" in libpcap's words).
//!
//! ```text
//!  file or pipe ─▶ gzip? zstd? ─▶ pcap or pcapng ─▶ Packet ─▶ link header ─▶ Ethernet frame     read, link
//!  frames ─▶ pcapng blocks ─▶ zstd? ─▶ numbered files                                           write
//! ```
//! What a file is, is told by its first bytes, never by its name. Nothing here panics on any content;
//! where a file ends early or makes no sense any more, the packets before that place are good and the
//! place is named ([`Damage`]).
#![forbid(unsafe_code)]

pub mod link;
pub mod read;
pub mod write;

pub use read::{Damage, OpenError, Packet, Reader};
