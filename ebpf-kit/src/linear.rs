//! Direct packet access: the bytes between `data` and `data_end` of a context.

use aya_ebpf::programs::{TcContext, XdpContext};
use common::packet::Bytes;

/// Largest offset that is read at. The verifier bounds a packet pointer's variable part by 65,535
/// (`MAX_PACKET_OFF`, kernel/bpf/verifier.c); all headers together stay far below.
const MAX_OFFSET_BYTES: usize = 0x7fff;

/// The linear part of a packet. Invalid after any helper that moves packet data; make a new one then.
#[derive(Clone, Copy)]
pub struct Linear {
    data: usize,
    end: usize,
}

impl Linear {
    /// Of an XDP buffer: its first fragment.
    #[inline(always)]
    #[must_use]
    pub fn of_xdp(ctx: &XdpContext) -> Self {
        Self {
            data: ctx.data(),
            end: ctx.data_end(),
        }
    }

    /// Of an skb: its head.
    #[inline(always)]
    #[must_use]
    pub fn of_skb(ctx: &TcContext) -> Self {
        Self {
            data: ctx.data(),
            end: ctx.data_end(),
        }
    }
}

impl Bytes for Linear {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset > MAX_OFFSET_BYTES {
            return None;
        }
        let at = opaque(self.data + offset);
        if at + N > self.end {
            return None;
        }
        // SAFETY: `at..at + N` lies within the packet, by the comparison above, which is the form in
        // which the verifier learns it; any alignment is fine for bytes.
        Some(unsafe { (at as *const [u8; N]).read_unaligned() })
    }

    /// One comparison and one load each, where [`Bytes::read`] becomes a load for every byte: the target
    /// has no unaligned access in the compiler's eyes. The machines that BPF is compiled for have, and the
    /// verifier allows it on those (CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS).
    #[cfg(target_arch = "bpf")]
    #[inline(always)]
    fn ten_be32s(&self, offset: usize) -> Option<[u32; 10]> {
        if offset > MAX_OFFSET_BYTES {
            return None;
        }
        let at = opaque(self.data + offset);
        if at + 40 > self.end {
            return None;
        }
        // SAFETY: all ten lie within the packet, by the comparison above.
        Some(unsafe {
            [
                load_be32::<0>(at),
                load_be32::<4>(at),
                load_be32::<8>(at),
                load_be32::<12>(at),
                load_be32::<16>(at),
                load_be32::<20>(at),
                load_be32::<24>(at),
                load_be32::<28>(at),
                load_be32::<32>(at),
                load_be32::<36>(at),
            ]
        })
    }
}

/// The big-endian word at `at + OFFSET`, whatever its alignment; nothing if it is not used.
///
/// # Safety
/// It lies within the packet.
#[cfg(target_arch = "bpf")]
#[inline(always)]
unsafe fn load_be32<const OFFSET: usize>(at: usize) -> u32 {
    let word: u64;
    // SAFETY: the caller's promise; it only reads.
    unsafe {
        core::arch::asm!(
            "{0} = *(u32 *)({1} + {2})",
            out(reg) word,
            in(reg) at,
            const OFFSET,
            options(pure, readonly, nostack)
        );
    }
    u32::from_be(word as u32)
}

/// Hides from LLVM how a packet pointer was made. It would else rebuild the sum for the access by
/// another association than for the bounds check, and the verifier, which follows registers and not
/// values, would not connect the two. Also for the address of a global that the loader overrides, whose
/// initialiser the compiler would else take for its value.
#[inline(always)]
#[must_use]
pub fn opaque(pointer: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let p;
        // A real instruction: the kernel refuses the line information of an empty one ("Invalid
        // line_info").
        // SAFETY: moves a register.
        unsafe {
            core::arch::asm!("{0} = {1}", out(reg) p, in(reg) pointer, options(pure, nomem, nostack));
        }
        p
    }
    #[cfg(not(target_arch = "bpf"))]
    core::hint::black_box(pointer)
}
