//! Where the decoder reads from.

/// Bounds-checked random access to packet bytes.
///
/// `None` means that the bytes end before `offset + N`. Implementations never panic. The slice version
/// is here; the eBPF crates implement it over packet pointers, where the bounds check is what the
/// verifier wants to see.
pub trait Bytes {
    /// Copies `N` bytes at `offset`.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// One byte.
    #[inline(always)]
    fn u8(&self, offset: usize) -> Option<u8> {
        self.read::<1>(offset).map(|[b]| b)
    }

    /// A big-endian 16-bit field.
    #[inline(always)]
    fn be16(&self, offset: usize) -> Option<u16> {
        self.read::<2>(offset).map(u16::from_be_bytes)
    }

    /// A big-endian 32-bit field.
    #[inline(always)]
    fn be32(&self, offset: usize) -> Option<u32> {
        self.read::<4>(offset).map(u32::from_be_bytes)
    }

    /// Ten big-endian 32-bit fields in a row: all that is looked at of two headers of the usual length.
    #[inline(always)]
    fn ten_be32s(&self, offset: usize) -> Option<[u32; 10]> {
        let mut fields = [0; 10];
        let mut at = offset;
        for field in &mut fields {
            *field = self.be32(at)?;
            at += 4;
        }
        Some(fields)
    }
}

impl Bytes for [u8] {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk::<N>().copied()
    }

    #[inline(always)]
    fn ten_be32s(&self, offset: usize) -> Option<[u32; 10]> {
        let (words, _) = self.get(offset..)?.as_chunks::<4>();
        Some(words.first_chunk::<10>()?.map(u32::from_be_bytes))
    }
}
