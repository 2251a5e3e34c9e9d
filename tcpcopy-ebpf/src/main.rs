//! Capture programs of tcpcopy, one object, one of them loaded at a time.
//!
//! ```text
//!  tap     tcx ingress ─ match ─▶ ring [cpu][worker]      always TCX_NEXT     (production host)
//!  packet  AF_PACKET   ─ match ─▶ ring of the worker      a copy; 0 on a miss  (the same, without tcx)
//!  mirror  XDP         ─ match ─▶ AF_XDP socket of queue  XDP_PASS on a miss  (mirror port)
//!                 └ tunnel ─▶ match the packet inside ─▶ the same socket
//!  pool    tcx ingress ─ for an address of the pool ─▶ headers to the ring of the worker, or an answer; TCX_DROP
//! ```
//! Both decode with `common::packet`, match with [`matching`] and choose sessions with [`selection`]. With `-F` the programs
//! `tap_filtered` and `mirror_filtered` match and ask the filter, which goes on to `tap` and `mirror`.
//! UDP is matched with [`udp`], IP fragments with [`fragments`].
#![no_std]
#![no_main]

mod fragments;
mod maps;
mod matching;
mod mirror;
mod packet;
mod pool;
mod record;
mod selection;
mod tap;
mod tunnel;
mod udp;

/// No helper in use demands a GPL-compatible license.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
