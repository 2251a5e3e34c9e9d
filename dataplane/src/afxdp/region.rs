//! The bytes of a UMEM.

use std::ptr::NonNull;
use xsk_rs::umem::Umem;
use xsk_rs::umem::frame::FrameDesc;

/// The mapped memory of a UMEM, kept alive by a handle on it.
///
/// Both halves of a socket have one. Which bytes may be touched is decided by the frame tokens, so the
/// accessors are unsafe and [`super::rings`] alone calls them.
pub(super) struct Region {
    base: NonNull<u8>,
    len: usize,
    frame_bytes: usize,
    umem: Umem,
}

// SAFETY: the region is shared memory that is only accessed through frame tokens, each of which is in
// one place at a time; `umem` is Send itself and keeps the mapping valid.
unsafe impl Send for Region {}

impl Region {
    /// `descs` are all descriptors of `umem` as `Umem::new` returned them, not yet given away.
    pub(super) fn new(umem: Umem, descs: &[FrameDesc], frame_bytes: usize) -> Option<Self> {
        let first = descs.first()?;
        // SAFETY: the descriptor is of this UMEM, and no frame has been given to the kernel or anybody.
        let data = unsafe { umem.data(first) };
        // xsk-rs keeps the address of the mapping to itself; a frame's address minus its offset is it.
        let base = data.contents().as_ptr().addr().checked_sub(first.addr())?;
        // The mapping was made by mmap and passed to C as the memory of the UMEM, which exposes its
        // provenance: a pointer to the whole region may be formed from the address.
        let base = NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(base))?;
        Some(Self {
            base,
            len: descs.len() * frame_bytes,
            frame_bytes,
            umem,
        })
    }

    pub(super) fn umem(&self) -> &Umem {
        &self.umem
    }

    /// Where the frame that contains `addr` ends.
    pub(super) const fn frame_end(&self, addr: usize) -> usize {
        addr - addr % self.frame_bytes + self.frame_bytes
    }

    /// `len` bytes at `addr`; empty if they are not inside the region (the kernel never says so, but an
    /// address from a shared ring is not proof).
    ///
    /// # Safety
    /// The caller holds the frame that contains them, for as long as the slice lives.
    pub(super) unsafe fn bytes(&self, addr: usize, len: usize) -> &[u8] {
        if addr.checked_add(len).is_none_or(|end| end > self.len) {
            return &[];
        }
        // SAFETY: in bounds of the mapping, which `umem` keeps alive; mapped memory is initialised; the
        // caller holds the frame, so nobody writes to it.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(addr), len) }
    }

    /// As [`Region::bytes`], for writing.
    ///
    /// # Safety
    /// The caller holds the frame that contains them, alone, for as long as the slice lives.
    #[expect(
        clippy::mut_from_ref,
        reason = "the frame token, not the region, is what is unique"
    )]
    pub(super) unsafe fn bytes_mut(&self, addr: usize, len: usize) -> &mut [u8] {
        if addr.checked_add(len).is_none_or(|end| end > self.len) {
            return &mut [];
        }
        // SAFETY: as in `bytes`, and the caller is the only one with access.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(addr), len) }
    }
}
