//! What both BPF objects share; runs in the kernel only.
//!
//! ```text
//!  program ─▶ linear::Linear / skb::SkbBytes ─▶ common::packet::decode_*
//!     │                                              │
//!     ├─▶ config (.rodata), filter (tail calls)      ▼
//!     ├─▶ ring (packets or headers to a worker)
//!     └─▶ counters::Counters ◀── counter of a DecodeError
//! ```
#![no_std]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        unstable_features,
        reason = "inline assembly for BPF is not stable yet"
    ),
    feature(asm_experimental_arch)
)]

#[cfg(target_arch = "bpf")]
pub mod atomic;
pub mod config;
pub mod counters;
#[cfg(target_arch = "bpf")]
pub mod filter;
pub mod linear;
#[cfg(target_arch = "bpf")]
pub mod ring;
pub mod skb;
pub mod xdp;

/// Programs have no panicking path: if the compiler kept one, the verifier refuses this loop at load
/// time, which the tests see.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
