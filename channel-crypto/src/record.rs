//! Records behind the handshake: length of the rest (2), ciphertext, tag (16). Their numbers are not sent: a record
//! that is lost, repeated, moved or changed does not open.

use snow::StatelessTransportState;
use std::sync::Arc;

const HEAD_BYTES: usize = 2;
const TAG_BYTES: usize = 16;
/// What sealing adds.
pub const RECORD_OVERHEAD_BYTES: usize = HEAD_BYTES + TAG_BYTES;
/// Most bytes in a record: one write of either program (16 frames of 16 responses), which bounds what a reader
/// keeps of a record that has not come whole.
pub const MAX_PLAIN_BYTES: usize = 20 * 1024;

/// Why the connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// No length of a record.
    #[error("a sealed record of {got} bytes, expected {} to {}", TAG_BYTES + 1, MAX_PLAIN_BYTES + TAG_BYTES)]
    Length {
        /// Its length field.
        got: usize,
    },
    /// Not sealed by the other side, or not the next one.
    #[error("a sealed record was changed on its way, or is not the one that was due")]
    Forged,
}

/// Seals one direction.
pub struct Sealer {
    state: Arc<StatelessTransportState>,
    number: u64,
}

impl Sealer {
    pub(crate) fn new(state: Arc<StatelessTransportState>) -> Self {
        Self { state, number: 0 }
    }

    /// Appends `plain` to `out` as records. False: the numbers are used up (2^64 - 1 records), which ends the
    /// connection; or `plain` is empty, which is no record.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> bool {
        for piece in plain.chunks(MAX_PLAIN_BYTES) {
            let start = out.len();
            let sealed = piece.len() + TAG_BYTES;
            out.extend_from_slice(&(sealed as u16).to_be_bytes());
            out.resize(start + HEAD_BYTES + sealed, 0);
            let to = out.get_mut(start + HEAD_BYTES..).unwrap_or_default();
            if self.state.write_message(self.number, piece, to).is_err() {
                out.truncate(start);
                return false;
            }
            self.number += 1;
        }
        !plain.is_empty()
    }
}

/// Opens the other direction.
pub struct Opener {
    state: Arc<StatelessTransportState>,
    number: u64,
    /// Of a record that has not come whole, from its head on.
    partial: Vec<u8>,
    plain: Vec<u8>,
}

impl Opener {
    pub(crate) fn new(state: Arc<StatelessTransportState>) -> Self {
        Self {
            state,
            number: 0,
            partial: Vec::new(),
            plain: Vec::new(),
        }
    }

    /// Takes bytes from the front of `from`, which may be cut anywhere, up to the end of a record; gives what was
    /// sealed in it. `None`: more must come.
    pub fn next(&mut self, from: &mut &[u8]) -> Result<Option<&[u8]>, BadRecord> {
        if self.partial.is_empty()
            && let Some((head, rest)) = from.split_first_chunk()
        {
            let length = length(*head)?;
            if let Some((sealed, rest)) = rest.split_at_checked(length) {
                // Whole in the buffer, as most are: not copied.
                *from = rest;
                return open(&self.state, &mut self.number, sealed, &mut self.plain).map(Some);
            }
        }
        gather(&mut self.partial, HEAD_BYTES, from);
        let Some(&head) = self.partial.first_chunk() else {
            return Ok(None);
        };
        let whole = HEAD_BYTES + length(head)?;
        gather(&mut self.partial, whole, from);
        if self.partial.len() < whole {
            return Ok(None);
        }
        let sealed = self.partial.get(HEAD_BYTES..).unwrap_or_default();
        let opened = open(&self.state, &mut self.number, sealed, &mut self.plain);
        self.partial.clear();
        opened.map(Some)
    }
}

/// Moves bytes until `partial` has `want`.
fn gather(partial: &mut Vec<u8>, want: usize, from: &mut &[u8]) {
    let missing = want.saturating_sub(partial.len()).min(from.len());
    let (head, rest) = from.split_at(missing);
    partial.extend_from_slice(head);
    *from = rest;
}

