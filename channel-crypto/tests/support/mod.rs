//! Driver of sealed records for arbitrary bytes, shared by the fuzz target (`fuzz/`) and the replay of its corpus
//! (`replay_corpus.rs`). A violated rule is a panic.
//!
//! The first byte says what the rest is: bytes from a stranger, plain text that crosses in pieces, or the same with a bit
//! changed on the way.

use channel_crypto::{Initiator, Key, MESSAGE_BYTES, Opener, Sealer, respond};

fn pair() -> (Sealer, Opener) {
    let key = Key::from_bytes(&[5; 32]);
    let (tcpcopy, one) = Initiator::begin(&key, b"said").expect("random numbers");
    let (two, intercept) = respond(&key, b"said", &one).expect("the same key");
    let sealed = tcpcopy.finish(&two).expect("the same key");
    (intercept.sealer, sealed.opener)
}

/// What opens, and whether the stream was refused.
fn open(opener: &mut Opener, wire: &[u8], piece: usize) -> (Vec<u8>, bool) {
    let mut got = Vec::new();
    for mut part in wire.chunks(piece) {
        loop {
            match opener.next(&mut part) {
                Ok(Some(plain)) => got.extend_from_slice(plain),
                Ok(None) => break,
                Err(_) => return (got, true),
            }
        }
        assert!(part.is_empty(), "what is not used now is kept");
    }
    (got, false)
}

/// Runs one input.
pub fn sealed(data: &[u8]) {
    let [mode, piece, data @ ..] = data else {
        return;
    };
    let piece = usize::from(*piece) + 1;
    let (mut sealer, mut opener) = pair();
    if mode % 3 == 0 {
        let (got, _) = open(&mut opener, data, piece);
        assert!(got.is_empty(), "a stranger sealed something");
        if let Some(message) = data.first_chunk::<MESSAGE_BYTES>() {
            assert!(respond(&Key::from_bytes(&[5; 32]), b"said", message).is_err());
        }
        return;
    }
    let mut wire = Vec::new();
    for part in data.chunks(40) {
        assert!(sealer.seal(part, &mut wire));
    }
    let flip = usize::from(*mode) * 7 % wire.len().max(1);
    if mode % 3 == 2 && !wire.is_empty() {
        wire[flip] ^= 1 << (mode % 8);
    }
    let (got, refused) = open(&mut opener, &wire, piece);
    if mode % 3 == 1 {
        assert!(!refused && got == data);
    } else {
        assert!(got.len() < data.len() || data.is_empty());
        assert!(data.starts_with(&got), "only what came before the change");
    }
}
