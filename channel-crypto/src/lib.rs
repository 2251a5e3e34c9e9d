//! The secret of the channel between tcpcopy and intercept. No sockets, no clock: bytes in, bytes out.
//!
//! ```text
//!  key file ─▶ Key ─┬─▶ Initiator::begin ── message 1 ──▶ respond ◀─┬─ Key ◀─ key file
//!    tcpcopy        └─▶ Initiator::finish ◀─ message 2 ── (intercept)┘
//!                            │                               │
//!                       Sealer, Opener ◀── records ──▶ Sealer, Opener
//! ```
//! The handshake is `Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s` (<https://noiseprotocol.org/noise.html>, section 9),
//! done by `snow`. Its prologue is what both sides have said before it in clear text, with a number that intercept
//! makes up for the connection: message 1 therefore proves the key for this connection only, and costs intercept
//! no work on the curve until it has done so. Both sides make up curve keys too, so a key that is stolen later
//! opens no recording of today.
#![forbid(unsafe_code)]

mod handshake;
mod key;
mod record;

pub use handshake::{
    CHALLENGE_BYTES, HandshakeError, Initiator, MESSAGE_BYTES, REFUSAL, Sealed, challenge, respond,
};
pub use key::{Key, KeyError};
pub use record::{BadRecord, MAX_PLAIN_BYTES, Opener, RECORD_OVERHEAD_BYTES, Sealer};
