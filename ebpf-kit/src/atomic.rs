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

/// Puts `new` into `slot` if it holds `old`; returns what it held. A full barrier in both directions, as
/// [`exchange`].
///
/// # Safety
///
/// As for [`exchange`].
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub unsafe fn compare_exchange(slot: *mut u64, old: u64, new: u64) -> u64 {
    let mut held = old;
    // SAFETY: by the caller's contract. The instruction compares with r0 and leaves there what it found.
    unsafe {
        core::arch::asm!("r0 = cmpxchg_64({p} + 0, r0, {new})", inout("r0") held, p = in(reg) slot, new = in(reg) new, options(nostack));
    }
    held
}
