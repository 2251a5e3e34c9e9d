//! Bytes of a stream that arrive in pieces of any size.

/// Gathers a unit of at most `N` bytes.
#[derive(Clone, Debug)]
pub struct Partial<const N: usize> {
    bytes: [u8; N],
    filled: usize,
}

impl<const N: usize> Default for Partial<N> {
    fn default() -> Self {
        Self {
            bytes: [0; N],
            filled: 0,
        }
    }
}

impl<const N: usize> Partial<N> {
    /// Moves bytes from the front of `from` until there are `want` (1 to `N`, the same until it is full), then
    /// gives the unit out, its rest undefined, and begins the next. `None`: more must come.
    pub fn take(&mut self, want: usize, from: &mut &[u8]) -> Option<&[u8; N]> {
        let missing = want.saturating_sub(self.filled);
        let (head, rest) = from.split_at(missing.min(from.len()));
        let to = self.bytes.get_mut(self.filled..self.filled + head.len())?;
        to.copy_from_slice(head);
        self.filled += head.len();
        *from = rest;
        if self.filled < want {
            return None;
        }
        self.filled = 0;
        Some(&self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_come_out_whole_wherever_the_stream_is_cut() {
        let stream: [u8; 9] = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        for cut in 0..=stream.len() {
            let mut partial = Partial::<4>::default();
            let mut wants = [2, 4, 3].into_iter();
            let (mut want, mut seen) = (wants.next(), [0u8; 3]);
            let mut units = 0;
            for mut piece in [&stream[..cut], &stream[cut..]] {
                while let Some(n) = want
                    && let Some(unit) = partial.take(n, &mut piece)
                {
                    seen[units] = unit[..n].iter().sum();
                    units += 1;
                    want = wants.next();
                }
                assert!(piece.is_empty(), "{cut}");
            }
            assert_eq!((units, seen), (3, [3, 18, 24]), "{cut}");
        }
    }

    #[test]
    fn a_unit_that_has_no_room_is_none() {
        assert!(Partial::<2>::default().take(3, &mut &[0; 8][..]).is_none());
    }
}
