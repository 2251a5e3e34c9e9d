//! Messages between tcpcopy and intercept.
//!
//! ```text
//!  tcpcopy ── hello, CLIENT_ADD (14 bytes each) ──▶ intercept
//!  tcpcopy ◀── frames: u16 count + count x 64 bytes ── intercept
//! ```
//! That is `compat`. Two of our own programs change to `native`, which carries IPv6 too.

pub mod compat;
pub mod native;
pub mod partial;
