//! Mutual proof of the key.
//!
//! Each message is its length (2) and 48 bytes: a curve point (32) and a tag (16). A length of 0 instead says that
//! the key was not accepted.

use super::key::Key;
use super::record::{Opener, Sealer};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::{Builder, HandshakeState};
use std::sync::Arc;

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
const POINT_AND_TAG: usize = 32 + 16;
/// Size of each of the two messages.
pub const MESSAGE_BYTES: usize = 2 + POINT_AND_TAG;
/// What intercept sends instead of message 2 if message 1 does not prove its key.
pub const REFUSAL: [u8; 2] = [0, 0];
/// Size of a [`challenge`].
pub const CHALLENGE_BYTES: usize = 12;

/// Why there is no sealed channel.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The other side has another key, or speaks of another connection.
    #[error("the other side does not prove the same key")]
    WrongKey,
    /// No random numbers, or a bug.
    #[error("the handshake cannot be made: {0}")]
    Failed(snow::Error),
}

/// Both directions of a sealed channel.
#[derive(Debug)]
pub struct Sealed {
    /// What is sent.
    pub sealer: Sealer,
    /// What is received.
    pub opener: Opener,
}

/// Random bytes that no two connections share.
pub fn challenge() -> Result<[u8; CHALLENGE_BYTES], HandshakeError> {
    let mut bytes = [0; CHALLENGE_BYTES];
    let mut rng = DefaultResolver
        .resolve_rng()
        .ok_or(HandshakeError::Failed(snow::Error::Rng))?;
    rng.try_fill_bytes(&mut bytes)
        .map_err(HandshakeError::Failed)?;
    Ok(bytes)
}

/// tcpcopy's side, waiting for message 2.
#[derive(Debug)]
pub struct Initiator(Box<HandshakeState>);

impl Initiator {
    /// Message 1. `prologue` is what both sides have said before; they must agree on it.
    pub fn begin(
        key: &Key,
        prologue: &[u8],
    ) -> Result<(Self, [u8; MESSAGE_BYTES]), HandshakeError> {
        let mut state = builder(key, prologue)
            .and_then(Builder::build_initiator)
            .map_err(HandshakeError::Failed)?;
        let message = write(&mut state)?;
        Ok((Self(Box::new(state)), message))
    }

    /// Takes message 2.
    pub fn finish(mut self, message: &[u8; MESSAGE_BYTES]) -> Result<Sealed, HandshakeError> {
        read(&mut self.0, message)?;
        sealed(*self.0)
    }
}

/// intercept's side: message 1 in, message 2 out.
pub fn respond(
    key: &Key,
    prologue: &[u8],
    message: &[u8; MESSAGE_BYTES],
) -> Result<([u8; MESSAGE_BYTES], Sealed), HandshakeError> {
    let mut state = builder(key, prologue)
        .and_then(Builder::build_responder)
        .map_err(HandshakeError::Failed)?;
    // Symmetric work only: the curve is not touched before the key is proved.
    read(&mut state, message)?;
    let answer = write(&mut state)?;
    Ok((answer, sealed(state)?))
}

fn builder<'a>(key: &'a Key, prologue: &'a [u8]) -> Result<Builder<'a>, snow::Error> {
    Builder::new(PATTERN.parse()?)
        .prologue(prologue)?
        .psk(0, key.bytes())
}

fn write(state: &mut HandshakeState) -> Result<[u8; MESSAGE_BYTES], HandshakeError> {
    let mut message = [0; MESSAGE_BYTES];
    let (head, body) = message.split_at_mut(2);
    head.copy_from_slice(&(POINT_AND_TAG as u16).to_be_bytes());
    state
        .write_message(&[], body)
        .map_err(HandshakeError::Failed)?;
    Ok(message)
}

fn read(state: &mut HandshakeState, message: &[u8; MESSAGE_BYTES]) -> Result<(), HandshakeError> {
    let (head, body) = message.split_at(2);
    if head != (POINT_AND_TAG as u16).to_be_bytes() {
        return Err(HandshakeError::WrongKey);
    }
    state
        .read_message(body, &mut [])
        .map(|_| ())
        .map_err(|_| HandshakeError::WrongKey)
}

fn sealed(state: HandshakeState) -> Result<Sealed, HandshakeError> {
    let state = state
        .into_stateless_transport_mode()
        .map_err(HandshakeError::Failed)?;
    let state = Arc::new(state);
    Ok(Sealed {
        sealer: Sealer::new(Arc::clone(&state)),
        opener: Opener::new(state),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Key {
        Key::from_bytes(&[n; 32])
    }

    #[test]
    fn both_sides_prove_the_key_and_understand_each_other() {
        let (tcpcopy, one) = Initiator::begin(&key(1), b"said").expect("begin");
        let (two, mut intercept) = respond(&key(1), b"said", &one).expect("respond");
        let mut tcpcopy = tcpcopy.finish(&two).expect("finish");
        for (from, to) in [
            (&mut tcpcopy.sealer, &mut intercept.opener),
            (&mut intercept.sealer, &mut tcpcopy.opener),
        ] {
            let mut wire = Vec::new();
            from.seal(b"first", &mut wire);
            from.seal(b"second", &mut wire);
            let mut rest = wire.as_slice();
            assert_eq!(to.next(&mut rest).expect("sealed"), Some(&b"first"[..]));
            assert_eq!(to.next(&mut rest).expect("sealed"), Some(&b"second"[..]));
            assert_eq!(to.next(&mut rest).expect("sealed"), None);
        }
    }

    #[test]
    fn another_key_another_connection_or_a_changed_message_is_refused() {
        let (_, one) = Initiator::begin(&key(1), b"said").expect("begin");
        assert!(matches!(
            respond(&key(2), b"said", &one),
            Err(HandshakeError::WrongKey)
        ));
        // A recording, played to a connection with another challenge.
        assert!(matches!(
            respond(&key(1), b"sald", &one),
            Err(HandshakeError::WrongKey)
        ));
        for at in 0..MESSAGE_BYTES {
            let mut bad = one;
            bad[at] ^= 1;
            assert!(respond(&key(1), b"said", &bad).is_err(), "byte {at}");
        }
        for at in 0..MESSAGE_BYTES {
            let (tcpcopy, one) = Initiator::begin(&key(1), b"said").expect("begin");
            let (mut two, _) = respond(&key(1), b"said", &one).expect("respond");
            two[at] ^= 1;
            assert!(tcpcopy.finish(&two).is_err(), "byte {at}");
        }
    }

    #[test]
    fn nobody_without_the_key_can_answer() {
        let (tcpcopy, one) = Initiator::begin(&key(1), b"said").expect("begin");
        // What it sent itself, and what an earlier connection was answered.
        assert!(tcpcopy.finish(&one).is_err());
        let (earlier, one) = Initiator::begin(&key(1), b"said").expect("begin");
        let (two, _) = respond(&key(1), b"said", &one).expect("respond");
        earlier.finish(&two).expect("its own answer");
        let (tcpcopy, _) = Initiator::begin(&key(1), b"said").expect("begin");
        assert!(tcpcopy.finish(&two).is_err());
    }

    #[test]
    fn challenges_differ() {
        assert_ne!(challenge().expect("random"), challenge().expect("random"));
    }
}