fn length(head: [u8; HEAD_BYTES]) -> Result<usize, BadRecord> {
    let got = usize::from(u16::from_be_bytes(head));
    if (TAG_BYTES + 1..=MAX_PLAIN_BYTES + TAG_BYTES).contains(&got) {
        Ok(got)
    } else {
        Err(BadRecord::Length { got })
    }
}

fn open<'a>(
    state: &StatelessTransportState,
    number: &mut u64,
    sealed: &[u8],
    plain: &'a mut Vec<u8>,
) -> Result<&'a [u8], BadRecord> {
    if plain.len() < sealed.len() {
        plain.resize(sealed.len(), 0);
    }
    let n = state
        .read_message(*number, sealed, plain)
        .map_err(|_| BadRecord::Forged)?;
    *number += 1;
    plain.get(..n).ok_or(BadRecord::Forged)
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealer(record {})", self.number)
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Opener(record {})", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Initiator, Key, respond};
    use proptest::prelude::*;

    fn pair() -> (Sealer, Opener) {
        let key = Key::from_bytes(&[5; 32]);
        let (tcpcopy, one) = Initiator::begin(&key, b"").expect("begin");
        let (two, intercept) = respond(&key, b"", &one).expect("respond");
        (
            intercept.sealer,
            tcpcopy.finish(&two).expect("finish").opener,
        )
    }

    fn open_all(opener: &mut Opener, mut bytes: &[u8]) -> Result<Vec<u8>, BadRecord> {
        let mut got = Vec::new();
        while let Some(plain) = opener.next(&mut bytes)? {
            got.extend_from_slice(plain);
        }
        assert!(bytes.is_empty());
        Ok(got)
    }

    #[test]
    fn more_than_a_record_takes_becomes_several() {
        let (mut sealer, mut opener) = pair();
        let plain = vec![7; 2 * MAX_PLAIN_BYTES + 1];
        let mut wire = Vec::new();
        assert!(sealer.seal(&plain, &mut wire));
        assert_eq!(wire.len(), plain.len() + 3 * RECORD_OVERHEAD_BYTES);
        assert_eq!(open_all(&mut opener, &wire), Ok(plain));
        assert!(!sealer.seal(&[], &mut wire));
    }

    #[test]
    fn lost_repeated_and_moved_records_do_not_open() {
        let sealed = |plain: &[u8], sealer: &mut Sealer| {
            let mut wire = Vec::new();
            sealer.seal(plain, &mut wire);
            wire
        };
        for order in [&[1][..], &[0, 0], &[0, 2], &[1, 0]] {
            let (mut sealer, mut opener) = pair();
            let records = [b"a", b"b", b"c"].map(|p| sealed(p, &mut sealer));
            let wire: Vec<u8> = order.iter().flat_map(|&n| records[n].clone()).collect();
            assert_eq!(
                open_all(&mut opener, &wire),
                Err(BadRecord::Forged),
                "{order:?}"
            );
        }
    }

    #[test]
    fn lengths_are_bounded() {
        for got in [0, 1, 16, MAX_PLAIN_BYTES + TAG_BYTES + 1, 65_535] {
            let (_, mut opener) = pair();
            let head = (got as u16).to_be_bytes();
            assert_eq!(open_all(&mut opener, &head), Err(BadRecord::Length { got }));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_cut_gives_the_same_and_any_changed_bit_is_noticed(
            plain in proptest::collection::vec(any::<u8>(), 1..600),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..8),
            flip in any::<proptest::sample::Index>(),
        ) {
            let (mut sealer, mut opener) = pair();
            let mut wire = Vec::new();
            for piece in plain.chunks(100) {
                sealer.seal(piece, &mut wire);
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(wire.len())).collect();
            cuts.push(wire.len());
            cuts.sort_unstable();
            let (mut got, mut from) = (Vec::new(), 0);
            for cut in cuts {
                got.extend(open_all(&mut opener, &wire[from..cut]).expect("sealed"));
                from = cut;
            }
            prop_assert_eq!(&got, &plain);

            let (mut sealer, mut opener) = pair();
            wire.clear();
            sealer.seal(&plain, &mut wire);
            let at = HEAD_BYTES + flip.index(wire.len() - HEAD_BYTES);
            wire[at] ^= 0x10;
            prop_assert_eq!(open_all(&mut opener, &wire), Err(BadRecord::Forged));
        }
    }
}
