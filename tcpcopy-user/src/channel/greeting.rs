//! What is said before routes when there is a key: hello, answer, proof, proof. No sockets.
//!
//! ```text
//!  tcpcopy ── hello, KEYED ────────────────────────▶ intercept
//!  tcpcopy ◀─ ACK, KEYED, challenge ──────────────── intercept     a C intercept says nothing
//!  tcpcopy ── message 1: proves the key ───────────▶ intercept
//!  tcpcopy ◀─ message 2: proves the key, or 00 00 ── intercept
//! ```

use super::queue::OFFER_FLAGS;
use channel_crypto::{HandshakeError, Initiator, Key, MESSAGE_BYTES, Sealed};
use common::wire::compat::CLIENT_RECORD_BYTES;
use common::wire::native::{self, ACK_BYTES, ack_flags, offer_flags};
use std::sync::Arc;

/// Why an intercept and this program do not come together. Each follows "intercept ADDRESS ".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefusal {
    /// It has another one.
    #[error("does not accept our key; give both programs the same --key-file")]
    WrongKey,
    /// It accepted ours, or said so, and cannot show its own.
    #[error(
        "does not prove that it has our key: another key, or not our intercept; give both programs the same --key-file"
    )]
    Unproved,
    /// It has none.
    #[error(
        "has no key, so anybody could be it; start it with the same --key-file, or this program without one"
    )]
    NoKey,
    /// It does not speak of keys.
    #[error(
        "has not answered our offer to prove keys to each other: a C intercept knows none; run intercept-user with the same --key-file there, or leave out --key-file here"
    )]
    NotNative,
    /// It has one and we have not.
    #[error(
        "accepts only who has its key; give this program the --key-file that it was started with"
    )]
    Required,
    /// It went away in the middle.
    #[error(
        "closed the connection before it proved its key; is it intercept-user of this version, and what does its log say?"
    )]
    Closed,
    /// No random numbers.
    #[error("was not greeted: {0}")]
    Failed(String),
}

/// What to do next.
pub enum Step {
    /// Wait for more bytes.
    More,
    /// Send this, then wait.
    Send([u8; MESSAGE_BYTES]),
    /// Both sides are who they should be.
    Done {
        /// Both directions.
        sealed: Sealed,
        /// `ack_flags` of intercept.
        flags: u8,
    },
}

/// State of the handshake of one connection.
#[derive(Debug)]
pub struct Greeting {
    key: Arc<Key>,
    gathered: Vec<u8>,
    flags: u8,
    /// Message 1 is out.
    initiator: Option<Initiator>,
}

impl Greeting {
    /// Begins.
    pub fn new(key: Arc<Key>) -> Self {
        Self {
            key,
            gathered: Vec::with_capacity(MESSAGE_BYTES),
            flags: 0,
            initiator: None,
        }
    }

    /// The first thing to send.
    pub fn hello() -> [u8; CLIENT_RECORD_BYTES] {
        native::hello(OFFER_FLAGS | offer_flags::KEYED)
    }

    /// Takes bytes from the front of `from`.
    pub fn feed(&mut self, from: &mut &[u8]) -> Result<Step, KeyRefusal> {
        if self.initiator.is_some() {
            return self.answer(from);
        }
        // Frames of a C intercept: no byte of them is like the first of an ACK.
        let first = self.gathered.first().or(from.first());
        if first.is_some_and(|&b| b != native::ack(0)[0]) {
            return Err(KeyRefusal::NotNative);
        }
        let Some(ack) = self.gather::<ACK_BYTES>(from) else {
            return Ok(Step::More);
        };
        self.flags = native::flags_of_ack(ack).map_err(|_| KeyRefusal::NotNative)?;
        if self.flags & ack_flags::KEYED == 0 {
            return Err(KeyRefusal::NoKey);
        }
        let prologue = [&Self::hello()[..], &ack[..]].concat();
        let (initiator, message) =
            Initiator::begin(&self.key, &prologue).map_err(|e| refusal(&e))?;
        self.initiator = Some(initiator);
        Ok(Step::Send(message))
    }

    fn answer(&mut self, from: &mut &[u8]) -> Result<Step, KeyRefusal> {
        let message = self.gather::<MESSAGE_BYTES>(from);
        if self.gathered.starts_with(&channel_crypto::REFUSAL) {
            return Err(KeyRefusal::WrongKey);
        }
        let (Some(message), Some(initiator)) =
            (message, self.initiator.take_if(|_| message.is_some()))
        else {
            return Ok(Step::More);
        };
        let sealed = initiator.finish(&message).map_err(|e| refusal(&e))?;
        Ok(Step::Done {
            sealed,
            flags: self.flags,
        })
    }

    fn gather<const N: usize>(&mut self, from: &mut &[u8]) -> Option<[u8; N]> {
        let missing = N.saturating_sub(self.gathered.len()).min(from.len());
        let (head, rest) = from.split_at(missing);
        self.gathered.extend_from_slice(head);
        *from = rest;
        let whole = self.gathered.first_chunk::<N>().copied()?;
        self.gathered.clear();
        Some(whole)
    }
}

fn refusal(error: &HandshakeError) -> KeyRefusal {
    match error {
        HandshakeError::WrongKey => KeyRefusal::Unproved,
        HandshakeError::Failed(_) => KeyRefusal::Failed(error.to_string()),
    }
}
