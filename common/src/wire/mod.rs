//! Messages between tcpcopy and intercept.
//!
//! ```text
//!  tcpcopy ── hello, CLIENT_ADD (14 bytes each) ──▶ intercept
//!  tcpcopy ◀── frames: u16 count + count x 64 bytes ── intercept
//! ```

pub mod compat;
