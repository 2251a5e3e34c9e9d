//! Atomic instructions that the BPF target of rustc does not offer through `core::sync::atomic`.

/// Exchanges the value at `slot`. A full barrier in both directions (Linux:
/// Documentation/bpf/standardization/instruction-set.rst, "Atomic operations": those that return the
/// old value are fully ordered).
///
/// # Safety
///
/// `slot` must be 8-byte aligned memory that the verifier accepts for atomics (a map value), and must
/// only be accessed atomically by others.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub unsafe fn exchange(slot: *mut u64, value: u64) -> u64 {
    let mut v = value;
    // SAFETY: by the caller's contract; the instruction touches nothing but `slot` and `v`.
    unsafe {
        core::arch::asm!("{v} = xchg_64({p} + 0, {v})", v = inout(reg) v, p = in(reg) slot, options(nostack));
    }
    v
}
