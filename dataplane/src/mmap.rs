//! Memory shared with the kernel.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A shared mapping of a BPF map or a ring of packets, whose memory it keeps alive by itself.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: plain memory that is valid for the life of the value; all shared words in it are accessed
// atomically.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes from `offset` of what is behind `fd`.
    pub(crate) fn new(
        fd: BorrowedFd<'_>,
        offset: usize,
        len: usize,
        writable: bool,
    ) -> Result<Self, Errno> {
        let prot = if writable {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        // SAFETY: the kernel chooses the address, so no existing memory is touched.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                prot,
                MapFlags::SHARED,
                fd,
                offset as u64,
            )?
        };
        let base = NonNull::new(base.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { base, len })
    }

    /// The 64-bit word at `offset`; `None` if it is not inside or not aligned.
    pub(crate) fn word(&self, offset: usize) -> Option<&AtomicU64> {
        if !offset.is_multiple_of(8) || offset.checked_add(8)? > self.len {
            return None;
        }
        // SAFETY: inside the mapping and aligned (the base is a page); atomics may be shared.
        Some(unsafe { self.base.byte_add(offset).cast().as_ref() })
    }

    /// The 32-bit word at `offset`; `None` if it is not inside or not aligned.
    #[inline]
    pub(crate) fn half_word(&self, offset: usize) -> Option<&AtomicU32> {
        if !offset.is_multiple_of(4) || offset.checked_add(4)? > self.len {
            return None;
        }
        // SAFETY: inside the mapping and aligned; atomics may be shared.
        Some(unsafe { self.base.byte_add(offset).cast().as_ref() })
    }

    /// Has the cache line at `offset` fetched, where the processor has an instruction for it.
    #[inline]
    pub(crate) fn prefetch(&self, offset: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let line = self.base.as_ptr().wrapping_add(offset).cast();
            // SAFETY: a hint: it reads nothing that the program could see, and faults on no address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = offset;
    }

    /// `len` bytes at `offset`; `None` if they are not inside.
    ///
    /// # Safety
    ///
    /// Nobody writes to them while the slice lives.
    #[inline]
    pub(crate) unsafe fn bytes(&self, offset: usize, len: usize) -> Option<&[u8]> {
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: inside the mapping; not written to by the caller's contract.
        Some(unsafe { std::slice::from_raw_parts(self.base.byte_add(offset).as_ptr(), len) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; nothing borrows from it any more.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}
